"""Texts that were covered in a picture, found in an answer: the metric of VCR.

Zhang et al., "VCR: Visual Caption Restoration" (2024), section 4.1, and the authors' script: among
the n-grams of an answer, n being the tokens of the covered text, the one that is most like it
(difflib's ratio) and has a token in common. Exact match: the two have the same tokens in the same
order; Jaccard: the tokens in common over all tokens of both. An answer that declines scores 0.

The script splits texts with spaCy's models; here English is split into words and marks, Chinese
into characters. For exact match that changes nothing but how many characters a token has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

Language = Literal["en", "zh"]
_DECLINED = ("I can't", "I cannot", "无法", "抱歉")


def tokens(text: str, language: Language) -> list[str]:
    """Words and marks of English; characters of Chinese, where a run of Latin letters or digits is
    one.
    """
    pattern = r"\w+|[^\w\s]" if language == "en" else r"[A-Za-z0-9]+|[^\sA-Za-z0-9]"
    return re.findall(pattern, text)


def restored(answer: str, covered: str, language: Language) -> tuple[float, float]:
    """Exact match and Jaccard index of one covered text, each from 0 to 1. Raises ValueError for a
    covered text without a token.
    """
    right = tokens(covered, language)
    if not right:
        raise ValueError("the covered text has no token")
    if "sorry" in answer.lower() or any(word in answer for word in _DECLINED):
        return 0.0, 0.0
    best = nearest(tokens(answer, language), right, covered, language)
    both = set(best) & set(right)
    return float(best == right), len(both) / len(set(best) | set(right))


def nearest(
    said: Sequence[str], right: Sequence[str], covered: str, language: Language
) -> list[str]:
    """The n-gram of an answer that is most like a covered text; the first of several, empty where
    none has a token in common with it.
    """
    blank = " " if language == "en" else ""
    best: list[str] = []
    most, wanted = 0.0, set(right)
    for start in range(len(said) - len(right) + 1):
        gram = list(said[start : start + len(right)])
        if wanted.isdisjoint(gram):
            continue
        likeness = SequenceMatcher(None, blank.join(gram), covered).ratio()
        if likeness > most:
            most, best = likeness, gram
    return best
