"""One process with all cores against workers of one thread each, on the embedded tasks:
`python benchmarks/executors.py [--limit N] [--save FILE]`.

All tasks in one run, in turn, each into a new folder; answers are compared. The seconds are the
runner's own; the model's loading and the start of workers are in those of the first task.
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
        f"median seconds of {args.repeats}; the first task includes loading and workers' start.",
        "",
        f"| task | {' | '.join(ways)} | ratio | answers equal |",
        "|---|---|---|---|---|",
    ]
    seconds: dict[tuple[str, str], list[float]] = {}
    answers: dict[tuple[str, str], dict[str, str | None]] = {}
    for _ in range(args.repeats):
        for way, devices in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                evalkit.evaluate(
                    TASKS, output=folder, devices=devices, limit=args.limit, progress=False
                )
                for cell in cells(Path(folder)):
                    key = cell.run.identity.task, way
                    seconds.setdefault(key, []).append(cell.results.seconds)
                    answers[key] = {id: r.text for id, r in cell.records().items()}
    for task in TASKS:
        one, many = (statistics.median(seconds[task, way]) for way in ways)
        first, second = (answers[task, way] for way in ways)
        same = sum(first[id] == second[id] for id in first)
        lines.append(
            f"| {task} | {one:.1f} | {many:.1f} | {one / many:.2f} | {same} of {len(first)} |"
        )
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
