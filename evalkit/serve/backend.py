"""The thread that answers: it feeds an adapter with what people ask, as they ask it.

An adapter that can take requests while it answers others (``ModelAdapter.converse``) does; any
other answers together what has come meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

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
    """One request on its way. ``heard`` is told the text so far, where somebody listens; ``gone``:
    whoever asked is no longer there.
    """

    request: Request
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


class Backend:
    """Answers in a thread of its own, from ``start`` to ``close``."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter, self.counts = adapter, Counts()
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        self.under_way: dict[str, Job] = {}
        self.broken = ""
        self.thread = threading.Thread(target=self._serve, name="backend", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Ends the thread once what is under way is answered."""
        self.queue.put(None)
        self.thread.join(timeout=60)

    @property
    def waiting(self) -> int:
        """Requests that were not begun."""
        return self.queue.qsize()

    def ask(self, job: Job) -> None:
        self.queue.put(job)

    def _serve(self) -> None:
        while (job := self.queue.get()) is not None:
            try:
                for completion in self.adapter.converse(self._requests(job), self._said):
                    self._finish(completion)
                why = "the adapter gave no answer"
            except BaseException as e:  # whatever ends a call: those who wait are told
                why = reason(e)
            for id in list(self.under_way):
                self._finish(Completion(id, finish_reason="error", error=why))

    def _requests(self, first: Job) -> Iterator[Request | None]:
        job: Job | None = first
        while True:
            if job is not None and not job.gone:
                self.under_way[job.request.id] = job
                yield job.request
            elif job is None:
                yield None
            try:
                job = self.queue.get_nowait()
            except Empty:
                job = None
                continue
            if job is None:
                self.queue.put(None)  # the end, for the outer loop
                return

    def _said(self, id: str, text_of: Callable[[], str]) -> bool:
        job = self.under_way.get(id)
        if job is None:
            return False
        if not job.spoke:
            job.spoke = True
            self.counts.first_tokens += 1
            self.counts.first_token_seconds += time.perf_counter() - job.begun
        return job.said(text_of)

    def _finish(self, completion: Completion) -> None:
        job = self.under_way.pop(completion.id, None)
        if job is None:
            return
        counts, tokens = self.counts, completion.tokens
        if completion.error is None:
            counts.answered += 1
        else:
            counts.failed += 1
        counts.text_tokens += tokens.text_in
        counts.vision_tokens += tokens.vision_in
        counts.generated_tokens += tokens.out
        counts.seconds += time.perf_counter() - job.begun
        job.finish(completion)
