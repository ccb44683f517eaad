"""An adapter whose process dies on request: the model's name says how. For tests of executors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import parent_process
from typing import Any

from evalkit import Completion, ModelAdapter, Request
from evalkit.errors import CheckpointError


class Frail(ModelAdapter):
    """Answers each request with its id. ``killed by N`` dies at the request N, ``slow`` takes its
    time, ``never ready`` can't be built in a worker, ``dies loading`` ends its process.
    """

    name = "frail"

    def __init__(self, model: str) -> None:
        self.model = model
        if model == "never ready" and parent_process() is not None:
            raise CheckpointError("no such weights")
        if model == "dies loading":
            os._exit(9)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "model": self.model}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for r in requests:
            if self.model == f"killed by {r.id}":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.model == "slow":
                time.sleep(0.01)
            yield Completion(r.id, r.id)
