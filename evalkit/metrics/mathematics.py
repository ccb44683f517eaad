"""Answers to mathematical questions: MathVista's numbers and options, MATH-Vision's formulas.

Lu et al., "MathVista" (ICLR 2024), and the authors' evaluation (evaluation/calculate_score.py): an
extracted answer is brought into the form of the right one (an option's text, a whole number, a
number of so many decimals, a list) and compared as text. Theirs is extracted by a language model;
here a rule does it, so that a score needs no judge: the whole answer, what stands in ``\\boxed{}``
or behind the last "answer is", the last number.

Wang et al., "Measuring Multimodal Mathematical Reasoning with MATH-Vision" (NeurIPS 2024), and the
authors' evaluation (evaluation/utils.py): two formulas are equal when they are the same text after
clean-up, or the same number to two decimals. Theirs evaluates LaTeX with SymPy and Python's
``eval``; here a small reader of arithmetic does it, which runs no code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from evalkit.metrics.readers import Reader

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_LEAD = re.compile(
    r"(?:answer|result|value)\s*(?:is|are|should be|:|=)\s*|"
    r"final answer(?!\s*(?:is|are|=))\s*:?\s*",
    re.I,
)


def extracted(text: str) -> str:
    """The part of an answer that states it: what is boxed, else what follows the last "answer is"
    up to the end of its sentence, else all of it.
    """
    if boxes := boxed(text):
        return boxes[-1].strip()
    if leads := [*_LEAD.finditer(text)]:
        rest = text[leads[-1].end() :].split("\n")[0]
        return re.split(r"\.(?:\s|$)", rest)[0].strip().strip("*$\"'` ")
    return text.strip()


def boxed(text: str) -> list[str]:
    """The contents of each ``\\boxed{...}``, braces inside them matched; in one pass, since a
    model may open boxes without end.
    """
    found: list[tuple[int, str]] = []
    opened: list[tuple[int, bool]] = []
    for brace in re.finditer(r"(\\boxed\s{0,9})?\{|\}", text):
        if brace[0] != "}":
            opened.append((brace.end(), bool(brace[1])))
        elif opened:
            start, is_box = opened.pop()
            if is_box:
                found.append((start, text[start : brace.start()]))
    return [content for _, content in sorted(found)]


def mathvista_value(text: str, answer_type: str, precision: int) -> str | None:
    """A free-form answer in the form of the right one: ``"7"``, ``"1.20"`` rounded to ``precision``
    decimals as Python writes it, ``"[1, 2]"``; None when it can't be read so.
    """
    said = extracted(text)
    if answer_type == "list":
        lists = re.findall(r"\[[^\[\]]*\]", said)
        return lists[-1] if lists else None
    if answer_type == "text":
        return said or None
    numbers = _NUMBER.findall(said) or _NUMBER.findall(text)
    if not numbers:
        return None
    try:
        value = float(numbers[-1].replace(",", ""))
        return str(int(value)) if answer_type == "integer" else str(round(value, precision))
    except (ValueError, OverflowError):
        return None


def mathvista_option(text: str, options: Sequence[str], reader: Reader) -> int | None:
    """The option that an answer names: as ``reader`` reads the whole answer or the part that
    states it.
    """
    index = reader(text, options)
    return reader(extracted(text), options) if index is None else index


def nearest_option(text: str, options: Sequence[str]) -> int:
    """MathVista's normalisation of an extracted option: the letter of ``(B)``, a lone letter, else
    the option at the least edit distance, however far. It always names one.
    """
    from rapidfuzz.distance import Levenshtein

    said = text.strip()
    if letters := re.findall(r"\(([a-zA-Z])\)", said):
        said = letters[0].upper()
    if len(said) == 1 and (index := ord(said) - ord("A")) in range(len(options)):
        return index
    return min(range(len(options)), key=lambda i: Levenshtein.distance(said, options[i]))


def mathvision_equal(prediction: str, answer: str) -> bool:
    """Whether two formulas are one text after clean-up, or one number (or tuple of numbers) to two
    decimals; never where one is empty.
    """
    a, b = _cleaned(prediction), _cleaned(answer)
    if not a or not b:
        return False
    return a == b or ((x := _values(a)) is not None and x == _values(b))


_DROPPED = (
    *("\\left", "\\right", "\\!", "\\,", "\\;", "^{\\circ}", "^\\circ", "\\circ", "°", "\\$", "$"),
    *("\\%", "%", "\\text", "\\mbox", "\\mathrm", "{units}", "units", "{km}", "km", " ", "\n"),
)


def _cleaned(text: str) -> str:
    """Lower case without spacing, units and font commands; of an equation the right side, of a
    lone option its letter.
    """
    out = text.lower().replace("dfrac", "frac").replace("tfrac", "frac").replace("∞", "\\infty")
    for mark in _DROPPED:
        out = out.replace(mark, "")
    out = re.split(r"=|\\approx", out)[-1].rstrip(".").lstrip(":")
    return option[1] if (option := re.fullmatch(r"[({]([a-e])[)}]", out)) else out


def _values(text: str) -> tuple[str, list[float]] | None:
    """The numbers of a formula, or the brackets of a tuple or list and the numbers of its parts;
    None where one is none.
    """
    kind = text[:1] + text[-1:]
    parts = text[1:-1].split(",") if kind in ("()", "[]") else [text]
    values = [evaluate(part) for part in parts]
    if None in values:
        return None
    return kind if len(parts) > 1 else "", [round(v, 2) for v in values if v is not None]


def evaluate(formula: str) -> float | None:
    """The value of an arithmetic expression in LaTeX or plain text: numbers, ``pi``, ``+ - * / ^``,
    ``\\frac``, ``\\sqrt``, brackets; ``1,000`` is 1000, ``1:2`` a half; None for anything else.
    """
    text = re.sub(r"\\cdot|\\times", "*", re.sub(r"\\div|:", "/", formula))
    text = text.replace(",", "") if _GROUPED.fullmatch(text) else text
    tokens = re.findall(r"\d+\.?\d*|\.\d+|\\?[a-z]+|\S", text)
    if len(tokens) > 200:
        return None
    try:
        parser = _Parser(tokens)
        value = parser.sum()
        return value if not parser.rest and math.isfinite(value) else None
    except (ValueError, ZeroDivisionError, OverflowError, IndexError, TypeError, RecursionError):
        return None


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.rest = list(tokens)

    def sum(self) -> float:
        value = self.product()
        while self.rest[:1] in (["+"], ["-"]):
            sign = 1 if self.rest.pop(0) == "+" else -1
            value += sign * self.product()
        return value

    def product(self) -> float:
        value = self.power()
        while self.rest and self.rest[0] not in ("+", "-", ")", "}", "]"):
            if self.rest[0] in ("*", "/"):
                mark = self.rest.pop(0)
                value = value * self.power() if mark == "*" else value / self.power()
            else:
                value *= self.power()  # 2\\sqrt{3}
        return value

    def power(self) -> float:
        if self.rest[:1] in (["+"], ["-"]):
            sign = 1 if self.rest.pop(0) == "+" else -1
            return sign * self.power()
        base = self.atom()
        if self.rest[:1] == ["^"]:
            self.rest.pop(0)
            exponent = self.power()
            value = base**exponent if abs(exponent) < 1000 else math.nan
            if isinstance(value, complex):
                raise ValueError
            return value
        return base

    def atom(self) -> float:
        symbol = self.rest.pop(0)
        if closing := {"(": ")", "{": "}", "[": "]"}.get(symbol):
            value = self.sum()
            if self.rest.pop(0) != closing:
                raise ValueError
            return value
        if symbol == "\\frac":
            return self.argument() / self.argument()
        if symbol in ("\\sqrt", "sqrt"):
            degree = self.atom() if self.rest[0] == "[" else 2.0
            return self.argument() ** (1 / degree)
        if symbol in ("\\pi", "pi", "π"):
            return math.pi
        return float(symbol)

    def argument(self) -> float:
        """What follows a command: a group, or a single digit (``\\frac12``)."""
        if len(self.rest[0]) > 1 and self.rest[0].isdigit():
            digit, self.rest[0] = self.rest[0][0], self.rest[0][1:]
            return float(digit)
        return self.atom()


def mathvision_answer(text: str) -> str:
    """What an answer to MATH-Vision states: a lone letter in its usual forms, what is boxed, what
    follows "answer is", or a number behind the last "is"; else all of it.
    """
    answer = text.strip()
    if letter := re.search(r"(?:^|\s)\(?([A-E])\)?\.?$", answer) or re.match(
        r"\(?([A-E])\)?\s*\n", answer
    ):
        return letter[1]
    if number := re.search(r"\bis ([-+]?(?:\d+(?:\.\d*)?|\.\d+))\.*$", answer):
        return number[1]
    said = extracted(answer)
    single = re.fullmatch(r"[({]?([A-Ea-e])[)}]?\.?", said)
    return single[1] if single else said
