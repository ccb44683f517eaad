"""`evalkit serve` beside `evalkit run`: `python benchmarks/serving.py [--tasks A,B] [--limit N]
[--save FILE]`.

The same rows, in turn: by the reference adapter, and by the `openai` adapter with 64 requests at
once against a server of the same model on this machine, which has answered a word before. The time
is the one in results.json, from the first row to the last score. Both sides load their model or
client inside it; what the client costs is part of what is measured, since it shares the cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import evalkit


@contextmanager
def served(model: str, env: dict[str, str]) -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, "-m", "evalkit", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--dtype", "float32"], stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout
    try:
        yield process.stdout.readline().split(" at ")[1].split()[0]
    finally:
        process.terminate()
        process.wait()


def seconds(task: str, out: Path, env: dict[str, str], limit: str, *side: str) -> float:
    command = [sys.executable, "-m", "evalkit", "run", "--tasks", task, "--output", str(out)]
    command += ["--limit", limit] if limit else []
    subprocess.run([*command, *side], check=True, capture_output=True, env=env)
    return float(evalkit.load_results(out)["seconds"].iloc[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", default="docvqa,refcoco,video_qa,multilingual_ocr")
    parser.add_argument("--limit", default="", help="a part of the rows, to try the script")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    lines = [
        f"# {Path(args.model).name}, fp32: seconds for each embedded task, by the engine "
        "and through `evalkit serve`",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, {args.threads} threads, client "
        f"and server on the same cores, 64 requests at once; median of {args.rounds} rounds.",
        "",
        "| task | rows | `evalkit run` | through the server | slower by | equal answers |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch, served(args.model, env) as url:
        for task in args.tasks.split(","):
            times: dict[str, list[float]] = {"own": [], "served": []}
            for n in range(args.rounds):
                own, other = (Path(scratch) / f"{task}-{n}-{side}" for side in times)
                model = ("--model", args.model)
                times["own"].append(
                    seconds(task, own, env, args.limit, *model, "--dtype", "float32")
                )
                through = ("--adapter", "openai", *model, "--model-args")
                arguments = f"url={url}/v1,concurrency=64"
                times["served"].append(seconds(task, other, env, args.limit, *through, arguments))
            a, b = (evalkit.load_samples(f).set_index("id")["text"] for f in (own, other))
            first, second = (statistics.median(t) for t in times.values())
            lines.append(
                f"| {task} | {len(a)} | {first:.2f} | {second:.2f} | {second / first - 1:+.0%} | "
                f"{int((a == b.reindex(a.index)).sum())} of {len(a)} |"
            )
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
