"""How published evaluations of video benchmarks read the option out of an answer.

Each is the rule of the harness that it names, for use under that protocol; evalkit's own strict
reader is ``evalkit.metrics.choice``. They read more answers, and some of them wrongly. Every reader
takes an answer and the texts of the options (without letters), and gives an option's index, or None
where the original counts the answer as wrong, draws an option by chance, or asks a judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from evalkit.metrics.choice import LETTERS

_VIDEOMME_LEADS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",  # the original lacks a comma here,
    "Best answer:Best option:",  # and here
    "Answer:",
    "Option:",
)


def videomme(text: str, options: Sequence[str]) -> int | None:
    """The first of the letters A to D in an answer, after its usual openings are cut out: of
    Video-MME's authors, as VLMEvalKit has it (``extract_characters_regex``).
    """
    return _first_capital(text, _VIDEOMME_LEADS, "ABCD", options)


_LEADS = ("The best answer is", "The correct answer is", "The answer is", "The answer")


def longvideobench(text: str, options: Sequence[str]) -> int | None:
    """The first of the letters A to E in an answer, after its usual openings are cut out; a letter
    that names no option is none. Of LongVideoBench's authors, in lmms-eval.
    """
    leads = ("The best option is", "The correct option is", "Best answer:", "Best option:")
    return _first_capital(text, (*_LEADS, *leads), "ABCDE", options)


def longvideobench_vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """The same with VLMEvalKit's openings. Where an answer has none of the letters it asks a judge;
    here that is none.
    """
    leads = (
        "The best option isThe correct option is",  # the original lacks a comma here,
        "Best answer:Best option:",  # and here
        "Answer:",
        "Option:",
    )
    return _first_capital(text, (*_LEADS, *leads), "ABCDE", options)


def _first_capital(
    text: str, leads: Sequence[str], letters: str, options: Sequence[str]
) -> int | None:
    said = text.strip()
    for lead in leads:
        said = said.replace(lead, "")
    return _index(match[0] if (match := re.search(f"[{letters}]", said)) else "", options)


def mvbench_vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """The option whose letter in brackets, ``(b)``, holds the first word of an answer (full stops
    left out), or is held by it (``check_ans``). Of several, as for the word ``(``, the original
    takes the right one; that counts as none here.
    """
    word = text.lower().strip().split(" ")[0]
    marks = [f"({letter})".lower() for letter in LETTERS[: len(options)]]
    named = [i for i, mark in enumerate(marks) if word.replace(".", "") in mark or mark in word]
    return named[0] if len(named) == 1 else None


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def mvbench_lmms_eval(text: str, options: Sequence[str]) -> int | None:
    """``B. text`` as B; otherwise the first of the letters A to E that stands alone once
    punctuation is gone, small ones too: "a cat" is A (``mcq_acc``).
    """
    if match := re.match(r"([A-E])\.\s*.+$", text.strip(), re.IGNORECASE):
        return _index(match[1].upper(), options)
    said = text.replace("\n", " ").replace("\t", " ").strip()
    digits = re.search(r"\d,\d", said) is not None
    plain = said
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in said or f" {mark}" in said
        plain = plain.replace(mark, "" if beside_blank or digits else " ")
    plain = _without_stops(plain)
    match = re.search(r"\b([A-E])\b", plain, re.IGNORECASE)
    return _index(match[1].upper() if match else "", options)


def _without_stops(text: str) -> str:
    """Full stops that no digit follows are cut out, at most the first 32 of them (the original
    passes a flag where a count belongs).
    """
    return re.sub(r"\.(?!\d)", "", text, count=int(re.UNICODE))


def egoschema(text: str, options: Sequence[str]) -> int | None:
    """Of all letters that stand as ``(B)``, ``B.`` or before a blank, the one whose last place is
    the first; without any, in answers of more than five words, the options as they are listed
    (``B. text``), likewise. Of lmms-eval, which draws one by chance where there is none.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    body, letters = f" {text} ", LETTERS[: len(options)]
    forms = [(form.format(c), c) for form in ("({})", "{} ", "{}.") for c in letters]
    there = [(body.rfind(form), c) for form, c in forms if form in body]
    if not there and len(body.split()) > 5:
        body = body.lower()
        listed = [(f"{c}. {option}".strip().lower(), c) for c, option in zip(letters, options)]
        there = [(body.rfind(line), c) for line, c in listed if line in body]
    return _index(min(there, key=lambda found: found[0])[1] if there else "", options)


def perceptiontest(text: str, options: Sequence[str]) -> int | None:
    """The first of the capital letters A to D that stands alone (lmms-eval)."""
    match = re.search(r"\b([A-D])\b", text)
    return _index(match[1] if match else "", options)


def bare_letter(text: str, options: Sequence[str]) -> int | None:
    """An answer that is a capital letter and nothing else (lmms-eval's MMMU-Pro, where questions
    are screenshots).
    """
    return _index(text, options)


def tempcompass(text: str, options: Sequence[str]) -> int | None:
    """An answer that is a letter, or begins with one and a full stop or a bracket (TempCompass'
    rule without a judge, in lmms-eval and VLMEvalKit, too).
    """
    match = re.match(r"([ABCD])(?:[.)]|\Z)", text)
    return _index(match[1] if match else "", options)


def tempcompass_captions(text: str, options: Sequence[str]) -> int | None:
    """An answer that is, to the letter, an option as it is listed, ``Option 1: It falls.``, or the
    sentence alone (also behind a first bracket), or ``Option 1``, or ``1``, full stops aside
    (TempCompass' rule for captions without a judge). ``options`` are the lines as they are listed.
    """
    named = None
    behind = text.split(") ")[1] if ") " in text else text
    for i, option in enumerate(options):
        label, *sentences = option.split(": ")
        labels = (label, re.sub("Sentence |Option |Caption ", "", label))
        known = (option, *sentences[:1], *labels)
        if text in known or behind in sentences[:1] or text.replace(".", "") in labels:
            named = i
    return named


def mmvu(text: str, options: Sequence[str]) -> int | None:
    """The first of the letters A to E that stands alone in an answer, small ones too: "it is a cat"
    is A (lmms-eval's MMVU, the first of its several rules).
    """
    match = re.search(r"\b([A-E])\b", text.strip(), re.IGNORECASE)
    return _index(match[1].upper() if match else "", options)


def videommmu_vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's reading of Video-MMMU, behind the last ``Answer:``: letters before a full stop
    or a colon, else in brackets, else before a blank, else, in answers of more than five words, the
    texts of options; of several the last.
    """
    said = text.rpartition("Answer:")[2].strip()
    for mark in ",.!?;:'":
        said = said.strip(mark)
    body, letters = f" {said} ", LETTERS[: len(options)]
    for form, place in (("{}.", "{}."), ("{}:", "{}:"), ("({})", "({})"), ("{} ", " {} ")):
        if named := [c for c in letters if form.format(c) in body]:
            return letters.index(max(named, key=lambda c: body.rfind(place.format(c))))
    if len(body.split()) <= 5:
        return None
    lower = body.lower()
    there = [i for i, option in enumerate(options) if option.lower() in lower]
    return max(there, key=lambda i: lower.rfind(options[i].lower()), default=None)


def _index(letter: str, options: Sequence[str]) -> int | None:
    letters = [*LETTERS[: len(options)]]
    return letters.index(letter) if letter in letters else None
