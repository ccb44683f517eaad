"""Seconds per model and step of the lab's training: one model at a time, and stacks of several.

    python benchmarks/stacked.py [--device cuda] [--models 1 4 16] [--steps 20]

The same runs (three position schemes, seeds of their own) both ways, in turn; the peer is the lab's
own loop, ``evalkit.lab.trainer``, on one core. Drawing scenes counts in neither. On a GPU the first
steps of a stack, before its graph is recorded, count with the others: take enough of them. The
largest difference of a weight (they are 0.02 to 1 in size) is printed with the times: the two must
train the same models.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any

import torch

from evalkit.lab import stacked, trainer
from evalkit.lab.study import SIZE
from evalkit.lab.trainer import Run
from evalkit.nano.train import fresh

SCHEMES = ({}, {"position": "rope1d"}, {"position": "mrope_i"})


def runs(models: int, steps: int) -> list[Run]:
    """As many runs as models, schemes in turn."""
    return [Run(seed=i, switches=SCHEMES[i % 3], model=SIZE, steps=steps) for i in range(models)]


def alone(run: Run) -> tuple[Any, float]:
    """A model trained one at a time, and how long it took."""
    torch.manual_seed(run.seed)
    model: Any = fresh(run.recipe)
    setting = trainer.setting_of(run, model)
    batches = [trainer.training_batch(run, step, setting) for step in range(run.steps)]
    began = time.perf_counter()
    for _ in trainer.fitted(model, run, iter(batches)):
        pass
    return model, time.perf_counter() - began


def together(given: list[Run], device: str) -> tuple[stacked.Stack, float]:
    """The stack of these runs, and how long it took."""
    with ThreadPoolExecutor(1) as pool:
        job = stacked.order(pool, given, {})
        wait(job.drawn)
    stack = stacked.Stack(job, device, None)
    began = time.perf_counter()
    stack.fitted()
    return stack, time.perf_counter() - began


def differences(models: list[Any], stack: stacked.Stack) -> Iterator[float]:
    """The largest of every tensor."""
    for i, model in enumerate(models):
        for name, p in model.named_parameters():
            yield float((p.detach() - stack.params[name][i].cpu()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {stacked.name_of(args.device)}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {machine}\n")
    print("| models | one at a time, s | stacked, s | largest difference of a weight |")
    print("|---|---|---|---|")
    for count in args.models:
        given = runs(count, args.steps)
        # beyond one of each scheme one at a time only repeats itself
        models, seconds = zip(*(alone(run) for run in given[: len(SCHEMES)]))
        stack, stack_seconds = together(given, args.device)
        worst = max(differences(list(models), stack))
        one, each = sum(seconds) / len(models), stack_seconds / count
        print(
            f"| {count} | {one / args.steps:.4f} | {each / args.steps:.5f} | {worst:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
