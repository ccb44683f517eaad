"""Reading the answer to a multiple-choice question, without guessing.

An answer counts when it is a letter (``B``, ``B.``, ``(B)``), a marked letter followed by text (``B. a dog``, ``(B) a dog``), or the
text of exactly one option. Anything else is unparsed: "A cat is on the mat, so D" names no option here, where a search for the first
capital letter would find A. There is no random choice and no second attempt.
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
    """Index of the option that an answer names; None when it names none, more than one, or none of these.

    ``options`` are the texts without letters, at most 26. An answer that can be read in two ways that disagree ("B. " followed by
    the text of option C; the answer "A" where option B's text is "A") is None.
    """
    answer = text.strip()
    named = {i for i, option in enumerate(options) if _plain(option) == _plain(answer)}
    if alone := _ALONE.fullmatch(answer):
        named.add(LETTERS.index(alone[1].upper()))
    elif marked := _MARKED.fullmatch(answer):
        named.add(LETTERS.index(marked[1] or marked[2]))
        named |= {i for i, option in enumerate(options) if _plain(option) == _plain(marked[3])}
    if len(named) != 1:
        return None
    index = named.pop()
    return index if index < len(options) else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".")
