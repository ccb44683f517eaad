"""The threads that answer: they feed an adapter with what people ask, as they ask it.

An adapter that can take requests while it answers others (``ModelAdapter.converse``) does; any
other answers together what has come meanwhile. Each thread is a lane, one of the calls that an
adapter can bear at once (``ModelAdapter.lanes``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from evalkit.adapter import ModelAdapter
from evalkit.errors import reason
from evalkit.types import Completion, Request


@dataclass
class Counts:
    """What was done since the start; seconds are sums."""

    answered: int = 0
    failed: int = 0
    text_tokens: int = 0
    vision_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    first_tokens: int = 0


@dataclass(eq=False)
class Job:
    """One request on its way. ``media``: digests of what it shows. ``heard`` is told the text so
    far, where somebody listens; ``gone``: whoever asked is no longer there.
    """

    request: Request
    media: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    heard: Callable[[str], None] | None = None
    gone: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    begun: float = field(default_factory=time.perf_counter)
    spoke: bool = False

    def __post_init__(self) -> None:
        self.done: asyncio.Future[Completion] = self.loop.create_future()

    def until_stop(self, text: str) -> str:
        """The text before the first of the words that end an answer."""
        ends = [at for word in self.stop if (at := text.find(word)) >= 0]
        return text[: min(ends)] if ends else text

    def said(self, text_of: Callable[[], str]) -> bool:
        """Told of each step of the answer; whether it may end here."""
        if self.gone:
            return True
        if not self.heard and not self.stop:
            return False
        text = text_of()
        kept = self.until_stop(text)
        if self.heard:
            self.loop.call_soon_threadsafe(self.heard, kept)
        return kept != text

    def finish(self, completion: Completion) -> None:
        def resolve() -> None:
            if not self.done.done():
                self.done.set_result(completion)

        self.loop.call_soon_threadsafe(resolve)


MOST_OVERTAKEN = 32
"""Jobs in a row that may go before the one that has waited longest."""
REMEMBERED = 16
"""Media that a lane took last, whose next questions are for it."""


@dataclass(eq=False)
class Lane:
    """A thread that answers. ``recent``: the media that it took last; ``busy``: it answers, and
    will ask for more.
    """

    recent: deque[tuple[str, ...]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    busy: bool = False


class Queue:
    """Jobs that wait, for several lanes. Questions about one page are for the lane that has the
    page, as long as it is busy: one engine sees it once, and they share their beginning.
    """

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.lanes: list[Lane] = []
        self.changed = threading.Condition()  # guards what is here
        self.closed, self.overtaken = False, 0

    def __len__(self) -> int:
        return len(self.jobs)

    def put(self, job: Job) -> None:
        with self.changed:
            self.jobs.append(job)
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def wait(self, lane: Lane) -> Job | None:
        """The next job of a lane that has nothing in hand, as soon as there is one; None once none
        will come.
        """
        with self.changed:
            lane.busy = False
            self.changed.notify_all()
            self.changed.wait_for(lambda: self._choice(lane) or self.closed)
            return self._take(lane)

    def next(self, lane: Lane) -> Job | None:
        """The next job of a lane; None where none waits for it now."""
        with self.changed:
            return self._take(lane)

    def _take(self, lane: Lane) -> Job | None:
        job = self._choice(lane)
        if job:
            self.overtaken = 0 if job is self.jobs[0] else self.overtaken + 1
            self.jobs.remove(job)
            lane.busy = True
            if job.media and job.media not in lane.recent:
                lane.recent.append(job.media)
        return job

    def _choice(self, lane: Lane) -> Job | None:
        """What a lane has shown already, before what no other has."""
        if self.overtaken >= MOST_OVERTAKEN:
            return self.jobs[0] if self.jobs else None
        others = {
            m for other in self.lanes if other.busy and other is not lane for m in other.recent
        }
        own = (job for job in self.jobs if job.media in lane.recent)
        free = (job for job in self.jobs if job.media not in others)
        return next(own, None) or next(free, None)


class Backend:
    """Answers in threads of its own, from ``start`` to ``close``."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter, self.counts, self.queue = adapter, Counts(), Queue()
        self.counting = threading.Lock()
        self.under_way: dict[str, Job] = {}
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to answer. Raises EvalkitError for a model that can't be loaded."""
        self.queue.lanes = [Lane() for _ in range(self.adapter.lanes)]
        for n, lane in enumerate(self.queue.lanes):
            name = f"lane-{n}"
            thread = threading.Thread(target=self._serve, args=(lane,), name=name, daemon=True)
            self.threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Ends the threads once what they were asked is answered."""
        self.queue.close()
        for thread in self.threads:
            thread.join(timeout=60)

    @property
    def works(self) -> bool:
        """Whether every thread is there."""
        return all(thread.is_alive() for thread in self.threads)

    @property
    def waiting(self) -> int:
        """Requests that were not begun."""
        return len(self.queue)

    def ask(self, job: Job) -> None:
        self.queue.put(job)

    def _serve(self, lane: Lane) -> None:
        while (job := self.queue.wait(lane)) is not None:
            taken: set[str] = set()
            requests = self._requests(lane, job, taken)
            try:
                for completion in self.adapter.converse(requests, self._said):
                    taken.discard(completion.id)
                    self._finish(completion)
                why = "the adapter gave no answer"
            except BaseException as e:  # whatever ends a call: those who wait are told
                why = reason(e)
            for id in taken:
                self._finish(Completion(id, finish_reason="error", error=why))

    def _requests(self, lane: Lane, first: Job, taken: set[str]) -> Iterator[Request | None]:
        job: Job | None = first
        while True:
            if job is None:
                yield None
            elif job.gone:
                why = "nobody waits for it"
                job.finish(Completion(job.request.id, finish_reason="error", error=why))
            else:
                taken.add(job.request.id)
                self.under_way[job.request.id] = job
                yield job.request
            job = self.queue.next(lane)

    def _said(self, id: str, text_of: Callable[[], str]) -> bool:
        job = self.under_way.get(id)
        if job is None:
            return False
        if not job.spoke:
            job.spoke = True
            with self.counting:
                self.counts.first_tokens += 1
                self.counts.first_token_seconds += time.perf_counter() - job.begun
        return job.said(text_of)

    def _finish(self, completion: Completion) -> None:
        job = self.under_way.pop(completion.id, None)
        if job is None:
            return
        tokens = completion.tokens
        with self.counting:
            if completion.error is None:
                self.counts.answered += 1
            else:
                self.counts.failed += 1
            self.counts.text_tokens += tokens.text_in
            self.counts.vision_tokens += tokens.vision_in
            self.counts.generated_tokens += tokens.out
            self.counts.seconds += time.perf_counter() - job.begun
        job.finish(completion)
