"""One process with all cores against workers of one thread each, on the embedded tasks:
`python benchmarks/executors.py [--limit N] [--save FILE]`.

Whole runs as a user starts them, in turn, each into a new folder; answers are compared. The seconds
are the runner's own: workers' start and the model's loading are in them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import evalkit
from evalkit.store import cells

TASKS = ("docvqa", "refcoco", "video_qa", "multilingual_ocr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    ways = {"one process": "", f"{cores} workers": f"cpu:{cores}"}
    lines = [
        "# Executors",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU of {cores} cores, nano, float32; "
        f"median seconds of {args.repeats}, model loading and start of workers included.",
        "",
        f"| task | {' | '.join(ways)} | ratio | answers equal |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        answers: dict[str, dict[str, str | None]] = {}
        for _ in range(args.repeats):
            for way, devices in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    evalkit.evaluate(
                        task, output=folder, devices=devices, limit=args.limit, progress=False
                    )
                    (cell,) = cells(Path(folder))
                    seconds[way].append(cell.results.seconds)
                    answers[way] = {id: r.text for id, r in cell.records().items()}
        one, many = (statistics.median(s) for s in seconds.values())
        first, second = answers.values()
        same = sum(first[id] == second[id] for id in first)
        lines.append(
            f"| {task} | {one:.1f} | {many:.1f} | {one / many:.2f} | {same} of {len(first)} |"
        )
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
