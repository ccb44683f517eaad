"""Reading where an answer clicks, as published evaluations of screenshots do it.

Each is the rule of the harness that it names, for use under that protocol. Every reader takes an
answer and the picture's width and height, and gives the point in pixels, or None where the original
counts the answer as wrong or as a click into the top left corner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from evalkit.metrics.boxes import Point

_N = r"(-?\d+(?:\.\d+)?)"
_P = r"(-?\d+(?:\.\d+)?%?)"
_FOUR = re.compile(rf"[\[(]\s*{_N},\s*{_N},\s*{_N},\s*{_N}\s*[\])]")
_OPENED = re.compile(r"<\s*bbox", re.IGNORECASE)
_CLOSED = re.compile(r"<\s*/\s*bbox\s*>", re.IGNORECASE)
_TWO = re.compile(rf"[\[(]\s*+{_P}(?:\s*+,\s*+|\s++){_P}\s*+[\])]")
_X, _Y = (re.compile(rf"['\"]?{name}['\"]?\s*[:=]\s*{_P}", re.IGNORECASE) for name in ("x", "y"))
_CLICK = re.compile(r"x=([\d.]+), y=([\d.]+)")


def lmms_eval_box(text: str, width: int, height: int) -> Point | None:
    """The centre of the first four numbers in brackets, as parts of the sides, or, where one is
    over 1, as thousandths (lmms-eval's ScreenSpot, Center_ACC).
    """
    if not (match := _FOUR.search(text)):
        return None
    x1, y1, x2, y2 = numbers = [*map(float, match.groups())]
    whole = 1000 if max(numbers) > 1 else 1
    return (x1 + x2) / 2 / whole * width, (y1 + y2) / 2 / whole * height


def lmms_eval_point(text: str, width: int, height: int) -> Point | None:
    """The centre of a ``<bbox>``, else two numbers in brackets, else ``x: 0.1, y: 0.2``, else the
    first two numbers (the centre of the first four where the answer speaks of a box), as parts of
    the sides or in per cent (lmms-eval's ScreenSpot-v2).
    """
    if len(four := re.findall(_P, next(_tagged(text), ""))[:4]) == 4:
        return _scaled(*_middle(four), width, height)
    if match := _TWO.search(text):
        return _scaled(_part(match[1]), _part(match[2]), width, height)
    if (x := _X.search(text)) and (y := _Y.search(text, x.end())):
        return _scaled(_part(x[1]), _part(y[1]), width, height)
    numbers = re.findall(_P, text)
    if len(numbers) >= 4 and any(word in text.lower() for word in ("box", "rect")):
        return _scaled(*_middle(numbers[:4]), width, height)
    if len(numbers) >= 2:
        return _scaled(_part(numbers[0]), _part(numbers[1]), width, height)
    return None


def lmms_eval_pixels(text: str, width: int, height: int) -> Point | None:
    """The same point, in pixels where one of its numbers is over 1 (lmms-eval's ScreenSpot-Pro)."""
    point = lmms_eval_point(text, 1, 1)
    return None if point is None else _inferred(*point, width, height)


_ANSWER = re.compile(r"answer\s*[:：]\s*", re.IGNORECASE)


def evalscope_point(text: str, width: int, height: int) -> Point | None:
    """The last point on the line behind the last "Answer:": in a ``<bbox>`` (its centre), in
    brackets, as ``x=1, y=2``, or two numbers; else the last in a ``<bbox>`` or in brackets
    anywhere. Numbers up to 1 are parts of the sides, up to 1000 thousandths, others pixels
    (EvalScope's ScreenSpot-Pro).
    """
    marks = [*_ANSWER.finditer(text)]
    line = text[marks[-1].end() :].partition("\n")[0] if marks else ""
    point = _last_point(line, loose=True) or _last_point(text)
    if point and 1 < max(point) <= 1000:
        return _scaled(point[0] / 1000, point[1] / 1000, width, height)
    return _inferred(*point, width, height) if point else None


_LAST_NAMED = re.compile(
    rf"x['\"]?\s*[:=]\s*{_P}[^\d\-]*?['\"]?y['\"]?\s*[:=]\s*{_P}", re.IGNORECASE
)


def _last_point(text: str, loose: bool = False) -> Point | None:
    tagged = [*_tagged(text)]
    if tagged and len(four := re.findall(_P, tagged[-1])[:4]) == 4:
        return _middle(four)
    if pairs := _TWO.findall(text) or (loose and _LAST_NAMED.findall(text)):
        return _part(pairs[-1][0]), _part(pairs[-1][1])
    numbers = re.findall(_P, text) if loose else []
    return (_part(numbers[-2]), _part(numbers[-1])) if len(numbers) >= 2 else None


def vlmevalkit_click(text: str, width: int, height: int) -> Point | None:
    """``x=0.5, y=0.25`` as parts of the sides, or, where one is over 1, in pixels (VLMEvalKit's
    ScreenSpot).
    """
    if not (match := _CLICK.search(text)):
        return None
    try:
        x, y = map(float, match.groups())
    except ValueError:  # 1.2.3
        return None
    return _inferred(x, y, width, height)


def _inferred(x: float, y: float, width: int, height: int) -> Point:
    """In pixels where one of them is over 1, else parts of the sides."""
    return (x, y) if x > 1 or y > 1 else _scaled(x, y, width, height)


def _tagged(text: str) -> Iterator[str]:
    """What stands in each ``<bbox ...>`` that is closed."""
    end = 0
    while (opened := _OPENED.search(text, end)) and (mark := text.find(">", opened.end())) >= 0:
        if not (closed := _CLOSED.search(text, mark + 1)):
            return
        yield text[mark + 1 : closed.start()]
        end = closed.end()


def _part(number: str) -> float:
    return float(number[:-1]) / 100 if number.endswith("%") else float(number)


def _middle(numbers: list[str]) -> Point:
    x1, y1, x2, y2 = map(_part, numbers)
    return (x1 + x2) / 2, (y1 + y2) / 2


def _scaled(x: float, y: float, width: int, height: int) -> Point:
    return x * width, y * height
