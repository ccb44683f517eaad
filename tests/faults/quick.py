"""Imported by the server before it forks: what makes ``train``, ``twins`` and ``study`` take
moments. Scenes are drawn in the process itself, a study's runs are not trained, and every step
leaves a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch
import torch._dynamo  # as an optimiser does when it is made: seconds

from evalkit.executor import pieces
from evalkit.lab import page, schedule  # noqa: F401
from evalkit.lab.batches import Condition
from evalkit.lab.trainer import CurvePoint, Measurement, Result, Run
from evalkit.nano import tokenizer, train, twins
from evalkit.types import Completion


class Here:
    """A pool whose one worker is the caller."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future

    def shutdown(self, **_: Any) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...


def done_here(work: pieces.Work, names: Iterable[str]) -> Iterator[Completion]:
    """Pieces of work one after the other, by the caller."""
    do = work("cpu")
    yield from (Completion(name, do(name)) for name in names)


def untrained(run: Run, conditions: Mapping[str, Condition]) -> Result:
    """A result that is a function of the run, as a trained one is."""
    nll = int(run.key(conditions), 16) % 1000 / 500
    kinds = run.asks().kinds
    point = CurvePoint(run.steps, dict.fromkeys(kinds, nll), dict.fromkeys(kinds, 0.5))
    measured = {kind: Measurement(nll, 0.5, 1.0, 0.5, 8) for kind in kinds}
    return Result(1.0, 1000, (point,), dict.fromkeys(conditions, measured))


tokenizer.build()
torch.set_num_threads(1)  # a child of a process with threads could hang
schedule.workers_for = lambda work, *_: work  # type: ignore[assignment, return-value]
schedule.done = done_here  # type: ignore[assignment]
schedule.begin_worker = lambda: None
schedule.train = untrained
train.ProcessPoolExecutor = Here  # type: ignore[misc, assignment]
train.HELD_OUT = 1
train.train = partial(train.train, save_seconds=0.0, log_steps=1)  # type: ignore[assignment]
twins.train = train.train
