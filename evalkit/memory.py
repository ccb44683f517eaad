"""How this process holds memory."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next tensor instead of giving it back to the system; False where there is no glibc.

    Tensors of some megabytes are otherwise mapped, touched page by page and unmapped again at every operation: on two CPU threads an
    attention written as products took four times as long.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(top_pad, 64 << 20) and mallopt(mmap_threshold, 32 << 20))
