"""A file of one's own as a task, without a line of code: ``--tasks my.jsonl``.

What a file holds is told by the names of its columns: pictures or clips, a question, and an answer
(or several), options with the right one, a box, or nothing to compare with. Names that mean these
in common data sets are known (``ROLES``); ``Reading.columns`` maps others. The metric follows from
what there is, unless it is named. What was taken for what is said by ``description``, and is a part
of the data's identity.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import DataError, UsageError
from evalkit.metrics.anls import anls, exact_match
from evalkit.metrics.boxes import iou, parse_box
from evalkit.metrics.choice import LETTERS, parse_choice
from evalkit.metrics.ocr import character_error_rate, ocrbench
from evalkit.metrics.relaxed import number, relaxed_accuracy
from evalkit.metrics.vqa import vqa_accuracy
from evalkit.own_values import (
    MEDIA,
    answer_texts,
    as_text,
    box_of,
    composed,
    is_nothing,
    listed,
    metadata_of,
    name_in,
    options_of,
    right_option,
    shown_media,
)
from evalkit.protocols import LETTER_ANSWER, SHORT_ANSWER, VIDEO_BUDGET, Protocol
from evalkit.rows import sides
from evalkit.sources.own import LOOKED_AT, OwnFile, splits_of
from evalkit.sources.own_formats import READERS
from evalkit.task import Metric, Row, Subset, Task, registered
from evalkit.types import Completion, Image, Media, Sample, Score

ROLES: Mapping[str, tuple[str, ...]] = {
    "image": tuple("image images image_path image_paths img picture photo file_name".split()),
    "video": tuple("video videos video_path clip".split()),
    "question": tuple("question prompt query problem instruction expression".split()),
    "options": tuple("options choices".split()),
    "bbox": ("bbox",),
    "box": ("box",),
    "answer": tuple("answer answers label target ground_truth gt caption text".split()),
    "id": tuple("id question_id questionId qid index".split()),
    "hint": ("hint",),
    "cluster": ("cluster",),
}
"""What a column may be for, and the names by which it is known, capitals or not; the first that is
there counts.
``bbox`` is ``[x, y, width, height]`` and ``box`` ``[x1, y1, x2, y2]``, both in pixels; ``cluster``
names what rows share, by default their first picture or clip."""
KINDS = ("texts", "options", "box", "nothing")
PROMPTS = {
    "texts": "{question}" + SHORT_ANSWER,
    "options": "{hint}{question}\n{options}" + LETTER_ANSWER,
    "box": 'Detect the bounding box of "{question}".',
    "nothing": "{question}",
}
"""The text that is asked, by what there is to compare with: for short answers VLMEvalKit's for
Qwen2-VL, for options lmms-eval's, for boxes that of the Qwen2-VL paper's figure."""
TEXT_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "anls": anls,
    "relaxed_accuracy": lambda text, answers: max(
        relaxed_accuracy(_numeral(text), _numeral(a)) for a in answers
    ),
    "vqa_accuracy": vqa_accuracy,
    "contains": ocrbench,
    "cer": lambda text, answers: min(character_error_rate(text, a) for a in answers),
}
METRICS: Mapping[str, tuple[Metric, ...]] = {
    **{name: (Metric(name),) for name in TEXT_METRICS},
    "exact_match": (Metric("exact_match"), Metric("anls")),
    "cer": (Metric("cer", higher_is_better=False),),
    "accuracy": (Metric("accuracy"),),
    "acc@0.5": (Metric("acc@0.5"), Metric("iou")),
    "iou": (Metric("iou"), Metric("acc@0.5")),
    "none": (Metric("none"),),
}
"""By the name of the headline: it, and what is computed beside it."""
FITTING = {
    "texts": tuple(TEXT_METRICS),
    "options": ("accuracy",),
    "box": ("acc@0.5", "iou"),
    "nothing": ("none",),
}


@dataclass(frozen=True)
class Reading:
    """How a file is read. What is left empty is told by the file."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role to column."""
    metric: str = ""
    """The headline metric."""
    prompt: str = ""
    """What is asked: ``{question}``, ``{options}`` (a line each), or any column of the file."""
    kind: str = ""
    """What there is to compare answers with (``KINDS``); always told by the file."""

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v}


class OwnData(Task):
    """One sample per row."""

    fields: ClassVar[tuple[str, ...]]
    """What the prompt takes from a row, beside options and hint."""
    subsets: ClassVar = {}

    def describe_data(self, data: Path | None = None) -> dict[str, Any]:
        return {**super().describe_data(data), "reading": dict(self.reading)}

    def samples(self, row: Row) -> Iterable[Sample]:
        columns = self.reading["columns"]
        shown = shown_media(row, columns)
        used = {*columns.values(), *(LETTERS if columns.get("options") == "A" else ())}
        first = shown[0]
        about = sides(first) if isinstance(first, Image) else {}
        options = options_of(row, columns) if self.reading["kind"] == "options" else []
        fields = {name: as_text(row[columns.get(name, name)], name) for name in self.fields}
        hint, cluster = (row.get(columns.get(role, "")) for role in ("hint", "cluster"))
        yield Sample(
            id=name_in(row, columns["id"]) if "id" in columns else "",
            messages=self.ask(
                shown, options=options, hint="" if is_nothing(hint) else str(hint), **fields
            ),
            target=self._target(row, options, about),
            choices=tuple(options),
            cluster=_digest(first)[:16]
            if is_nothing(cluster)
            else name_in(row, columns["cluster"]),
            metadata=metadata_of(row, used) | about,
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text, kind = composed(completion.text.strip()), self.reading["kind"]
        names = [m.name for m in self.metrics]
        if kind == "nothing":
            return Score({}, parsed=text, unparsed=not text)
        if kind == "options":
            index = parse_choice(text, [composed(option) for option in sample.choices])
            right = float(index == sample.target)
            parsed = None if index is None else LETTERS[index]
            return Score({"accuracy": right}, parsed=parsed, unparsed=index is None)
        if kind == "box":
            return _box_score(sample, completion)
        if not text:  # some metrics find it a little like an answer of a mark or an article
            return Score({m.name: float(not m.higher_is_better) for m in self.metrics}, "", True)
        answers = [composed(answer.strip()) for answer in sample.target]
        return Score({name: TEXT_METRICS[name](text, answers) for name in names}, parsed=text)

    def _target(self, row: Row, options: Sequence[str], about: Mapping[str, int]) -> Any:
        columns, kind = self.reading["columns"], self.reading["kind"]
        if kind == "nothing":
            return None
        if kind == "box":
            return box_of(row, columns, about)
        value = row[column] if (column := columns["answer"]) in row else None
        if kind == "options":
            numbers = not all(isinstance(o, str) for o in listed(row, columns))
            return right_option(value, options, column, numbers)
        answers = answer_texts(value, column)
        if self.metrics[0].name == "vqa_accuracy" and len(answers) < 2:
            raise DataError(f"{column!r} has one answer, and vqa_accuracy compares several")
        return answers


def own_task(path: Path, reading: Reading = Reading()) -> type[OwnData]:
    """The task that a file or folder is. One whose reading was told by the file before (it has a
    ``kind``) need not be there. Raises UsageError for columns, a metric or a prompt that don't fit,
    and for a file that can't be read.
    """
    splits = splits_of(path) or ("all",)
    splits = (*(s for s in splits if s == "test"), *(s for s in splits if s != "test"))
    first = OwnFile(path, split="" if splits == ("all",) else splits[0])
    chosen = reading if reading.kind else _resolve(first, reading)
    columns = chosen.columns
    named = [columns[role] for role in MEDIA if role in columns]
    whole = path.resolve()
    name = whole.stem if whole.suffix.lower() in READERS else whole.name
    protocol = Protocol(
        origin="the file's own" if reading.prompt else "evalkit's for data of one's own",
        prompt=chosen.prompt,
        media="inline",
    )
    subsets = {
        split: Subset(
            OwnFile(path, tuple(named), "" if split == "all" else split),
            budget=VIDEO_BUDGET if "video" in columns else Subset.budget,
            protocols={"default": protocol},
        )
        for split in splits
    }
    return type(
        "OwnData",
        (OwnData,),
        {
            "__module__": __name__,
            "name": path.name if name in registered() else name,
            "description": _said(path, chosen, reading),
            "subsets": subsets,
            "metrics": METRICS[chosen.metric],
            "reading": chosen.to_json(),
            "file": path.absolute(),
            "fields": tuple(f for f in _fields(chosen.prompt) if f not in ("options", "hint")),
        },
    )


def _resolve(source: OwnFile, reading: Reading) -> Reading:
    """What the file tells of a reading."""
    try:
        there = source.columns()
    except DataError as e:
        raise UsageError(str(e)) from e
    columns = _columns(source.path, there, reading.columns)
    kind = (
        "options"
        if "options" in columns and "answer" in columns
        else "box"
        if columns.keys() & {"bbox", "box"}
        else "texts"
        if "answer" in columns
        else "nothing"
    )
    texts = [*_first_answers(source, columns["answer"])] if kind == "texts" else []
    metric = reading.metric or fitting_metric(kind, texts)
    check_metric(metric, kind)
    prompt = reading.prompt or PROMPTS[kind]
    if "question" not in columns and not reading.prompt:
        shown = "picture" if "image" in columns else "video"
        asked = f"What does the {shown} show?" if kind == "options" else f"Describe the {shown}."
        prompt = prompt.replace("{question}", asked)
    _check_prompt(prompt, there, columns, kind)
    return Reading(columns, metric, prompt, kind)


def _columns(path: Path, there: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Role to column, for the roles that the file has."""
    listing = f"{path} has the columns {', '.join(there)}"
    if strange := sorted(given.keys() - ROLES.keys()):
        raise UsageError(
            f"columns: {', '.join(strange)} is no role; a column may be {', '.join(ROLES)}"
        )
    if missing := sorted(set(given.values()) - set(there)):
        raise UsageError(f"columns: there is no {', '.join(map(repr, missing))}: {listing}")
    taken = set(given.values())
    out = dict(given)
    for role, names in ROLES.items():
        free = [c for c in there if c not in taken]
        found = next((c for n in names for c in free if c.casefold() == n.casefold()), None)
        if role not in out and found is not None:
            out[role] = found
            taken.add(found)
    letters = [letter for letter in LETTERS if letter in there]
    if "options" not in out and letters[:2] == ["A", "B"]:
        out["options"] = "A"  # and the letters that follow
    if not out.keys() & set(MEDIA):
        raise UsageError(
            f"no column of pictures or clips: {listing}; name one: --columns image=COLUMN"
        )
    return out


def check_metric(metric: str, kind: str) -> None:
    """Raises UsageError for a metric that there is not, or that does not fit."""
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r}: there are {', '.join(METRICS)}")
    if metric not in FITTING[kind]:
        raise UsageError(
            f"metric {metric!r} needs another kind of answers than there are ({kind}): "
            f"{', '.join(FITTING[kind])} would do"
        )


def fitting_metric(kind: str, answers: Sequence[Sequence[str]]) -> str:
    """The metric that fits what answers are compared with; of texts, by the first of them."""
    if kind != "texts":
        return FITTING[kind][0]
    if answers and all(len(a) > 2 for a in answers):
        return "vqa_accuracy"
    numbers = answers and all(_is_number(text) for a in answers for text in a)
    return "relaxed_accuracy" if numbers else "exact_match"


def _first_answers(source: OwnFile, column: str) -> Iterator[list[str]]:
    for row in islice(source.rows(), LOOKED_AT):
        if isinstance(row, Mapping) and row.get(column) is not None:
            with suppress(DataError):
                yield answer_texts(row[column], column)


def _is_number(text: str) -> bool:
    value = number(_numeral(text))
    return value is not None and math.isfinite(value)


_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?%?")

_ASCII = {0xFEE0 + ord(sign): sign for sign in "0123456789.,%+-"} | {0x2212: "-"}
"""Full-width signs and the typographic minus as ASCII; not superscripts, which are powers."""


def _numeral(text: str) -> str:
    """A number as the metric reads it, thousands without commas, signs and digits in ASCII; another
    text as it is.
    """
    plain = text.translate(_ASCII).strip()
    plain = plain.replace(",", "") if _GROUPED.fullmatch(plain) else plain
    return text if number(plain) is None else plain


def _fields(prompt: str) -> list[str]:
    try:
        found = [f for _, f, _, _ in string.Formatter().parse(prompt) if f is not None]
    except ValueError as e:
        raise UsageError(f"prompt {prompt!r}: {e}; a brace that is meant as one is {{{{") from e
    return list(dict.fromkeys(found))


def _check_prompt(prompt: str, there: Sequence[str], columns: Mapping[str, str], kind: str) -> None:
    known = {c for c in there if c.isidentifier()} - {"self", "media", "options"} | {"hint"}
    known |= columns.keys() & {"question"}
    known |= {"options"} if kind == "options" else set()
    if strange := [f for f in _fields(prompt) if f not in known]:
        raise UsageError(
            f"prompt: {', '.join('{' + f + '}' for f in strange)} is no column; there are: "
            f"{', '.join(sorted(known))}"
        )


def _said(path: Path, chosen: Reading, given: Reading) -> str:
    letters = {"options": "A, B, ..."} if chosen.columns.get("options") == "A" else {}
    named = {**chosen.columns, **letters}
    parts = [r if r == c else f"{r}={c}" for r, c in named.items()]
    why = "" if given.metric else " (by what answers are compared with)"
    metric = "answers only" if chosen.kind == "nothing" else f"metric {chosen.metric}{why}"
    return f"{path.name}: columns {', '.join(parts)}; {metric}"


def _box_score(sample: Sample, completion: Completion) -> Score:
    if completion.box_space is None:
        raise UsageError("boxes need a model that draws them; this adapter declares no box space")
    width, height = sample.metadata["width"], sample.metadata["height"]
    box = parse_box(completion.text, completion.box_space, width, height)
    overlap = iou(box, sample.target) if box else 0.0
    values = {"acc@0.5": float(overlap >= 0.5), "iou": overlap}
    return Score(values, parsed=list(box) if box else None, unparsed=box is None)


def _digest(part: Media) -> str:
    try:
        return part.digest
    except OSError as e:
        raise DataError(f"its media can't be read ({e})") from e
