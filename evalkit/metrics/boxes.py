"""Boxes written in text: reading one, placing it on the image, and intersection over union.

How a model writes boxes is a convention of its training: in which unit the numbers are, and in
which form they stand. A space names both, ``UNIT[:FORM][@WIDTHxHEIGHT]``. Only the first box of an
answer is read, and only in the space that the model declares: an answer is never tried in two.

Units:

- ``norm1000``, ``norm999``, ``norm1``: parts of 1000, 999 or 1 of the image's sides.
- ``pixel``: its pixels.
- ``resized``: pixels of the image as the model saw it; each answer adds that size, ``@616x476``.
- ``square``, ``crop``: parts of 1 of the image padded to a square, or of its central square.
- ``loc1024``: ``<loc0256>`` four times, 1024th parts, y before x; this one has no other form.

Forms: ``(x1,y1),(x2,y2)`` where none is named (Qwen-VL paper, section 2.2; Qwen2-VL paper, section
2.1); ``json`` for ``"bbox_2d": [x1, y1, x2, y2]``; ``list`` for ``[x1, y1, x2, y2]``. Boxes are
``(x1, y1, x2, y2)`` in pixels, edges at continuous coordinates (no "+1").
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

Box = tuple[float, float, float, float]
Point = tuple[float, float]

UNITS = ("norm1000", "norm999", "norm1", "pixel", "resized", "square", "crop")
FORMS = ("json", "list")
_SPACE = re.compile(
    rf"(?:(?P<unit>{'|'.join(UNITS)})(?::(?P<form>{'|'.join(FORMS)}))?|(?P<loc>loc1024))"
    r"(?:(?<!loc1024)@(?P<width>[1-9][0-9]{0,5})x(?P<height>[1-9][0-9]{0,5}))?"
)
_NUMBER = r"\s*(-?[0-9]{1,6}(?:\.[0-9]{1,24})?(?:[eE][+-]?[0-9]{1,2})?)\s*"  # as Python writes it
_FOUR = rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"
_READERS = {
    None: re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"),
    "json": re.compile(rf'"bbox_2d"\s*:\s*{_FOUR}'),
    "list": re.compile(_FOUR),
}
_LOC = re.compile(r"<loc([0-9]{4})>\s*" * 4)
_POINTS = {
    None: re.compile(rf"\({_NUMBER},{_NUMBER}\)"),
    "json": re.compile(rf'"point_2d"\s*:\s*\[{_NUMBER},{_NUMBER}\]'),
    "list": re.compile(rf"\[{_NUMBER},{_NUMBER}\]"),
}
_LOC_POINT = re.compile(r"<loc([0-9]{4})>\s*" * 2)


def is_space(text: object) -> bool:
    """Whether a text names a box space."""
    return isinstance(text, str) and _parts(text) is not None


@lru_cache(maxsize=4096)
def _parts(space: str) -> re.Match[str] | None:
    found = _SPACE.fullmatch(space)
    return found if found and (found["width"] is None or found["unit"] == "resized") else None


def parse_box(text: str, space: str, width: int, height: int) -> Box | None:
    """The first box of an answer, in pixels of an image of ``width`` x ``height``.

    None when the answer has no box of the space's form, or when the first one is flipped or has no
    area. Corners outside the image are kept as they are written. Raises ValueError for a text that
    names no space, and for ``resized`` without the size at which the image was seen.
    """
    parts = _known(space)
    match = (_LOC if parts["loc"] else _READERS[parts["form"]]).search(text)
    if not match:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    if parts["loc"]:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if x1 >= x2 or y1 >= y2:
        return None
    return (*_placed(x1, y1, parts, width, height), *_placed(x2, y2, parts, width, height))


def parse_point(text: str, space: str, width: int, height: int) -> Point | None:
    """The first ``(x,y)`` of an answer (``"point_2d": [x, y]``, ``[x, y]``, ``<loc0256><loc0512>``
    by the space's form), in pixels; otherwise as ``parse_box``.
    """
    parts = _known(space)
    if not (match := (_LOC_POINT if parts["loc"] else _POINTS[parts["form"]]).search(text)):
        return None
    x, y = (float(number) for number in match.groups())
    return _placed(*((y, x) if parts["loc"] else (x, y)), parts, width, height)


def centre(box: Box) -> Point:
    """The middle of a box, in the unit of the box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _known(space: str) -> re.Match[str]:
    if (parts := _parts(space)) is None:
        raise ValueError(f"{space!r} is no box space: UNIT or UNIT:FORM, {', '.join(UNITS)}")
    return parts


def _placed(x: float, y: float, parts: re.Match[str], width: int, height: int) -> Point:
    """A point of a space in pixels."""
    (whole_x, whole_y), (across, down), (left, top) = _frame(parts, width, height)
    return x / whole_x * across + left, y / whole_y * down + top


def _frame(parts: re.Match[str], width: int, height: int) -> tuple[tuple[float, float], ...]:
    """Of the frame that a space's numbers refer to: its sides in those numbers, its sides in pixels
    of the image, and its top-left corner there.
    """
    unit = parts["unit"] or parts["loc"]
    if unit in ("square", "crop"):
        side = max(width, height) if unit == "square" else min(width, height)
        return (1, 1), (side, side), ((width - side) / 2, (height - side) / 2)
    if unit == "resized":
        if parts["width"] is None:
            raise ValueError("a box in pixels of the resized image, and its size is not said")
        return (int(parts["width"]), int(parts["height"])), (width, height), (0, 0)
    if unit == "pixel":
        return (1, 1), (1, 1), (0, 0)
    whole = {"norm1000": 1000, "norm999": 999, "norm1": 1, "loc1024": 1024}[unit]
    return (whole, whole), (width, height), (0, 0)


def from_xywh(box: Sequence[float]) -> Box:
    """Corners of a box given as ``[x, y, width, height]``, the form of the COCO annotations. Raises
    ValueError when it has no area, or a number in it is NaN or infinite.
    """
    x, y, w, h = box
    if not all(math.isfinite(v) for v in box):
        raise ValueError(f"box {list(box)} is not of finite numbers")
    if not (w > 0 and h > 0):
        raise ValueError(f"box {list(box)} has no area")
    return x, y, x + w, y + h


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union in [0, 1] of two boxes ``(x1, y1, x2, y2)``; 0.0 when they don't
    overlap or one has no area.
    """
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return min(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both), 1.0)
