"""Seconds from the start of a process to the first answer of a released shape with random weights.

    python benchmarks/startup.py 2B 7B [--device cuda]

The weights are written to a temporary folder first, so they are read from the system's file cache;
each shape is started twice, since a first start fills caches of compiled kernels as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

PARTS = ("imports", "weights to the device", "first answer")


def start(folder: Path, device: str, began: float) -> list[float]:
    """Seconds of each of PARTS, in this process, which began at ``began`` (time.time())."""
    from evalkit.bench import Load, model_of
    from evalkit.engine import Engine

    marks = [began, time.time()]
    model, family = model_of(str(folder), "bfloat16", device)
    family.fuse(model)
    marks.append(time.time())
    prompts = Load("documents", 1).prompts(family, model.config)
    list(Engine(model, frozenset()).generate(prompts))
    marks.append(time.time())
    return [b - a for a, b in pairwise(marks)]


def written(shape: str, folder: Path, device: str) -> float:
    """Writes a model's weights; returns their gigabytes."""
    from evalkit.bench import model_of
    from evalkit.models.qwen2_vl.checkpoint import save

    model, _ = model_of(shape, "bfloat16", device)
    save(model, folder)
    return sum(f.stat().st_size for f in folder.iterdir()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=["2B", "7B"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "TIME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(*start(Path(args.child[0]), args.device, float(args.child[1])))
        return
    print(f"| | GB | {' | '.join(PARTS)} | seconds in all |\n|---|---|---|---|---|---|")
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            size = written(shape, Path(folder), args.device)
            for nth in ("first", "second"):
                command = [sys.executable, __file__, "--device", args.device, "--child", folder]
                done = subprocess.run(
                    [*command, str(time.time())], capture_output=True, text=True, check=True
                )
                parts = [float(x) for x in done.stdout.split()]
                cells = " | ".join(f"{x:.2f}" for x in [*parts, sum(parts)])
                print(f"| {shape}, {nth} start | {size:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
