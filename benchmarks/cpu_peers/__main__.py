"""evalkit's engine on a CPU beside what a CPU user would run instead: the same weights, pictures,
prompts and threads, every arm in turn and in processes of its own, answers compared.

`python benchmarks/cpu_peers [--loads docvqa,pages,small,big] [--dtypes float32,bfloat16,int8]
[--rounds 1] [--threads 2] [--limit N] [--arms evalkit,...] [--work FOLDER] [--save FILE]`

The rivals are openvino-genai with continuous batching, in one process with all threads, with its
prefix cache too, with all rows at once, and in as many processes, or streams, as there are threads;
llama.cpp's server with 8 slots, with 2,048 tokens a product in place of 512 too, and with one slot
and its prompt cache; and `transformers` at batch 1 and 8. int8 stands for the 8-bit weights of the
two that offer them, all else as they choose by themselves, and for evalkit's w8a8 of tower and
decoder, all else in bfloat16. What they need is made by itself the first time (``environment.py``);
a rival that can't be built here gets a row that says why. Loading, exporting and one short answer
lie before the clock. Memory is the highest of each process while it answers, added up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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

from environment import Unbuilt, gguf, llama_server, openvino, python  # noqa: E402
from loads import LOADS, Row, checkpoint, load, parts  # noqa: E402

from evalkit.bench import product_rate  # noqa: E402
from evalkit.cache_dir import cache_dir  # noqa: E402
from evalkit.engine import Prompt, Visual  # noqa: E402
from evalkit.engine.interface import Media  # noqa: E402
from evalkit.models.device import DTYPES  # noqa: E402
from evalkit.models.qwen2_vl import bench as family  # noqa: E402
from evalkit.models.qwen2_vl.checkpoint import load as load_model  # noqa: E402
from evalkit.roofline import work as cost  # noqa: E402

GGUF = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}
"""The types of weights as llama.cpp names them."""


@dataclass(frozen=True)
class Arm:
    """One way to answer: the script that does, its options, and how many processes share the
    threads.
    """

    script: str
    options: Mapping[str, Any]
    processes: int = 1

    def ready(self, model: str, dtype: str, work: Path) -> tuple[Path, Path, dict[str, Any]]:
        """The interpreter, the model's folder and further options, all made if not there yet."""
        folder = checkpoint(model, work)
        if self.script == "arm_genai.py":
            weights = "int8" if dtype == "int8" else "float32"
            return python(work), openvino(folder, model, weights, work), {}
        if self.script == "arm_llama.py":
            more = {"server": str(llama_server(work)), "tokenizer": str(folder / "tokenizer.json")}
            return Path(sys.executable), gguf(folder, model, GGUF[dtype], work), more
        return Path(sys.executable), folder, {}


def arms(threads: int, dtype: str) -> dict[str, Arm]:
    """By the names of the table's rows; int8 is offered by three of them."""
    ours, genai, llama, peer = (
        f"arm_{n}.py" for n in ("evalkit", "genai", "llama", "transformers")
    )
    every = {
        "evalkit": Arm(ours, {}),
        "openvino-genai": Arm(genai, {"batch": 32}),
        "openvino-genai, prefix cache": Arm(genai, {"batch": 32, "prefix": True}),
        "openvino-genai, all at once": Arm(genai, {"batch": 256, "tokens": 16384}),
        "llama.cpp, 8 slots": Arm(llama, {"slots": 8, "cache": False}),
        "llama.cpp, 8 slots, wide": Arm(llama, {"slots": 8, "cache": False, "physical": 2048}),
        "llama.cpp, prompt cache": Arm(llama, {"slots": 1, "cache": True}),
        "transformers, batch 1": Arm(peer, {"batch": 1}),
        "transformers, batch 8": Arm(peer, {"batch": 8}),
    }
    if threads > 1:
        every[f"openvino-genai, {threads} processes"] = Arm(genai, {"batch": 32}, threads)
        every[f"openvino-genai, {threads} streams"] = Arm(genai, {"batch": 32, "streams": threads})
    if dtype == "int8":
        w8a8 = {"dtype": "bfloat16", "quantisation": "w8a8", "quantised": "both"}
        eight_bit = {n: arm for n, arm in every.items() if arm.script in (genai, llama)}
        return {"evalkit, w8a8": Arm(ours, {"arguments": w8a8}), **eight_bit}
    return every


@dataclass(frozen=True)
class Took:
    """One run of an arm: wall and processor seconds, bytes at the peak, answers by row."""

    seconds: float
    cpu: float
    peak: int
    answers: dict[str, str]


def run(arm: Arm, model: str, rows: list[Row], dtype: str, threads: int, work: Path) -> Took:
    """Starts the arm's processes, and lets them go together when all are ready."""
    interpreter, folder, more = arm.ready(model, dtype, work)
    each = threads // arm.processes
    options = json.dumps({**arm.options, **more, "dtype": dtype, "threads": each})
    env = {**os.environ, "OMP_NUM_THREADS": str(each), "HF_HUB_OFFLINE": "1"}
    ours = interpreter == Path(sys.executable)
    env["PYTHONPATH"] = str(HERE.parent.parent) if ours else ""
    with tempfile.TemporaryDirectory() as temporary:
        running = []
        shares = parts(rows, arm.processes) if arm.processes > 1 else [rows]
        for number, part in enumerate(share for share in shares if share):
            asked, out = (Path(temporary) / f"{kind}-{number}.json" for kind in ("rows", "out"))
            asked.write_text(json.dumps(part), encoding="utf-8")
            log = out.with_suffix(".log").open("w+", encoding="utf-8")
            command = [interpreter, HERE / arm.script, folder, asked, out, options]
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            process = subprocess.Popen(
                command, env=env, text=True, start_new_session=True, **streams
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
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with the server that it started
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
    parser.add_argument("--dtypes", default="float32,bfloat16,int8")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, help="so many rows of each load")
    parser.add_argument("--arms", help="only rows that begin so, such as evalkit,transformers")
    parser.add_argument("--work", type=Path, default=cache_dir() / "cpu_peers")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that what it started ends
    torch.set_num_threads(args.threads)
    dtypes = args.dtypes.split(",")
    wanted = tuple(args.arms.split(",")) if args.arms else ("",)
    rates = {d: product_rate(DTYPES[d], "cpu") for d in dtypes if d in DTYPES}
    page = [
        "# Beside OpenVINO, llama.cpp and transformers on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor_name()}, {args.threads} threads, torch "
        f"{torch.__version__}; median of {args.rounds} in turn. A large product reaches "
        + " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {d}" for d, rate in rates.items())
        + "."
        + " In int8 each has weights of its own rounding." * ("int8" in dtypes),
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
            unbuilt: dict[str, str] = {}
            for arm_name, arm in args.rounds * list(arms(args.threads, dtype).items()):
                if not arm_name.startswith(wanted):
                    continue
                try:
                    once = run(arm, LOADS[name], rows, dtype, args.threads, args.work)
                except Unbuilt as error:
                    unbuilt[arm_name] = str(error)
                    continue
                took.setdefault(arm_name, []).append(once)
                print(f"{name} {dtype} {arm_name}: {once.seconds:.2f} s", file=sys.stderr)
            for arm_name, reason in unbuilt.items():
                page.append(f"| {dtype} | {arm_name} | not built: {reason} |" + 5 * " |")
            if not took:
                continue
            reference = reference or next(iter(took.values()))[-1].answers
            for arm_name, all_ in took.items():
                seconds = statistics.median(t.seconds for t in all_)
                same = sum(all_[-1].answers[i] == text for i, text in reference.items())
                share = f"{work / seconds / rates[dtype]:.0%}" if dtype in rates else ""
                page.append(
                    f"| {dtype} | {arm_name} | {seconds:.2f} | {len(rows) / seconds:.1f} | "
                    f"{statistics.median(t.cpu for t in all_):.1f} | "
                    f"{max(t.peak for t in all_) / 1e6:,.0f} | {share} | {same} of {len(rows)} |"
                )
        if args.save:
            args.save.write_text("\n".join([*page, ""]), encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
