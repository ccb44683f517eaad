"""What short commands cost: `python benchmarks/commands.py [--rounds N]`. Processor seconds (user
and system) of whole processes on one thread: warm, and cold, which is without compiled bytecode of
any package, as at the first start after an installer that makes none; and where those of a run of
one sample go.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

RUN = "run --tasks docvqa --limit 1 --fresh --quiet"
COMMANDS = (
    "--help", "tasks", "tasks docvqa", "switches", "leaderboard", "compare nano other", "report",
    "show nano", RUN,
)  # fmt: skip

PARTS = """
import gc, sys, time
from importlib import import_module
def mark(part):
    print("part", part, time.process_time(), sep="\\t", flush=True)
gc.disable()
mark("Python")
import numpy
mark("numpy")
import torch
mark("torch")
names = sys.argv.pop(1).split(",")
for name in names:
    if not name.startswith("evalkit"):
        import_module(name)
mark("other packages: pyarrow, jinja2, Pillow, pydantic-core, rapidfuzz, tokenizers")
for name in names:
    if name.startswith("evalkit"):
        import_module(name)
mark("evalkit's modules")
gc.freeze()
gc.enable()
from evalkit.cli import main
main()
mark("the run: plan, rows, weights, answer, score, files")
"""
NAMES = """
import sys
from evalkit.cli import main
main()
heads = "evalkit pyarrow jinja2 PIL pydantic_core rapidfuzz tokenizers safetensors tqdm".split()
print("names", ",".join(n for n in sys.modules if n.split(".")[0] in heads), sep="\\t")
"""


def seconds(command: list[str], folder: Path, env: Mapping[str, str]) -> tuple[float, str]:
    """Processor seconds of a process and those that it started, and what it printed."""
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    after = getrusage(RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout


def printed(output: str, word: str) -> list[list[str]]:
    """The fields of the lines that begin with a word."""
    return [fields[1:] for line in output.splitlines() if (fields := line.split("\t"))[0] == word]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = range(parser.parse_args().rounds)
    evalkit = [sys.executable, "-m", "evalkit"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as made:
        folder, warm = Path(made), env | {"PYTHONPYCACHEPREFIX": f"{made}/warm"}
        for other in ([], ["--switch", "position=rope1d", "--name", "other"]):
            seconds([*evalkit, *RUN.split(), *other], folder, warm)
        print("| command | cold | warm, median | least | most |\n|---|---|---|---|---|")
        for nth, command in enumerate(COMMANDS):
            line = [*evalkit, *command.split()]
            cold, _ = seconds(line, folder, env | {"PYTHONPYCACHEPREFIX": f"{made}/cold{nth}"})
            spent = [seconds(line, folder, warm)[0] for _ in rounds]
            cells = [f"{s:.2f}" for s in (cold, median(spent), min(spent), max(spent))]
            print(f"| `{command}` | {' | '.join(cells)} |", flush=True)
        _, output = seconds([sys.executable, "-c", NAMES, *RUN.split()], folder, warm)
        ((names,),) = printed(output, "names")
        parts: dict[str, list[float]] = {}
        for _ in rounds:
            at = 0.0
            whole, output = seconds(
                [sys.executable, "-c", PARTS, names, *RUN.split()], folder, warm
            )
            marks = [(part, float(when)) for part, when in printed(output, "part")]
            for part, when in [*marks, ("exit, and git, which is asked for the commit", whole)]:
                parts.setdefault(part, []).append(when - at)
                at = when
        print("\n| of the run | milliseconds |\n|---|---|")
        for part, spent in parts.items():
            print(f"| {part} | {1000 * median(spent):.0f} |")


if __name__ == "__main__":
    main()
