"""Files of EvalScope, by the facts of its writer (``evalscope/api/evaluator/cache.py``, releases
1.0 to 1.14):

- ``reviews/MODEL/DATASET_SUBSET.jsonl``: a line for each answer that was scored, in the order in
  which they came. Releases up to 1.4 write what was asked as one text, and the right answer as one;
  later ones write messages and a list.
- ``predictions/MODEL/DATASET_SUBSET.jsonl``: a line for each answer, without what is right.
- ``reports/MODEL/DATASET.json``: the means, and how many samples failed, which stand in no other
  file. Later releases also say the range and the direction of each metric.

The options of a question are nowhere but in its text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.imports.answers import Answer, Answers
from evalkit.imports.rows import ID_NAMES, as_number, json_object, unless_scored
from evalkit.metrics.choice import LETTERS
from evalkit.own_values import as_text, metadata_of, right_option
from evalkit.sources.own import lines_of
from evalkit.sources.own_formats import spelled

TOOL = "EvalScope"
FOLDERS = ("reviews", "predictions")
MEDIA = ("image", "video", "audio")
USABLE = ("success", "fallback", "degraded")
"""Values of ``status`` under which a score counts; others say that a judge or a metric failed."""
BEFORE_1 = frozenset(("answer_id", "choices"))
NEAR = 1e-3
"""Reports round to four places."""
LOOKED_AT = 20
"""So many lines tell whose file it is."""
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]*)\)")
LISTED = re.compile(r"\b([A-Z](?:,[A-Z])+)\b")
"""The letters that a prompt for options lists: ``one of A,B,C,D``."""


def is_evalscope(file: Path) -> bool:
    """Whether a file of JSON lines is EvalScope's. Raises UsageError for one of before 1.0."""
    for line in islice(lines_of(file), LOOKED_AT):
        if not isinstance(line, Mapping):
            continue
        if line.keys() & {"sample_score", "model_output"} and "index" in line:
            return True
        if line.keys() >= BEFORE_1:
            raise UsageError(
                f"{file}: written by EvalScope before 1.0, whose layout is another one: ask again "
                "with a newer release"
            )
    return False


@dataclass(frozen=True)
class _Asked:
    """What stands in a line of predictions."""

    text: str | None
    question: str
    cluster: str
    metadata: Mapping[str, Any]


def read_evalscope(file: Path) -> Answers:
    """The answers of one data set's subset: reviews and predictions of one run are read together,
    whichever is named. Raises DataError for what can't be opened.
    """
    root, model = _run_of(file)
    reviews, predictions = _pair(file, root)
    remarks: list[str] = []
    asked = dict(_predictions(predictions, remarks)) if predictions else {}
    rows = {
        k: Answer(str(k), a.text, a.question, cluster=a.cluster, metadata=a.metadata)
        for k, a in asked.items()
    }
    groups: dict[int, Any] = {}
    repeated = 0
    for index, group, answer in _reviews(reviews, asked, remarks) if reviews else ():
        repeated += index in groups
        groups[index], rows[index] = group, answer
    if repeated:  # as EvalScope itself takes them
        remarks.append(f"{repeated} rows were written again: the last of each counts")
    if groups and (unscored := len(rows) - len(groups)):
        remarks.append(f"{unscored} predictions have no review, so no score of EvalScope's")
    named, by_number = _named(dict(sorted(rows.items())), _repeats(groups))
    return _reported(Answers(TOOL, model, file.stem, named, by_number), root, remarks)


def _run_of(file: Path) -> tuple[Path | None, str]:
    """The folder of the run, and the model's name, which may hold a slash: what stands between
    ``reviews`` and the file.
    """
    folder = file.absolute().parent
    for above in folder.parents:
        if (kind := folder.relative_to(above).parts[0]) in FOLDERS:
            model = folder.relative_to(above / kind).as_posix()
            return above, "" if model == "." else model
    return None, ""


def _pair(file: Path, root: Path | None) -> tuple[Path | None, Path | None]:
    """The reviews and the predictions that a file belongs to, None for those that there are not."""
    if root is None:
        is_review = any("sample_score" in x for x in islice(_rows(file, []), LOOKED_AT))
        return (file, None) if is_review else (None, file)
    inside = Path(*file.absolute().relative_to(root).parts[1:])
    reviews, predictions = (root / kind / inside for kind in FOLDERS)
    return reviews if reviews.is_file() else None, predictions if predictions.is_file() else None


def _rows(file: Path, remarks: list[str]) -> Iterator[Mapping[str, Any]]:
    """Line by line: pictures stand in them."""
    for line in lines_of(file):
        if isinstance(line, Mapping):
            yield line
        else:
            remarks.append(f"{line}")


def _index(row: Mapping[str, Any]) -> int:
    index = row.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise DataError("no index")
    return index


def _predictions(file: Path, remarks: list[str]) -> Iterator[tuple[int, _Asked]]:
    for number, row in enumerate(_rows(file, remarks)):
        try:
            question, cluster = _question(row)
            about = metadata_of(_mapping(row.get("metadata")), ())
            yield _index(row), _Asked(_said(row), question, cluster, about)
        except DataError as e:
            remarks.append(f"prediction {number}: {e}")


def _said(row: Mapping[str, Any]) -> str | None:
    """The answer of a prediction; None where the model gave none."""
    output = _mapping(row.get("model_output"))
    choices = _mappings(output.get("choices"))
    if output.get("error") or not choices:
        return None
    return "\n".join(_texts(_mapping(choices[0].get("message")).get("content")))


def _reviews(
    file: Path, asked: Mapping[int, _Asked], remarks: list[str]
) -> Iterator[tuple[int, Any, Answer]]:
    """Each with its index and the group of answers that it is of."""
    failed: Counter[str] = Counter()
    for number, row in enumerate(_rows(file, remarks)):
        try:
            index = _index(row)
            answer = _answer(row, asked.get(index), f"row {number}", failed, remarks)
            yield index, _mapping(row.get("sample_score")).get("group_id"), answer
        except DataError as e:
            remarks.append(f"row {number}: {e}")
    remarks += [f"{n} rows: {why}: no score of these counts" for why, n in failed.items()]


def _answer(
    row: Mapping[str, Any],
    asked: _Asked | None,
    where: str,
    failed: Counter[str],
    remarks: list[str],
) -> Answer:
    sample = _mapping(row.get("sample_score"))
    score = _mapping(sample.get("score"))
    theirs = _scores(score, failed)
    question, cluster = _question(row)
    if asked and not question:
        question, cluster = asked.question, asked.cluster
    text = score.get("prediction")
    if asked and (asked.text is None or not isinstance(text, str)):
        text = asked.text
    options, target = unless_scored(
        lambda: _right(row.get("target"), question), theirs, where, remarks
    ) or ([], None)
    read = score.get("extracted_prediction")
    return Answer(
        id=str(row["index"]),
        text=text if isinstance(text, str) else None,
        question=question,
        target=target,
        choices=tuple(options),
        cluster=cluster,
        theirs=theirs,
        read=read if isinstance(read, str) else None,
        metadata=metadata_of(_mapping(sample.get("sample_metadata")), ()),
    )


def _scores(score: Mapping[str, Any], failed: Counter[str]) -> dict[str, float]:
    """The values that count: none where a judge failed, and not the zeros that stand in place of a
    metric which could not be computed.
    """
    status = score.get("status", "success")
    if status not in USABLE:
        failed[f"EvalScope's status is {status}"] += 1
        return {}
    values = {k: as_number(v) for k, v in _mapping(score.get("value")).items()}
    broken = tuple(_mapping(_mapping(score.get("metadata")).get("metric_errors")))
    for name in broken:
        failed[f"EvalScope could not compute {name}"] += 1
    lost = tuple(name.lower() for name in broken)
    return {k: v for k, v in values.items() if v is not None and not _is_of(k.lower(), lost)}


def _is_of(name: str, metrics: Sequence[str]) -> bool:
    """Whether a value is one of those of a metric: ``bleu-1`` of ``bleu``."""
    return any(name == m or name.startswith(f"{m}-") for m in metrics)


def _question(row: Mapping[str, Any]) -> tuple[str, str]:
    """What was asked last, and a name of the media that were shown with it; empty for none."""
    if isinstance(text := row.get("input"), str):  # up to 1.4
        asked = text.rpartition("**User**: ")[2]
        media, texts = PICTURE.findall(asked), [PICTURE.sub("", asked)]
    else:
        mine = [m for m in _mappings(row.get("messages")) if m.get("role") == "user"]
        content = mine[-1].get("content") if mine else None
        texts = _texts(content)
        media = [p[k] for p in _mappings(content) for k in MEDIA if isinstance(p.get(k), str)]
    digest = sha256("\n".join(media).encode("utf-8", "replace")).hexdigest()[:16]
    return "\n".join(texts).strip(), f"media {digest}" if media else ""


def _texts(content: Any) -> list[str]:
    """The texts of a message."""
    if isinstance(content, str):
        return [content]
    parts = [p for p in _mappings(content) if p.get("type") == "text"]
    return [p["text"] for p in parts if isinstance(p.get("text"), str)]


def _right(target: Any, question: str) -> tuple[list[str], Any]:
    """The options of a question, if it has any, and what is right. Raises DataError."""
    if target in (None, "", []):
        return [], None
    texts = [as_text(t, "target") for t in (target if isinstance(target, list) else [target])]
    listed = LISTED.search(question)
    if not all(re.fullmatch("[A-Z]+", t) for t in texts):
        many = spelled(texts[0]) if len(texts) == 1 else None
        # a list of numbers is a box
        is_list = isinstance(many, list) and many and all(isinstance(t, str) for t in many)
        return [], many if is_list else texts
    options = _options(question)
    if listed and len(options) != len(listed[1].split(",")):
        raise DataError(f"its options can't be told from the question's text ({listed[1]})")
    if not options:
        return [], texts
    return options, right_option(texts[0] if len(texts) == 1 else texts, options, "target")


def _options(question: str) -> list[str]:
    """The last lines ``A) ...``, ``B) ...`` of a question; none where there are fewer than 2."""
    lines = question.splitlines()
    begins = [i for i, line in enumerate(lines) if line.startswith("A)")]
    found: list[list[str]] = []
    for line in lines[begins[-1] :] if begins else ():
        if len(found) < len(LETTERS) and line.startswith(f"{LETTERS[len(found)]})"):
            found.append([line[2:]])
        else:
            found[-1].append(line)
    options = ["\n".join(option).strip() for option in found]
    return options if len(options) > 1 and all(options) else []


def _repeats(groups: Mapping[int, Any]) -> int:
    """How many answers each question has: EvalScope numbers them one after the other."""
    most = max(groups, default=0) + 1
    return next((k for k in range(1, most + 1) if all(i // k == g for i, g in groups.items())), 1)


def _named(rows: Mapping[int, Answer], repeats: int) -> tuple[tuple[Answer, ...], bool]:
    """The rows under the names that the data set has for its questions, where each has one; else
    under their numbers. Several answers of one question are ``ID#0``, ``ID#1``, ...
    """
    name = next((n for n in ID_NAMES if _are_names(n, rows, repeats)), None)
    out = []
    for index, row in rows.items():
        id = str(row.metadata[name] if name else index // repeats)
        about = {k: v for k, v in row.metadata.items() if k != name}
        if repeats > 1:
            about |= {"sample": id, "repeat": index % repeats}
            row = replace(row, cluster=row.cluster or id)
            id = f"{id}#{index % repeats}"
        out.append(replace(row, id=id, metadata=about))
    return tuple(out), name is None


def _are_names(name: str, rows: Mapping[int, Answer], repeats: int) -> bool:
    """Whether all rows have this, one for each question and no two questions the same."""
    if any(name not in row.metadata for row in rows.values()):
        return False
    pairs = {(index // repeats, str(row.metadata[name])) for index, row in rows.items()}
    return len(pairs) == len({q for q, _ in pairs}) == len({named for _, named in pairs})


def _reported(answers: Answers, root: Path | None, remarks: list[str]) -> Answers:
    """With what the run's report says of the subset: samples that failed, ranges and directions."""
    subset, report = _report(answers, root)
    runs = _mapping(_mapping(_mapping(report.get("execution_summary")).get("subsets")).get(subset))
    if errored := as_number(runs.get("errored")):
        of = runs.get("requested", "all")
        remarks.append(f"{errored:.0f} of {of} samples failed in EvalScope: they are in no file")
    highest, lower = dict(answers.highest), set(answers.lower_is_better)
    for name in answers.metrics:
        values = [row.theirs[name] for row in answers.rows if name in row.theirs]
        mean = sum(values) / len(values)
        for metric in _metrics(report, name):
            semantics, means = _mapping(metric.get("semantics")), list(_means(metric, subset))
            top = as_number(_mapping(semantics.get("value_range")).get("max"))
            are_theirs = any(abs(m - mean) < NEAR for m in means)
            if top and are_theirs:  # a report may make other values of those of the rows
                highest[name] = top
            if semantics.get("direction") == "lower_is_better":
                lower.add(name)
            if means and not are_theirs and _is_plain(metric, name):
                remarks.append(f"its report has {name} {means[0]:g}, these rows come to {mean:.4g}")
    return replace(
        answers, highest=highest, lower_is_better=frozenset(lower), remarks=tuple(remarks)
    )


def _report(answers: Answers, root: Path | None) -> tuple[str, Mapping[str, Any]]:
    """The subset that a file is of, and the report of its data set: the longest name that fits."""
    folder = root / "reports" / answers.model if root else None
    known = sorted((f.stem for f in folder.glob("*.json")), key=len) if folder else []
    fits = [name for name in known if answers.task.startswith(f"{name}_")]
    if not folder or not fits:
        return "", {}
    return answers.task[len(fits[-1]) + 1 :], json_object(folder / f"{fits[-1]}.json")


def _metrics(report: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """What a report says of a metric, which it names as a concept: ``bleu`` for ``bleu-1``."""
    plain = _plain(name)
    names = plain, _plain(re.split(r"[^a-z0-9]", plain)[0])
    metrics = _mappings(report.get("metrics"))
    return [m for m in metrics if _mapping(m.get("identity")).get("name") in names]


def _plain(name: str) -> str:
    return "accuracy" if name.lower() == "acc" else name.lower()


def _is_plain(metric: Mapping[str, Any], name: str) -> bool:
    """Whether a report's metric is the mean of just these values."""
    identity = _mapping(metric.get("identity"))
    about = identity.get("name"), identity.get("aggregation"), identity.get("dimensions")
    return about == (_plain(name), "mean", {})


def _means(metric: Mapping[str, Any], subset: str) -> Iterator[float]:
    for category in _mappings(metric.get("categories")):
        for one in _mappings(category.get("subsets")):
            if one.get("name") == subset and (mean := as_number(one.get("score"))) is not None:
                yield mean


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
