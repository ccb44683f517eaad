"""What is still to be asked, as batches for workers.

Questions about one picture stay together, so that its features are shared; near the end batches
shrink, so that all workers end at about the same time. What a worker had when it died is asked
again, one request at a time, so that a request which kills its worker is found out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from evalkit.adapter import media_of
from evalkit.types import Completion, Request

BATCH = 32
"""Requests that a worker is handed at once; fewer near the end, where it would keep others idle."""
MOST_DEATHS = 3
"""Workers that one request may kill before it is an error."""


class Backlog:
    """What is still to be asked: requests that a dead worker had, then new ones."""

    def __init__(self, requests: Iterator[Request], batch: int = BATCH) -> None:
        self.requests, self.batch = requests, batch
        self.again: deque[Request] = deque()
        self.deaths: dict[str, int] = {}
        self.ahead: deque[Request] = deque()
        self.ended = False

    @property
    def done(self) -> bool:
        return not self.again and not self.ahead and self.ended

    def lost(self, requests: Iterable[Request], how: str) -> Iterator[Completion]:
        """Takes back what a worker had in hand when it died, ``how``; an error for each request
        that this befell ``MOST_DEATHS`` times.
        """
        for request in requests:
            self.deaths[request.id] = deaths = self.deaths.get(request.id, 0) + 1
            if deaths < MOST_DEATHS:
                self.again.append(request)
            else:
                why = f"its worker died {MOST_DEATHS} times, the last {how}"
                yield Completion(request.id, finish_reason="error", error=why)

    def take(self, workers: int) -> list[Request]:
        """The next batch: one that killed a worker comes alone, since another in its batch may be
        the one that did. Requests of one picture stay together.
        """
        if self.again:
            return [self.again.popleft()]
        self._read_ahead(self.batch * workers + 1)
        # Near the end batches shrink, so that all workers end at about the same time.
        size = self.batch
        if self.ended:
            size = min(size, max(1, -(-len(self.ahead) // (2 * workers))))
        batch: list[Request] = []
        while self.ahead and (len(batch) < size or _alike(batch[-1], self.ahead[0])):
            batch.append(self.ahead.popleft())
            if len(batch) == 2 * self.batch:  # a picture of any number of questions
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
