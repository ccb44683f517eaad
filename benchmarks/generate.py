"""The reference engine beside `transformers`' generate(), on one random load, in turn, in one process.

`python benchmarks/generate.py CHECKPOINT [--items 32] [--threads 2] [--dtype float32] [--batch-sizes 1,8,16]` prints a markdown table
and, with `--save FILE`, writes it with date, device and versions. The floor is the time that the linear layers alone would take at the
rate that a 2048-cubed product reaches on this device in the same run. Pixels and prompts are random; both sides get the same patches, the
same ids and the same number of new tokens, and the answers are compared.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evalkit.engine import Engine, Prompt, Visual
from evalkit.engine.fused import fuse
from evalkit.memory import keep_freed_memory
from evalkit.qwen2vl.checkpoint import DTYPES, load
from evalkit.qwen2vl.model import Qwen2VL
from evalkit.qwen2vl.processing import Processor


def make_load(model: Qwen2VL, items: int, seed: int = 0) -> list[Prompt]:
    """One image question an item: 224 to 800 by 224 to 600 pixels, about 50 text tokens, 4 to 48 new ones."""
    rng = np.random.default_rng(seed)
    c, processor, prompts = model.config, Processor(), []
    for i in range(items):
        w, h = int(rng.integers(224, 801)), int(rng.integers(224, 601))
        small = rng.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8)
        patches, grid = processor.image(Image.fromarray(small).resize((w, h)))
        n = grid[1] * grid[2] // 4
        text = [int(x) for x in rng.integers(0, 250, 50)]
        ids = (*text[:20], c.vision_start_token_id, *[c.image_token_id] * n, c.vision_end_token_id, *text[20:])
        prompts.append(Prompt(str(i), ids, (Visual(patches, grid, i),), int(rng.integers(4, 49)), prefix=22 + n))
    return prompts


def linear_flop(model: Qwen2VL, prompts: list[Prompt]) -> float:
    """Floating-point operations of the linear layers for this load, logits only where a token is chosen."""

    def weights(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.ndim == 2)

    patches = sum(len(v.patches) for p in prompts for v in p.visuals)
    merger = weights(model.visual.merger)
    tokens = sum(len(p.ids) + p.max_new_tokens - 1 for p in prompts)
    chosen = sum(p.max_new_tokens for p in prompts)
    head = model.lm_head.weight.numel()
    trunk = weights(model.visual) - merger
    return 2.0 * (trunk * patches + merger * patches / 4 + weights(model.model.layers) * tokens + head * chosen)


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Operations per second of a 2048-cubed product, the best of five."""
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def transformers_answers(hf, prompts: list[Prompt], batch_size: int, pad: int) -> dict[str, tuple[int, ...]]:  # type: ignore[no-untyped-def]
    """generate() as harnesses call it: arrival order, left padding, each batch to its longest answer, cut per row."""
    out: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        longest = max(len(p.ids) for p in batch)
        ids = torch.tensor([[pad] * (longest - len(p.ids)) + list(p.ids) for p in batch], device=hf.device)
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in batch], device=hf.device)
        limit = max(p.max_new_tokens for p in batch)
        new = hf.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == hf.config.image_token_id).int(),
            pixel_values=torch.cat([v.patches for p in batch for v in p.visuals]).to(hf.device),
            image_grid_thw=torch.tensor([v.grid for p in batch for v in p.visuals], device=hf.device),
            max_new_tokens=limit,
            min_new_tokens=limit,
            do_sample=False,
        )[:, longest:].tolist()
        out |= {p.id: tuple(row[: p.max_new_tokens]) for p, row in zip(batch, new)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", default="1,8,16")
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()

    import transformers

    torch.set_num_threads(args.threads)
    if args.keep:
        print(keep_freed_memory())
    model = load(args.checkpoint, args.dtype, args.device)
    hf = (
        transformers.Qwen2VLForConditionalGeneration.from_pretrained(args.checkpoint, dtype=DTYPES[args.dtype])
        .to(args.device)
        .eval()
    )
    prompts = make_load(model, args.items)
    if args.fused:
        fuse(model)
    never = frozenset[int]()
    sides = {"evalkit": lambda: {o.id: o.ids for o in Engine(model, never).generate(prompts)}}
    for n in map(int, args.batch_sizes.split(",")):
        sides[f"transformers, batch {n}"] = lambda n=n: transformers_answers(hf, prompts, n, model.config.bos_token_id)
    flop, new_tokens = linear_flop(model, prompts), sum(p.max_new_tokens for p in prompts)
    times: dict[str, list[float]] = {name: [] for name in sides}
    rates, answers = [], {}
    with torch.inference_mode():
        for _ in range(args.rounds):
            rates.append(product_rate(DTYPES[args.dtype], args.device))
            for name, side in sides.items():
                started = time.perf_counter()
                answers[name] = side()
                times[name].append(time.perf_counter() - started)
    floor = flop / statistics.median(rates)
    visual = sum(len(v.patches) // 4 for p in prompts for v in p.visuals)
    lines = [
        f"# {args.checkpoint.name}, {args.dtype}, {args.items} image questions, {visual:,} visual tokens, {new_tokens} new tokens",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {args.device} ({platform.machine()}), {args.threads} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; median of {args.rounds} rounds in turn; "
        f"{flop / 1e9:.0f} GFLOP in linear layers, {statistics.median(rates) / 1e9:.0f} GFLOP/s reached, floor {floor:.2f} s.",
        "",
        "| | seconds | items/s | new tokens/s | share of floor | answers as evalkit's |",
        "|---|---|---|---|---|---|",
    ]
    for name, spent in times.items():
        t = statistics.median(spent)
        same = sum(answers[name][p.id] == answers["evalkit"][p.id] for p in prompts)
        lines.append(
            f"| {name} | {t:.2f} | {args.items / t:.1f} | {new_tokens / t:.0f} | {floor / t:.0%} | {same} of {args.items} |"
        )
    print("\n".join(lines))
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
