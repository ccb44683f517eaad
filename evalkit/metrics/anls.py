"""ANLS, the metric of DocVQA and InfographicVQA: an edit-distance similarity that forgives a few
wrong characters.

Biten et al., "Scene Text Visual Question Answering" (ICCV 2019), section 5; evaluation script of
the Robust Reading Competition. Both texts are stripped, lower-cased and their runs of blanks made
one blank; the similarity to an answer is one minus the Levenshtein distance over the longer length;
the best answer counts, and anything below the threshold counts 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Lengths = Literal["normalised", "raw", "upper"]


def anls(
    prediction: str, answers: Sequence[str], threshold: float = 0.5, lengths: Lengths = "raw"
) -> float:
    """Similarity in [0, 1] to the closest of ``answers``; a similarity of exactly ``threshold`` is
    kept, as the script does.

    ``lengths="raw"`` divides by the texts' lengths before blanks are cleaned, as the competition's
    script does (and so every published number): there, surplus blanks in a wrong answer raise its
    score. The script also turns them into upper case, which makes "ß" two letters: ``"upper"``.
    ``"normalised"`` divides by the lengths of the texts that are compared. The two agree
    wherever no text has surplus blanks. Raises ValueError when there are no answers.
    """
    if not answers:
        raise ValueError("anls needs at least one answer")
    best = max(_similarity(prediction, answer, lengths) for answer in answers)
    return best if best >= threshold else 0.0


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction equals one of the answers after the clean-up that ANLS does, else
    0.0. Raises ValueError when there are no answers.
    """
    if not answers:
        raise ValueError("exact_match needs at least one answer")
    return float(_clean(prediction) in {_clean(answer) for answer in answers})


def _similarity(prediction: str, answer: str, lengths: Lengths) -> float:
    from rapidfuzz.distance import Levenshtein

    a, b = _clean(prediction), _clean(answer)
    measured = {
        "normalised": (a, b),
        "raw": (prediction, answer),
        "upper": (prediction.upper(), answer.upper()),
    }
    longer = max(map(len, measured[lengths]))
    return 1.0 - Levenshtein.distance(a, b) / longer if longer else 1.0


def _clean(text: str) -> str:
    return " ".join(text.lower().split())
