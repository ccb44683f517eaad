"""Files of one's own as the rows of a task file: JSON lines, and a folder of media."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.bounds import bounds, over
from evalkit.clips import hidden, refusal
from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.sources.media import below, media_hash, paths
from evalkit.sources.tables import Columns


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line: ``JsonLines("qa.jsonl")``. The columns named in ``media`` hold paths
    of pictures or clips (or lists of them), relative to the file or to ``folder``, and below it.
    """

    file: str | Path
    media: tuple[str, ...] = ("image",)
    folder: str | Path | None = None

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The objects in their order, paths of media made whole. Raises DataError, with the line,
        for one that is no JSON object, or names media outside the folder.
        """
        file = override or Path(self.file)
        root = Path(self.folder) if self.folder and not override else file.parent
        for number, line in enumerate(_lines(file), 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"{line:.60} is not an object")
            except (ValueError, RecursionError) as e:
                raise DataError(f"{file}, line {number}: {e}") from e
            yield row | {c: below(root, row[c]) for c in self.media if c in row}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """The hashes of the file and of all media that it names."""
        files = [
            path
            for row in (self.rows(override) if self.media else ())
            for column in self.media
            for path in paths(row.get(column))
        ]
        return {
            "kind": "local" if override else "jsonl",
            "sha256": content_hash([override or Path(self.file)]),
            "media": media_hash(files),
        }

    def count(self, override: Path | None = None) -> int | None:
        return sum(1 for _ in _lines(override or Path(self.file)))


@dataclass(frozen=True)
class Folder:
    """One row a file: ``Folder("colours", "*.png")`` gives ``{"name": "red", "folder": "",
    "image": ...}`` for ``colours/red.png``, in the order of the paths. ``folder`` is where the file
    lies below the root, which is its label in many data sets.
    """

    root: str | Path
    pattern: str = "**/*"
    column: str = "image"

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        root = override or Path(self.root)
        for path in self.files(root):
            place = path.relative_to(root).parent.as_posix()
            why = refusal(path, root)  # a link may lead anywhere
            media = DataError(why) if why else path
            yield {"name": path.stem, "folder": "" if place == "." else place, self.column: media}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """The hash of all files, their names among them: names are what answers are made of."""
        root = override or Path(self.root)
        files = self.files(root)
        names = "\n".join(f.relative_to(root).as_posix() for f in files)
        return {
            "kind": "local" if override else "folder",
            "sha256": hashlib.sha256(f"{names}\n{media_hash(files)}".encode()).hexdigest(),
        }

    def count(self, override: Path | None = None) -> int | None:
        return len(self.files(override or Path(self.root)))

    def files(self, root: Path) -> list[Path]:
        """Its files in the order of their paths, without hidden ones. Raises DataError where there
        is no folder.
        """
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        return sorted(
            f for f in root.glob(self.pattern) if f.is_file() and not hidden(f.relative_to(root))
        )


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            most, number = bounds().json_bytes, 0
            while line := lines.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise DataError(f"{file}, line {number}: {over('json_bytes')}")
                if line.strip():
                    yield line
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file}: can't be read ({e})") from e
