"""Answers read and scored as lmms-eval 0.7.3 does, where the rest of this package differs.

Facts from its task files (``lmms_eval/tasks``: chartqa, ocrbench, refcoco, videomme, nextqa), which
are public; written anew. ``tests/test_lmms_real.py`` compares both on the same answers, sample by
sample; docs/metrics.md lists where the two part on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evalkit.metrics.boxes import Box

_EDGES = ",.!?;:'"
_PHRASES = (
    *(f"{the}{which} is" for which in ("answer", "choice") for the in ("the ", "", "my ")),
    *(
        f"{the}{kind} is"
        for kind in (
            "correct answer",
            "best answer",
            "correct option",
            "best option",
            "correct choice",
        )
        for the in ("the ", "")
    ),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""What announces an answer. Each counts where it first stands, so that "the answer is" may point
farther than "answer is".
"""
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_FOUR = re.compile(r"\[" + r",".join([r"\s*(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def relaxed_accuracy(prediction: str, target: str) -> float:
    """ChartQA, 1.0 or 0.0: numbers as Python reads them ("1_000", " 5" and "inf" too), off by five
    per cent at most; else equal without regard to case, blanks counted.
    """
    p, t = _number(prediction), _number(target)
    if p is not None and t:
        return float(abs(p - t) / abs(t) <= 0.05)
    return float(prediction.lower() == target.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def ocrbench(prediction: str, answers: Sequence[str], formula: bool = False) -> float:
    """OCRBench: as ``evalkit.metrics.ocr.ocrbench``, full-width letters and digits read as ASCII
    ones outside formulas.
    """
    if formula:
        wanted = [_flat(a).replace(" ", "") for a in answers]
        return float(any(w in _flat(prediction).replace(" ", "") for w in wanted))
    said = _flat(_ascii(prediction).lower())
    return float(any(_flat(_ascii(a).lower()) in said for a in answers))


def _flat(text: str) -> str:
    return text.strip().replace("\n", " ")


def _ascii(text: str) -> str:
    wide = {c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
    return text.translate(wide)


def choice(answer: str, letters: str) -> str:
    """The letter that an answer names; empty for none. lmms-eval's ``extract_mcq_answer``: of all
    places where a letter stands like an answer, the last in the most trusted form. "I like A cat"
    names A.
    """
    text = answer.strip()
    for mark in _EDGES + '"':
        text = text.strip(mark)
    bare, text = text.strip(), f" {text} "
    found = [
        (trust, text.rfind(form.format(c)), c)
        for form, trust in _FORMS
        for c in letters
        if form.format(c) in text
    ]
    for phrase in _PHRASES:
        if (at := text.lower().find(phrase)) >= 0:
            found += [(7, i, c) for c in letters if (i := text.find(c, at + len(phrase))) >= 0]
    found += [(10, 0, c) for c in letters if bare.startswith(c) and not bare[1:2].isalpha()]
    found += [
        (9, len(text) - 1, c) for c in letters if bare.endswith(c) and not bare[-2:-1].isalpha()
    ]
    found = found or [(0, text.rfind(c), c) for c in letters if c in text]
    # sorted() is stable: of equal ones the first that was found
    return sorted(found, key=lambda f: f[:2], reverse=True)[0][2] if found else ""


def choice_or_text(answer: str, options: Mapping[str, str]) -> str:
    """The letter that an answer names, or that of an option whose text it has; empty for none. The
    rule of MMMU, which NExT-QA takes; there lmms-eval draws a letter where this gives none.
    """
    for mark in _EDGES:
        answer = answer.strip(mark)
    text = f" {answer} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if there := [c for c in options if form.format(c) in text]:
            return max(there, key=lambda c: text.rfind(place.format(c))) if there[1:] else there[0]
    if len(text.split()) <= 5:
        return ""
    said = text.lower()
    there = [c for c, option in options.items() if option.lower() in said]
    return max(there, key=lambda c: said.rfind(options[c].lower()), default="")


def box(answer: str) -> Box | None:
    """The first ``[x1, y1, x2, y2]`` of an answer, as it is written (the prompt asks for parts of
    1); None where there is none.
    """
    match = _FOUR.search(answer)
    return tuple(map(float, match.groups())) if match else None  # type: ignore[return-value]


def iou(true: Box, said: Box) -> float:
    """Intersection over union of two boxes ``(x1, y1, x2, y2)``, as the original computes it: a
    box flipped in one direction has a negative area.
    """
    across = max(0, min(true[2], said[2]) - max(true[0], said[0]))
    down = max(0, min(true[3], said[3]) - max(true[1], said[1]))
    both = across * down
    union = _area(true) + _area(said) - both
    return both / union if union else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def centred(true: Box, said: Box) -> bool:
    """Whether the middle of the box that was said lies in the true one, edges included."""
    x, y = (said[0] + said[2]) / 2, (said[1] + said[3]) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]
