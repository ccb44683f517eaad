"""Whole pieces of work over the workers that answer questions elsewhere: the cells of a sweep, the
models of a study. To an executor a piece is a request by its name. A worker that dies costs what of
its piece is not yet kept; another goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from evalkit.adapter import ModelAdapter
from evalkit.executor import Executor, executor_for
from evalkit.types import Completion, Request

Work = Callable[[str], Callable[[str], str]]
"""For a device, what does a piece there: from its name to a text of what came of it. It goes to the
workers as it is, so it is a value that can be pickled."""


class Worker(ModelAdapter):
    """Does pieces, one at a time."""

    name = "pieces"

    def __init__(
        self, model: str, work: Work, device: str = "cpu", dtype: str | None = None
    ) -> None:
        self.do = work(device)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request.id, self.do(request.id))


def workers_for(work: Work, devices: str, executor: str, dtype: str | None = None) -> Executor:
    """The workers for pieces of work, as ``executor_for`` makes them. Raises UsageError."""
    given = {"work": work} | ({"dtype": dtype} if dtype else {})
    return executor_for((Worker, "", given), devices, executor, batch=1)


def done(workers: Executor, names: Iterable[str]) -> Iterator[Completion]:
    """Each piece when it is done: its name as ``id``, ``text`` is what came of it; ``error`` says
    why it was given up. Raises EvalkitError when no worker can go on. The workers end with it.
    """
    with closing(workers):
        yield from workers.generate(Request(name, ()) for name in names)
