"""Writing whole files: a reader finds the old one or the new, whatever happens to the writer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from evalkit.errors import EvalkitError
from evalkit.safe_text import masked, without_keys

PART = ".part"
"""Suffix of a file or folder that is still being written; what a killed writer left can go."""


def replace(path: Path, content: str | bytes | Iterable[bytes], durable: bool = True) -> None:
    """Writes a file (text as UTF-8, without secrets; bytes, or blocks of them, as they are) under a
    temporary name of its own beside ``path`` and renames it.

    ``durable`` waits until the file and its name are on disk. Raises EvalkitError when the file
    can't be written.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = without_keys(content).encode("utf-8", "replace")
        with part.open("xb", buffering=0) as file:
            # Until it is renamed, so that whoever clears up knows that its writer lives.
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:  # cleared up before it was locked
                return replace(path, content, durable)
            for block in [content] if isinstance(content, bytes) else content:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
            if durable:
                os.fsync(file.fileno())
            part.replace(path)
        if durable:
            sync(path.parent)
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
    finally:
        with suppress(OSError):
            part.unlink()


def regular(path: Path) -> BinaryIO:
    """A file, opened for reading. Raises OSError, also for a pipe or a device: it may never end."""
    if not path.is_file() and not path.is_dir() and path.exists():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """``replace`` with a JSON object. Raises ValueError for NaN or infinity."""
    replace(path, json.dumps(masked(value), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same folder: what several write there from
    what they read there has to be read and written by one at a time. A folder that is not there,
    or can't be locked, is not waited for.
    """
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def part_of(path: Path) -> Path:
    """A temporary name beside ``path`` for what will be renamed to it; no two are equal."""
    return path.with_name(f"{path.name[:200]}.{os.urandom(6).hex()}{PART}")


def remove_parts(folder: Path) -> None:
    """Removes what writers that were killed left half-written in a folder, as far as it can; what
    somebody is still writing stays.
    """
    for part in folder.glob(f"*.{'[0-9a-f]' * 12}{PART}"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            continue
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk: a renamed file is found again
    only when its folder is. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
