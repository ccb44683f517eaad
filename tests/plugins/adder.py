"""An adapter that adds, mostly rightly, for tests: slow on request, and able to fail in the ways
that models do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evalkit.adapter import ModelAdapter
from evalkit.types import Completion, Request, Text, TokenCounts


class Adder(ModelAdapter):
    name = "adder"

    def __init__(
        self,
        model: str,
        *,
        seconds: float = 0.0,
        wrong: int = 5,
        batch_size: int = 3,
        crash_at: int = -1,
        refuse: int = -1,
    ) -> None:
        self.model, self.seconds, self.wrong = model, seconds, wrong
        self.batch_size, self.crash_at, self.refuse = batch_size, crash_at, refuse

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "model": self.model, "wrong": self.wrong}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        batch: list[Request] = []
        for request in requests:
            batch.append(request)
            if len(batch) == self.batch_size:
                yield from map(self.answer, reversed(batch))
                batch = []
        yield from map(self.answer, batch)

    def answer(self, request: Request) -> Completion:
        part = request.messages[0].content[0]
        assert isinstance(part, Text)
        n = int(part.text.split()[0])
        time.sleep(self.seconds)
        if n == self.crash_at:
            raise MemoryError("out of memory")
        if n == self.refuse:
            return Completion(request.id, finish_reason="error", error="refused")
        text = "" if n == 7 else str(2 * n + (n % self.wrong == 0))
        return Completion(
            request.id, text, tokens=TokenCounts(4, 0, len(text)), seconds=self.seconds
        )
