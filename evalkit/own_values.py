"""What the cells of a row hold, in data of one's own: pictures and clips, options and the right
one, answers, a box. ``columns`` are the columns of a file by their roles (``evalkit.own.ROLES``).
Every reader raises DataError for what it can't use.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from evalkit.errors import DataError
from evalkit.metrics.boxes import from_xywh
from evalkit.metrics.choice import LETTERS
from evalkit.rows import identifier, image, video
from evalkit.sources.own_formats import spelled
from evalkit.task import Row
from evalkit.types import Media

MEDIA = ("image", "video")
BESIDE = 1 / 20
"""So much of its side a box may lie beside its picture; annotations are often sloppy, and what lies
further out is meant in another way."""


def shown_media(row: Row, columns: Mapping[str, str]) -> list[Media]:
    """The pictures of a row, then its clips. Raises DataError when it has neither."""
    out: list[Media] = []
    for role, read in (("image", image), ("video", video)):
        value = row.get(columns.get(role, ""))
        items = value if isinstance(value, list | tuple) else [] if value is None else [value]
        one = {columns.get(role, ""): None}
        out += [
            replace(read({**one, columns[role]: item}, columns[role]), upright=row.upright)
            for item in items
        ]
    if not out:
        names = " and ".join(repr(columns[role]) for role in MEDIA if role in columns)
        raise DataError(f"{names}: no picture or clip")
    return out


def options_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """The options of a row, without letters before them. Raises DataError for fewer than 2, or more
    than 26.
    """
    texts = [as_text(v, columns["options"]) for v in listed(row, columns)]
    bare = [t for i, text in enumerate(texts) if (t := _unmarked(text, i)) is not None]
    return bare if len(bare) == len(texts) else texts


def listed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Sequence[Any]:
    """The options as the row has them, without the empty places behind the last of named ones."""
    column = columns["options"]
    value: Any = {c: row[c] for c in LETTERS if c in row} if column == "A" else row[column]
    value = spelled(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value = _in_order(value, column)
        while value and is_nothing(value[-1]):
            value.pop()
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= len(LETTERS):
        raise DataError(f"{column!r} is {row[column]!r:.80}, not a list of 2 to 26 options")
    return value


def _in_order(options: Mapping[Any, Any], column: str) -> list[Any]:
    """Options by their names, which are the letters from A or the numbers from 0. Raises DataError
    for other names: the right one might be named by them.
    """
    named = {str(name).strip().upper(): option for name, option in options.items()}
    for names in (LETTERS, [*map(str, range(len(LETTERS)))]):
        if named.keys() == set(first := names[: len(options)]):
            return [named[name] for name in first]
    raise DataError(
        f"{column!r} names its options {', '.join(map(str, options)):.80}: name them A, B, ..., or "
        "give a list"
    )


def _unmarked(text: str, place: int) -> str | None:
    """An option without the letter of its place before it; None where it has none."""
    marked = text[:1] == LETTERS[place] and text[1:3] in (". ", ") ", ": ")
    return text[3:].strip() if marked else None


def right_option(value: Any, options: Sequence[str], column: str, numbers: bool = False) -> int:
    """The place of the right option, which is given by its text (also with its letter before it),
    its letter, or its index from 0. Of options that are ``numbers`` a number is one of them before
    it is an index. Raises DataError when it is none of them, or could be two.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = as_text(value, column).strip()
    readings = {i for i, o in enumerate(options) if o.strip() in (text, _unmarked(text, i))}
    letter = text.strip("().:").upper()
    if len(letter) == 1 and letter in LETTERS[: len(options)]:
        readings.add(LETTERS.index(letter))
    is_index = text.isdecimal() and int(text) < len(options)
    if is_index and (not readings or not (numbers or isinstance(value, str))):
        readings.add(int(text))
    if len(readings) != 1:
        why = "could be two options" if readings else "names no option"
        raise DataError(
            f"{column!r} is {text!r:.80} and {why}: give the letter, the text, or the index from 0"
        )
    return readings.pop()


def answer_texts(value: Any, column: str) -> list[str]:
    """The right answers: a text or number, a list of them, or a cell that spells a list. Raises
    DataError when there is none.
    """
    if isinstance(value, str) and isinstance(many := spelled(value), list):
        value = many
    items = value if isinstance(value, list | tuple) else [value]
    texts = [as_text(item, column) for item in items]
    if not texts:
        raise DataError(f"{column!r} is empty")
    return texts


def as_text(value: Any, column: str) -> str:
    """A text, or a number as one."""
    if is_nothing(value):
        raise DataError(f"{column!r} is {'null' if value is None else 'empty'}")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise DataError(f"{column!r} is {value!r:.80}, not a text or a number")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise DataError(f"{column!r} is {value}, not a finite number")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        value = int(value)
    return str(value)


def composed(text: str) -> str:
    """A text whose letters with accents are one sign each, as models write them; some systems part
    them.
    """
    return unicodedata.normalize("NFC", text)


def name_in(row: Row, column: str) -> str:
    """As ``identifier``; tables make ``3.0`` of ``3`` beside empty cells."""
    value = row[column]
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if is_whole else identifier(row, column)


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, or blanks."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def box_of(row: Row, columns: Mapping[str, str], about: Mapping[str, int]) -> list[float]:
    """The corners ``x1, y1, x2, y2`` in pixels of a picture of the size in ``about``."""
    column = columns.get("box") or columns["bbox"]
    form = "[x1, y1, x2, y2]" if "box" in columns else "[x, y, width, height]"
    value, meant = row[column], f"{column!r} {row[column]!r:.80}, read as {form} in pixels,"
    if is_nothing(value):
        raise DataError(f"{column!r} is empty")
    if isinstance(value, str):
        value = spelled(value) or re.split(r"[\s,;]+", value.strip("()[] "))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        x1, y1, x2, y2 = (float(v) for v in value)
        x1, y1, x2, y2 = from_xywh(
            (x1, y1, x2 - x1, y2 - y1) if "box" in columns else (x1, y1, x2, y2)
        )
    except (TypeError, ValueError, OverflowError) as e:
        raise DataError(f"{column!r} is {row[column]!r:.80}, not {form} in pixels: {e}") from e
    if not about:
        raise DataError("a box needs a picture whose size can be read")
    width, height = about["width"], about["height"]
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise DataError(f"{meant} lies outside its picture of {width}x{height}")
    if max(-x1, x2 - width) > BESIDE * width or max(-y1, y2 - height) > BESIDE * height:
        raise DataError(f"{meant} reaches far out of its picture of {width}x{height}")
    if x2 <= 1 < width and y2 <= 1 < height:
        raise DataError(f"{meant} lies within the first pixel: give pixels, not shares of a side")
    return [x1, y1, x2, y2]


def metadata_of(row: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """The columns that nothing else uses, to group by: short texts, numbers, yes and no."""
    return {
        k: v
        for k, v in row.items()
        if k not in used
        and (
            (isinstance(v, str) and len(v) <= 100)
            or isinstance(v, bool | int)
            or (isinstance(v, float) and math.isfinite(v))
        )
    }
