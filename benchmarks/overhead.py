"""What an executor costs a sample, with a model that costs nothing: `python benchmarks/overhead.py
[--samples N]`. Milliseconds from the first answer to the last, over the samples between.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from evalkit import Completion, ModelAdapter, Request
from evalkit.executor.local import LocalExecutor
from evalkit.types import Message, Text


class Zero(ModelAdapter):
    name = "zero"

    def __init__(self, model: str) -> None:
        self.model = model

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request.id, "")


def milliseconds(answering: Any, samples: int) -> float:
    """Of a sample."""
    asked = (Request(str(i), (Message("user", (Text(str(i)),)),)) for i in range(samples))
    answers = answering.generate(asked)
    next(answers)
    began = time.perf_counter()
    for _ in answers:
        pass
    taken = time.perf_counter() - began
    answering.close()
    return 1000 * taken / (samples - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    args = parser.parse_args()
    ways: dict[str, Any] = {"the adapter alone": lambda: Zero("")}
    for n in (1, 2):
        ways[f"local, {n} workers"] = lambda n=n: LocalExecutor(Zero, "", {}, ["cpu"] * n)
    if find_spec("ray"):
        from evalkit.executor.cluster import ClusterExecutor

        ways["ray, 2 replicas"] = lambda: ClusterExecutor(Zero, "", {}, "", "cpu", 2)
    print("| executor | ms a sample |\n|---|---|")
    for name, make in ways.items():
        print(f"| {name} | {milliseconds(make(), args.samples):.3f} |", flush=True)


if __name__ == "__main__":
    main()
