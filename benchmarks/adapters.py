"""The reference adapter beside the transformers adapter: `python benchmarks/adapters.py [--model
nano] [--tasks A,B] [--save FILE]`.

Every cell is an `evalkit run` in a process of its own, in turn; the time is the one in
results.json, from the first row to the last score (loading the model included, starting Python and
resampling for intervals not). Answers are compared row by row. With nano on two idle cores it takes
some four minutes; what is known so far is saved after each task of each round.
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


def measured(command: list[str], out: Path, threads: int) -> tuple[float, dict[str, str]]:
    """The seconds of one run, and its answers by id."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [*command, "--dtype", "float32", "--output", str(out)]
    subprocess.run(command, check=True, capture_output=True, env=env)
    samples = evalkit.load_samples(out)
    seconds = float(evalkit.load_results(out)["seconds"].iloc[0])
    return seconds, dict(zip(samples["id"], samples["text"]))


def row(task: str, times: list[list[float]], ours: dict[str, str], theirs: dict[str, str]) -> str:
    """A line of the table, from each side's seconds (ours first), and the answers of two."""
    mine, *others = map(statistics.median, times)
    same = sum(ours[i] == text for i, text in theirs.items())
    cells = " | ".join(f"{t:.1f}" for t in others)
    return (
        f"| {task} | {len(ours)} | {len(times[0])} | {mine:.1f} | {cells} | "
        f"{min(others) / mine:.1f} | {same} of {len(ours)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", default="docvqa,refcoco,video_qa,multilingual_ocr")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    sides = {"evalkit": ["--adapter", "reference"]}
    sides |= {
        f"transformers, batch {n}": ["--adapter", "transformers", "--batch-size", n]
        for n in args.batch_sizes.split(",")
    }
    head = [
        f"# {Path(args.model).name}, fp32: seconds for each embedded task, reference adapter "
        "beside transformers",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, {args.threads} threads, "
        f"transformers {version('transformers')}; medians of rounds in turn.",
        "",
        f"| task | rows | rounds | {' | '.join(sides)} | best of them / evalkit | equal answers |",
        "|---" * (5 + len(sides)) + "|",
    ]
    tasks = args.tasks.split(",")
    times: dict[str, list[list[float]]] = {task: [[] for _ in sides] for task in tasks}
    rows: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for n in range(args.rounds):
            for task in tasks:
                answers = []
                for number, adapter in enumerate(sides.values()):
                    run = ["run", "--tasks", task, "--model", args.model, *adapter]
                    out = Path(scratch) / f"{n}-{number}-{task}"
                    command = [sys.executable, "-m", "evalkit", *run]
                    seconds, texts = measured(command, out, args.threads)
                    times[task][number].append(seconds)
                    answers.append(texts)
                rows[task] = row(task, times[task], *answers[:2])
                print(rows[task], flush=True)
                if args.save:
                    args.save.write_text("\n".join([*head, *rows.values(), ""]), encoding="utf-8")
    print("\n".join([*head, *rows.values()]))


if __name__ == "__main__":
    main()
