"""Reading text: exact match and character error rate, and the containment metrics of MTVQA and
OCRBench.

Exact match and character error rate compare NFC forms, so that an accent written as one code point
equals the same accent written as two. The containment metrics follow their published scripts to the
letter, short answers inside long words included.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both texts are the same after NFC and after runs of blanks are made one; upper and
    lower case differ.
    """
    return float(_nfc(prediction) == _nfc(reference))


def character_error_rate(prediction: str, reference: str) -> float:
    """Edits (insert, delete, replace one code point) that turn the prediction into the reference,
    over the reference's length.

    Lower is better; capped at 1.0, so that one run-away answer can't outweigh many good ones.
    Raises ValueError when the reference is empty.
    """
    from rapidfuzz.distance import Levenshtein

    target = _nfc(reference)
    if not target:
        raise ValueError("character_error_rate needs a reference that is not empty")
    return min(Levenshtein.distance(_nfc(prediction), target) / len(target), 1.0)


def mtvqa(
    prediction: str, answer: str, variant: Literal["official", "vlmevalkit"] = "official"
) -> float:
    """1.0 when the answer occurs in the prediction, without regard to case.

    Tang et al., "MTVQA" (2024): full stops are dropped from the prediction, and the score is the
    mean over the means of the languages. ``vlmevalkit`` drops them from the answer too (lmms-eval
    does the same), and its score is the mean over all questions. In the official script an answer
    with a full stop, such as "3.5", can't be met.
    """
    wanted = answer.strip().lower()
    if variant == "vlmevalkit":
        wanted = wanted.replace(".", "")
    return float(wanted in prediction.strip().lower().replace(".", ""))


def ocrbench(prediction: str, answers: Sequence[str], formula: bool = False) -> float:
    """1.0 when any answer occurs in the prediction (Liu et al., "OCRBench", 2024; official script).

    Text is stripped, lower-cased, and line breaks become blanks. ``formula`` is for handwritten
    expressions (HME100k): case counts, and all blanks are dropped. Raises ValueError when there are
    no answers.
    """
    if not answers:
        raise ValueError("ocrbench needs at least one answer")
    if formula:
        return float(any(_unspaced(a) in _unspaced(prediction) for a in answers))
    return float(any(_flat(a) in _flat(prediction) for a in answers))


def _nfc(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _flat(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _unspaced(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
