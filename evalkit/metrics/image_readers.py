"""How published evaluations of image benchmarks read the option or the number out of an answer.

Each is the rule of the harness that it names, for use under that protocol; evalkit's own strict
reader is ``evalkit.metrics.choice``. They read more answers, and some of them wrongly. A reader of
options takes an answer and the texts of the options (without letters), and gives an option's index,
or None where the original counts the answer as wrong, or asks a judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from evalkit.metrics.choice import LETTERS


def blink(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's BLINK: a first line of at most four signs that is a letter, else the last
    "answer is B", else the last ``(B)``, else the letter that the answer begins with, also of a
    word ("Because" is B).
    """
    said, letters = text.strip(), LETTERS[: len(options)]
    line = said.partition("\n")[0].strip()
    if len(line) <= 4 and (bare := re.fullmatch(rf"\(?([{letters}])\)?[.\s:,)]*", line, re.I)):
        return _index(bare[1], options)
    for form, flags in (
        (rf"answers?(?:\s++is)?\s*+[:\-]?\s*+\(?([{letters}])\)?(?![A-Za-z])", re.I),
        (rf"\(([{letters}])\)", re.NOFLAG),
    ):
        if named := re.findall(form, said, flags):
            return _index(named[-1], options)
    return cv_bench(said, options)


def cv_bench(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's CV-Bench: the first letter, brackets before it left out, also of a word."""
    begun = re.match(r"[(\s]*([A-Z])", text, re.IGNORECASE)
    return _index(begun[1], options) if begun else None


def first_sign(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's SEED-Bench: the first sign of an answer, also of a word."""
    return _index(text.strip()[:1], options)


def dotted(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's MuirBench and ScienceQA: the capital letter of ``B.`` at the start, else the
    whole answer, which must be a letter.
    """
    said = text.strip()
    return _index(said[0] if re.match(r"[A-Z]\.", said) else said, options)


_VSTAR = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s++IS)?[\s:]++([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def vstar(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's V* Bench, small letters as capital ones: A to D at the start (also of a word),
    behind "answer", "choice" or "option" (also of a word), in brackets, before a mark, alone, or
    the only one of them in the answer.
    """
    said = text.strip().upper()
    for form in _VSTAR:
        if match := re.search(form, said):
            return _index(match[1], options)
    named = re.findall("[A-D]", said)
    return _index(named[0], options) if len(named) == 1 else None


def hrbench(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's HR-Bench, without a judge behind it: the one letter that stands alone among the
    words, else the one option whose text is in the answer. None for refusals.
    """
    if any(refusal in text for refusal in REFUSALS):
        return None
    words = re.sub(r"[.()[\],:;!*#{}]", " ", text).split()
    named = [i for i, letter in enumerate(LETTERS[: len(options)]) if letter in words]
    if len(named) == 1:
        return named[0]
    if not named and "Z" in words:  # the harness's mark for "no answer"
        return None
    inside = [i for i, option in enumerate(options) if option.lower() in text.lower()]
    return inside[0] if len(inside) == 1 else None


REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)
"""Answers that VLMEvalKit and its descendants take for none."""

_MMVP = (
    r"^\s*\(?([AB])\)?\.?\s*$",
    r"^\s*\(?([AB])\)?[.\s]",
    r"answer\s+is\s+\(?([AB])",
    r"option\s+\(?([AB])",
    r"([AB])\)?(?:\s|$)",
    r"^([AB])",
)


def mmvp(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's MMVP, in capital or small letters: A or B as the whole answer, at the start,
    behind "answer is" or "option" (also of a word), at the end of a word ("panda" is A), or as the
    first sign.
    """
    for form in _MMVP:
        if match := re.search(form, text.strip(), re.IGNORECASE):
            return _index(match[1], options)
    return None


_VISULOGIC = (
    r"<answer>\s*\(?([A-D])\)?\s*</answer>",
    r"\\boxed\{\s*([A-D])\s*\}",
    r"answer\s*(?:is|:|-)\s*\(?([A-D])\)?\b",
    r"option\s*([A-D])\b",
    r"\(([A-D])\)",
)


def visulogic_lmms_eval(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's VisuLogic: the last letter in ``<answer>``, else in a box, behind "answer is",
    behind "option", in brackets; else the first sign of at most three.
    """
    for form in _VISULOGIC:
        if named := re.findall(form, text, re.IGNORECASE):
            return _index(named[-1], options)
    said = text.strip()
    return _index(said[:1], options) if len(said) <= 3 else None


_PHRASES = (
    *("the final answer is", "the answer is option", "the answer is"),
    *("the correct answer is option", "the correct answer is", "the answer should be"),
)
_SAID = ("answer:", *(f"{phrase}:" for phrase in _PHRASES), *_PHRASES)


def visulogic_vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """The VisuLogic authors' rule, as VLMEvalKit has it: the letter in the last box (of at most
    two signs, but for markup), else the whole answer, else `` B.`` or `` (B).`` at the end, or a
    first line that is ``B`` or ``(B)``, else what one of the usual phrases is followed by.
    """
    boxes = re.findall(r"\\boxed\{((?:(?!\\boxed\{).)*?[^\\])\}", text, re.DOTALL)
    content = re.sub(r"\\text\{|\\rm\{|\\mathbf\{|\$|\}", "", boxes[-1]) if boxes else ""
    said = text.replace("<|endoftext|>", "")
    for bare in (content.strip() if len(content) <= 2 else "", text.strip(), said):
        if re.fullmatch("[A-D]", bare):
            return _index(bare, options)
    for letter in "ABCD":
        ends = said.endswith((f" {letter}.", f" ({letter})."))
        if ends or re.match(rf"(?:{letter}|\({letter}\)(?: {letter})?)\n", said):
            return _index(letter, options)
    lower = said.lower()
    for lead in _SAID:
        if lead in lower:
            lower = lower.rpartition(lead)[2].strip().partition("\n")[0].partition(".")[0]
            if re.fullmatch("[a-d]", lower):
                return _index(lower, options)
    return None


def _index(letter: str, options: Sequence[str]) -> int | None:
    """That of a letter, capital or small; None for what is none of the options'."""
    at = LETTERS.find(letter.upper()) if len(letter) == 1 else -1
    return at if 0 <= at < len(options) else None


NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
"""As words, by their values."""


def count(text: str) -> int | None:
    """The one number that an answer names, in digits or as a word up to twenty; None where it names
    none, several, or one with a fraction.
    """
    words = re.findall(r"\d+(?:[.,]\d+)*|[a-z]+", text.lower())
    named = {w for w in words if w[0].isdigit() or w in NUMBERS}
    values = {NUMBERS.index(w) if w in NUMBERS else _whole(w) for w in named}
    return values.pop() if len(values) == 1 else None


def count_lmms_eval(text: str) -> int | None:
    """lmms-eval's ``countbench``: the whole answer, in digits, or as a word up to twenty or
    "none".
    """
    said = text.strip().lower()
    if said in NUMBERS or said == "none":
        return 0 if said == "none" else NUMBERS.index(said)
    return _whole(said) if re.fullmatch("0|[1-9][0-9]*", said) else None


def _whole(digits: str) -> int | None:
    """None for one with a fraction or a separator, and for what no picture shows so many of."""
    return int(digits) if digits.isdecimal() and len(digits) < 19 else None
