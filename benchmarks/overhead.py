"""What an executor costs a sample, with a model that costs nothing: `python benchmarks/overhead.py
[--samples N]`. Milliseconds from the first answer to the last, over the samples between.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import stand_in

from evalkit.executor.local import LocalExecutor

ZERO = stand_in.__file__


def milliseconds(answering: Any, samples: int) -> float:
    """Of a sample."""
    answers = answering.generate(stand_in.requests(samples))
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
    ways: dict[str, Any] = {"the adapter alone": lambda: stand_in.StandIn("")}
    for n in (1, 2):
        ways[f"local, {n} workers"] = lambda n=n: LocalExecutor(ZERO, "", {}, ["cpu"] * n)
    if find_spec("ray"):
        from evalkit.executor.cluster import ClusterExecutor

        ways["ray, 2 replicas"] = lambda: ClusterExecutor(ZERO, "", {}, "", "cpu", 2)
    print("| executor | ms a sample |\n|---|---|")
    for name, make in ways.items():
        print(f"| {name} | {milliseconds(make(), args.samples):.3f} |", flush=True)


if __name__ == "__main__":
    main()
