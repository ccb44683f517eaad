"""Reading an answer to a question of yes or no.

evalkit's own rule: one of the two words, and not the other, is among the words of the answer
(VLMEvalKit's ``YOrN_Extraction``, whose scores the Qwen2-VL paper reports for HallusionBench). The
others are those of the harness that they name. An answer from which neither can be read is None:
wrong, and counted as unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Reader = Callable[[str], bool | None]

_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def words(text: str) -> bool | None:
    """True for yes, False for no; None where both words are in the answer, or neither.
    Punctuation goes as in VQA's clean-up: it separates words, or, where it has a blank beside it
    somewhere (or the answer has a number such as 1,000), it is dropped.
    """
    lower = text.lower()
    thousands = re.search(r"\d,\d", lower) is not None
    out = lower
    for mark in _MARKS:
        beside_blank = f"{mark} " in lower or f" {mark}" in lower
        out = out.replace(mark, "" if beside_blank or thousands else " ")
    found = re.sub(r"(?<!\d)\.(?!\d)", "", out).split()
    yes, no = "yes" in found, "no" in found
    return None if yes == no else yes


def beginning(text: str) -> bool | None:
    """lmms-eval's rule for MME: yes or no in the first four letters, or a lone y or n; full stops
    are dropped.
    """
    answer = text.lower().strip().replace(".", "")
    if len(answer) == 1:
        return {"y": True, "n": False}.get(answer)
    start = answer[:4]
    return True if "yes" in start else False if "no" in start else None


def exact(text: str) -> bool | None:
    """lmms-eval's rule for POPE: the whole answer but for case and blanks at its ends."""
    return {"yes": True, "no": False}.get(text.strip().lower())


def contains(text: str) -> bool | None:
    """EvalScope's rule (an answer is right when the right word is in it) as a reading of one word:
    None where both are, or neither is.
    """
    yes, no = "YES" in text.upper(), "NO" in text.upper()
    return None if yes == no else yes


def says_yes(text: str) -> bool | None:
    """lmms-eval's rule for HallusionBench without a judge: yes is somewhere in the answer, or it is
    taken for no.
    """
    return "yes" in text.lower() if text.strip() else None


def first_word(text: str) -> bool | None:
    """TempCompass' rule without a judge: what the answer begins with, so that "nothing" is no."""
    lower = text.lower()
    return True if lower.startswith("yes") else False if lower.startswith("no") else None


READERS: Mapping[str, Reader] = {
    "": words,
    "vlmevalkit": words,
    "beginning": beginning,
    "exact": exact,
    "says-yes": says_yes,
    "evalscope": contains,
    "tempcompass": first_word,
}
"""By the names that protocols use; the empty one is evalkit's own."""
