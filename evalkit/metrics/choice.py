"""Reading the answer to a multiple-choice question, without guessing.

An answer counts when it is a letter (``B``, ``B.``, ``(B)``), a marked letter followed by text
(``B. a dog``, ``(B) a dog``), or the text of exactly one option. Anything else is unparsed: "A cat
is on the mat, so D" names no option here, where a search for the first capital letter would find A.
There is no random choice and no second attempt.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

_ALONE = re.compile(r"\(?([A-Za-z])(?:[.:]|\)[.:]?)?")
_MARKED = re.compile(r"(?:\(([A-Z])\)[.:]?|([A-Z])[.:)])\s+(.+)", re.DOTALL)


def parse_choice(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that an answer names; None when it names none, more than one, or none of
    these.

    ``options`` are the texts without letters, at most 26. An answer that can be read in two ways
    that disagree ("B. " followed by the text of option C; the answer "A" where option B's text is
    "A") is None, and so is one whose letter names no option ("F. a dog" where there are four).
    """
    answer = text.strip()
    letter, rest = "", answer
    if alone := _ALONE.fullmatch(answer):
        letter = alone[1].upper()
    elif marked := _MARKED.fullmatch(answer):
        letter, rest = marked[1] or marked[2], marked[3]
    if letter and LETTERS.index(letter) >= len(options):
        # the letter names nothing: what follows it doesn't count, unless both are an option's text
        letter, rest = "", answer
    read = {_plain(answer), _plain(rest)} - {""}
    same = [i for i, option in enumerate(options) if _plain(option) in read]
    if letter:
        index = LETTERS.index(letter)
        return index if not same or index in same else None
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".")
