"""Writing whole files: a reader finds the old one or the new, whatever happens to the writer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from evalkit.errors import EvalkitError

PART = ".part"
"""Suffix of a file that is still being written; what a killed run leaves can be removed."""


def replace(path: Path, text: str, durable: bool = True) -> None:
    """Writes a text file (UTF-8) under a temporary name of its own beside ``path`` and renames it.

    ``durable`` waits until the file and its name are on disk. Raises EvalkitError when the file
    can't be written.
    """
    part = path.with_name(f"{path.name[:200]}.{uuid4().hex[:12]}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            _sync(path.parent)
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
    finally:
        with suppress(OSError):
            part.unlink()


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """``replace`` with a JSON object. Raises ValueError for NaN or infinity."""
    replace(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def remove_parts(folder: Path) -> None:
    """Removes what writers that were killed left half-written in a folder."""
    for part in folder.glob(f"*{PART}"):
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Waits until a folder's list of names is on disk, so that a renamed file is found again."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
