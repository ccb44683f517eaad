"""How much fits: token budgets from the memory that is free, and what counts as running out of
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from evalkit.engine.interface import EngineModel

T = TypeVar("T")
P = ParamSpec("P")
CACHE_SHARE, PACK_SHARE = 0.4, 0.2
"""Shares of the free memory for keys and values, and for one pack on its way through the model."""
CPU_PACK = 2048
"""On a CPU larger packs are slower: their temporaries leave the caches."""
GPU_PACK = 32_768


@dataclass(frozen=True)
class Budget:
    """``rows`` sequences at once, packs of ``pack_tokens`` prompt tokens, ``cache_tokens`` (rows
    times longest row) of keys and values.
    """

    rows: int
    pack_tokens: int
    cache_tokens: int

    def below(self, tokens: int) -> Budget:
        """Half of what a pack of ``tokens`` needed."""
        return Budget(self.rows, max(min(self.pack_tokens, tokens) // 2, 1), self.cache_tokens)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; on a CPU what the system could give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return (
            int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
        )
    except (OSError, StopIteration, ValueError):
        pages: int = os.sysconf("SC_PHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE") // 2


def choose(model: EngineModel, rows: int | None = None, tokens: int | None = None) -> Budget:
    """A budget for this model on its device; ``rows`` and ``tokens`` (of a pack) replace what
    would be chosen.
    """
    free = free_bytes(model.device)
    token_bytes = model.cache_shape.numbers * model.dtype.itemsize
    cache = max(int(free * CACHE_SHARE) // token_bytes, 1)
    most = CPU_PACK if model.device.type == "cpu" else GPU_PACK
    pack = max(min(int(free * PACK_SHARE) // model.activation_bytes, most), 1)
    return Budget(rows or 64, tokens or pack, min(cache, 1 << 20))


def within_memory(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What ``work`` returns, or None when memory ran out, on a GPU or a CPU; by then what it held
    is free again.
    """
    try:
        return work(*args, **kwargs)
    except RuntimeError as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
    return None
