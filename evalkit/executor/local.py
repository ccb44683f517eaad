"""Workers as processes of this machine, one for each device. Nothing is shared but a pipe to each:
one that dies takes no lock with it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from evalkit.adapter import ModelAdapter, make_adapter
from evalkit.errors import EvalkitError, reason
from evalkit.executor import Recipe, on_device
from evalkit.executor.backlog import MOST_DEATHS, Backlog
from evalkit.types import Completion, Request

logger = logging.getLogger("evalkit")


@dataclass
class Worker:
    """A process, and what it has been handed and not answered. ``tries``: those that died before
    one was ready.
    """

    process: Any
    pipe: Connection
    device: str
    in_hand: dict[str, Request] = field(default_factory=dict)
    ready: bool = False
    answered: int = 0
    errors: int = 0
    tries: int = 0


class LocalExecutor:
    """An ``Executor`` of this machine: a worker for each of ``devices``."""

    def __init__(
        self,
        adapter: str | type[ModelAdapter],
        model: str,
        arguments: Mapping[str, Any],
        devices: Sequence[str],
    ) -> None:
        self.recipe: Recipe = adapter, model, dict(arguments)
        self.devices = list(devices)
        self.workers: list[Worker] = []
        self.deaths = 0
        # A fork would copy the threads' locks of torch, and the state of a GPU.
        self.context = multiprocessing.get_context("spawn")

    @property
    def arguments(self) -> dict[str, Any]:
        adapter, _, arguments = self.recipe
        return on_device(adapter, arguments, self.devices[0])

    @property
    def stats(self) -> Mapping[str, Any]:
        keys = "device", "answered", "errors"
        return {
            "workers": [{k: getattr(w, k) for k in keys} for w in self.workers],
            "worker_deaths": self.deaths,
        }

    @property
    def outlook(self) -> str:
        each = Counter(self.devices)
        return ", ".join(f"{n} x {device}" if n > 1 else device for device, n in each.items())

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=True)

    def close(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(5)
            worker.process.kill()
        self.workers = []

    def _serve(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        backlog = Backlog(iter(requests))
        if not self.workers:
            self.workers = [self._start(device) for device in self.devices]
        for worker in self.workers:
            worker.answered = worker.errors = 0
        try:
            while True:
                for worker in self.workers:
                    if worker.ready and not worker.in_hand:
                        self._hand_out(worker, backlog, ranked)
                if backlog.done and not any(w.in_hand for w in self.workers):
                    return
                by_pipe = {w.pipe: w for w in self.workers}
                for pipe in wait(list(by_pipe)):
                    worker = by_pipe[pipe]  # type: ignore[index]  # wait gives back what it got
                    try:
                        message = worker.pipe.recv()
                    except (EOFError, OSError):
                        yield from self._bury(worker, backlog)
                        continue
                    yield from self._heard(worker, message)
        finally:
            if any(w.in_hand for w in self.workers):  # left early: their answers are for nobody
                self.close()

    def _start(self, device: str, tries: int = 0) -> Worker:
        ours, theirs = self.context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // max(1, self.devices.count("cpu")))
        adapter, model, arguments = self.recipe
        recipe = adapter, model, on_device(adapter, arguments, device)
        process = self.context.Process(
            target=_work, args=(theirs, recipe, threads if device == "cpu" else 0), daemon=True
        )
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return Worker(process, ours, device, tries=tries)

    def _hand_out(self, worker: Worker, backlog: Backlog, ranked: bool) -> None:
        batch = backlog.take(len(self.workers))
        if batch:
            worker.in_hand = {r.id: r for r in batch}
            with suppress(OSError):  # it died: its pipe says so when it is read
                worker.pipe.send((ranked, batch))

    def _heard(self, worker: Worker, message: Any) -> Iterator[Completion]:
        if message is True:
            worker.ready = True
        elif isinstance(message, Completion):
            worker.in_hand.pop(message.id, None)
            worker.answered += 1
            worker.errors += message.error is not None
            yield message
        elif isinstance(message, list):  # of a batch, what the adapter left unanswered
            for id in [id for id in message if worker.in_hand.pop(id, None)]:
                yield Completion(id, finish_reason="error", error="the adapter gave no answer")
        else:
            raise EvalkitError(f"worker on {worker.device}: {message}")

    def _bury(self, worker: Worker, backlog: Backlog) -> Iterator[Completion]:
        """Another worker takes the dead one's place, and its requests are asked again. Raises
        EvalkitError when no worker is left.
        """
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        self.deaths += 1
        doing = "answered" if worker.ready else "loaded the model"
        logger.warning("the worker on %s ended %s while it %s", worker.device, how, doing)
        yield from backlog.lost(worker.in_hand.values(), how)
        place, tries = self.workers.index(worker), 0 if worker.ready else worker.tries + 1
        if tries < MOST_DEATHS:
            self.workers[place] = self._start(worker.device, tries)
            return
        del self.workers[place]
        if not self.workers:
            raise EvalkitError(
                f"no worker is left; the last, on {worker.device}, ended {how} while it {doing}: "
                "its reason stands above, or memory ran out: try fewer devices"
            )


def _work(pipe: Connection, recipe: tuple[Any, str, Mapping[str, Any]], threads: int) -> None:
    """A worker's life: it says that it is ready, then answers batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it when it has put things away
    adapter_name, model, arguments = recipe
    try:
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(threads)
        adapter = make_adapter(adapter_name, model, arguments)
        pipe.send(True)
        while True:
            ranked, batch = pipe.recv()
            left = {request.id: None for request in batch}
            for completion in (adapter.rank if ranked else adapter.generate)(iter(batch)):
                left.pop(getattr(completion, "id", ""), None)
                pipe.send(completion)
            if left:
                pipe.send(list(left))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is done, or gone
    except Exception as e:
        with suppress(OSError):
            pipe.send(reason(e))
