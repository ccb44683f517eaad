"""How a run scales with workers, by simulation: `python benchmarks/scaling.py [--model M] [--tasks
NAME] [--device D] [--samples N] [--save FILE]`.

The queue that hands out batches is the executor's own, in simulated time: workers become ready one
after another, an answer takes the seconds of one that was measured, and the parent takes its time
for each. All parameters are measured: a worker's start and the seconds of answers on one worker
with the model, what a further worker's start costs on this machine, what an answer costs beyond its
own time and what the parent spends on it with a model that costs nothing. What the simulation then
says of one, two and four workers is set beside what they took, with answers that sleep, so that
the number of cores is not what is measured, and beside the model itself on as many workers as there
are devices.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import stand_in

from evalkit import Request
from evalkit.executor import devices_of
from evalkit.executor.backlog import Backlog
from evalkit.executor.local import LocalExecutor
from evalkit.task import load_task, read_samples
from evalkit.types import Sample

WORKERS = (1, 2, 4, 8, 16, 32, 64)


def questions(name: str, count: int) -> list[Request]:
    """Those of a task, again from the first one where there are fewer; their ids are numbers."""
    task = load_task(name)
    samples = [s for s in islice(read_samples(task), count) if isinstance(s, Sample)]
    return [
        Request(str(i), tuple(s.messages), task.max_new_tokens, task.budget, s.choices)
        for i, s in enumerate(islice(cycle(samples), count))
    ]


@dataclass(frozen=True)
class Measured:
    """Seconds of a run: until answers came as they do later, until all workers were ready, and to
    the last answer; of each answer after the first batch; and of the parent's processor for each.
    """

    start: float
    ready: float
    whole: float
    answers: tuple[float, ...]
    parent: float


def measured(executor: LocalExecutor, asked: Sequence[Request], workers: int) -> Measured:
    """One run by the first workers of an executor. A batch's answers share its seconds; the first
    batch's are not counted, since a model is loaded in them.
    """
    began, busy = time.perf_counter(), time.process_time()
    executor.workers = [executor._start(group) for group in executor._groups()[:workers]]
    ready = then = first = 0.0
    open_, answers = 0, []
    for number, _ in enumerate(executor.generate(iter(asked)), 1):
        now = time.perf_counter() - began
        open_ += 1
        if not ready and all(w.ready for w in executor.workers):
            ready = now
        if number == len(asked) or not any(w.in_hand for w in executor.workers):
            if first:
                answers += [(now - then) / open_] * open_
            else:
                first, batch = now, open_
            then, open_ = now, 0
    parent = (time.process_time() - busy) / len(asked)
    executor.close()
    own = batch * statistics.fmean(answers) if answers else 0.0
    return Measured(max(0.0, first - own), ready, now, tuple(answers), parent)


@dataclass(frozen=True)
class Parameters:
    """Seconds: until the first worker answers, until each further one does, that an answer takes
    beyond its own time, that the parent spends on it, and of answers, in turn.
    """

    start: float
    further: float
    overhead: float
    parent: float
    answers: tuple[float, ...]


def simulated(rows: int, workers: int, p: Parameters) -> float:
    """Seconds from the call to the last answer."""
    backlog = Backlog(stand_in.requests(rows))
    free = [(p.start + i * p.further, i) for i in range(workers)]
    heapq.heapify(free)
    parent = end = 0.0
    while not backlog.done and free:
        now, worker = heapq.heappop(free)
        batch = backlog.take(workers)
        if not batch:
            continue
        parent = max(parent, now) + p.parent * len(batch)
        own = sum(p.answers[int(r.id) % len(p.answers)] + p.overhead for r in batch)
        now = max(now + own, parent)
        end = max(end, now)
        heapq.heappush(free, (now, worker))
    return end


def slept(rows: int, workers: int, seconds: Sequence[float] = ()) -> Measured:
    """A run of stand-ins that take these seconds."""
    how = {"seconds": list(seconds)}
    executor = LocalExecutor(stand_in.__file__, "", how, ["cpu"] * workers)
    return measured(executor, list(stand_in.requests(rows)), workers)


def table(rows: Sequence[int], p: Parameters) -> Iterator[str]:
    yield "| workers |" + "".join(f" {n:,} samples, s | speed-up | efficiency |" for n in rows)
    yield "|---|" + "---|---|---|" * len(rows)
    one = {n: simulated(n, 1, p) for n in rows}
    for workers in WORKERS:
        cells = [f"| {workers} |"]
        for n in rows:
            seconds = simulated(n, workers, p)
            gain = one[n] / seconds
            cells.append(f" {seconds:,.1f} | {gain:.1f} | {gain / workers:.0%} |")
        yield "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="docvqa")
    parser.add_argument("--devices", default=f"cpu:{os.cpu_count()}", help="as evalkit run's")
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    devices, asked = devices_of(args.devices), questions(args.task, args.samples)

    def of_model(workers: int) -> Measured:
        executor = LocalExecutor("reference", args.model, {}, devices)
        return measured(executor, asked, workers)

    one, free = of_model(1), slept(10_000, 1)
    further = max(0.0, slept(400, 4, [0.02]).ready - slept(100, 1, [0.02]).ready) / 3
    overhead = (free.whole - free.ready) / 10_000
    model = Parameters(one.start, further, 0.0, free.parent, one.answers)  # it is in the answers
    mean = statistics.fmean(one.answers)
    lines = [
        "# Strong scaling, simulated and checked",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU of {os.cpu_count()} cores; "
        f"{args.model} on {args.task}, {args.samples} questions, a worker {devices[0]}. Measured: "
        f"{one.start:.1f} s until the first worker answers and {further:.1f} s for each further "
        f"one on this machine; {1000 * mean:.1f} ms an answer (the slowest batch "
        f"{1000 * max(one.answers):.0f}); {1000 * overhead:.2f} ms an answer of a model that costs "
        f"nothing, of which {1e6 * free.parent:.0f} µs are the parent's processor.",
        "",
        "| workers | what answers | simulated s | measured s | difference |",
        "|---|---|---|---|---|",
    ]
    asleep = replace(model, overhead=overhead)
    checks = [(n, "the same seconds, slept", asleep) for n in (1, 2, 4)]
    checks += [(n, args.model, model) for n in range(1, len(devices) + 1)]
    for n, what, p in checks:
        if p is model:
            taken = of_model(n) if n > 1 else one
        else:
            taken = slept(args.samples, n, one.answers)
            p = replace(p, start=slept(64, 1, [0.02]).start)
        said = simulated(args.samples, n, p)
        lines.append(
            f"| {n} | {what} | {said:.1f} | {taken.whole:.1f} | {taken.whole / said - 1:+.0%} |"
        )
    lines += [
        "",
        "By simulation with these parameters, each worker on such a device of its own:",
        "",
        *table((5_000, 50_000), replace(model, further=0.0)),
    ]
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
