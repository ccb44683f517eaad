"""How a run shows that it moves: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import timedelta

from evalkit.safe_text import printable

logger = logging.getLogger(__name__)


class Progress:
    """Samples done of how many, per cent, rate, time left, and the running headline score."""

    LOG_SECONDS = 60.0

    def __init__(self, name: str, wanted: bool) -> None:
        self.name, self.wanted = printable(name), wanted
        self.started = self.logged = time.monotonic()
        self.reused = 0

    def __enter__(self) -> Progress:
        from tqdm.auto import tqdm

        # None: tqdm shows itself only where standard error is a terminal (or in a notebook).
        self.bar = tqdm(
            desc=self.name,
            unit=" samples",
            disable=None if self.wanted and not _is_sizeless() else True,
            dynamic_ncols=True,
        )
        return self

    @property
    def due(self) -> bool:
        """Whether there is anything to show by now."""
        return not self.bar.disable or (
            self.wanted and time.monotonic() - self.logged >= self.LOG_SECONDS
        )

    def update(self, done: int, reused: int, total: int | None, score: str) -> None:
        """``done`` samples have a record, of which ``reused`` had it before this run; ``total`` is
        None as long as nobody knows it.
        """
        if not self.bar.disable:
            self.bar.total, self.bar.initial = total, reused
            self.bar.set_postfix_str(printable(score), refresh=False)
            self.bar.update(done - self.bar.n)
        elif self.due:
            self.logged = time.monotonic()
            logger.info("%s: %s", self.name, self.line(done, reused, total, score))

    def line(self, done: int, reused: int, total: int | None, score: str) -> str:
        """``129/199, 65 %, 4.0 a second, 0:00:17 left; anls 90.7``."""
        rate = (done - reused) / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{done} done" if total is None else f"{done}/{total}"]
        if total:
            parts.append(f"{100 * done / total:.0f} %")
        parts.append(f"{rate:.2g} a second")
        if total is not None and rate > 0:
            parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
        return ", ".join(parts) + (f"; {score}" if score else "")

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _is_sizeless() -> bool:
    """Whether standard error is a terminal of no rows or columns, as containers and recorders make
    them: tqdm would draw nothing there.
    """
    try:
        return 0 in os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
