"""Seconds per model and step of the lab's training: one model at a time, and stacks of several.

    python benchmarks/stacked.py [--device cuda] [--models 1 4 16] [--steps 20]

The same runs (three position schemes, seeds of their own) both ways, in turn; the peer is the lab's
own loop, ``evalkit.lab.trainer``. The largest relative difference of a weight is printed with the
times: the two must train the same models.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import UTC, datetime

import torch

from evalkit.lab import stacked, trainer
from evalkit.lab.study import SIZE
from evalkit.lab.trainer import Run

SCHEMES = ({}, {"position": "rope1d"}, {"position": "mrope_i"})


def runs(models: int, steps: int) -> list[Run]:
    """As many runs as models, schemes in turn."""
    return [Run(seed=i, switches=SCHEMES[i % 3], model=SIZE, steps=steps) for i in range(models)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.processor()}, {args.device}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {machine}\n")
    print("| models | one at a time, s | stacked, s | largest difference of a weight |")
    print("|---|---|---|---|")
    for count in args.models:
        given = runs(count, args.steps)
        began = time.perf_counter()
        alone = [trainer.trained(run)[0] for run in given]
        middle = time.perf_counter()
        together = stacked.trained_stack(given, args.device)
        if args.device != "cpu":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        worst = max(
            float((a - b).detach().abs().max() / a.detach().abs().max().clamp(min=0.02))
            for x, y in zip(alone, together)
            for a, b in zip(x.parameters(), y.parameters())
        )
        each = count * args.steps
        one, stack = (middle - began) / each, (ended - middle) / each
        print(f"| {count} | {one:.3f} | {stack:.3f} | {worst:.1e} |", flush=True)


if __name__ == "__main__":
    main()
