"""Reading the columns of a row: each reader gives a value of one kind, or says what the column
holds instead.

A data set has odd values sooner or later: an answer that is null, a number where a text belongs, a
picture without bytes. Every reader raises DataError for what it can't use, so that such a row is
one counted error; nothing is turned into the text "None". ``evalkit.task.read_samples`` puts the
row's number before the message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.errors import DataError
from evalkit.formats import unpacked
from evalkit.types import Image, Media, Message, Text, Video

if TYPE_CHECKING:
    from PIL import Image as PILImage

M = TypeVar("M", bound=Media)
Row = Mapping[str, Any]


def ask(*parts: Media | str) -> tuple[Message, ...]:
    """One turn of the user: pictures, clips and texts in the order in which the model meets
    them.
    """
    content = tuple(Text(p) if isinstance(p, str) else p for p in parts)
    return (Message("user", content),)  # type: ignore[arg-type]  # Media are images and videos


def image(row: Row, column: str = "image") -> Image:
    """The encoded image of a column: ``{"bytes", "path"}`` as ``datasets`` stores it, plain bytes,
    or the path that a source has made of a name. Raises DataError when there is none; a text of
    the data is none: it may name any file.
    """
    return _media(Image, row, column, "image")


def images(row: Row, column: str = "images") -> list[Image]:
    """The encoded images of a column that holds a list of them, each as ``image`` reads it. Raises
    DataError when it is no list, or is empty.
    """
    value = row[column]
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{column!r} is {_shown(value)}, not a list of images")
    upright = getattr(row, "upright", False)
    return [replace(_media(Image, {column: v}, column, "image"), upright=upright) for v in value]


def numbered_images(row: Row, columns: Sequence[str]) -> list[Image]:
    """The encoded images of columns such as image_1, image_2, ..., up to the first that is null.
    Raises DataError where there is none, or one behind a gap.
    """
    there = [row[c] is not None for c in columns]
    n = there.index(False) if False in there else len(there)
    if not n or any(there[n:]):
        raise DataError(f"{columns[n]!r} is null" + (", and a later one is not" if n else ""))
    return [image(row, c) for c in columns[:n]]


def packed_image(row: Row, column: str = "image") -> Image:
    """The encoded image of a column that holds it as a text in base64. Raises DataError."""
    text = string(row, column)
    if not (data := unpacked(text)):
        raise DataError(f"{column!r} holds no image in base64, but {text[:40]!r}")
    return Image(data, upright=getattr(row, "upright", False))


def video(
    row: Row,
    column: str = "clip",
    *,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> Video:
    """The encoded clip of a column, as ``image``, cut to ``start`` and ``end`` (seconds). A source
    with clips gives each row the column ``"clip"``, the clip's file or the reason why there is
    none. Where the clip is a folder of frames, ``fps`` is how many are shown a second.
    """
    clip = row[column]
    if fps is not None and isinstance(clip, Path) and clip.is_dir():
        upright = getattr(row, "upright", False)
        return Video(clip, start=start, end=end, fps=fps, upright=upright)
    return replace(_media(Video, row, column, "clip"), start=start, end=end)


def _media(kind: type[M], row: Row, column: str, name: str) -> M:
    value, upright = row[column], getattr(row, "upright", False)
    if isinstance(value, DataError):  # what the source says of a clip that it could not give
        raise value
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return kind(value, upright=upright)
    if isinstance(value, Path):
        if not value.is_file():
            what = "is not a regular file" if value.exists() else "no such file"
            raise DataError(f"{column!r} holds no {name}: {value}: {what}")
        return kind(value, upright=upright)
    if isinstance(value, str) and value:
        raise DataError(
            f"{column!r} is a text, {_shown(value)}, that no source has made the path of a file "
            f"of the data: name the column, JsonLines(..., media=({column!r},)), or give a Path"
        )
    raise DataError(f"{column!r} holds no {name}, but {_shown(value)}")


def image_size(picture: Image) -> tuple[int, int]:
    """Width and height in pixels, from the header of the file; in the frame in which the model
    sees the picture. Raises DataError when it can't be read.
    """
    from evalkit.media import opened  # it imports numpy, tasks shall not

    with opened(picture) as header:
        return _turned(header) if picture.upright else header.size


def _turned(header: PILImage.Image) -> tuple[int, int]:
    """The size after the EXIF orientation (tag 274): 5 to 8 lie on their side. Pillow turns TIFF
    by itself, in any case.
    """
    from evalkit.media import orientation

    width, height = header.size
    on_side = header.format != "TIFF" and orientation(header) >= 5
    return (height, width) if on_side else (width, height)


def sides(picture: Image) -> dict[str, int]:
    """``{"width", "height"}`` for a sample's metadata; empty when the file can't be read (the
    answer will say so).
    """
    try:
        width, height = image_size(picture)
    except DataError:
        return {}
    return {"width": width, "height": height}


def string(row: Row, column: str) -> str:
    """A column that holds a text, blanks at its ends kept. Raises DataError for another kind, and
    for a text that is empty or nothing but blanks.
    """
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{column!r} is {_shown(value)}, not a text")
    if not value.strip():
        raise DataError(f"{column!r} is empty")
    return value


def seconds(row: Row, column: str) -> float:
    """A column that holds a time: a finite number of at least 0. Raises DataError."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DataError(f"{column!r} is {_shown(value)}, not a time in seconds")
    return float(value)


def index(row: Row, column: str, count: int) -> int:
    """A column that holds an index below ``count``, as a number or as its digits. Raises
    DataError.
    """
    value = row[column]
    digits = str(value) if isinstance(value, str) or type(value) is int else ""
    if digits not in map(str, range(count)):
        raise DataError(f"{column!r} is {_shown(value)}, not one of 0 to {count - 1}")
    return int(digits)


def strings(row: Row, column: str) -> list[str]:
    """A column that holds a list of texts; an absent value is an empty list. Raises DataError for
    a value of another kind: a lone string is not taken for the list of its characters.
    """
    value = row[column]
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{column!r} is {_shown(value)}, not a list of strings")
    return list(value)


def identifier(row: Row, column: str) -> str:
    """A column that names something: a text, or a whole number, as text. Raises DataError for
    anything else, null before all: two rows without a name would be one.
    """
    value = row[column]
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{column!r} is {_shown(value)}, not a name or a whole number")


def tier(identifier: str) -> dict[str, str]:
    """``{"tier": ...}`` for a sample's metadata, the difficulty that an embedded row's identifier
    begins with (``easy-0012``, ``hard_0003.png``); empty for other rows.
    """
    match = re.match(r"(easy|medium|hard)[-_]", identifier)
    return {"tier": match[1]} if match else {}


def _shown(value: object) -> str:
    """A value as an error shows it: short, and bytes by their number."""
    if value is None:
        return "null"
    return f"{len(value)} bytes" if isinstance(value, bytes) else f"{value!r:.80}"
