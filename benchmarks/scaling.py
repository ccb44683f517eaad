"""How a run scales with workers, by simulation: `python benchmarks/scaling.py [--rows N] [--save
FILE]`.

The queue that hands out batches is the executor's own, in simulated time: workers become ready one
after another, an answer takes a while with some scatter, a few take ten times as long, and the
parent takes its time for each. The parameters are measured on one worker; what the simulation then
says of one, two and four workers is set beside what they took. Answers sleep, so that the number of
cores of the machine is not what is measured.
"""

from __future__ import annotations

import argparse
import heapq
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from evalkit import Completion, ModelAdapter, Request
from evalkit.executor.backlog import Backlog
from evalkit.executor.local import LocalExecutor
from evalkit.types import Message, Text

SECONDS, SCATTER, STRAGGLERS = 0.02, 0.5, 0.01
"""Of an answer: its median, the scatter of its logarithm, and the share that take ten times as
long."""
WORKERS = (1, 2, 4, 8, 16, 32, 64)


@cache
def duration(id: str) -> float:
    """Seconds of a sample's answer."""
    rng = np.random.default_rng(int(id))
    return (
        SECONDS * float(np.exp(SCATTER * rng.normal())) * (10 if rng.random() < STRAGGLERS else 1)
    )


class Sleeper(ModelAdapter):
    """Answers in the time that a sample takes."""

    name = "sleeper"

    def __init__(self, model: str) -> None:
        self.model = model

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            time.sleep(duration(request.id))
            yield Completion(request.id, "")


def requests(rows: int) -> Iterator[Request]:
    return (Request(str(i), (Message("user", (Text(str(i)),)),)) for i in range(rows))


@dataclass(frozen=True)
class Parameters:
    """Seconds: until the first worker is ready, until each further one is, that an answer takes
    beyond its own time, and that the parent spends on it.
    """

    start: float
    further: float
    overhead: float
    parent: float


def simulated(rows: int, workers: int, p: Parameters, slower: float = 1.0) -> float:
    """Seconds from the call to the last answer, where answers take so many times longer."""
    backlog = Backlog(requests(rows))
    free = [(p.start + i * p.further, i) for i in range(workers)]
    heapq.heapify(free)
    parent = end = 0.0
    while not backlog.done and free:
        now, worker = heapq.heappop(free)
        batch = backlog.take(workers)
        if not batch:
            continue
        parent = max(parent, now) + p.parent * len(batch)
        now = max(now + sum(slower * duration(r.id) + p.overhead for r in batch), parent)
        end = max(end, now)
        heapq.heappush(free, (now, worker))
    return end


def measured(rows: int, workers: int) -> tuple[float, float, float]:
    """Seconds from the call to the first answer without its own time, until all workers were ready,
    and to the last answer.
    """
    executor = LocalExecutor(Sleeper, "", {}, ["cpu"] * workers)
    began = time.perf_counter()
    first = ready = 0.0
    for completion in executor.generate(requests(rows)):
        now = time.perf_counter() - began
        first = first or now - duration(completion.id)
        if not ready and all(w.ready for w in executor.workers):
            ready = now
    executor.close()
    return first, ready, now


def parameters(rows: int) -> Parameters:
    """Measured on one worker, and on four for what each further one costs."""
    start, _, seconds = measured(rows, 1)
    own = sum(duration(str(i)) for i in range(rows))
    overhead = max(0.0, (seconds - start - own) / rows)
    further = max(0.0, measured(4 * rows, 4)[1] - start) / 3
    backlog, began = Backlog(requests(10_000)), time.perf_counter()
    while not backlog.done:
        backlog.take(64)
    return Parameters(start, further, overhead, (time.perf_counter() - began) / 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    p = parameters(min(args.rows, 500))
    taken = {n: measured(args.rows, n)[2] for n in (1, 2, 4)}
    lines = [
        "# Strong scaling, simulated and checked",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU. Samples of "
        f"{1000 * SECONDS:.0f} ms in the median (scatter {SCATTER} of the logarithm, "
        f"{STRAGGLERS:.0%} ten times as long). Measured: {p.start:.1f} s until the first worker is "
        f"ready and {p.further:.1f} s for each further one on this machine, "
        f"{1000 * p.overhead:.2f} ms an answer beyond its own time, {1e6 * p.parent:.0f} µs of the "
        "parent's.",
        "",
        f"| workers | {args.rows:,} samples, simulated s | measured s | difference |",
        "|---|---|---|---|",
    ]
    for n, seconds in taken.items():
        said = simulated(args.rows, n, p)
        lines.append(f"| {n} | {said:.1f} | {seconds:.1f} | {seconds / said - 1:+.0%} |")
    lines += [
        "",
        "By simulation, each worker on a machine of its own that loads a model for a minute, and "
        "samples of a second (a median, with the same scatter):",
        "",
        "| workers | 5,000 samples, s | speed-up | efficiency | 50,000 samples, s | speed-up | "
        "efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = replace(p, start=60.0, further=0.0)
    one = {rows: simulated(rows, 1, alone, 1 / SECONDS) for rows in (5_000, 50_000)}
    for n in WORKERS:
        cells = [f"| {n} |"]
        for rows, whole in one.items():
            seconds = simulated(rows, n, alone, 1 / SECONDS)
            gain = whole / seconds
            cells.append(f" {seconds:,.0f} | {gain:.1f} | {gain / n:.0%} |")
        lines.append("".join(cells))
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
