"""Waiting for the answers of an adapter, with a limit: a request that gets none in time costs its
own sample and not the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import cast

from evalkit.errors import EvalkitError
from evalkit.types import Completion, Request

Serve = Callable[[Iterable[Request]], Iterator[Completion]]
"""``ModelAdapter.generate`` or ``rank``."""
MOST_SILENT = 3
"""Requests in a row that get no answer, each asked alone, before the adapter is given up."""


def completions(
    serve: Serve, requests: Iterator[Request], timeout: float | None
) -> Iterator[Completion]:
    """``serve(requests)``, waiting at most ``timeout`` seconds from one answer (or one request
    that is taken) to the next; None waits for ever.

    A call that says nothing for so long is left to itself, and each request that it had taken is
    asked alone: what gets no answer then either is an error of its own. A new call goes on with
    the rest. Raises EvalkitError when MOST_SILENT requests in a row got no answer.
    """
    if timeout is None:
        yield from serve(requests)
        return
    waiting: dict[str, Request] = {}
    silent = 0
    while True:
        call = _Call(serve)
        for completion in call.answers(_noted(requests, waiting), timeout):
            silent = 0
            waiting.pop(getattr(completion, "id", ""), None)
            yield completion
        if not call.silent:
            return
        alone = len(waiting) == 1
        for request in list(waiting.values()):
            retry = _Call(serve)
            if not alone:
                yield from retry.answers(iter([request]), timeout)
            del waiting[request.id]
            if not alone and not retry.silent:
                silent = 0
                continue
            silent += 1
            why = f"no answer within {timeout:g} seconds (the adapter's timeout)"
            yield Completion(request.id, finish_reason="error", error=why)
            if silent == MOST_SILENT:
                raise EvalkitError(
                    f"{silent} requests in a row got no answer within {timeout:g} seconds (the "
                    "adapter's timeout): see whether what it waits for is there, and repeat the run"
                )


def _noted(requests: Iterator[Request], waiting: dict[str, Request]) -> Iterator[Request]:
    """The requests, each in ``waiting`` from when it is taken."""
    for request in requests:
        waiting[request.id] = request
        yield request


@dataclass(frozen=True)
class _End:
    """Of a call: it has no more answers, or it failed."""

    error: BaseException | None = None


_MORE = object()
"""A call asks for its next request."""


class _Call:
    """One call of an adapter, in a thread of its own. Requests are handed over one at a time and
    made by whoever waits for the answers, so that no other code is run by two threads.
    """

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.silent = False
        self.events: SimpleQueue[object] = SimpleQueue()
        self.handed: SimpleQueue[Request | None] = SimpleQueue()

    def answers(self, requests: Iterator[Request], timeout: float) -> Iterator[Completion]:
        """The call's answers. Ends early, ``silent`` being set, when nothing happens for
        ``timeout`` seconds; raises what the call raises.
        """
        threading.Thread(target=self._serve, name="adapter", daemon=True).start()
        try:
            while True:
                try:
                    event = self.events.get(timeout=timeout)
                except Empty:
                    self.silent = True
                    return
                if event is _MORE:
                    self.handed.put(next(requests, None))
                elif isinstance(event, _End):
                    if event.error:
                        raise event.error
                    return
                else:
                    yield cast(Completion, event)  # the runner checks what it is
        finally:
            self.handed.put(None)  # a call that is left to itself asks for nothing more

    def _serve(self) -> None:
        try:
            for completion in self.serve(self._requests()):
                self.events.put(completion)
        except BaseException as e:
            self.events.put(_End(e))
        else:
            self.events.put(_End())

    def _requests(self) -> Iterator[Request]:
        while True:
            self.events.put(_MORE)
            request = self.handed.get()
            if request is None:
                return
            yield request
