"""Spans of time written in text: reading one, and intersection over union.

Temporal grounding asks when something happens in a clip. An answer may say it in seconds (``24.3 -
30.4``, ``from 24.3 to 30.4 seconds``, ``[24.3, 30.4]``), as times (``00:24 - 00:30.4``,
``0:00:24``), or by name (``starts at 24.3 s and ends at 30.4 s``, ``{"start_time": "00:24",
"end_time": "00:30"}``). An answer that names no span, or more than one, has none: there is no
second guess. Spans are ``(start, end)`` in seconds from the beginning of the clip.

Gao et al., "TALL" (ICCV 2017): an answer is right at a threshold where its intersection over union
with the true span is at least that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

Span = tuple[float, float]
Reader = Callable[[str], Span | None]

_TIME = r"(?<![\d.:])(\d+(?::\d{1,2}){1,2}(?:\.\d+)?|\d+(?:\.\d+)?)"
_UNIT = r"(?:\s*(?:seconds?|secs?|s)\b)?"
_SPANS = tuple(
    re.compile(form, re.IGNORECASE | re.DOTALL)
    for form in (
        rf"\bstart[^\d.]{{0,200}}{_TIME}[^\d]{{0,400}}?\bend[^\d.]{{0,200}}{_TIME}",
        rf"{_TIME}{_UNIT}[\"'\s]*(?:[-–—~]|\bto\b|\buntil\b|\btill\b)[\"'\s]*{_TIME}",
        rf"\bbetween\s+{_TIME}{_UNIT}\s+and\s+{_TIME}",
        rf"[\[(]\s*[\"']?{_TIME}{_UNIT}[\"']?\s*,\s*[\"']?{_TIME}{_UNIT}[\"']?\s*[\])]",
    )
)
"""How a span is written, the surest form first."""


def parse_span(text: str) -> Span | None:
    """The one span that an answer names; None where it names none, several that differ, or one that
    ends before it begins. In each answer the first form that occurs is read, alone.
    """
    for form in _SPANS:
        if found := {(_seconds(a), _seconds(b)) for a, b in form.findall(text)}:
            ((start, end), *more) = found
            return None if more or not start <= end < math.inf else (start, end)
    return None


def _seconds(text: str) -> float:
    """``90.5``, ``1:30.5`` or ``0:01:30.5``; NaN where minutes or seconds are 60 or more."""
    seconds = 0.0
    for i, part in enumerate(text.split(":")):
        if i and float(part) >= 60:
            return math.nan
        seconds = 60 * seconds + float(part)
    return seconds


def iou(a: Span, b: Span) -> float:
    """Intersection over union in [0, 1]; 0.0 where two spans don't overlap, or have no length."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    whole = max(a[1], b[1]) - min(a[0], b[0])
    return both / whole if both > 0 else 0.0


_LMMS_KEYWORDS = ("start", "end", "happen")
_LMMS_EXAMPLE = "a specific example is : 20.8 - 30.0 seconds"
_CLOCK = r"\b(\d{1,2}:\d{2}(?::\d{2})?)"
_NUMBER = r"(?<!\d)(\d++(?:\.\d++)?)"  # from its first digit on, and without a second look


def lmms_eval(text: str) -> Span | None:
    """lmms-eval's rule for Charades-STA (``extract_time``), in the lines that have "start", "end"
    or "happen" in them, else in all: the first pair of times with a dash (or "to") between them,
    then of numbers; else the first two times; else the first numbers of the first two lines with
    any. A span that ends before it begins is turned round.
    """
    said = text.lower().replace(_LMMS_EXAMPLE, "").replace("to", "-")
    lines = re.split(r"[!?\n]", said)
    lines = [line for line in lines if any(k in line for k in _LMMS_KEYWORDS)] or lines
    found: list[str] = []
    for pair in (rf"{_CLOCK}\s*[–-]\s*{_CLOCK[2:]}\b", rf"{_NUMBER}\s*+[–-]\s*+{_NUMBER}"):
        found = found or [t for line in lines for m in re.findall(pair, line) for t in m]
    found = found or [t for line in lines for t in re.findall(rf"{_CLOCK}\b", line)]
    if len(found) < 2:
        numbers = (re.search(rf"\b{_NUMBER}\b", line) for line in lines)
        found = [match[1] for match in numbers if match]
    if len(found) < 2:
        pairs = (re.search(rf"{_NUMBER}\s*+(?:s\s*+)?[–-]\s*+{_NUMBER}", line) for line in lines)
        found = [t for match in pairs if match for t in match.groups()]
    if len(found) < 2:
        return None
    start, end = (
        sum(float(p) * 60**i for i, p in enumerate(t.split(":")[::-1])) for t in found[:2]
    )
    return (start, end) if end > start else (end, start)


READERS: Mapping[str, Reader] = {"": parse_span, "lmms-eval": lmms_eval}
"""By the names that protocols use; the empty one is evalkit's strict reader."""
