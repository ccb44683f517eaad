"""How fast a server is asked: how many requests are under way at once, and how long one waits that
was turned away.

The number under way follows congestion control of TCP (Jacobson, 1988): it grows quickly until the
server first objects, slowly afterwards, and is cut when the server turns requests away or takes
long. Waits are exponential with jitter, so that requests that failed together don't come back
together; what the server says itself (``Retry-After``) goes first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from evalkit.errors import EvalkitError

Q = TypeVar("Q")
A = TypeVar("A")

FIRST = 4
"""Requests under way before anything is known of a server."""
CUT_WHEN_REFUSED, CUT_WHEN_SLOW = 0.5, 0.8
LONGEST_WAIT = 60.0
"""Seconds that a wait grows to by itself; a server may ask for more."""


class Pace:
    """The number of requests that may be under way: at least 1, at most ``most``.

    A server that takes more than ``slow`` seconds for an answer, on average, is asked less at once.
    ``clock`` gives seconds.
    """

    def __init__(self, most: int, slow: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.slow, self.clock = most, slow, clock
        self.allowed = float(min(FIRST, most))
        self.probing = True  # no objection yet
        self.since = self.opens = clock()
        self.seconds = 0.0  # a moving average

    @property
    def limit(self) -> int:
        return int(self.allowed)

    @property
    def wait(self) -> float:
        """Seconds until anything may be sent; 0 for now."""
        return max(self.opens - self.clock(), 0.0)

    def answered(self, begun: float) -> None:
        """A request that was sent at ``begun`` has its answer."""
        seconds = self.clock() - begun
        self.seconds = seconds if not self.seconds else 0.9 * self.seconds + 0.1 * seconds
        if self.seconds > self.slow:
            self._cut(begun, CUT_WHEN_SLOW)
        else:
            self.allowed += 1 if self.probing else 1 / self.allowed
            self.allowed = min(self.allowed, self.most)

    def refused(self, begun: float, closed_for: float = 0.0) -> None:
        """A request that was sent at ``begun`` was turned away, or got no answer in time; nothing
        is sent for ``closed_for`` seconds.
        """
        self._cut(begun, CUT_WHEN_REFUSED)
        self.opens = max(self.opens, self.clock() + closed_for)

    def _cut(self, begun: float, share: float) -> None:
        self.probing = False
        if begun < self.since:  # sent before the last cut: it says nothing of the number since
            return
        self.since = self.clock()
        self.allowed = max(self.allowed * share, 1.0)


def wait_before(
    attempt: int, first: float, asked: float | None = None, rng: random.Random | None = None
) -> float:
    """Seconds to wait before a request is sent again for the ``attempt``-th time (from 1): a random
    time around ``first``, twice as long each time; at least what the server ``asked`` for, and a
    little more, so that not all come at the same moment.
    """
    longest = min(first * 2.0 ** (attempt - 1), max(LONGEST_WAIT, first))
    drawn = (rng or random).uniform(0.5, 1.0) * longest
    return drawn if asked is None else max(asked + 0.1 * drawn, drawn)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The seconds that a reply's headers ask to wait: ``Retry-After`` in seconds or as a date, or
    ``retry-after-ms``; None where they ask for nothing that can be read. ``now`` in seconds since
    1970.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            pass
        else:
            if math.isfinite(seconds):
                return max(seconds, 0.0)
            continue
        try:
            date = parsedate_to_datetime(text).timestamp()
        except ValueError:
            continue
        return max(date - (time.time() if now is None else now), 0.0)
    return None


class Again(Exception):
    """An attempt failed, and another one may not.

    after: seconds that the server asks to wait. crowded: whether it has too much to do.
    """

    def __init__(self, why: str, after: float | None = None, crowded: bool = False) -> None:
        super().__init__(why)
        self.why, self.after, self.crowded = why, after, crowded


@dataclass
class Patience:
    """How often one question is asked, and how long is waited in between.

    tries: of one question, the first included. first_wait: seconds before the second one.
    longest_asked: a server that asks for a longer wait has its question given up, and all others
        where it turned it away for want of room.
    silent: so many questions in a row without an answer, each given up, end everything.
    """

    tries: int = 10
    first_wait: float = 1.0
    longest_asked: float = 600.0
    silent: int = 5


@dataclass(order=True)
class _Attempt(Generic[Q]):
    due: float
    number: int
    question: Q = field(compare=False)
    tried: int = field(default=0, compare=False)
    begun: float = field(default=0.0, compare=False)


def ask_all(
    questions: Iterator[Q],
    ask: Callable[[Q], Coroutine[Any, Any, A]],
    loop: asyncio.AbstractEventLoop,
    pace: Pace,
    patience: Patience,
    go_on: Callable[[int], bool] = lambda under_way: True,
    retried: Callable[[], None] = lambda: None,
) -> Generator[tuple[Q, A | str]]:
    """Each question with its answer, or with why there is none, in the order in which they end.

    ``ask`` runs in ``loop``, which another thread runs. What it raises as Again is repeated with
    ``patience``; what else it raises is raised here. ``go_on`` is asked, with the number under way,
    before another question is taken; ``retried`` is told of each repetition. Raises EvalkitError
    when too many questions in a row were given up, and when the server wants to be left alone for
    longer than one is patient. Closing the generator drops what is under way.
    """
    ended: SimpleQueue[tuple[_Attempt[Q], A | BaseException]] = SimpleQueue()
    waiting: list[_Attempt[Q]] = []
    tasks: dict[int, Future[None]] = {}
    count = itertools.count()
    more, silent = True, 0

    async def attempt(one: _Attempt[Q]) -> None:
        try:
            ended.put((one, await ask(one.question)))
        except asyncio.CancelledError:
            raise
        except BaseException as e:
            ended.put((one, e))

    def next_attempt() -> _Attempt[Q] | None:
        nonlocal more
        if waiting and waiting[0].due <= pace.clock():
            return heapq.heappop(waiting)
        # a server that is down is not sent ever more questions
        if not more or len(waiting) >= pace.most or not go_on(len(tasks)):
            return None
        for question in questions:
            return _Attempt(0.0, next(count), question)
        more = False
        return None

    try:
        while True:
            while len(tasks) < pace.limit and not pace.wait and (one := next_attempt()):
                one.tried, one.begun = one.tried + 1, pace.clock()
                tasks[one.number] = asyncio.run_coroutine_threadsafe(attempt(one), loop)
            if not tasks and not waiting and (one := next_attempt()):
                heapq.heappush(waiting, one)  # until the server may be asked again
            if not tasks and not waiting:
                return
            if not tasks and pace.wait > patience.longest_asked:
                raise EvalkitError(
                    f"the server asks to wait {pace.wait:,.0f} seconds: repeat the run then"
                )
            due = max(waiting[0].due - pace.clock(), pace.wait, 0.0) if waiting else None
            if not tasks and pace.wait:
                due = max(due or 0.0, pace.wait)
            try:
                one, answer = ended.get(timeout=due if len(tasks) < pace.limit else None)
            except Empty:
                continue
            del tasks[one.number]
            if not isinstance(answer, BaseException):
                pace.answered(one.begun)
                silent = 0
                yield one.question, answer
                continue
            if not isinstance(answer, Again):
                raise answer
            if answer.crowded:
                pace.refused(one.begun, answer.after or 0.0)
            if one.tried < patience.tries and (answer.after or 0.0) <= patience.longest_asked:
                retried()
                seconds = wait_before(one.tried, patience.first_wait, answer.after)
                one.due = pace.clock() + seconds
                heapq.heappush(waiting, one)
                continue
            silent += 1
            times = f"asked {one.tried} times" if one.tried > 1 else "asked once"
            yield one.question, f"{answer.why} ({times})"
            if silent == patience.silent:
                raise EvalkitError(
                    f"{silent} requests in a row got no answer, the last one: {answer.why}; see "
                    "whether the server is there, and repeat the run"
                )
    finally:
        for task in tasks.values():
            task.cancel()
