"""Relaxed accuracy, the metric of ChartQA: numbers may be off by five per cent, other answers must
be equal.

Masry et al., "ChartQA" (Findings of ACL 2022), section 5.1, after Methani et al., "PlotQA" (WACV
2020); the reading of numbers follows the script that Pix2Struct published and that others copied.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")


def relaxed_accuracy(prediction: str, target: str, tolerance: float = 0.05) -> float:
    """1.0 when the answer is right, else 0.0.

    Where both are numbers and the target is not zero, right means ``|prediction - target| <=
    tolerance * |target|``; a trailing "%" divides by 100, so "50%" is 0.5 and not 50. Otherwise
    right means equal without regard to case: "0.0" is not "0", and "1,000" is not "1000". A year is
    a number like any other.
    """
    p, t = number(prediction), number(target)
    if p is not None and t:
        return float(abs(p - t) <= tolerance * abs(t))
    return float(prediction.strip().lower() == target.strip().lower())


def number(text: str) -> float | None:
    """The number that a text is, "50%" and "50 %" as 0.5; None for another text."""
    text = text.strip()
    if not _NUMBER.fullmatch(text.removesuffix("%").rstrip()):
        return None
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
