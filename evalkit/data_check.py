"""What is wrong with the data of a task, found before a model is asked: columns, absent files, rows
that can't be used, media that don't decode, questions that come twice.

Everything is read by the task's own source and ``samples``, so that what passes here is what a run
would ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapter import media_of
from evalkit.errors import DataError, EvalkitError
from evalkit.media import decode_image, decode_video
from evalkit.prompt_hash import prompt_hash
from evalkit.task import RowError, Task, read_samples
from evalkit.types import Image, Sample, Video

SHOWN = 3
"""Cases of a kind that are named one by one."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong: how often, and some of the cases."""

    what: str
    count: int
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What was found. ``rows`` are those that were read, ``expected`` those of the release, where
    that is known; ``media`` are distinct pictures and clips, ``decoded`` those that were decoded.
    """

    task: str
    rows: int = 0
    expected: int | None = None
    questions: int = 0
    media: int = 0
    decoded: int = 0
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.findings

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def check(
    task: Task,
    data: Path | None = None,
    decode: int | None = None,
    on_sample: Callable[[int], None] | None = None,
) -> Checked:
    """Reads all rows of a task's data (a local copy, or where they are by default). ``decode`` is
    how many distinct media are decoded, all if None: pictures whole, of clips the first, the
    middle and the last frame. ``on_sample`` is told how many were read.
    """
    rows, seen = 0, _Seen(decode)

    def on_row(number: int) -> None:
        nonlocal rows
        rows = number + 1

    try:
        for number, item in enumerate(read_samples(task, data, on_row), 1):
            seen.add(item)
            if on_sample:
                on_sample(number)
        whole = True
    except (EvalkitError, OSError) as e:
        whole = False
        seen.tell("the data can't be read to their end", str(e))
    expected = task.subset.size
    if whole and expected is not None and rows != expected:
        seen.tell(f"{rows:,} rows, and the release has {expected:,}", "")
    return Checked(
        task.full_name,
        rows,
        expected,
        seen.questions,
        len(seen.media),
        seen.decoded,
        tuple(
            Finding(what, len(cases), tuple(filter(None, cases[:SHOWN])))
            for what, cases in seen.told.items()
        ),
    )


class _Seen:
    """What the rows so far came to."""

    def __init__(self, decode: int | None) -> None:
        self.most = decode
        self.questions = self.decoded = 0
        self.told: dict[str, list[str]] = {}
        self.media: dict[str, str] = {}
        self.asked: dict[str, str] = {}

    def tell(self, what: str, case: str) -> None:
        self.told.setdefault(what, []).append(case)

    def add(self, item: Sample | RowError) -> None:
        if isinstance(item, RowError):
            self.tell(_kind(item.reason), item.reason)
            return
        self.questions += 1
        for part in media_of(item.messages):
            self.look(part, item.id)
        question = prompt_hash(item)
        if first := self.asked.get(question):
            self.tell("a question that comes twice, with the same media", f"{first} and {item.id}")
        self.asked.setdefault(question, item.id)

    def look(self, part: Image | Video, id: str) -> None:
        """Decodes a medium that was not seen before."""
        try:
            key = part.digest
            if isinstance(part, Video):
                key += f" {part.start} {part.end}"
            if key in self.media:
                return
            self.media[key] = id
            if self.most is None or self.decoded < self.most:
                decode_image(part) if isinstance(part, Image) else decode_video(part, ends)
                self.decoded += 1
        except (DataError, OSError) as e:
            what = "a picture" if isinstance(part, Image) else "a clip"
            self.tell(f"{what} that can't be decoded", f"{id}: {e}")


def ends(total: int, fps: float) -> Sequence[int]:
    """The first, the middle and the last frame."""
    return sorted({0, total // 2, total - 1})


def _kind(reason: str) -> str:
    """A row's complaint without what is its own: names, values, places."""
    text = re.sub(r"^row [0-9]+: ", "", reason)
    if match := re.match(r"no (clip|subtitles) '", text):
        return f"{match[1]} absent"
    if "is that of a sample of row" in text:
        return "an id that comes twice"
    if match := re.match(r"('[^']*') (is|holds|has|lists)\b", text):
        return f"a row that can't be used, by its column {match[1]}"
    return "a row that can't be used"


def text(found: Checked) -> Iterable[str]:
    """What was found, for people."""
    rows = f"{found.rows:,} rows"
    if found.expected is not None:
        rows += f" (the release has {found.expected:,})"
    yield (
        f"{found.task}: {rows}, {found.questions:,} questions, {found.media:,} pictures and clips, "
        f"{found.decoded:,} of them decoded"
    )
    for finding in found.findings:
        yield f"  {finding.count:,} x {finding.what}"
        yield from (f"      {case}" for case in finding.cases)
        if (more := finding.count - len(finding.cases)) > 0 and finding.cases:
            yield f"      and {more:,} more"
    yield "  nothing is wrong with what was read" if found.ok else "  see docs/data.md"
