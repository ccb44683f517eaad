"""Open questions of MMMU: is the right answer among what an answer says?

Yue et al., "MMMU" (CVPR 2024), and the authors' script (eval/eval_utils.py). The tail of each
sentence behind words such as "is" or "answer" is kept (else the whole answer), with all numbers in
it; numbers are rounded to two decimals. A right answer that is a number must be one of these; a
text must be contained in a kept text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
VIDEO_MMMU = (
    *("are ", "in total ", "total ", "identify ", "recognize ", "calculated as ", "counted as "),
    *("measured as ", "observed as ", "concluded as ", "found to be ", "equals "),
    *("determined to be ", "number of ", "value is ", "adds up to ", "have ", "has "),
)
"""Further indicators of Video-MMMU's rule (lmms-eval and VLMEvalKit), which is otherwise MMMU's."""
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # 1,000
    r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+",  # 1e3
    r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
"""The original's, looked for at the first digit of a row alone: a long one took minutes."""

Value = str | float


def open_answer(prediction: str, answers: Sequence[str], more: Sequence[str] = ()) -> float:
    """1.0 when one of ``answers`` is among the values read from a prediction, else 0.0. An answer
    of one letter is compared with a blank before or behind it, so that it is not found in words.
    ``more`` are further indicators. Raises ValueError when there are no answers.
    """
    if not answers:
        raise ValueError("open_answer needs at least one answer")
    right = {value for answer in answers for value in _normalised(answer)}
    texts = [r for r in right if isinstance(r, str)]
    for value in read(prediction, more):
        if value in right if isinstance(value, float) else any(t in value for t in texts):
            return 1.0
    return 0.0


def read(prediction: str, more: Sequence[str] = ()) -> list[Value]:
    """The texts and numbers that a prediction offers, each once."""
    kept = _tails(prediction, more)
    numbers = [n for text in kept for pattern in _NUMBERS for n in re.findall(pattern, text)]
    return list(dict.fromkeys(v for text in (*kept, *numbers) for v in _normalised(text)))


def _tails(prediction: str, more: Sequence[str]) -> list[str]:
    """What stands behind the last indicator of each sentence, where that is shortest."""
    body = prediction.strip().strip(".").lower()
    # the original splits at full stops before capitals too, of which lower case has none
    sentences = body.split("\n")
    tails = []
    indicators = (*_INDICATORS, *more)
    for i, sentence in enumerate(sentences):
        shortest = ""
        for indicator in (*indicators, "=") if i == len(sentences) - 1 else indicators:
            if indicator in sentence:
                tail = sentence.split(indicator)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in {":", ",", ".", "!", "?", ";", "'"}:
            tails.append(shortest)
    return tails or [body]


def _normalised(text: str) -> list[Value]:
    """A number rounded to two decimals, or a lower-case text."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]
