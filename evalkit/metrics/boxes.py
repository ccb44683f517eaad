"""Boxes written in text: reading one, placing it on the image, and intersection over union.

Qwen-VL and Qwen2-VL write a box as its top-left and bottom-right corner, ``(x1,y1),(x2,y2)``
(Qwen-VL paper, section 2.2: Qwen2-VL paper, section 2.1). Only the first box of an answer is read,
and only in the coordinate space that the model declares: a number is never tried in two spaces.
Boxes are ``(x1, y1, x2, y2)`` in pixels, edges at continuous coordinates (no "+1").
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

Box = tuple[float, float, float, float]
Space = Literal["norm1000", "norm999", "norm1", "pixel"]

_NUMBER = r"\s*(-?[0-9]{1,6}(?:\.[0-9]{1,12})?)\s*"
_BOX = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")


def parse_box(text: str, space: Space, width: int, height: int) -> Box | None:
    """The first ``(x1,y1),(x2,y2)`` of an answer, in pixels of an image of ``width`` x ``height``.

    ``norm1000`` numbers are thousandths of the sides, ``norm999`` the same over 999, ``norm1``
    fractions of 1. None when the answer has no box, or when the first one is flipped or has no
    area. Corners outside the image are kept as they are written.
    """
    match = _BOX.search(text)
    if not match:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    if x1 >= x2 or y1 >= y2:
        return None
    if space == "pixel":
        return x1, y1, x2, y2
    unit = {"norm1000": 1000.0, "norm999": 999.0, "norm1": 1.0}[space]
    return x1 / unit * width, y1 / unit * height, x2 / unit * width, y2 / unit * height


def from_xywh(box: Sequence[float]) -> Box:
    """Corners of a box given as ``[x, y, width, height]``, the form of the COCO annotations. Raises
    ValueError when it has no area, or a number of it is none (NaN) or has no end.
    """
    x, y, w, h = box
    if not all(math.isfinite(v) for v in box):
        raise ValueError(f"box {list(box)} is not of finite numbers")
    if not (w > 0 and h > 0):
        raise ValueError(f"box {list(box)} has no area")
    return x, y, x + w, y + h


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union in [0, 1] of two boxes ``(x1, y1, x2, y2)``; 0.0 when they don't
    touch or neither has an area.
    """
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return min(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both), 1.0)
