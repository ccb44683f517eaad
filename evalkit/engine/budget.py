"""How much fits: token budgets from the memory that is free, and what counts as running out of
it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from evalkit.engine.interface import EngineModel
from evalkit.engine.scheduler import Budget

T = TypeVar("T")
P = ParamSpec("P")
CACHE_SHARE, PACK_SHARE = 0.4, 0.2
"""Shares of the free memory for keys and values, and for one pack on its way through the model."""
CPU_PACK = 2048
"""On a CPU larger packs are slower: their temporaries leave the caches."""
GPU_PACK = 32_768
CACHE_TOKENS = 1 << 20


class OutOfMemory(Exception):
    """A step needed more memory than there is, on a GPU or a CPU."""


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; on a CPU what the system could give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = next(line for line in lines if line.startswith("MemAvailable")).split()[1]
        return int(kibibytes) * 1024
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
    return Budget(rows or 64, tokens or pack, min(cache, CACHE_TOKENS))


def agreed(budget: Budget) -> Budget:
    """The smallest of all ranks' budgets in each of its bounds: the processes that hold a model
    together must schedule alike.
    """
    import torch.distributed as dist

    least = torch.tensor([budget.rows, budget.pack_tokens, budget.cache_tokens])
    if dist.get_backend() == "nccl":
        least = least.cuda()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return Budget(*map(int, least.tolist()))


def raises_out_of_memory(work: Callable[P, T]) -> Callable[P, T]:
    """``work``, which raises OutOfMemory when memory runs out."""

    @wraps(work)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except OSError as e:  # of pages that the system is asked for
            if e.errno != errno.ENOMEM:
                raise
        except RuntimeError as e:
            if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
                raise
        # Raised out here, so that it carries no traceback of ``e``: that would keep every tensor of
        # the frames in which memory ran out.
        raise OutOfMemory

    return checked
