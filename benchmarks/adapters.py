"""The reference adapter beside the transformers adapter: `python benchmarks/adapters.py [--model
nano] [--tasks A,B] [--save FILE]`.

Every cell is an `evalkit run` in a process of its own, in turn; the time is the one in
results.json, from the first row to the last score (loading the model included, starting Python and
resampling for intervals not). Answers are compared row by row.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import evalkit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", default="docvqa,refcoco,video_qa,multilingual_ocr")
    parser.add_argument("--batch-sizes", default="1,8,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    sides = {"evalkit": ["--adapter", "reference"]}
    sides |= {
        f"batch {n}": ["--adapter", "transformers", "--batch-size", n]
        for n in args.batch_sizes.split(",")
    }
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    times: dict[tuple[str, str], list[float]] = {}
    texts: dict[tuple[str, str], dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for n in range(args.rounds):
            for task in args.tasks.split(","):
                for side, adapter in sides.items():
                    out = Path(scratch) / f"{n}-{side}-{task}"
                    command = [
                        sys.executable,
                        "-m",
                        "evalkit",
                        "run",
                        "--tasks",
                        task,
                        "--model",
                        args.model,
                        *adapter,
                    ]
                    subprocess.run(
                        [*command, "--dtype", "float32", "--output", str(out)],
                        check=True,
                        capture_output=True,
                        env=env,
                    )
                    samples = evalkit.load_samples(out)
                    times.setdefault((task, side), []).append(
                        float(evalkit.load_results(out)["seconds"].iloc[0])
                    )
                    texts[task, side] = dict(zip(samples["id"], samples["text"]))
    lines = [
        f"# {Path(args.model).name}, fp32: seconds for each embedded task, reference adapter "
        "beside transformers",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, {args.threads} threads, "
        f"transformers {version('transformers')}; median of {args.rounds} rounds in turn.",
        "",
        "| task | rows | evalkit | "
        + " | ".join(f"transformers, {s}" for s in list(sides)[1:])
        + " | best of them / evalkit | equal answers |",
        "|---" * (5 + len(sides) - 1) + "|",
    ]
    for task in args.tasks.split(","):
        ours, *theirs = (statistics.median(times[task, side]) for side in sides)
        first = texts[task, "evalkit"]
        same = sum(first[i] == t for i, t in texts[task, list(sides)[1]].items())
        cells = " | ".join(f"{t:.1f}" for t in theirs)
        lines.append(
            f"| {task} | {len(first)} | {ours:.1f} | {cells} | {min(theirs) / ours:.1f} | "
            f"{same} of {len(first)} |"
        )
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
