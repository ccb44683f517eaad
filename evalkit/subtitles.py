"""Subtitles of a clip: reading SubRip and JSON files, and choosing the lines that belong to shown
frames.

Video-MME's protocol with subtitles gives a model the lines that are spoken while a frame that it
sees is shown, and no others. A cue is spoken from its start up to, but not including, its end.
LongVideoBench's puts the lines between the frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    text = _text(file)
    if not (cues := tuple(_cues(text.splitlines()))):
        raise DataError(f"{file}: no subtitles in it (00:00:01,000 --> 00:00:02,000)")
    return cues


def read_timed(file: Path, begin: float, end: float) -> tuple[Cue, ...]:
    """The cues of a JSON file as LongVideoBench has them, in their order, as times of a clip that
    begins ``begin`` seconds into what they were written for: ``{"timestamp": [1.5, 3.0], "text":
    ...}``, or ``{"start": "00:00:01.500", "end": ..., "line": ...}``. A cue whose end is null ends
    at ``end``. Raises DataError for a file that can't be read so.
    """
    try:
        entries = json.loads(_text(file))
        if not isinstance(entries, list):
            raise TypeError("expected a list")
        return tuple(_timed(entry, begin, end) for entry in entries)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
        raise DataError(f"{file}: can't be read as subtitles ({type(e).__name__}: {e})") from e


def _timed(entry: dict[str, Any], begin: float, end: float) -> Cue:
    if "timestamp" in entry:
        start, stop = entry["timestamp"]
        start, stop, text = float(start), float(end if stop is None else stop), entry["text"]
    else:
        start, stop, text = _clock(entry["start"]), _clock(entry["end"]), entry["line"]
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.80} is not a text")
    return Cue(start - begin, stop - begin, text)


def _clock(text: object) -> float:
    hours, minutes, seconds = str(text).split(":")  # a number is no time of day
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > bounds().json_bytes:
            raise DataError(f"{file}: {over('json_bytes')}")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file}: can't be read as subtitles ({e})") from e


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


def interleaved(cues: Iterable[Cue], times: Sequence[float]) -> list[int | str]:
    """The frames that are shown at ``times`` (seconds, increasing), by their indices, and what is
    said between them, as LongVideoBench's loader orders them: each cue behind the frames up to its
    middle, if it covers one of the frames. A cue of less than a second counts as one second long.
    """
    parts: list[int | str] = []
    shown = 0
    for cue in cues:
        middle = (cue.start + cue.end) / 2
        while shown < len(times) and times[shown] <= middle:
            parts.append(shown)
            shown += 1
        long = cue.end - cue.start >= 1
        start, end = (cue.start, cue.end) if long else (middle - 0.5, middle + 0.5)
        if any(start < time < end for time in times):
            parts.append(cue.text)
    return [*parts, *range(shown, len(times))]
