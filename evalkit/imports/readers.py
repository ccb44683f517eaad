"""Files of other harnesses, each read by the facts of its writer:

- VLMEvalKit: ``MODEL_DATASET.xlsx`` (or ``.tsv``, ``.csv``, ``.json``) with a column ``prediction``
  beside the data's own, and its result files, which add ``hit``, ``eval_score`` or ``score``
  (``vlmeval/inference.py``, ``vlmeval/dataset``).
- lmms-eval: ``DATE_samples_TASK.jsonl`` and, for the model's name, ``DATE_results.json`` beside it
  (``lmms_eval/loggers/evaluation_tracker.py``). Newer versions leave the row itself out and write
  targets as texts.
- EvalScope: ``evalkit.imports.evalscope``.
- Inspect: ``.eval`` and ``.json`` logs, by its own library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.imports.answers import Answer, Answers
from evalkit.imports.evalscope import is_evalscope, read_evalscope
from evalkit.imports.rows import ID_NAMES, as_number, json_object, rows_of, unless_scored
from evalkit.metrics.choice import LETTERS
from evalkit.own_values import answer_texts, is_nothing, metadata_of, options_of, right_option
from evalkit.sources.own_formats import spelled

VLMEVALKIT_SCORES = ("hit", "eval_score", "score")
MATCHES = "eval_match"
DISTANCES, BEST_OF = ("DocVQA", "InfoVQA"), ("ChartQA", "OCRVQA")
"""Data sets whose matches are edit distances, and those of which the best match counts."""
ANLS_THRESHOLD = 0.5
FAILED = "Failed to obtain answer"
"""What stands for an answer that no server gave."""
VLMEVALKIT_SUFFIX = re.compile(
    r"_((openai|exact_matching|(chat)?gpt[^_]*|qwen[^_]*|deepseek[^_]*)_)?(results?|score)$", re.I
)
"""What names of result files have behind the data set's: the judge's name, if one was asked."""
SAMPLES = re.compile(r"(?:(?P<date>.+)_)?samples_(?P<task>.+)\.jsonl")
LMMS_KEYS = frozenset(
    "doc_id doc target arguments input resps filtered_resps doc_hash prompt_hash target_hash "
    "filter token_counts".split()
)
LMMS_SHARES = frozenset(
    "anls exact_match relaxed_overall relaxed_human_split relaxed_augmented_split".split()
)
SUFFIXES = frozenset(".xlsx .tsv .csv .json .jsonl .eval".split())
SHOWN = 5
"""Files of a folder that are named."""
LETTER_SCORES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Inspect's values: correct, incorrect, partial, no answer."""


def read_answers(file: Path) -> Answers:
    """The answers in a file. Raises UsageError for one that is none of the known formats, DataError
    for a damaged one.
    """
    if file.is_dir():
        every = (f for f in sorted(file.rglob("*")) if f.suffix in SUFFIXES and f.is_file())
        there = iter(sorted(every, key=lambda f: "reviews" not in f.parts))
        first = ", ".join(str(f.relative_to(file)) for f in islice(there, SHOWN))
        some = f" (it holds {first}{', ...' if next(there, None) else ''})" if first else ""
        raise UsageError(f"{file} is a folder: name the files of answers in it{some}")
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    if file.suffix == ".eval":
        return _inspect(file)
    if file.suffix in (".pkl", ".pickle"):
        raise UsageError(f"{file}: a pickle may run code when it is read; give the .xlsx or .tsv")
    if file.suffix == ".jsonl" and is_evalscope(file):
        return read_evalscope(file)
    if SAMPLES.fullmatch(file.name):
        return _lmms_eval(file)
    if file.suffix == ".json" and _is_inspect(file):
        return _inspect(file)
    return _vlmevalkit(file)


def _vlmevalkit(file: Path) -> Answers:
    rows, remarks = rows_of(file)
    there = {name for row in rows for name in row}
    if not {"index", "prediction"} <= there:
        raise UsageError(
            f"{file}: no predictions of VLMEvalKit (columns index and prediction), no samples of "
            f"lmms-eval (*_samples_TASK.jsonl), no review of EvalScope, no log of Inspect; it has: "
            f"{', '.join(sorted(there)) or 'nothing'}"
        )
    model, task = _model_and_dataset(file)
    score = next((name for name in VLMEVALKIT_SCORES if name in there), "")
    answers, lost = [], 0
    for number, row in enumerate(rows):
        try:
            value = _vlmevalkit_score(row, score, task)
            lost += value is None and as_number(row.get(score)) is not None
            theirs = {} if value is None else {score: value}
            answers.append(_vlmevalkit_answer(row, f"row {number}", theirs, remarks))
        except DataError as e:
            remarks.append(f"row {number}: {e}")
    if lost:
        remarks.append(f"{lost} rows whose {score} says that no score was made: none counts")
    shares = {"hit": 1.0} | ({"eval_score": 1.0} if MATCHES in there else {})
    return Answers(
        "VLMEvalKit", model, task, tuple(answers), highest=shares, remarks=tuple(remarks)
    )


def _vlmevalkit_score(row: Mapping[str, Any], column: str, task: str) -> float | None:
    """A row's score as it enters VLMEvalKit's own mean (``hit_calculate`` in
    ``vlmeval/dataset/utils/vqa_eval.py``): ``eval_score`` is the mean over right answers of what
    stands in ``eval_match``, which for documents is a distance. -1 is a judge that failed.
    """
    value = as_number(row.get(column))
    if column == "score" and value == -1:
        return None
    if column == "eval_score" and MATCHES in row and any(d in task for d in DISTANCES + BEST_OF):
        cell = row[MATCHES]
        listed = spelled(cell) if isinstance(cell, str) else cell
        matches = [as_number(m) for m in listed] if isinstance(listed, list) else []
        known = [m for m in matches if m is not None]
        if not known or len(known) < len(matches):
            return None
        if any(d in task for d in BEST_OF):
            return max(known)
        return similarity if (similarity := 1 - min(known)) >= ANLS_THRESHOLD else 0.0
    return value


def _vlmevalkit_answer(
    row: Mapping[str, Any], where: str, theirs: Mapping[str, float], remarks: list[str]
) -> Answer:
    if row.get("index") is None:
        raise DataError("no index")

    def asked() -> tuple[list[str], Any]:
        has_options = row.get("A") is not None and row.get("B") is not None
        options = options_of(row, {"options": "A"}) if has_options else []
        if (right := row.get("answer")) is None:
            return options, None
        read = right_option(right, options, "answer") if options else answer_texts(right, "answer")
        return options, read

    options, target = unless_scored(asked, theirs, where, remarks) or ([], None)
    index = re.sub(r"\.0$", "", str(row["index"]))
    prediction = None if is_nothing(row.get("prediction")) else str(row["prediction"])
    if prediction and prediction.startswith(FAILED):
        prediction = None
    # circular evaluation asks again with the options turned, a million higher
    cluster = str(int(index) % 10**6) if index.isdecimal() and int(index) >= 10**6 else ""
    used = {"index", "question", "answer", "prediction", "image", "image_path", "hint", "log"}
    used |= {*VLMEVALKIT_SCORES, "eval_gt", "eval_pred", MATCHES}
    return Answer(
        id=index,
        text=prediction,
        question=str(row.get("question") or ""),
        target=target,
        choices=tuple(options),
        cluster=cluster,
        theirs=theirs,
        metadata=metadata_of(row, used | {*LETTERS}),
    )


def _model_and_dataset(file: Path) -> tuple[str, str]:
    """Of ``MODEL_DATASET.xlsx``: a folder above that is the model's tells where its name ends."""
    name = VLMEVALKIT_SUFFIX.sub("", file.stem)
    for folder in file.absolute().parents[:3]:
        if name.startswith(f"{folder.name}_"):
            return folder.name, name.removeprefix(f"{folder.name}_")
    model, _, dataset = name.partition("_")
    return (model, dataset) if dataset else ("", model)


def _lmms_eval(file: Path) -> Answers:
    rows, remarks = rows_of(file)
    answers, by_number = [], True
    for number, row in enumerate(rows):
        try:
            answers.append(answer := _lmms_answer(row, f"row {number}", remarks))
            by_number &= answer.id == str(row["doc_id"])
        except DataError as e:
            remarks.append(f"row {number}: {e}")
    match = SAMPLES.fullmatch(file.name)
    assert match
    model = _lmms_model(file, match["date"])
    told = json_object(_results_of(file, match["date"])).get("higher_is_better")
    better = told.get(match["task"]) if isinstance(told, Mapping) else None
    return Answers(
        "lmms-eval",
        model,
        match["task"],
        tuple(answers),
        by_number,
        highest=dict.fromkeys(_lmms_shares(rows), 1.0),
        lower_is_better=frozenset(name for name, more in (better or {}).items() if more is False)
        if isinstance(better, Mapping)
        else frozenset(),
        remarks=tuple(remarks),
    )


def _lmms_answer(row: Mapping[str, Any], where: str, remarks: list[str]) -> Answer:
    if row.get("doc_id") is None or "filtered_resps" not in row:
        raise DataError("no doc_id, or no filtered_resps")
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    target: Any = row.get("target")
    if isinstance(target, str):
        target = many if isinstance(many := spelled(target), list) and many else target
    given = next((doc[n] for n in ID_NAMES if isinstance(doc.get(n), str | int)), row["doc_id"])
    scores = {k: _lmms_score(v) for k, v in row.items() if k not in LMMS_KEYS}
    theirs = {k: v for k, v in scores.items() if v is not None}

    def right() -> list[str] | None:
        return None if target in (None, "", "None", []) else answer_texts(target, "target")

    question = row.get("input") if isinstance(row.get("input"), str) else doc.get("question")
    return Answer(
        id=str(given),
        text=_first_text(row["filtered_resps"]),
        question=str(question or ""),
        target=unless_scored(right, theirs, where, remarks),
        theirs=theirs,
        metadata=metadata_of(doc, (*ID_NAMES, "question", "answer", "answers")),
    )


def _lmms_score(value: Any) -> float | None:
    """A metric's value: itself, or what its aggregation will make of it where that is plain."""
    if isinstance(value, Mapping):
        if "score" in value:
            return as_number(value["score"])
        right = value.get("answer", value.get("gt_answer"))
        said = value.get("pred_answer")
        is_option = isinstance(right, int) or (isinstance(right, str) and len(right) == 1)
        return float(said == right) if is_option and said is not None else None
    return as_number(value)


def _lmms_shares(rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Metrics that can't be above 1: by their definition, or since all that they are is whether an
    answer is right.
    """
    seen: dict[str, list[Any]] = {}
    for name, value in (item for row in rows for item in row.items() if item[1] is not None):
        seen.setdefault(name, []).append(value)

    def is_yes_or_no(value: Any) -> bool:
        if isinstance(value, Mapping):
            return "score" not in value or isinstance(value["score"], bool)
        return isinstance(value, bool)

    return LMMS_SHARES | {name for name, values in seen.items() if all(map(is_yes_or_no, values))}


def _first_text(value: Any) -> str | None:
    while isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else str(value)


def _lmms_model(file: Path, date: str | None) -> str:
    """By the results beside the samples; else by the folder, which is named after the model."""
    if isinstance(name := json_object(_results_of(file, date)).get("model_name"), str) and name:
        return name
    folder = file.absolute().parent.name
    return folder.replace("__", "/") if "__" in folder else folder


def _results_of(file: Path, date: str | None) -> Path:
    return file.with_name("_".join(filter(None, (date, "results"))) + ".json")


def _is_inspect(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as text:
        head = text.read(4096)
    return '"eval"' in head and '"status"' in head


def _inspect(file: Path) -> Answers:
    if find_spec("inspect_ai") is None:
        raise UsageError(
            f"{file}: a log of Inspect is read by its own library: pip install 'evalkit[inspect]'"
        )
    from inspect_ai.log import read_eval_log

    try:
        log = read_eval_log(str(file))
    except Exception as e:  # whatever their library makes of a damaged log
        raise DataError(f"{file}: can't be read ({type(e).__name__}: {e})") from e
    remarks = [] if log.status == "success" else [f"the run ended with status {log.status}"]
    epochs = len({s.epoch for s in log.samples or ()}) > 1
    answers = []
    for number, sample in enumerate(log.samples or ()):
        try:
            answers.append(_inspect_answer(sample, f"sample {number}", epochs, remarks))
        except DataError as e:
            remarks.append(f"sample {number}: {e}")
    task = log.eval.task.split("/")[-1]
    raw = [(k, s.value) for one in log.samples or () for k, s in (one.scores or {}).items()]
    numbers = {name for name, value in raw if not isinstance(value, bool | str)}
    shares = dict.fromkeys({name for name, _ in raw} - numbers, 1.0)
    return Answers(
        "Inspect", log.eval.model, task, tuple(answers), highest=shares, remarks=tuple(remarks)
    )


def _inspect_answer(sample: Any, where: str, epochs: bool, remarks: list[str]) -> Answer:
    asked = sample.input
    choices = tuple(sample.choices or ())
    scores = {k: _inspect_value(s.value) for k, s in (sample.scores or {}).items()}
    theirs = {k: v for k, v in scores.items() if v is not None}

    def right() -> Any:
        target = sample.target if isinstance(sample.target, list) else [sample.target]
        letter = len(target) == 1 and choices
        return right_option(target[0], choices, "target") if letter else target

    return Answer(
        id=f"{sample.id}-{sample.epoch}" if epochs else str(sample.id),
        text=None if sample.error is not None else sample.output.completion,
        question=asked if isinstance(asked, str) else asked[-1].text if asked else "",
        target=unless_scored(right, theirs, where, remarks),
        choices=choices,
        cluster=str(sample.id) if epochs else "",
        theirs=theirs,
        metadata=metadata_of(sample.metadata or {}, ()),
    )


def _inspect_value(value: Any) -> float | None:
    return LETTER_SCORES.get(value) if isinstance(value, str) else as_number(value)
