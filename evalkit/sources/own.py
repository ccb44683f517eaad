"""Data of one's own, in whatever common format they lie: a file (``own_formats``), a folder that
``datasets`` saved or loads as an imagefolder, or a folder of nothing but media.

Rows come as they are written. Columns that are named as media become paths below the data's folder,
or bytes where a cell holds an encoded file itself (bytes, base64, ``data:`` addresses). As in
VLMEvalKit's TSV files, a picture may also be given by the index of another row that holds it.
Nothing is fetched from an address.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from evalkit.clips import SUFFIXES as CLIP_SUFFIXES
from evalkit.clips import hidden
from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.formats import unpacked
from evalkit.sources.files import Folder
from evalkit.sources.media import below, media_hash, paths
from evalkit.sources.own_formats import READERS, Line, spelled
from evalkit.sources.tables import Columns, local_table

PICTURE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .jp2 .avif".split())
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files that tell about the pictures of an imagefolder; ``file_name`` is the picture's column."""
FILE_COLUMNS = ("file_name", "image", "video")
SPLITS = frozenset("train training test testing validation valid val dev".split())
INDEX = "index"
LOOKED_AT = 100
"""So many rows tell what a file holds."""
SHORT = 64
"""Up to so many characters a picture's cell may be the index of another row; more are base64."""


@dataclass(frozen=True)
class OwnFile:
    """The rows of a file or folder. ``media`` names the columns that hold pictures or clips."""

    path: Path
    media: tuple[str, ...] = ()
    split: str = ""

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The rows in their order; a DataError in place of one that can't be read. Raises DataError
        when nothing can be.
        """
        path = override or self.path
        lines, root = lines_of(path, self.split), path if path.is_dir() else path.parent
        shared = self._shared(path)
        for line in lines:
            yield line if isinstance(line, DataError) else self._placed(line, root, shared)  # type: ignore[misc]  # `Row` raises it

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """The hashes of the file and of all media that it names."""
        path = override or self.path
        return {
            "kind": "local",
            "sha256": self._digest(path),
            "media": media_hash(
                [
                    file
                    for row in self.rows(path)
                    if isinstance(row, Mapping)
                    for column in self.media
                    for file in paths(row.get(column))
                ]
            ),
        }

    def count(self, override: Path | None = None) -> int | None:
        return sum(1 for _ in lines_of(override or self.path, self.split))

    def columns(self) -> list[str]:
        """The columns of the first rows that can be read. Raises DataError when there are none,
        with what is wrong with the first.
        """
        lines = list(islice(lines_of(self.path, self.split), LOOKED_AT))
        found = dict.fromkeys(c for line in lines if isinstance(line, Mapping) for c in line if c)
        if not found:
            nothing = "no rows"
            if self.path.is_dir():
                nothing = "no pictures or clips, and no table of them"
            raise DataError(f"{self.path}: {lines[0] if lines else nothing}")
        return list(found)

    def _digest(self, path: Path) -> str:
        """Of the tables' bytes; of the names where files are rows: those are what ids and labels
        are made of.
        """
        if tables := _tables(path, self.split):
            return content_hash(tables)
        names = (f.relative_to(path).as_posix() for f in _media_files(path))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def _placed(self, row: Columns, root: Path, shared: Mapping[str, Any]) -> Columns:
        here = {c: _media(row[c], root, shared) for c in self.media if c in row}
        return {c: v for c, v in {**row, **here}.items() if c}  # one without a name is no column

    def _shared(self, path: Path) -> Mapping[str, Any]:
        """The pictures that rows name by another row's index."""
        wanted = {
            text
            for row in lines_of(path, self.split)
            if isinstance(row, Mapping) and INDEX in row
            for column in self.media
            if isinstance(text := row.get(column), str)
            and len(text) <= SHORT
            and re.fullmatch(r"[\w-]+(\.0)?", text)
        }
        if not wanted:
            return {}
        return {
            name: row[column]
            for row in lines_of(path, self.split)
            if isinstance(row, Mapping) and (name := _plain_index(row.get(INDEX))) in wanted
            for column in self.media
            if isinstance(row.get(column), str) and len(row[column]) > SHORT
        }


def lines_of(path: Path, split: str = "") -> Iterator[Line]:
    """The rows of any file or folder that can be read as data. Raises DataError."""
    if path.is_dir():
        yield from _folder_lines(path, split)
        return
    if not path.is_file():
        raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    if not is_readable(path):
        raise DataError(f"{path}: data are read from a folder or from {', '.join(READERS)}")
    yield from READERS[path.suffix.lower()](path)


def is_readable(path: Path) -> bool:
    """Whether a path is named like data: by a suffix that is known, or a folder."""
    try:
        return path.suffix.lower() in READERS or path.is_dir()
    except OSError:  # a name that is too long
        return False


def splits_of(path: Path) -> tuple[str, ...]:
    """The splits that a folder holds, those of its tables, else of its imagefolders; none for
    anything that is not divided.
    """
    if not path.is_dir() or _metadata(path) or (path / "state.json").is_file():
        return ()
    if (path / "dataset_dict.json").is_file():
        return tuple(sorted(f.parent.name for f in path.glob("*/state.json")))
    if tables := [*path.glob("*.parquet"), *path.glob("data/*.parquet")]:
        names = (f.name for f in tables if not hidden(f.relative_to(path)))
        return tuple(sorted({re.split(r"[-.]", name)[0] for name in names}))
    return tuple(sorted(f.name for f in path.iterdir() if _holds_media(f)))


def _folder_lines(folder: Path, split: str) -> Iterator[Line]:
    if split and _holds_media(folder / split):
        for line in _folder_lines(folder / split, ""):  # its paths count from its own folder
            yield _prefixed(line, split)
    elif found := _metadata(folder):
        yield from lines_of(found[0])
    elif split or (folder / "state.json").is_file():
        yield from local_table(folder, None, split).rows(None)
    else:
        yield from _media_lines(folder)


def _prefixed(line: Line, folder: str) -> Line:
    if isinstance(line, DataError):
        return line
    named = {k: v for k, v in line.items() if k in FILE_COLUMNS and isinstance(v, str)}
    return {**line, **{k: f"{folder}/{v}" for k, v in named.items()}}


def _holds_media(folder: Path) -> bool:
    """Whether a folder is one split of an imagefolder: it has metadata, or is called so and has
    pictures or clips below it.
    """
    if not folder.is_dir() or (folder / "state.json").is_file():
        return False
    return bool(_metadata(folder) or (folder.name in SPLITS and _media_files(folder)))


def _metadata(folder: Path) -> list[Path]:
    return [folder / name for name in METADATA if (folder / name).is_file()]


def _media_files(folder: Path) -> list[Path]:
    suffixes = PICTURE_SUFFIXES | CLIP_SUFFIXES
    files = Folder(folder).files(folder)
    return [f for f in files if f.suffix.lower() in suffixes]


def _media_lines(folder: Path) -> Iterator[Line]:
    """A row for each picture or clip of a folder; the folder that it lies in is its label where
    they lie in several, all equally deep, as ``datasets`` has it for an imagefolder.
    """
    files = _media_files(folder)
    labelled = len({f.parent for f in files}) > 1 and len({len(f.parts) for f in files}) == 1
    for file in files:
        clip = file.suffix.lower() in CLIP_SUFFIXES - {".gif"}
        name = file.relative_to(folder).as_posix()
        label = {"label": file.parent.name} if labelled else {}
        yield {"id": name, "video" if clip else "image": name, **label}


def _tables(path: Path, split: str) -> list[Path]:
    """The files that rows are read from; none for a folder of nothing but media."""
    if not path.is_dir():
        return [path]
    for folder in (path / split, path):
        if found := _metadata(folder):
            return found[:1]
    if split or (path / "state.json").is_file():
        return list(local_table(path, None, split).files)
    return []


def _media(value: Any, root: Path, shared: Mapping[str, Any]) -> Any:
    """What a cell says of media: paths below ``root``, bytes, or a DataError."""
    if isinstance(value, list | tuple):
        return [_media(item, root, shared) for item in value]
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        return _media(value.get("bytes") or value.get("path"), root, shared)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) or value != value else value
    if isinstance(many := spelled(value), list):
        return _media(many, root, shared)
    if value in shared or _plain_index(value) in shared:
        return _media(shared.get(value) or shared[_plain_index(value)], root, {})
    if re.match(r"(?i)(https?|ftp|s3|gs|hf)://", value):
        return DataError(f"{value:.80} is an address, and media are not fetched: name a local file")
    if value.startswith("data:"):
        packed = unpacked(value.partition(",")[2])
        return packed or DataError(f"{value:.60} holds no picture or clip in base64")
    if len(value) > SHORT and (packed := unpacked(value)):
        return packed
    return _found(root, value)


def _found(root: Path, text: str) -> Any:
    """The path that a text names; where no such file is there, as other systems write names: with
    backslashes, with accents as signs of their own or not, with blanks around, as an address.
    """
    path = below(root, text)
    if isinstance(path, Path) and not path.exists():
        plain = text.strip().removeprefix("file://").replace("\\", "/")
        for other in (plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))):
            if isinstance(found := below(root, other), Path) and found.exists():
                return found
    return path


def _plain_index(value: Any) -> str:
    """An index as text; spreadsheets make ``3.0`` of ``3``."""
    return re.sub(r"\.0$", "", str(value))
