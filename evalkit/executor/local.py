"""Workers as processes of this machine, one for each device. Nothing is shared but a pipe to each:
one that dies takes no lock with it.

With ``tensor_parallel=N`` among the adapter's arguments a worker is N processes on as many devices,
which hold one model together: all are handed the same batches, the first one answers.
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
from tempfile import TemporaryDirectory
from typing import Any

from evalkit.adapter import ModelAdapter, make_adapter
from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.executor import Recipe, on_device, ranks_of
from evalkit.executor.backlog import BATCH, MOST_DEATHS, Backlog
from evalkit.malloc import staying
from evalkit.types import Completion, Request

logger = logging.getLogger("evalkit")


@dataclass(eq=False)
class Worker:
    """A process, or several that hold one model, and what was handed out and is not answered.
    ``tries``: workers in its place that died before one was ready.
    """

    processes: list[Any]
    pipes: list[Connection]
    devices: Sequence[str]
    in_hand: dict[str, Request] = field(default_factory=dict)
    ready: bool = False
    answered: int = 0
    errors: int = 0
    tries: int = 0

    @property
    def device(self) -> str:
        return "+".join(self.devices)

    @property
    def process(self) -> Any:
        """The one that answers."""
        return self.processes[0]

    def hand(self, work: tuple[bool, list[Request]]) -> None:
        for pipe in self.pipes:
            with suppress(OSError):  # it died: its pipe says so when it is read
                pipe.send(work)

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()


class LocalExecutor:
    """An ``Executor`` of this machine: a worker for each of ``devices``, or for as many of them as
    share a model. ``batch``: requests that one is handed at a time. Raises UsageError where devices
    don't come out even.
    """

    def __init__(
        self,
        adapter: str | type[ModelAdapter],
        model: str,
        arguments: Mapping[str, Any],
        devices: Sequence[str],
        batch: int = BATCH,
    ) -> None:
        self.recipe: Recipe = adapter, model, dict(arguments)
        self.batch = batch
        self.devices = list(devices)
        self.ranks = ranks_of(arguments)
        if len(self.devices) % self.ranks:
            raise UsageError(
                f"tensor_parallel={self.ranks}: {len(self.devices)} devices are no multiple of it"
            )
        self.meeting = TemporaryDirectory(prefix="evalkit-")  # where the ranks of a worker meet
        self.workers: list[Worker] = []
        self.deaths = self.started = 0
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
        each = Counter("+".join(group) for group in self._groups())
        return ", ".join(f"{n} x {device}" if n > 1 else device for device, n in each.items())

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=True)

    def close(self) -> None:
        for pipe in [pipe for w in self.workers for pipe in w.pipes]:
            pipe.close()
        for worker in self.workers:
            for process in worker.processes:
                process.join(5)
            worker.end()
        self.workers = []

    def _serve(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        backlog = Backlog(iter(requests), self.batch)
        if not self.workers:
            self.workers = [self._start(group) for group in self._groups()]
        for worker in self.workers:
            worker.answered = worker.errors = 0
        try:
            while True:
                for worker in self.workers:
                    if worker.ready and not worker.in_hand:
                        self._hand_out(worker, backlog, ranked)
                if backlog.done and not any(w.in_hand for w in self.workers):
                    return
                by_pipe: dict[Any, Worker] = {p: w for w in self.workers for p in w.pipes}
                for pipe in wait(list(by_pipe)):
                    worker = by_pipe[pipe]
                    if worker not in self.workers:  # another of its processes is dead already
                        continue
                    try:
                        message = pipe.recv()  # type: ignore[union-attr, call-arg]
                    except (EOFError, OSError):
                        yield from self._bury(worker, pipe, backlog)
                        continue
                    yield from self._heard(worker, message)
        finally:
            if any(w.in_hand for w in self.workers):  # left early: their answers are for nobody
                self.close()

    def _groups(self) -> list[Sequence[str]]:
        """The devices of each worker."""
        starts = range(0, len(self.devices), self.ranks)
        return [self.devices[i : i + self.ranks] for i in starts]

    def _start(self, devices: Sequence[str], tries: int = 0) -> Worker:
        threads = max(1, (os.cpu_count() or 1) // max(1, self.devices.count("cpu")))
        adapter, model, arguments = self.recipe
        self.started += 1
        worker = Worker([], [], devices, tries=tries)
        for rank, device in enumerate(devices):
            ours, theirs = self.context.Pipe()
            recipe = adapter, model, on_device(adapter, arguments, device)
            meet = f"file://{self.meeting.name}/{self.started}"
            place = Place(rank, len(devices), meet, threads if device == "cpu" else 0)
            process = self.context.Process(target=_work, args=(theirs, recipe, place), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process ends the pipe
            worker.processes.append(process)
            worker.pipes.append(ours)
        return worker

    def _hand_out(self, worker: Worker, backlog: Backlog, ranked: bool) -> None:
        if batch := backlog.take(len(self.workers)):
            worker.in_hand = {r.id: r for r in batch}
            worker.hand((ranked, batch))

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

    def _bury(self, worker: Worker, pipe: Any, backlog: Backlog) -> Iterator[Completion]:
        """Another worker takes the dead one's place, and its requests are asked again. Raises
        EvalkitError when no worker is left.
        """
        process = worker.processes[worker.pipes.index(pipe)]
        process.join(5)
        code = process.exitcode
        worker.end()
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        self.deaths += 1
        doing = "answered" if worker.ready else "loaded the model"
        logger.warning("the worker on %s ended %s while it %s", worker.device, how, doing)
        yield from backlog.lost(worker.in_hand.values(), how)
        place, tries = self.workers.index(worker), 0 if worker.ready else worker.tries + 1
        if tries < MOST_DEATHS:
            self.workers[place] = self._start(worker.devices, tries)
            return
        del self.workers[place]
        if not self.workers:
            raise EvalkitError(
                f"no worker is left; the last, on {worker.device}, ended {how} while it {doing}: "
                "its reason stands above, or memory ran out: try fewer devices"
            )


@dataclass(frozen=True)
class Place:
    """Of a process in its worker: which of how many, where they meet, and threads (0: any)."""

    rank: int
    ranks: int
    meeting: str
    threads: int

    def take(self, device: str) -> None:
        """Before the adapter is built."""
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # read when torch is imported
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(self.threads)
        if self.ranks > 1:
            from evalkit.models.device import join_ranks

            join_ranks(device, self.rank, self.ranks, self.meeting)


def _work(pipe: Connection, recipe: Recipe, place: Place) -> None:
    """A worker's life: it says that it is ready, then answers batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it when it has put things away
    adapter_name, model, arguments = recipe
    try:
        place.take(str(arguments.get("device", "cpu")))
        with staying():
            adapter = make_adapter(adapter_name, model, arguments)
        if place.rank == 0:
            pipe.send(True)
        while True:
            ranked, batch = pipe.recv()
            left = {request.id: None for request in batch}
            for completion in (adapter.rank if ranked else adapter.generate)(iter(batch)):
                left.pop(getattr(completion, "id", ""), None)
                if place.rank == 0:
                    pipe.send(completion)
            if left and place.rank == 0:
                pipe.send(list(left))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is done, or gone
    except Exception as e:
        with suppress(OSError):
            pipe.send(reason(e))
