"""`evalkit run` beside lmms-eval's own qwen2_vl wrapper: whole processes on the same checkpoint and
the same rows, in turn.

`python benchmarks/lmms_eval.py --lmms-eval ENV/bin/lmms-eval [--model FOLDER] [--batch-sizes 1,8]
[--rounds 3] [--threads 2] [--save FILE]`

The rows are the embedded docvqa:mini (ANLS). ENV is a separate environment with lmms-eval 0.7.3, in
which its qwen2_vl must run (it needs torchvision and decord). Both sides start from nothing:
start-up, loading, scoring and writing are in the time, as a user waits for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from evalkit.nano import shipped
from evalkit.nano.mini import HERE
from evalkit.store import cells

TASK = """
task: docvqa_mini
dataset_path: parquet
dataset_kwargs: {{data_files: {{validation: {data}}}}}
test_split: validation
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answers
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false}}
process_results: !function utils.process_results
metric_list:
  - {{metric: anls, aggregation: mean, higher_is_better: true}}
"""
UTILS = """
from evalkit.protocols import QWEN2_VL_WORDS

def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]

def doc_to_text(doc, **_):
    return QWEN2_VL_WORDS.text(question=doc["question"])

def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]

def process_results(doc, results):
    guess = results[0].strip().lower()
    best = 0.0
    for answer in doc["answers"]:
        answer = answer.strip().lower()
        far = distance(guess, answer) / max(len(guess), len(answer), 1)
        best = max(best, 1 - far if far <= 0.5 else 0.0)
    return {"anls": best}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lmms-eval", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=shipped()["nano"])
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    data = HERE / "docvqa" / "validation-00000-of-00001.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "docvqa_mini.yaml").write_text(TASK.format(data=data))
        (folder / "tasks" / "utils.py").write_text(UTILS)

        def ours(n: int) -> float:
            out = folder / f"evalkit{n}"
            command = [
                sys.executable,
                "-m",
                "evalkit",
                "run",
                "--tasks",
                "docvqa",
                "--model",
                str(args.model),
            ]
            subprocess.run(
                [*command, "--dtype", "float32", "--output", str(out)],
                check=True,
                capture_output=True,
                env=env,
            )
            (cell,) = cells(out)
            return next(m.value for m in cell.results.metrics if m.metric == "anls")

        def theirs(n: int, batch: str) -> float:
            out = folder / f"lmms{n}-{batch}"
            command = [
                str(args.lmms_eval),
                "--model",
                "qwen2_vl",
                "--device",
                "cpu",
                "--tasks",
                "docvqa_mini",
                "--batch_size",
                batch,
            ]
            command += [
                "--model_args",
                f"pretrained={args.model},device_map=cpu,min_pixels=3136,max_pixels=2007040",
                "--include_path",
                str(folder / "tasks"),
            ]
            done = subprocess.run(
                [*command, "--output_path", str(out)], capture_output=True, text=True, env=env
            )
            found = sorted(out.rglob("*results.json"))
            if not found:
                sys.exit(
                    f"lmms-eval wrote no results:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
                )
            return 100 * json.loads(found[0].read_text())["results"]["docvqa_mini"]["anls,none"]

        sides = {"evalkit run": ours}
        sides |= {
            f"lmms-eval, batch {b}": lambda n, b=b: theirs(n, b)
            for b in args.batch_sizes.split(",")
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        scores: dict[str, float] = {}
        for n in range(args.rounds):
            for name, side in sides.items():
                started = time.perf_counter()
                scores[name] = side(n)
                times[name].append(time.perf_counter() - started)
    lines = [
        f"# {args.model.name}, docvqa:mini (214 questions), fp32, whole processes",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, {args.threads} threads; "
        f"median of {args.rounds} rounds in turn.",
        "",
        "| | seconds | ANLS |",
        "|---|---|---|",
        *(
            f"| {name} | {statistics.median(t):.1f} | {scores[name]:.1f} |"
            for name, t in times.items()
        ),
        "",
    ]
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
