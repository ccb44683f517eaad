"""How this process holds memory."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

NEW = 50_000
"""Objects after which the collector looks at those that came since, while a program loads."""


@lru_cache(maxsize=1)
def _glibc() -> Any | None:
    """The C library where it is glibc, None elsewhere."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next tensor instead of giving it back to the system.

    Tensors of some megabytes are otherwise mapped, touched page by page and unmapped again at every
    operation: on two CPU threads an attention written as products took four times as long. What is
    kept grows with time: call ``give_back_freed_memory`` now and then.
    """
    if glibc := _glibc():
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        glibc.mallopt(trim_threshold, 2**31 - 1)
        glibc.mallopt(top_pad, 64 << 20)
        glibc.mallopt(mmap_threshold, 32 << 20)


def give_back_freed_memory() -> None:
    """Gives the pages of freed memory back to the system: tensors of ever new sizes leave gaps, and
    a long run would go on growing.
    """
    if glibc := _glibc():
        glibc.malloc_trim(0)


class Tidy:
    """Called now and then, gives freed memory back whenever the process has grown by ``room`` bytes
    since the last time.
    """

    def __init__(self, room: int) -> None:
        self.room, self.floor = room, resident()

    def __call__(self) -> None:
        if resident() > self.floor + self.room:
            give_back_freed_memory()
            self.floor = resident()


def resident() -> int:
    """Bytes of this process in memory; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


@contextmanager
def uncollected() -> Iterator[None]:
    """While many objects are made that all stay, Python's collector of reference cycles would look
    through them again and again: it rests, and half of the time is saved.
    """
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()


@contextmanager
def staying() -> Iterator[None]:
    """While a program loads what it keeps until its end, packages above all: the collector looks
    at the newest objects alone (rows are read meanwhile, too, and may leave garbage), and at none
    of these again, at exit neither. Torch alone makes 190,000.
    """
    before = gc.get_threshold()
    gc.set_threshold(NEW, 1 << 30)
    try:
        yield
        gc.freeze()
    finally:
        gc.set_threshold(*before)
