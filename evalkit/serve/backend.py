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


class Queue:
    """Jobs that wait, for several lanes."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.changed = threading.Condition()  # guards what is here
        self.closed, self.overtaken = False, 0

    def __len__(self) -> int:
        return len(self.jobs)

    def put(self, job: Job) -> None:
        with self.changed:
            self.jobs.append(job)
            self.changed.notify()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def wait(self) -> Job | None:
        """The next job, as soon as there is one; None once none will come."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.closed)
            return self.jobs.popleft() if self.jobs else None

    def after(self, job: Job) -> Job | None:
        """A job about the same media as ``job``, which a lane took last, so that questions about a
        page meet in one engine; else the next one; None where none waits.
        """
        with self.changed:
            if job.media and self.overtaken < MOST_OVERTAKEN:
                for other in self.jobs:
                    if other.media == job.media:
                        self.overtaken += other is not self.jobs[0]
                        self.jobs.remove(other)
                        return other
            self.overtaken = 0
            return self.jobs.popleft() if self.jobs else None


class Backend:
    """Answers in threads of its own, from ``start`` to ``close``."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter, self.counts, self.queue = adapter, Counts(), Queue()
        self.counting = threading.Lock()
        self.under_way: dict[str, Job] = {}
        self.lanes: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to answer. Raises EvalkitError for a model that can't be loaded."""
        for n in range(self.adapter.lanes):
            self.lanes.append(threading.Thread(target=self._serve, name=f"lane-{n}", daemon=True))
        for lane in self.lanes:
            lane.start()

    def close(self) -> None:
        """Ends the threads once what they were asked is answered."""
        self.queue.close()
        for lane in self.lanes:
            lane.join(timeout=60)

    @property
    def works(self) -> bool:
        """Whether every lane is there."""
        return all(lane.is_alive() for lane in self.lanes)

    @property
    def waiting(self) -> int:
        """Requests that were not begun."""
        return len(self.queue)

    def ask(self, job: Job) -> None:
        self.queue.put(job)

    def _serve(self) -> None:
        while (job := self.queue.wait()) is not None:
            taken: set[str] = set()
            try:
                for completion in self.adapter.converse(self._requests(job, taken), self._said):
                    taken.discard(completion.id)
                    self._finish(completion)
                why = "the adapter gave no answer"
            except BaseException as e:  # whatever ends a call: those who wait are told
                why = reason(e)
            for id in taken:
                self._finish(Completion(id, finish_reason="error", error=why))

    def _requests(self, job: Job, taken: set[str]) -> Iterator[Request | None]:
        following: Job | None = job
        while True:
            if following is None:
                yield None
            else:
                job, id = following, following.request.id
                if job.gone:
                    job.finish(Completion(id, finish_reason="error", error="nobody waits for it"))
                else:
                    taken.add(id)
                    self.under_way[id] = job
                    yield job.request
            following = self.queue.after(job)

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
