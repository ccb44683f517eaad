"""Every verb over much data: a cell of 100,000 rows, and 1,000 cells of 200: `python
benchmarks/size.py [--rows N] [--cells N] [--only WORDS] [--save FILE]`.

The model costs nothing (an adapter that answers at once), so that evalkit's own time is what is
measured: each verb as a process of its own, on one thread, in processor seconds (user and system,
its imports among them), with its peak memory. The folders are made once and stay in the temporary
folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evalkit.store import cells

TASK = """
from pathlib import Path
from evalkit.rows import ask
from evalkit.sources import JsonLines
from evalkit.task import Metric, Subset, Task
from evalkit.types import Sample, Score

def subset(name):
    return Subset(JsonLines(Path(__file__).with_name(f"{name}.jsonl"), media=()))

class Sums(Task):
    name = "sums"
    metrics = (Metric("exact"), Metric("digits"))
    subsets = {name: subset(name) for name in NAMES}

    def samples(self, row):
        n = row["n"]
        meta = {"tier": ("easy", "medium", "hard")[n % 3], "width": 640 + n % 7, "height": 480}
        question = f"This is question {n} of the sums. What is {n} + {n}? Answer with a number."
        yield Sample(f"sum/{n}", ask(question), [str(2 * n)], cluster=f"page/{n // 4}",
                     metadata=meta)

    def score(self, sample, completion):
        text = completion.text.strip()
        return Score({"exact": float(text in sample.target),
                      "digits": float(len(text) == len(sample.target[0]))}, parsed=text)
"""
ADAPTER = """
from evalkit.adapter import ModelAdapter
from evalkit.types import Completion, TokenCounts

class Zero(ModelAdapter):
    name = "zero"

    def __init__(self, model, *, wrong=5):
        self.model, self.wrong = model, wrong

    @property
    def fingerprint(self):
        return {"adapter": self.name, "model": self.model, "wrong": self.wrong}

    def generate(self, requests):
        for request in requests:
            n = int(request.id.split("/")[1])
            text = str(2 * n + (n * 2654435761 % 97 % self.wrong == 0))
            yield Completion(request.id, text, tokens=TokenCounts(24, 0, len(text)))
"""
SUBSETS = 10
MANY = """
import sys
from pathlib import Path
from evalkit import evaluate
output, task, adapter, models = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
for i in range(models):
    evaluate([f"{task}:part{k}" for k in range(10)], f"model-{i:03}", adapter=adapter,
             output=output, progress=False, wrong=3 + i % 20)
"""
LOAD = "import sys; from evalkit.results import load_samples; load_samples(sys.argv[1])"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Timing:
    """What one process took."""

    what: str
    seconds: float
    """Processor seconds, user and system."""
    mebibytes: float
    """Peak of its resident memory."""
    goal: float
    """Seconds that it should take at most."""
    n: int
    """Samples that the process went through."""


def process(*command: str) -> tuple[float, float]:
    """(processor seconds, peak MiB) of a process of Python. Raises SystemExit when it fails."""
    child = subprocess.Popen(
        [sys.executable, *command],
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | ONE_THREAD,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def prepare(scratch: Path, rows: int) -> None:
    """The task's data, the task and the adapter; what is there stays."""
    names = {f"part{k}": range(k * 200, k * 200 + 200) for k in range(SUBSETS)}
    names["large"] = range(rows)
    scratch.mkdir(parents=True, exist_ok=True)
    for name, numbers in names.items():
        lines = (json.dumps({"n": n}) for n in numbers)
        (scratch / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (scratch / "sums.py").write_text(TASK.replace("NAMES", repr(list(names))))
    (scratch / "zero.py").write_text(ADAPTER)


def large(scratch: Path, rows: int, wanted: str) -> Iterator[Timing]:
    """The verbs over one cell of many rows."""
    task, adapter = f"{scratch}/sums.py:large", f"{scratch}/zero.py"

    def run(output: Path, model: str, wrong: int) -> tuple[str, ...]:
        asked = ("--tasks", task, "--adapter", adapter, "--model", model)
        more = ("--model-args", f"wrong={wrong}", "--output", str(output), "--quiet")
        return "-m", "evalkit", "run", *asked, *more

    whole, small = scratch / "whole", scratch / "small"
    if wanted in "run":
        shutil.rmtree(whole, ignore_errors=True)
    if not whole.exists():
        seconds, memory = process(*run(whole, "a", 5))
        yield Timing("run", seconds, memory, 0.0005 * rows, rows)
        process(*run(whole, "b", 4))
    if wanted in "run of 200":
        shutil.rmtree(small, ignore_errors=True)
        seconds, memory = process(*run(small, "a", 5), "--limit", "200")
        yield Timing("run of 200", seconds, memory, 5, 200)
    if wanted in "run repeated":
        yield Timing("run repeated", *process(*run(whole, "a", 5)), 1, rows)
    if wanted in "run resumed":
        half = scratch / "half"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(whole / "runs" / "a", half / "runs" / "a")
        (cell,) = cells(half)
        cell.results_path.unlink()
        lines = cell.journal_path.read_bytes().splitlines(keepends=True)
        cell.journal_path.write_bytes(b"".join(lines[: len(lines) // 2]))
        yield Timing("run resumed from half", *process(*run(half, "a", 5)), 3, rows)
    if wanted in "load_samples":
        only = scratch / "only"
        shutil.rmtree(only, ignore_errors=True)
        shutil.copytree(whole / "runs" / "a", only / "runs" / "a")
        yield Timing("load_samples", *process("-c", LOAD, str(only)), 2, rows)
    verbs = {"report": ("report",), "compare": ("compare", "a", "b"), "rescore": ("rescore", "a")}
    for verb, command in (verbs | {"leaderboard --by": ("leaderboard", "--by", "tier")}).items():
        if wanted in verb:
            used = process("-m", "evalkit", *command, "--output", str(whole))
            goal = {"report": 3, "compare": 5}.get(verb, 3)
            yield Timing(verb, *used, goal, rows if verb == "rescore" else 2 * rows)


def many(scratch: Path, number: int, wanted: str) -> Iterator[Timing]:
    """The verbs over many cells of 200 samples."""
    output = scratch / f"cells-{number}"
    if not output.exists():
        models = str(number // SUBSETS)
        process("-c", MANY, str(output), f"{scratch}/sums.py", f"{scratch}/zero.py", models)
    verbs = {
        "leaderboard": ("leaderboard",),
        "leaderboard --by": ("leaderboard", "--by", "tier"),
        "report": ("report",),
        "rescore": ("rescore",),
        "compare": ("compare", "model-000", "model-001"),
    }
    for verb, command in verbs.items():
        if wanted in verb:
            used = process("-m", "evalkit", *command, "--output", str(output))
            yield Timing(verb, *used, 3, 200 * (2 * SUBSETS if verb == "compare" else number))


def overhead(run: Timing, small: Timing) -> str:
    """What a sample costs beyond its process and its model."""
    more = run.n - small.n
    each = 1000 * (run.seconds - small.seconds) / more
    kib = 1024 * (run.mebibytes - small.mebibytes) / more
    return (
        f"Each further sample of a run: {each:.3f} ms (goal 0.5) to read, ask, score and journal, "
        f"with its line on disk (fsync) before it counts, and {kib:.2f} KiB of memory."
    )


def earlier(file: Path | None) -> Iterator[dict[str, str]]:
    """Processor seconds by verb, one dictionary for each part of a saved table."""
    for part in file.read_text(encoding="utf-8").split("\n## ")[1:] if file else ():
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line[:1] == "|"]
        yield {row[0]: row[1] for row in rows if len(row) > 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=1_000)
    parser.add_argument("--only", default="", help="the verbs whose names hold this")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--before", type=Path, help="a table that was saved before a change")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    scratch = args.scratch or Path(tempfile.gettempdir()) / f"evalkit-size-{args.rows}"
    prepare(scratch, args.rows)
    began = time.perf_counter()
    parts, saved = [], earlier(args.before)
    for title, timings in (
        (f"Cells of {args.rows:,} rows", large(scratch, args.rows, args.only)),
        (f"{args.cells:,} cells of 200", many(scratch, args.cells, args.only)),
    ):
        columns = "| | CPU s | before | goal | ms a sample | MiB |"
        lines = [f"## {title}", "", columns, "|---|---|---|---|---|---|"]
        before, took = next(saved, {}), dict[str, Timing]()
        for t in timings:
            took[t.what] = t
            each = 1000 * t.seconds / t.n
            told = f"{t.seconds:.1f} | {before.get(t.what, '')} | {t.goal:g} | {each:.3f}"
            line = f"| {t.what} | {told} | {t.mebibytes:.0f} |"
            print(line, flush=True)
            lines.append(line)
        if {"run", "run of 200"} <= took.keys():
            lines += ["", overhead(took["run"], took["run of 200"])]
            print(lines[-1])
        parts.append("\n".join(lines))
    head = (
        f"# Size\n\n{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, one thread, an adapter "
        "that costs nothing; processor seconds of whole processes, and their peak memory."
    )
    text = "\n\n".join([head, *parts]) + "\n"
    if args.save:
        args.save.write_text(text, encoding="utf-8")
    print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
