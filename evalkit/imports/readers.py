"""Files of other harnesses, each read by the facts of its writer:

- VLMEvalKit: ``MODEL_DATASET.xlsx`` (or ``.tsv``, ``.csv``, ``.json``) with a column ``prediction``
  beside the data's own, and its result files, which add ``hit``, ``eval_score`` or ``score``
  (``vlmeval/inference.py``, ``vlmeval/dataset``).
- lmms-eval: ``DATE_samples_TASK.jsonl`` and, for the model's name, ``DATE_results.json`` beside it
  (``lmms_eval/loggers/evaluation_tracker.py``). Newer versions leave the row itself out and write
  targets as texts.
- Inspect: ``.eval`` and ``.json`` logs, by its own library.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from evalkit.errors import DataError, UsageError
from evalkit.imports.answers import Answer, Answers
from evalkit.metrics.choice import LETTERS
from evalkit.own_values import answer_texts, metadata_of, options_of, right_option
from evalkit.sources.own import lines_of
from evalkit.sources.own_formats import spelled

T = TypeVar("T")
VLMEVALKIT_SCORES = ("hit", "eval_score", "score")
VLMEVALKIT_SUFFIX = re.compile(
    r"_((openai|exact_matching|(chat)?gpt[^_]*|qwen[^_]*|deepseek[^_]*)_)?(results?|score)$", re.I
)
"""What names of result files have behind the data set's: the judge's name, if one was asked."""
SAMPLES = re.compile(r"(?:(?P<date>.+)_)?samples_(?P<task>.+)\.jsonl")
LMMS_KEYS = frozenset(
    "doc_id doc target arguments input resps filtered_resps doc_hash prompt_hash target_hash "
    "filter token_counts".split()
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
        there = (f for f in sorted(file.rglob("*")) if f.suffix in SUFFIXES and f.is_file())
        first = ", ".join(str(f.relative_to(file)) for f in islice(there, SHOWN))
        some = f" (it holds {first}{', ...' if next(there, None) else ''})" if first else ""
        raise UsageError(f"{file} is a folder: name the files of answers in it{some}")
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    if file.suffix == ".eval":
        return _inspect(file)
    if file.suffix in (".pkl", ".pickle"):
        raise UsageError(f"{file}: a pickle may run code when it is read; give the .xlsx or .tsv")
    if SAMPLES.fullmatch(file.name):
        return _lmms_eval(file)
    if file.suffix == ".json" and _is_inspect(file):
        return _inspect(file)
    return _vlmevalkit(file)


def _vlmevalkit(file: Path) -> Answers:
    rows, remarks = _rows(file)
    there = {name for row in rows for name in row}
    if not {"index", "prediction"} <= there:
        raise UsageError(
            f"{file}: no predictions of VLMEvalKit (columns index and prediction), no samples of "
            f"lmms-eval (*_samples_TASK.jsonl), no log of Inspect; it has: "
            f"{', '.join(sorted(there)) or 'nothing'}"
        )
    score = next((name for name in VLMEVALKIT_SCORES if name in there), None)
    answers = []
    for number, row in enumerate(rows):
        try:
            answers.append(_vlmevalkit_answer(row, number, score, remarks))
        except DataError as e:
            remarks.append(f"row {number}: {e}")
    model, task = _model_and_dataset(file)
    return Answers("VLMEvalKit", model, task, tuple(answers), remarks=tuple(remarks))


def _vlmevalkit_answer(
    row: Mapping[str, Any], number: int, score: str | None, remarks: list[str]
) -> Answer:
    if row.get("index") is None:
        raise DataError("no index")
    theirs = {score: value} if score and (value := _number(row.get(score))) is not None else {}

    def asked() -> tuple[list[str], Any]:
        has_options = row.get("A") is not None and row.get("B") is not None
        options = options_of(row, {"options": "A"}) if has_options else []
        if (right := row.get("answer")) is None:
            return options, None
        read = right_option(right, options, "answer") if options else answer_texts(right, "answer")
        return options, read

    options, target = _unless_scored(asked, theirs, number, remarks) or ([], None)
    index = re.sub(r"\.0$", "", str(row["index"]))
    prediction = row.get("prediction")
    # circular evaluation asks again with the options turned, a million higher
    cluster = str(int(index) % 10**6) if index.isdecimal() and int(index) >= 10**6 else ""
    used = {"index", "question", "answer", "prediction", "image", "image_path", "hint", "log"}
    used |= {*VLMEVALKIT_SCORES, "eval_gt", "eval_pred", "eval_match"}
    return Answer(
        id=index,
        text=None if prediction is None else str(prediction),
        question=str(row.get("question") or ""),
        target=target,
        choices=tuple(options),
        cluster=cluster,
        theirs=theirs,
        metadata=metadata_of(row, used | {*LETTERS}),
    )


def _unless_scored(
    read: Callable[[], T], theirs: Mapping[str, float], number: int, remarks: list[str]
) -> T | None:
    """What is read of a row's right answer. Where it can't be, None if the file scored the row
    itself, and a remark: its score counts all the same. Raises DataError otherwise.
    """
    try:
        return read()
    except DataError as e:
        if not theirs:
            raise
        remarks.append(f"row {number}: {e}: only the file's own score counts")
        return None


def _model_and_dataset(file: Path) -> tuple[str, str]:
    """Of ``MODEL_DATASET.xlsx``: a folder above that is the model's tells where its name ends."""
    name = VLMEVALKIT_SUFFIX.sub("", file.stem)
    for folder in file.absolute().parents[:3]:
        if name.startswith(f"{folder.name}_"):
            return folder.name, name.removeprefix(f"{folder.name}_")
    model, _, dataset = name.partition("_")
    return (model, dataset) if dataset else ("", model)


def _lmms_eval(file: Path) -> Answers:
    rows, remarks = _rows(file)
    answers, by_number = [], True
    for number, row in enumerate(rows):
        try:
            answers.append(answer := _lmms_answer(row, number, remarks))
            by_number &= answer.id == str(row["doc_id"])
        except DataError as e:
            remarks.append(f"row {number}: {e}")
    match = SAMPLES.fullmatch(file.name)
    assert match
    model = _lmms_model(file, match["date"])
    return Answers("lmms-eval", model, match["task"], tuple(answers), by_number, tuple(remarks))


def _lmms_answer(row: Mapping[str, Any], number: int, remarks: list[str]) -> Answer:
    if row.get("doc_id") is None or "filtered_resps" not in row:
        raise DataError("no doc_id, or no filtered_resps")
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    target: Any = row.get("target")
    if isinstance(target, str):
        target = many if isinstance(many := spelled(target), list) and many else target
    names = ("questionId", "question_id", "id", "qid")
    given = next((doc[n] for n in names if isinstance(doc.get(n), str | int)), row["doc_id"])
    scores = {k: _lmms_score(v) for k, v in row.items() if k not in LMMS_KEYS}
    theirs = {k: v for k, v in scores.items() if v is not None}

    def right() -> list[str] | None:
        return None if target in (None, "", "None", []) else answer_texts(target, "target")

    question = row.get("input") if isinstance(row.get("input"), str) else doc.get("question")
    return Answer(
        id=str(given),
        text=_first_text(row["filtered_resps"]),
        question=str(question or ""),
        target=_unless_scored(right, theirs, number, remarks),
        theirs=theirs,
        metadata=metadata_of(doc, (*names, "question", "answer", "answers")),
    )


def _lmms_score(value: Any) -> float | None:
    """A metric's value: itself, or what its aggregation will make of it where that is plain."""
    if isinstance(value, Mapping):
        if "score" in value:
            return _number(value["score"])
        right = value.get("answer", value.get("gt_answer"))
        said = value.get("pred_answer")
        return None if right is None or said is None else float(said == right)
    return _number(value)


def _first_text(value: Any) -> str | None:
    while isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else str(value)


def _lmms_model(file: Path, date: str | None) -> str:
    """By the results beside the samples; else by the folder, which is named after the model."""
    beside = file.with_name("_".join(filter(None, (date, "results"))) + ".json")
    try:
        results = json.loads(beside.read_text(encoding="utf-8"))
        if isinstance(name := results.get("model_name"), str) and name:
            return name
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    folder = file.absolute().parent.name
    return folder.replace("__", "/") if "__" in folder else folder


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
            answers.append(_inspect_answer(sample, number, epochs, remarks))
        except DataError as e:
            remarks.append(f"sample {number}: {e}")
    task = log.eval.task.split("/")[-1]
    return Answers("Inspect", log.eval.model, task, tuple(answers), remarks=tuple(remarks))


def _inspect_answer(sample: Any, number: int, epochs: bool, remarks: list[str]) -> Answer:
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
        target=_unless_scored(right, theirs, number, remarks),
        choices=choices,
        cluster=str(sample.id) if epochs else "",
        theirs=theirs,
        metadata=metadata_of(sample.metadata or {}, ()),
    )


def _inspect_value(value: Any) -> float | None:
    return LETTER_SCORES.get(value) if isinstance(value, str) else _number(value)


def _rows(file: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows, and what is said of those that can't be read."""
    rows, remarks = [], []
    for line in lines_of(file):
        if isinstance(line, Mapping):
            rows.append(line)
        else:
            remarks.append(str(line))
    return rows, remarks


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float({"true": 1, "false": 0}.get(value.lower(), value))
        except ValueError:
            return None
    if hasattr(value, "item"):
        value = value.item()
    is_number = isinstance(value, bool | int | float) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None
