"""Media that rows name by their paths: where they lie, and a hash over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from evalkit.clips import refusal
from evalkit.digests import media_digest
from evalkit.errors import DataError


def below(root: Path, value: object, *others: Path) -> object:
    """Paths below a folder (or one of the ``others``) for the names in a column; other values as
    they are, for the reader of the column to refuse.
    """
    if isinstance(value, list):
        return [below(root, item, *others) for item in value]
    if not isinstance(value, str) or not value:
        return value
    path = root / value
    try:
        why = refusal(path, root, *others)
        path.is_file()
    except (OSError, ValueError, RuntimeError) as e:  # too long, a NUL, a circle of links
        return DataError(f"{value!r:.80} is no path: {e}")
    return DataError(why) if why else path


def paths(value: object) -> list[Path]:
    """The paths in a cell: of one file, of a list of them, or none."""
    if isinstance(value, list):
        return [path for item in value for path in paths(item)]
    return [value] if isinstance(value, Path) else []


def media_hash(files: Sequence[Path]) -> str:
    """A hash over media in their order; one that can't be read counts as absent: its row will say
    so.
    """
    digests = [media_digest(f) if f.is_file() or f.is_dir() else "absent" for f in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
