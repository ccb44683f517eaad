"""`evalkit serve` beside `evalkit run`: `python benchmarks/serving.py [--tasks A,B] [--limit N]
[--save FILE]`.

The same rows, in turn: by the reference adapter, and by the `openai` adapter with 64 requests at
once against a server of the same model on this machine, which has answered a word before. The time
is the one in results.json, from the first row to the last score; what the client costs is part of
it, since it shares the cores. Processor seconds are those of whole processes, start-up included, of
the server those that it spent meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
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
def served(model: str, env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address, and its process."""
    command = [sys.executable, "-m", "evalkit", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--dtype", "float32"], stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout
    try:
        yield process.stdout.readline().split(" at ")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.wait()


def spent(process: int) -> float:
    """Processor seconds that a process has spent (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    task: str, out: Path, env: dict[str, str], limit: str, *side: str
) -> tuple[float, float]:
    """Seconds of a run, and processor seconds of its process."""
    command = [sys.executable, "-m", "evalkit", "run", "--tasks", task, "--output", str(out)]
    command += ["--limit", limit] if limit else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, *side], check=True, capture_output=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(evalkit.load_results(out)["seconds"].iloc[0]), cpu


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
        f"and server on the same cores, 64 requests at once; median of {args.rounds} rounds. CPU: "
        "processor seconds of the whole process, about 2 of them its start.",
        "",
        "| task | rows | `evalkit run` | through the server | slower by | equal answers "
        "| CPU of `run` | of the client | of the server |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch, served(args.model, env) as (url, server):
        for task in args.tasks.split(","):
            rounds: list[tuple[float, ...]] = []
            for n in range(args.rounds):
                own, other = (Path(scratch) / f"{task}-{n}-{side}" for side in ("own", "served"))
                model = ("--model", args.model)
                alone = measure(task, own, env, args.limit, *model, "--dtype", "float32")
                through = ("--adapter", "openai", *model, "--model-args")
                arguments = f"url={url}/v1,concurrency=64"
                before = spent(server)
                client = measure(task, other, env, args.limit, *through, arguments)
                rounds.append((*alone, *client, spent(server) - before))
            a, b = (evalkit.load_samples(f).set_index("id")["text"] for f in (own, other))
            run, cpu, through_it, client_cpu, server_cpu = map(statistics.median, zip(*rounds))
            lines.append(
                f"| {task} | {len(a)} | {run:.2f} | {through_it:.2f} | {through_it / run - 1:+.0%} "
                f"| {int((a == b.reindex(a.index)).sum())} of {len(a)} "
                f"| {cpu:.1f} | {client_cpu:.1f} | {server_cpu:.1f} |"
            )
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
