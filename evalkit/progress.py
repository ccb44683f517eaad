"""How a run shows that it moves."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]


class Progress:
    """Samples done, per second, and the running headline score: a tqdm line on a terminal, a plain
    line twice a minute elsewhere.
    """

    PLAIN_SECONDS = 30.0

    def __init__(self, name: str, wanted: bool, say: Say) -> None:
        self.name, self.wanted, self.say = name, wanted, say
        self.started = self.said = time.monotonic()

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self.tqdm = tqdm(
            desc=self.name, unit="sample", disable=None if self.wanted else True, dynamic_ncols=True
        )
        return self

    def update(self, done: int, score: str) -> None:
        """One more sample is done; ``score`` is the running headline."""
        now = time.monotonic()
        if not self.tqdm.disable:
            self.tqdm.set_postfix_str(score, refresh=False)
            self.tqdm.update()
        elif self.wanted and now - self.said >= self.PLAIN_SECONDS:
            self.said = now
            self.say(
                f"{self.name}: {done} done, {done / (now - self.started):.2f} a second; {score}"
            )

    def __exit__(self, *_: object) -> None:
        self.tqdm.close()
