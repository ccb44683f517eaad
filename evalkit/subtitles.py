"""Subtitles of a clip: reading SubRip files, and choosing the lines that belong to shown frames.

Video-MME's protocol with subtitles gives a model the lines that are spoken while a frame that it
sees is shown, and no others. A cue is spoken from its start up to, but not including, its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.bounds import bounds, over
from evalkit.errors import DataError

_TIME = r"(\d+):(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_SPAN = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}.*")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Cue:
    """What is said from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str


def read_srt(file: Path) -> tuple[Cue, ...]:
    """The cues of a SubRip file, in their order, without markup and with their lines joined; cues
    without text are left out. Raises DataError for a file that can't be read, or has no cue.
    """
    try:
        if file.stat().st_size > bounds().json_bytes:
            raise DataError(f"{file}: {over('json_bytes')}")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file}: can't be read as subtitles ({e})") from e
    if not (cues := tuple(_cues(text.splitlines()))):
        raise DataError(f"{file}: no subtitles in it (00:00:01,000 --> 00:00:02,000)")
    return cues


def _cues(lines: Sequence[str]) -> Iterable[Cue]:
    spans = [(n, match) for n, line in enumerate(lines) if (match := _SPAN.fullmatch(line))]
    for k, (number, match) in enumerate(spans):
        stop = spans[k + 1][0] if k + 1 < len(spans) else len(lines)
        said = [line.strip() for line in lines[number + 1 : stop]]
        if k + 1 < len(spans) and said and said[-1].isdigit():
            said.pop()  # the number of the next cue
        text = " ".join(" ".join(_MARKUP.sub("", line).split()) for line in said if line).strip()
        if text:
            yield Cue(_seconds(match.groups()[:4]), _seconds(match.groups()[4:]), text)


def _seconds(parts: Sequence[str]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def spoken(cues: Sequence[Cue], times: Iterable[float], repeat: bool = False) -> list[str]:
    """What is said at some ``times`` (seconds), in their order: each cue once, or, with
    ``repeat``, once for each time at which it is said. Of cues that overlap the first counts.
    """
    said: list[Cue] = []
    for time in times:
        cue = next((c for c in cues if c.start <= time < c.end), None)
        if cue and (repeat or cue not in said):
            said.append(cue)
    return [cue.text for cue in said]
