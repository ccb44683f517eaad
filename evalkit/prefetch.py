"""Work done ahead in threads: the next requests are prepared while the model answers these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def prefetch(
    work: Callable[[A], B],
    items: Iterable[A],
    workers: int,
    depth: int,
    size: Callable[[B], int],
    max_size: int,
    overlap: bool = True,
) -> Generator[B]:
    """``map(work, items)`` in ``workers`` threads, in order, at most ``depth`` items ahead of the
    consumer.

    Finished results that have not been consumed add up to less than ``max_size`` (as ``size``
    measures them), plus one result per worker. With ``overlap=False`` a worker starts an item only
    while the consumer is blocked: when the model uses every core, preparing beside it slows both.
    Close the generator where you don't exhaust it.
    """
    changed = Condition()  # guards the four values below; notified whenever one of them changes
    started, finished_size = 0, 0
    consumer_waits, closed = overlap, False

    def run(number: int, item: A) -> B:
        nonlocal started, finished_size
        with changed:
            # Items start in order. Otherwise later ones could fill all the room while the one that
            # the consumer waits for finds none, for ever.
            changed.wait_for(
                lambda: (
                    closed or (started == number and finished_size < max_size and consumer_waits)
                )
            )
            started += 1
            changed.notify_all()
        result = work(item)
        with changed:
            finished_size += size(result)
        return result

    def next_result() -> B:
        nonlocal finished_size, consumer_waits
        with changed:
            consumer_waits = True
            changed.notify_all()
        try:
            result = window.popleft().result()
        finally:
            consumer_waits = overlap
        with changed:
            finished_size -= size(result)
            changed.notify_all()
        return result

    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        window: deque[Future[B]] = deque()
        try:
            for number, item in enumerate(items):
                window.append(pool.submit(run, number, item))
                if len(window) > depth:
                    yield next_result()
            while window:
                yield next_result()
        finally:
            with changed:
                closed = True
                changed.notify_all()
            for future in window:
                future.cancel()
