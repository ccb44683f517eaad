"""SHA-256 of files, each read once for as long as it does not change.

What is remembered is keyed by path, device, inode, size, and the times of the last write and of the
last change of the inode: an edit that puts the old modification time back is seen by the latter.
The clock of a file system ticks in milliseconds, so nothing is remembered of a file that changed
just now. Digests of large files also outlive the process, in ``digests.json`` of the user's cache
folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG

from evalkit.cache_dir import cache_dir
from evalkit.errors import EvalkitError
from evalkit.files import replace_json
from evalkit.formats import frame_files

LARGE = 8 * 2**20
"""Bytes from which reading a file again costs more than looking its digest up."""
SETTLED = 50_000_000
"""Nanoseconds after which a file's times tell any later change from the last one."""

_memory: dict[str, str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError when it can't be read, also for what is
    not a regular file (a pipe would never end).
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as e:
        raise OSError(errno.ENOENT, "no such file", str(path)) from e
    if not S_ISREG(stat.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    times = f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    key = f"{path.absolute()}|{stat.st_dev}|{stat.st_ino}|{times}"
    if key in _memory:
        return _memory[key]
    settled = time.time_ns() - stat.st_ctime_ns > SETTLED
    stored = _stored() if settled and stat.st_size >= LARGE else {}
    if key not in stored:
        with path.open("rb") as file:
            stored[key] = hashlib.file_digest(file, "sha256").hexdigest()
        if settled and stat.st_size >= LARGE:
            _store(stored)
    if settled:
        _memory[key] = stored[key]
    return stored[key]


def media_digest(path: Path) -> str:
    """``file_digest`` of a medium; for a clip that is kept as a folder of frames, a hash over their
    bytes in order.
    """
    return content_hash(frame_files(path)) if path.is_dir() else file_digest(path)


def content_hash(files: Iterable[Path]) -> str:
    """SHA-256, in hex, over the bytes of files in their order; their names are left out, so that a
    copy in another place has the same.
    """
    digests = [file_digest(f) for f in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _stored() -> dict[str, str]:
    try:
        stored = json.loads((cache_dir() / "digests.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _store(digests: dict[str, str]) -> None:
    """Best effort: without a cache folder that can be written, files are read again next time."""
    file = cache_dir() / "digests.json"
    with contextlib.suppress(EvalkitError):
        replace_json(file, digests)
