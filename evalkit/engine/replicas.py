"""Rows over cores: on a CPU several engines answer side by side, each in a thread of its own, over
the same weights.

Threads inside an operation pay on large products; on small ones they wait for each other. Which of
the two a model on this processor gains from is measured once, in a fraction of a second, as soon as
there is more than a pack of work; less than that is answered by one engine with all threads. Torch
lets go of the interpreter inside its operations, so threads suffice: nothing is started and no
weight is held twice. Prompts are read in the caller's thread, and neighbours with the same pictures
go to the same engine. Where requests come one by one, engines take turns (``converse``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Barrier, Event, Lock, Thread
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch

from evalkit.engine.engine import FEATURE_TOKENS, Engine
from evalkit.engine.interface import EngineModel
from evalkit.engine.scheduler import Budget, repeated
from evalkit.engine.sequence import Group, Output, Prompt, RunningSequence, Stats, Watch
from evalkit.malloc import keep_freed_memory

PROBE = 64, 128
"""Tokens of the text that is measured: at least, and for small models at most."""
PROBE_SECONDS = 0.01
ROUNDS, MARGIN = 2, 1.1


@dataclass(frozen=True)
class Cores:
    """How a CPU is used: so many engines side by side, of so many threads each."""

    engines: int
    threads: int


class Replicas:
    """Answers as an ``Engine`` does, by several of them where that is faster.

    ``cores``: None until they were measured. Each engine has its share of the budget.
    """

    known: ClassVar[WeakKeyDictionary[EngineModel, Cores]] = WeakKeyDictionary()
    """What was measured of a model in this process."""

    def __init__(
        self,
        model: EngineModel,
        stop_ids: frozenset[int],
        budget: Budget | None = None,
    ) -> None:
        self.model, self.stop_ids = model, stop_ids
        if model.device.type == "cpu":
            keep_freed_memory()
        self.single = Engine(model, stop_ids, budget)
        self.engines: list[Engine] = []
        self.cores: Cores | None = None
        self.threads = torch.get_num_threads()
        self.talking: list[Engine] = []
        self.lock = Lock()  # guards ``talking``

    @property
    def budget(self) -> Budget:
        """What one engine runs at once when it is alone."""
        return self.single.budget

    @property
    def stats(self) -> Stats:
        """What was done so far; the seconds of engines side by side are those of their mean."""
        out = Stats(**vars(self.single.stats))
        for engine in self.engines:
            for name, value in vars(engine.stats).items():
                share = value / len(self.engines) if name.endswith("_seconds") else value
                setattr(out, name, getattr(out, name) + share)
        return out

    def reset(self) -> None:
        """Counts from zero again."""
        for engine in (self.single, *self.engines):
            engine.stats.reset()

    def forget(self) -> None:
        """Counts from zero again, and remembers no visual features."""
        self.reset()
        for engine in (self.single, *self.engines):
            engine.runner.features.features.clear()

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """As ``Engine.generate``."""
        return self._serve(prompts, ranked=False)

    def rank(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """As ``Engine.rank``."""
        return self._serve(prompts, ranked=True)

    def lanes(self, token: int) -> int:
        """How many calls of ``converse`` are best run at once; ``token`` is measured with."""
        if self.model.device.type != "cpu" or self.threads == 1 or self.budget.rows == 1:
            return 1
        self.cores = self.cores or self._known(self.threads, (token,))
        return self.cores.engines

    def converse(self, prompts: Iterable[Prompt | None], watch: Watch) -> Iterator[Output]:
        """As ``Engine.converse``. As many calls as ``lanes`` says may run at once, each in a thread
        of its own; they share the processor's threads, so that one alone has all.
        """
        count = self.cores.engines if self.cores else 1
        with self.lock:
            self._start(count if count > 1 else 0)
            engine = next(e for e in self.engines or [self.single] if e not in self.talking)
            self.talking.append(engine)

        def shared(running: Sequence[RunningSequence]) -> Container[str]:
            threads = max(self.threads // len(self.talking), 1)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return watch(running)

        try:
            shared(())
            yield from engine.converse(prompts, shared)
        finally:
            with self.lock:
                self.talking.remove(engine)

    def _serve(self, prompts: Iterable[Prompt], ranked: bool) -> Iterator[Output]:
        source, threads = iter(prompts), torch.get_num_threads()
        first: list[Prompt] = []
        if self.model.device.type == "cpu" and threads > 1 and self.budget.rows > 1:
            room = self.budget.pack_tokens
            while room >= 0 and (prompt := next(source, None)):
                first.append(prompt)
                room -= prompt.ranked_tokens if ranked else len(prompt.ids)
            if room < 0 and len(first) > 1:
                self.cores = self.cores or self._known(threads, first[-1].ids[-1:])
                if self.cores.engines > 1:
                    yield from self._spread(chain(_emptied(first), source), self.cores, ranked)
                    return
        source = chain(_emptied(first), source)
        yield from (self.single.rank if ranked else self.single.generate)(source)

    def _known(self, threads: int, token: tuple[int, ...]) -> Cores:
        cores = self.known.get(self.model)
        if cores is None or cores.engines * cores.threads > threads:
            cores = self.known[self.model] = measured(self.single, threads, token)
        return cores

    def _spread(self, source: Iterator[Prompt], cores: Cores, ranked: bool) -> Iterator[Output]:
        self._start(cores.engines)
        runs, heard, stopped = _Runs(source), SimpleQueue[Any](), Event()
        inboxes = [SimpleQueue[list[Prompt]]() for _ in self.engines]
        threads = [
            Thread(target=_work, args=(engine, cores.threads, inbox, heard, stopped, ranked))
            for engine, inbox in zip(self.engines, inboxes)
        ]
        at_work, before = len(threads), torch.get_num_threads()
        try:
            for thread in threads:
                thread.start()
            while at_work:
                message = heard.get()
                if isinstance(message, Output):
                    yield message
                elif isinstance(message, BaseException):
                    raise message
                elif message is None:
                    at_work -= 1
                else:  # an engine wants more
                    message.put(runs.take())
                    yield from runs.refused()
        finally:
            stopped.set()
            for inbox in inboxes:
                inbox.put([])
            for thread in threads:
                if thread.ident:
                    thread.join()
            torch.set_num_threads(before)  # what a thread sets, threads after it begin with

    def _start(self, count: int) -> None:
        while len(self.engines) < count:
            b, kept = self.budget, FEATURE_TOKENS // count
            share = Budget(*(max(1, n // count) for n in (b.rows, b.pack_tokens, b.cache_tokens)))
            self.engines.append(Engine(self.model, self.stop_ids, share, kept))


class _Runs:
    """Prompts in runs: neighbours with the same pictures together; without any more, none."""

    def __init__(self, source: Iterator[Prompt]) -> None:
        self.source, self.ids = source, set[str]()
        self.repeated: list[Output] = []
        self.ahead = self._next()

    def take(self) -> list[Prompt]:
        run: list[Prompt] = []
        while self.ahead is not None and (not run or _alike(run[-1], self.ahead)):
            run.append(self.ahead)
            self.ahead = self._next()
        return run

    def refused(self) -> list[Output]:
        """Outputs of prompts whose id an earlier one has, each once."""
        refused, self.repeated = self.repeated, []
        return refused

    def _next(self) -> Prompt | None:
        for prompt in self.source:
            if prompt.id not in self.ids:
                self.ids.add(prompt.id)
                return prompt
            self.repeated.append(Output(prompt.id, error=repeated(prompt.id)))
        return None


def _alike(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts show the same pictures."""
    return bool(one.visuals) and [v.key for v in one.visuals] == [v.key for v in other.visuals]


def _emptied(prompts: list[Prompt]) -> Iterator[Prompt]:
    """The prompts, which are let go of on the way."""
    while prompts:
        yield prompts.pop(0)


class _Stopped(Exception):
    """Nobody wants the answers any more."""


def _work(
    engine: Engine,
    threads: int,
    inbox: SimpleQueue[list[Prompt]],
    heard: SimpleQueue[Any],
    stopped: Event,
    ranked: bool,
) -> None:
    """An engine's thread: it asks for prompts, and says its outputs, or why it broke off."""

    def prompts() -> Iterator[Prompt]:
        while True:
            heard.put(inbox)
            if not (run := inbox.get()):
                return
            yield from _emptied(run)

    def watch(running: object) -> tuple[str, ...]:
        if stopped.is_set():
            raise _Stopped
        return ()

    torch.set_num_threads(threads)
    try:
        for output in engine.rank(prompts()) if ranked else engine.generate(prompts(), watch):
            heard.put(output)
    except BaseException as e:
        heard.put(e)
    heard.put(None)


def measured(engine: Engine, threads: int, token: tuple[int, ...]) -> Cores:
    """What of one engine of all ``threads``, engines of one thread each, and what lies between in
    powers of two, spends the least processor time on a prompt that repeats ``token``.

    Processor time, since waiting threads spend it too, and since it tells the same on a busy
    machine. More engines are taken where they cost up to MARGIN more: while one of them prepares a
    step, the others compute.
    """
    once = partial(_probe, engine, token)
    started = time.perf_counter()
    once(PROBE[0])
    seconds = max(time.perf_counter() - started, 1e-6)
    tokens = min(max(int(PROBE[0] * PROBE_SECONDS / seconds), PROBE[0]), PROBE[1])
    ways = [Cores(1 << n, threads >> n) for n in range(threads.bit_length())]
    costs = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for way in ways:
            costs[way] = min(costs[way], _cost(once, tokens, way))
    torch.set_num_threads(threads)
    best = min(costs.values())
    return next(way for way in reversed(ways) if costs[way] <= MARGIN * best)


@torch.inference_mode()
def _probe(engine: Engine, token: tuple[int, ...], tokens: int) -> None:
    engine.runner.forward([Group([Prompt("", token * tokens)])], None, engine.budget)


def _cost(once: Callable[[int], None], tokens: int, way: Cores) -> float:
    """Seconds of processor time an engine spends where all of them run at the same time."""
    together = Barrier(way.engines)

    def work() -> None:
        torch.set_num_threads(way.threads)
        together.wait()
        once(tokens)

    working = [Thread(target=work) for _ in range(way.engines)]
    started = time.process_time()
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    return (time.process_time() - started) / way.engines
