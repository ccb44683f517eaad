"""A Ray cluster of three nodes on this machine that loses one: `python benchmarks/cluster.py
[--rows N] [--save FILE]`.

Answers take a fixed time each, so that cores are not what is measured. Undisturbed, then with one
node killed when a quarter is answered, its work taken over by the two that are left, then with a
node that joins half way: every sample comes once, and the seconds are set beside those that the
lost capacity alone would cost.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import stand_in

from evalkit.executor.cluster import ClusterExecutor

SECONDS = 0.02
"""What an answer takes."""


def timed(cluster: Any, rows: int, events: Mapping[int, Callable[[], object]]) -> tuple[float, str]:
    """Seconds from the first answer to the last, and what came of the samples. ``events``: what
    happens after so many answers; the time that it takes by itself is not counted.
    """
    how = {"seconds": [SECONDS]}
    executor = ClusterExecutor(stand_in.__file__, "", how, cluster.address, "cpu")
    ids: Counter[str] = Counter()
    began = outside = 0.0
    for completion in executor.generate(stand_in.requests(rows)):
        began = began or time.perf_counter()
        ids[completion.id] += 1
        if event := events.get(ids.total()):
            before = time.perf_counter()
            event()
            outside += time.perf_counter() - before
    seconds = time.perf_counter() - began - outside
    deaths = executor.deaths
    executor.close()
    once = len(ids) == rows and set(ids.values()) == {1}
    return (
        seconds,
        f"{'every sample once' if once else 'NOT every sample once'}, {deaths} replicas died",
    )


def main() -> None:
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1)

    def lose() -> None:
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    whole, said = timed(cluster, args.rows, {})
    lines = [
        "# A Ray cluster that loses a node, and gains one",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, three nodes on one {platform.machine()} machine, "
        f"{args.rows} samples of {1000 * SECONDS:.0f} ms each.",
        "",
        "| what happens | seconds | by capacity alone | ratio | samples |",
        "|---|---|---|---|---|",
        f"| nothing | {whole:.1f} | {whole:.1f} | 1.00 | {said} |",
    ]
    # a quarter by three nodes, the rest by two; then half by two and half by three
    for what, part, event, share in (
        ("one of three nodes is killed after a quarter", 4, lose, 1 / 4 + 3 / 4 * 3 / 2),
        (
            "a third node joins half way",
            2,
            lambda: cluster.add_node(num_cpus=1),
            1 / 2 * 3 / 2 + 1 / 2,
        ),
    ):
        seconds, said = timed(cluster, args.rows, {args.rows // part: event})
        least = whole * share
        lines.append(f"| {what} | {seconds:.1f} | {least:.1f} | {seconds / least:.2f} | {said} |")
    cluster.shutdown()
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
