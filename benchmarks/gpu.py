"""All of a card's tables, the most valuable first, within a time limit.

    python benchmarks/gpu.py --minutes 8 --save benchmarks/results/gpu.md
    python benchmarks/gpu.py --minutes 4 --quantised        # 8 bits beside them
    python benchmarks/gpu.py --small          # nano on the CPU: does the script run?

First the attention kernels that torch has, on the shapes that the tower and the decoder ask for;
then ``evalkit bench`` of released shapes with random weights, plain and compiled, beside
`transformers` at the batch size that was its best. What did not fit into the time is named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.bench import Load
from evalkit.bench_page import bench
from evalkit.engine.packed import Lengths, can_pack, packed_attention
from evalkit.files import replace
from evalkit.nano import shipped

SHAPES = (  # what attends, segments, heads, tokens of each, width of a head
    ("pages, Qwen2-VL's tower", 16, 16, 7644, 80),
    ("pictures", 32, 16, 1200, 80),
    ("frames", 64, 16, 832, 80),
    ("windows, Qwen2.5-VL's tower", 960, 16, 64, 80),
    ("pages, Qwen3-VL's tower", 16, 16, 5848, 64),
    ("pages, Qwen3-VL-8B's tower", 8, 16, 5848, 72),
)
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "products": SDPBackend.MATH,
}
TABLES = (  # shape, load, questions, batch size of transformers
    ("2B", "documents", 32, 8),
    ("2B", "decode", 64, 64),
    ("2B", "images", 64, 16),
    ("2B", "video", 8, 2),
    ("7B", "documents", 16, 4),
    ("7B", "decode", 64, 64),
    ("Qwen2.5-VL-3B", "documents", 32, 8),
    ("Qwen3-VL-2B", "documents", 32, 8),
    ("2B", "questions", 64, 16),
)


def seconds(run: Callable[[], object], device: str) -> float:
    """Of the fastest of four runs, after one that warms up."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def kernels(device: str, dtype: torch.dtype, shrink: int) -> Iterator[str]:
    """A table of the rates that attention kernels reach."""
    names = [*BACKENDS, "flash, padded width", "variable length"]
    yield f"| TFLOP/s of attention, {str(dtype).removeprefix('torch.')} | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    for what, count, heads, n, d in SHAPES:
        count, n = max(count // shrink, 1), max(n // shrink, 1)
        packed = torch.randn(3, count * n, heads, d, device=device, dtype=dtype)
        parts = [x.unflatten(0, (count, n)).transpose(1, 2) for x in packed]
        wide = [F.pad(x, (0, -d % 32)) for x in parts]
        lengths = Lengths([n] * count, device)
        runs: list[partial[object]] = [
            partial(through, backend, attend, *parts, scale=d**-0.5)
            for backend in BACKENDS.values()
        ]
        runs.append(partial(through, BACKENDS["flash"], attend, *wide, scale=d**-0.5))
        if can_pack(torch.device(device), dtype):
            q, k, v = packed
            runs.append(partial(packed_attention, q, k, v, lengths, lengths))
        cells = []
        for run in runs:
            try:
                cells.append(f"{4 * count * heads * n * n * d / seconds(run, device) / 1e12:.3g}")
            except RuntimeError:  # no such kernel for this shape or device, or no memory
                cells.append("–")
        cells += ["–"] * (len(names) - len(cells))
        yield f"| {what}: {count} x {heads} x {n} x {d} | {' | '.join(cells)} |"


attend = F.scaled_dot_product_attention


def through(backend: SDPBackend, run: Callable[..., object], *args: Any, **kwargs: Any) -> object:
    """``run`` with one of torch's attention kernels."""
    with sdpa_kernel(backend):
        return run(*args, **kwargs)


def tables(device: str, dtype: str, until: float, small: bool, quantised: bool) -> Iterator[str]:
    """The pages of ``evalkit bench``, until the time is over; then the names of those left out."""
    left = []
    schemes = ["w8a8", "fp8"] if quantised else []
    small_tables = ((str(shipped()["nano"]), "documents", 1, 1),)
    for shape, load, items, batch in small_tables if small else TABLES:
        if time.monotonic() > until:
            left.append(f"{shape} {load}")
            continue
        page = bench(shape, Load(load, items), dtype, device, 1, [batch], not small, schemes)
        yield "\n#" + page
        if device != "cpu":
            torch.cuda.empty_cache()
    if left:
        yield f"Not measured, for want of time: {', '.join(left)}."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--small", action="store_true", help="on the CPU, to try the script")
    parser.add_argument(
        "--quantised", action="store_true", help="w8a8 and fp8 of tower and decoder, too"
    )
    parser.add_argument("--save", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    device, dtype = ("cpu", "float32") if args.small else ("cuda", "bfloat16")
    until = time.monotonic() + 60 * args.minutes
    lines = ["# The engine on a GPU: released shapes with random weights, bf16", ""]
    card = "CPU, small mode" if args.small else torch.cuda.get_device_name()
    lines += [f"{datetime.now(UTC):%Y-%m-%d}, {card}, torch {torch.__version__}.", ""]
    lines += kernels(device, getattr(torch, dtype), 64 if args.small else 1)
    for page in tables(device, dtype, until, args.small, args.quantised):
        lines.append(page)
        if args.save:  # what is measured is kept, whatever comes
            replace(args.save, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
