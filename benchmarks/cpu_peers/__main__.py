"""evalkit's engine on a CPU beside what a CPU user would run instead: the same weights, pictures,
prompts and threads, every arm in turn and in processes of its own, answers compared.

`python benchmarks/cpu_peers [--loads docvqa,pages,small,big] [--dtypes float32,bfloat16]
[--rounds 1] [--threads 2] [--limit N] [--arms evalkit,...] [--work FOLDER] [--save FILE]`

The rivals are openvino-genai with continuous batching, in one process with all threads, with its
prefix cache too, and in as many processes as there are threads, and `transformers` at batch 1 and
8; their environment is made by itself the first time (``environment.py``). llama.cpp has no wheel
on the package index, and is not built here. Loading, exporting and one short answer lie before the
clock. Memory is the highest of each process while it answers, added up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from environment import exported, python  # noqa: E402
from loads import LOADS, Row, checkpoint, load, parts  # noqa: E402

from evalkit.bench import product_rate  # noqa: E402
from evalkit.cache_dir import cache_dir  # noqa: E402
from evalkit.engine import Prompt, Visual  # noqa: E402
from evalkit.engine.interface import Media  # noqa: E402
from evalkit.models.device import DTYPES  # noqa: E402
from evalkit.models.qwen2_vl import bench as family  # noqa: E402
from evalkit.models.qwen2_vl.checkpoint import load as load_model  # noqa: E402
from evalkit.roofline import work as cost  # noqa: E402


@dataclass(frozen=True)
class Arm:
    """One way to answer: the script that does, its options, and how many processes share the
    threads.
    """

    script: str
    options: Mapping[str, Any]
    processes: int = 1


def arms(threads: int) -> dict[str, Arm]:
    """By the names of the table's rows."""
    batches = {"batch": 32}
    every = {
        "evalkit": Arm("arm_evalkit.py", {}),
        "openvino-genai": Arm("arm_genai.py", batches),
        "openvino-genai, prefix cache": Arm("arm_genai.py", {**batches, "prefix": True}),
        f"openvino-genai, {threads} processes": Arm("arm_genai.py", batches, threads),
        "transformers, batch 1": Arm("arm_transformers.py", {"batch": 1}),
        "transformers, batch 8": Arm("arm_transformers.py", {"batch": 8}),
    }
    return every if threads > 1 else {k: a for k, a in every.items() if a.processes == 1}


@dataclass(frozen=True)
class Took:
    """One run of an arm: wall and processor seconds, bytes at the peak, answers by row."""

    seconds: float
    cpu: float
    peak: int
    answers: dict[str, str]


def run(arm: Arm, model: str, rows: list[Row], dtype: str, threads: int, work: Path) -> Took:
    """Starts the arm's processes, and lets them go together when all are ready."""
    folder = checkpoint(model, work)
    ours = arm.script != "arm_genai.py"
    interpreter = Path(sys.executable) if ours else python(work)
    place = folder if ours else exported(folder, model, work)
    each = threads // arm.processes
    options = json.dumps({**arm.options, "dtype": dtype, "threads": each})
    env = {**os.environ, "OMP_NUM_THREADS": str(each), "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = str(HERE.parent.parent) if ours else ""
    with tempfile.TemporaryDirectory() as temporary:
        running = []
        for number, part in enumerate(parts(rows, arm.processes) if arm.processes > 1 else [rows]):
            asked, out = (Path(temporary) / f"{kind}-{number}.json" for kind in ("rows", "out"))
            asked.write_text(json.dumps(part), encoding="utf-8")
            log = out.with_suffix(".log").open("w+", encoding="utf-8")
            command = [interpreter, HERE / arm.script, place, asked, out, options]
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, env=env, text=True, stdin=pipe, stdout=pipe, stderr=log
            )
            running.append((process, out, log))
        try:
            for process, _, log in running:
                assert process.stdout
                while (line := process.stdout.readline()) != "ready\n":
                    if not line:
                        log.seek(0)
                        raise SystemExit(f"{arm.script} on {model}: {log.read()[-2000:]}")
            started = time.perf_counter()
            for process, _, _ in running:
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.flush()
            for process, _, log in running:
                if process.wait():
                    log.seek(0)
                    raise SystemExit(f"{arm.script} on {model}: {log.read()[-2000:]}")
            seconds = time.perf_counter() - started
        finally:
            for process, _, log in running:
                process.kill()
                log.close()
        took = [json.loads(out.read_text(encoding="utf-8")) for _, out, _ in running]
    seconds = max(t["seconds"] for t in took) if len(took) == 1 else seconds
    answers = {id_: text.strip() for t in took for id_, text in t["answers"].items()}
    return Took(seconds, sum(t["cpu"] for t in took), sum(t["peak"] for t in took), answers)


def flop(model: str, rows: list[Row], work: Path) -> float:
    """Of linear layers and attention, every picture and shared prefix once. Of answers that end by
    themselves only the first token, since where they end is not known before.
    """
    loaded = load_model(checkpoint(model, work), "float32", "cpu")
    placeholder, prompts = loaded.config.image_token_id, []
    for row in rows:
        t, h, w = row["grid"]
        ids, patches = tuple(row["ids"]), torch.empty(t * h * w, 0)
        visual = Visual(patches, Media((t, h, w)), row["image"])
        prefix = len(ids) - ids[::-1].index(placeholder)
        new = 1 if row["natural"] else row["new"]
        prompts.append(Prompt(row["id"], ids, (visual,), new, prefix=prefix))
    weights = family.linear_weights(loaded)
    done = cost(family, loaded.config, weights, loaded.cache_shape, prompts)
    return done.linear + done.vision_attention + done.prefill_attention


def processor_name() -> str:
    """The processor, with the instruction sets that decide a product's speed."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    about = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in reversed(lines))}
    sets = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")
    have = about.get("flags", about.get("Features", "")).split()
    named = about.get("model name", "unnamed processor")
    return f"{named}, family {about.get('cpu family', '?')} model {about.get('model', '?')} (" + (
        ", ".join(s for s in sets if s in have) + ")"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, help="so many rows of each load")
    parser.add_argument("--arms", help="only rows that begin so, such as evalkit,transformers")
    parser.add_argument("--work", type=Path, default=cache_dir() / "cpu_peers")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = {
        name: arm
        for name, arm in arms(args.threads).items()
        if not args.arms or name.startswith(tuple(args.arms.split(",")))
    }
    dtypes = args.dtypes.split(",")
    rates = {d: product_rate(DTYPES[d], "cpu") for d in dtypes}
    page = [
        "# Beside OpenVINO and transformers on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor_name()}, {args.threads} threads, torch "
        f"{torch.__version__}; median of {args.rounds} in turn. A large product reaches "
        + " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {d}" for d, rate in rates.items())
        + ".",
    ]
    if rates.get("bfloat16", 1e30) < 1.5 * rates.get("float32", 0):
        dtypes.remove("bfloat16")
        page[-1] += " This processor only emulates bfloat16, which is left out."
    for name in args.loads.split(","):
        rows = json.loads(load(name, args.work, args.limit).read_text(encoding="utf-8"))
        work = flop(LOADS[name], rows, args.work)
        page += [
            "",
            f"## {name}: {len(rows)} questions on {len({r['image'] for r in rows})} pictures, "
            f"{work / 1e9:,.0f} GFLOP in linear layers and attention",
            "",
            "| dtype | | seconds | items/s | processor seconds | peak MB | share of the product's "
            "rate | answers as evalkit's in float32 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        reference: dict[str, str] = {}
        for dtype in dtypes:
            took: dict[str, list[Took]] = {}
            for _ in range(args.rounds):
                for arm_name, arm in chosen.items():
                    once = run(arm, LOADS[name], rows, dtype, args.threads, args.work)
                    took.setdefault(arm_name, []).append(once)
                    print(f"{name} {dtype} {arm_name}: {once.seconds:.2f} s", file=sys.stderr)
            reference = reference or next(iter(took.values()))[-1].answers
            for arm_name, all_ in took.items():
                seconds = statistics.median(t.seconds for t in all_)
                same = sum(all_[-1].answers[i] == text for i, text in reference.items())
                page.append(
                    f"| {dtype} | {arm_name} | {seconds:.2f} | {len(rows) / seconds:.1f} | "
                    f"{statistics.median(t.cpu for t in all_):.1f} | "
                    f"{max(t.peak for t in all_) / 1e6:,.0f} | "
                    f"{work / seconds / rates[dtype]:.0%} | {same} of {len(rows)} |"
                )
    page += ["", "llama.cpp: not run; the package index has no wheel of it.", ""]
    print("\n".join(page))
    if args.save:
        args.save.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
