"""Requests spread over processes, one for each device: ``--devices cuda:0-3``, ``--devices cpu:2``.

The parent reads rows, scores and journals; a worker holds an adapter of its own and answers small
batches that the parent hands out, so a fast worker simply takes more of them. Nothing is shared but
a pipe to each: a worker that dies, whatever it was doing, costs what it had in hand and no lock.
What it had is asked again by another, one request at a time, so that a request which kills its
worker is found out: after the third time it is that sample's error. Answers are those of one
process; requests that show the same picture stay together, so that its features are shared.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from evalkit.adapter import ModelAdapter, adapter_class, make_adapter, media_of
from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.types import Completion, Request

BATCH = 32
"""Requests that a worker is handed at once; fewer near the end, where it would keep others idle."""
MOST_DEATHS = 3
"""Workers that one request may kill before it is an error."""
DEVICES = re.compile(r"(?P<kind>[a-z]+)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")


def devices_of(text: str) -> list[str]:
    """The device of each worker. ``cpu:2`` is two workers on the CPU, ``cuda:0-3`` one on each of
    four GPUs, ``cuda:1,cuda:3`` on two; ``auto`` is every GPU, or a worker for each core. Raises
    UsageError.
    """
    if text == "auto":
        import torch

        n = torch.cuda.device_count()
        return [f"cuda:{i}" for i in range(n)] or ["cpu"] * (os.cpu_count() or 1)
    out = []
    for part in text.replace(" ", "").split(","):
        m = DEVICES.fullmatch(part)
        if m is None or (m["last"] and (m["kind"] == "cpu" or int(m["last"]) < int(m["first"]))):
            raise UsageError(
                f"devices {text!r}: expected cpu:2 (two workers), cuda:0-3, cuda:0,cuda:2 or auto"
            )
        if m["kind"] == "cpu":
            out += ["cpu"] * int(m["first"] or 1)
        elif m["first"] is None:
            out.append(m["kind"])
        else:
            numbers = range(int(m["first"]), int(m["last"] or m["first"]) + 1)
            out += [f"{m['kind']}:{i}" for i in numbers]
    if not out or len(out) > 1024:
        raise UsageError(f"devices {text!r}: that is {len(out)} workers")
    return out


def on_device(
    adapter: str | type[ModelAdapter], arguments: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """An adapter's arguments with its device. Raises UsageError where an adapter that knows no
    devices is given one beside the CPU.
    """
    cls = adapter_class(adapter) if isinstance(adapter, str) else adapter
    if "device" in inspect.signature(cls).parameters:
        return {**arguments, "device": device}
    if device != "cpu":
        raise UsageError(f"adapter {cls.name!r} takes no device, so it can't run on {device}")
    return dict(arguments)


@dataclass
class Worker:
    """A process, and what it has been handed and not answered."""

    process: Any
    pipe: Connection
    device: str
    in_hand: dict[str, Request] = field(default_factory=dict)
    ready: bool = False
    answered: int = 0


class LocalExecutor:
    """Answers requests as an adapter does, by workers on this machine. They start with the first
    request and stay for the next task; ``close`` ends them.
    """

    def __init__(
        self,
        adapter: str | type[ModelAdapter],
        model: str,
        arguments: Mapping[str, Any],
        devices: Sequence[str],
    ) -> None:
        self.recipe = adapter, model, dict(arguments)
        self.devices = list(devices)
        self.workers: list[Worker] = []
        self.deaths = 0
        # A fork would copy the threads' locks of torch, and the state of a GPU.
        self.context = multiprocessing.get_context("spawn")

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the first worker's adapter: what can change an answer is the same in all."""
        adapter, _, arguments = self.recipe
        return on_device(adapter, arguments, self.devices[0])

    @property
    def stats(self) -> Mapping[str, Any]:
        """How many answers each device gave, and how many workers died."""
        return {
            "workers": [{"device": w.device, "answered": w.answered} for w in self.workers],
            "worker_deaths": self.deaths,
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=True)

    def close(self) -> None:
        """Ends the workers; what they have in hand is lost."""
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(5)
            worker.process.kill()
        self.workers = []

    def _serve(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        """Raises EvalkitError when no worker can be started, or an adapter says that it can't go
        on.
        """
        source = _Source(iter(requests))
        if not self.workers:
            self.workers = [self._start(device) for device in self.devices]
        for worker in self.workers:
            worker.answered = 0
        try:
            while True:
                for worker in self.workers:
                    if worker.ready and not worker.in_hand:
                        self._hand_out(worker, source, ranked)
                if source.done and not any(w.in_hand for w in self.workers):
                    return
                by_pipe = {w.pipe: w for w in self.workers}
                for pipe in wait(list(by_pipe)):
                    worker = by_pipe[pipe]  # type: ignore[index]  # wait gives back what it got
                    try:
                        message = worker.pipe.recv()
                    except (EOFError, OSError):
                        yield from self._bury(worker, source)
                        continue
                    yield from self._heard(worker, message)
        finally:
            if any(w.in_hand for w in self.workers):  # left early: their answers are for nobody
                self.close()

    def _start(self, device: str) -> Worker:
        ours, theirs = self.context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // max(1, self.devices.count("cpu")))
        adapter, model, arguments = self.recipe
        recipe = adapter, model, on_device(adapter, arguments, device)
        process = self.context.Process(
            target=_work, args=(theirs, recipe, threads if device == "cpu" else 0), daemon=True
        )
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return Worker(process, ours, device)

    def _hand_out(self, worker: Worker, source: _Source, ranked: bool) -> None:
        batch = source.take(len(self.workers))
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
            yield message
        elif isinstance(message, list):  # of a batch, what the adapter left unanswered
            for id in [id for id in message if worker.in_hand.pop(id, None)]:
                yield Completion(id, finish_reason="error", error="the adapter gave no answer")
        else:
            raise EvalkitError(f"worker on {worker.device}: {message}")

    def _bury(self, worker: Worker, source: _Source) -> Iterator[Completion]:
        """Another worker takes the dead one's place, and its requests are asked again."""
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        self.deaths += 1
        if not worker.ready:
            raise EvalkitError(
                f"the worker on {worker.device} ended {how} while it loaded the model; its reason "
                "stands above, or memory ran out: try fewer devices"
            )
        for request in worker.in_hand.values():
            if source.suspect(request) >= MOST_DEATHS:
                why = f"its worker died {MOST_DEATHS} times, the last {how}"
                yield Completion(request.id, finish_reason="error", error=why)
            else:
                source.again.append(request)
        self.workers[self.workers.index(worker)] = self._start(worker.device)


class _Source:
    """What is still to be asked: requests that a dead worker had, then new ones."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self.requests = requests
        self.again: deque[Request] = deque()
        self.deaths: dict[str, int] = {}
        self.ahead: deque[Request] = deque()
        self.ended = False

    @property
    def done(self) -> bool:
        return not self.again and not self.ahead and self.ended

    def suspect(self, request: Request) -> int:
        """Counts a worker's death with this request in hand; how many there were."""
        self.deaths[request.id] = self.deaths.get(request.id, 0) + 1
        return self.deaths[request.id]

    def take(self, workers: int) -> list[Request]:
        """The next batch: one that killed a worker comes alone, since another in its batch may be
        the one that did. Requests of one picture stay together.
        """
        if self.again:
            return [self.again.popleft()]
        self._read_ahead(BATCH * workers + 1)
        # Near the end batches shrink, so that all workers end at about the same time.
        size = min(BATCH, max(1, -(-len(self.ahead) // (2 * workers)))) if self.ended else BATCH
        batch: list[Request] = []
        while self.ahead and (len(batch) < size or _alike(batch[-1], self.ahead[0])):
            batch.append(self.ahead.popleft())
            if len(batch) == 2 * BATCH:  # a picture of any number of questions
                break
        return batch

    def _read_ahead(self, most: int) -> None:
        while len(self.ahead) < most and not self.ended:
            request = next(self.requests, None)
            if request is None:
                self.ended = True
            else:
                self.ahead.append(request)


def _alike(one: Request, other: Request) -> bool:
    """Whether two requests show the same pictures; those without any share nothing."""
    media, others = ([p.source for p in media_of(r.messages)] for r in (one, other))
    return bool(media) and media == others


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
