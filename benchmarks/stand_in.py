"""A model that costs nothing, or as long as it is told to: for measurements of what is around a
model. Given as a file, as any adapter may be, so that workers find it wherever they run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evalkit import Completion, ModelAdapter, Request
from evalkit.types import Message, Text


class StandIn(ModelAdapter):
    """Answers ``4`` after the seconds that a sample takes: of those in ``seconds``, in turn by the
    number that is its id.
    """

    name = "stand-in"

    def __init__(self, model: str, seconds: Sequence[float] = ()) -> None:
        self.model, self.seconds = model, seconds

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            if self.seconds:
                time.sleep(self.seconds[int(request.id) % len(self.seconds)])
            yield Completion(request.id, "4")


def requests(rows: int) -> Iterator[Request]:
    """Questions whose ids are numbers."""
    return (Request(str(i), (Message("user", (Text(str(i)),)),)) for i in range(rows))
