"""The engine measured: items and tokens a second, time by stage, share of the floor, beside
`transformers` in the same run, in turn.

The floor is the time that the linear layers alone would take, each image and shared prefix once, at
the rate that a 2048-cubed product (8192 on a GPU) reaches on this device in the same run. Pixels
and prompts are random; both sides get the same patches, the same ids and the same number of new
tokens, and the answers are compared.
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evalkit.engine import Engine, Prompt, Visual
from evalkit.errors import UsageError
from evalkit.models.device import DTYPES
from evalkit.models.qwen2_vl.checkpoint import PATCH_EMBED, load
from evalkit.models.qwen2_vl.config import RELEASED
from evalkit.models.qwen2_vl.fused import fuse
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import grid_tokens

Answers = dict[str, tuple[int, ...]]
PAGES = {"documents": (1092, 1372, 10), "questions": (448, 616, 10), "decode": (224, 224, 256)}
"""Height and width in pixels of the pages of a load, and new tokens a question."""
QUESTIONS = 4
"""Questions a page, in the load of that name."""
FIRST = "evalkit, the first question of every page"
"""A side of that load, timed in turn with the others."""


@dataclass(frozen=True)
class Load:
    """``images``: one question an image of 224 to 800 by 224 to 600 pixels, 4 to 48 new tokens.
    ``documents``: one question a page of 1,911 visual tokens, 10 new tokens, as in DocVQA.
    ``questions``: four questions a page of 352 visual tokens, 10 new tokens. ``decode``: one
    question a picture of 64 visual tokens, 256 new tokens."""

    name: str
    items: int
    seed: int = 0

    def prompts(self, model: Qwen2VL) -> list[Prompt]:
        rng = np.random.default_rng(self.seed)
        out: list[Prompt] = []
        while len(out) < self.items:
            if self.name == "images":
                w, h = int(rng.integers(224, 801)), int(rng.integers(224, 601))
                out.append(
                    _ask(model, rng, _page(rng, h, w, len(out)), len(out), int(rng.integers(4, 49)))
                )
            else:
                height, width, new = PAGES[self.name]
                page = _page(rng, height, width, len(out))
                head = [int(x) for x in rng.integers(0, 250, 20)]
                for _ in range(
                    min(QUESTIONS, self.items - len(out)) if self.name == "questions" else 1
                ):
                    out.append(_ask(model, rng, page, len(out), new, head))
        return out


def _page(rng: np.random.Generator, height: int, width: int, key: int) -> Visual:
    small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    processor = Processor()
    patches, media = processor.image_patches(Image.fromarray(small).resize((width, height)))
    return Visual(patches, media, key, processor.normalise)


def _ask(
    model: Qwen2VL,
    rng: np.random.Generator,
    page: Visual,
    number: int,
    new: int,
    head: Sequence[int] | None = None,
) -> Prompt:
    c, n = model.config, grid_tokens(page.media.grid)
    before = head or [int(x) for x in rng.integers(0, 250, 20)]
    after = [int(x) for x in rng.integers(0, 250, 30)]
    ids = (*before, c.vision_start_token_id, *[c.image_token_id] * n, c.vision_end_token_id, *after)
    return Prompt(str(number), ids, (page,), new, prefix=21 + n)


def model_of(name: str, dtype: str, device: str) -> Qwen2VL:
    """A checkpoint folder, or a released size (``2B``) with random weights."""
    if name in RELEASED:
        with torch.device("meta"):
            model = Qwen2VL(RELEASED[name]).to(DTYPES[dtype])
        model = model.to_empty(device=device)
        generator = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if key.endswith("norm.weight") or ".norm" in key or "ln_q" in key:
                    p.fill_(1.0 if key.endswith("weight") else 0.0)
                else:
                    p.normal_(0, 0.02, generator=generator)
        return model.eval().requires_grad_(False)
    if not Path(name).is_dir():
        raise UsageError(f"{name}: neither a checkpoint folder nor one of {', '.join(RELEASED)}")
    return load(Path(name), dtype, device)


def linear_flop(model: Qwen2VL, prompts: list[Prompt], shared: bool) -> float:
    """Floating-point operations of the linear layers, logits only where a token is chosen;
    ``shared``: each image and prefix once.
    """

    def weights(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.ndim == 2)

    seen: set[Any] = set()
    patches = tokens = 0
    for p in prompts:
        for v in p.visuals:
            tokens += len(p.ids) + p.max_new_tokens - 1
            if shared and v.key in seen:
                tokens -= p.prefix
            else:
                patches += len(v.patches)
            seen.add(v.key)
    merger = weights(model.visual.merger)
    chosen = sum(p.max_new_tokens for p in prompts)
    trunk = weights(model.visual) - merger
    head = model.lm_head.weight.numel()
    return 2.0 * (
        trunk * patches
        + merger * patches / 4
        + weights(model.model.layers) * tokens
        + head * chosen
    )


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Operations per second of a large product, the best of five."""
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, dtype=dtype, device=device)
    return 2 * n**3 / _best(lambda: (a @ a)[0, 0].item())


def copy_rate(device: str) -> float:
    """Bytes per second read and written by a copy of 256 MiB, the best of five."""
    a = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * len(a) / _best(lambda: b.copy_(a)[0].item())


def _best(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def transformers_answers(hf: Any, prompts: list[Prompt], batch_size: int, pad: int) -> Answers:
    """generate() as harnesses call it: arrival order, left padding, each batch to its longest
    answer, cut per row.

    Patches are normalised already.
    """
    out: Answers = {}
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        longest = max(len(p.ids) for p in batch)
        ids = torch.tensor(
            [[pad] * (longest - len(p.ids)) + list(p.ids) for p in batch], device=hf.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in batch], device=hf.device
        )
        limit = max(p.max_new_tokens for p in batch)
        new = hf.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == hf.config.image_token_id).int(),
            pixel_values=torch.cat([v.patches for p in batch for v in p.visuals]).to(hf.device),
            image_grid_thw=torch.tensor([m.grid for p in batch for m in p.media], device=hf.device),
            max_new_tokens=limit,
            do_sample=False,
        )[:, longest:].tolist()
        out |= {p.id: tuple(row[: p.max_new_tokens]) for p, row in zip(batch, new)}
    return out


def peak_memory(device: str) -> int:
    """Bytes at the highest so far: of the device's memory, or resident in this process."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def transformers_model(model: Qwen2VL) -> Any:
    """The same weights in `transformers`."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    weight = model.lm_head.weight
    with torch.device("meta"):
        hf = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**model.config.to_dict())).to(
            weight.dtype
        )
    hf = hf.to_empty(device=weight.device).eval()
    for part in hf.modules():  # what is computed, not stored
        if hasattr(part, "inv_freq"):
            fresh = type(part)(part.dim) if not hasattr(part, "config") else type(part)(part.config)
            part.inv_freq = fresh.inv_freq.to(weight.device)
            if hasattr(part, "original_inv_freq"):
                part.original_inv_freq = part.inv_freq
    state = {}
    for key, tensor in model.state_dict().items():
        if key == PATCH_EMBED:
            tensor = tensor.unflatten(1, (3, 2, 14, 14))
        state[
            "model." + key
            if key.startswith("visual.")
            else key.replace("model.", "model.language_model.", 1)
        ] = tensor
    hf.load_state_dict(state, strict=True)
    hf.generation_config.eos_token_id = None  # both sides write all their tokens
    return hf


def bench(
    name: str, load_: Load, dtype: str, device: str, rounds: int, sizes: Sequence[int]
) -> str:
    """Measures and returns a page of markdown. ``sizes``: batch sizes of `transformers`; with none
    it is left out.
    """
    model = model_of(name, dtype, device)
    prompts, never = load_.prompts(model), frozenset[int]()
    hf, pad = transformers_model(model) if sizes else None, model.config.bos_token_id
    flop = {shared: linear_flop(model, prompts, shared) for shared in (True, False)}
    fuse(model)
    last: list[Engine] = []

    def ours(model: Qwen2VL, prompts: list[Prompt] = prompts) -> Answers:
        last[:] = [Engine(model, never)]
        return {o.id: o.ids for o in last[0].generate(prompts)}

    sides: dict[str, Callable[[], Answers]] = {}
    if dtype != "float32" and device == "cpu" and name not in RELEASED:
        sides["evalkit, float32"] = partial(ours, fuse(model_of(name, "float32", device)))
    firsts = prompts[::QUESTIONS] if load_.name == "questions" else prompts
    if len(firsts) < len(prompts):
        sides[FIRST] = partial(ours, model, firsts)
    sides["evalkit"] = partial(
        ours, model
    )  # the last of ours: its engine is the one that is looked into
    with torch.inference_mode():
        ours(model)
    peak = peak_memory(device)
    ready = [
        replace(
            p,
            visuals=tuple(
                replace(v, patches=v.pixels(torch.device("cpu")), normalise=None) for v in p.visuals
            ),
        )
        for p in prompts
    ]
    sides |= {
        f"transformers, batch {n}": partial(transformers_answers, hf, ready, n, pad) for n in sizes
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    answers: dict[str, Answers] = {}
    rates = []
    with torch.inference_mode():
        for _ in range(rounds):
            rates.append(product_rate(DTYPES[dtype], device))
            for side, work in sides.items():
                started = time.perf_counter()
                answers[side] = work()
                times[side].append(time.perf_counter() - started)
    rate, copied = statistics.median(rates), copy_rate(device)
    floor = flop[True] / rate
    page = _head(name, load_, dtype, device, rounds, prompts)
    page += [
        f"{flop[True] / 1e12:.2f} TFLOP in linear layers with every image and shared prefix "
        f"once ({flop[False] / 1e12:.2f} without",
        f"sharing); a large product reaches {rate / 1e9:,.0f} GFLOP/s, a copy "
        f"{copied / 1e9:.1f} GB/s: floor {floor:.3g} s.",
        "",
    ]
    page += [
        "| | seconds | items/s | tokens in/s | tokens out/s | share of the floor | answers "
        "as evalkit's |",
        "|---|---|---|---|---|---|---|",
    ]
    tokens_in, tokens_out = sum(len(p.ids) for p in prompts), sum(p.max_new_tokens for p in prompts)
    first = times.pop(FIRST, None)
    for side, spent in times.items():
        t = statistics.median(spent)
        same = sum(answers[side][p.id] == answers["evalkit"][p.id] for p in prompts)
        page.append(
            f"| {side} | {t:.2f} | {len(prompts) / t:.1f} | {tokens_in / t:,.0f} | "
            f"{tokens_out / t:,.0f} | {floor / t:.0%} "
            f"| {same} of {len(prompts)} |"
        )
    if first:
        one, every = statistics.median(first), statistics.median(times["evalkit"])
        further = (every - one) / (len(prompts) - len(firsts)) / (one / len(firsts))
        page += [
            "",
            f"The first question of every page alone takes {one:.2f} s: a further question "
            f"of a page costs {further:.0%} of the first.",
        ]
    return "\n".join([*page, "", *_stages(last[0], model, DTYPES[dtype], copied, peak, device), ""])


def _head(
    name: str, load_: Load, dtype: str, device: str, rounds: int, prompts: list[Prompt]
) -> list[str]:
    visual = sum(grid_tokens(m.grid) for p in prompts for m in p.media)
    new = sum(p.max_new_tokens for p in prompts)
    chip = (
        torch.cuda.get_device_name()
        if device != "cpu"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return [
        f"# {Path(name).name}, {dtype}, load {load_.name}: {len(prompts)} questions, "
        f"{visual:,} visual tokens, {new:,} new tokens",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {chip}, torch {torch.__version__}, transformers "
        f"{version('transformers')}; "
        f"median of {rounds} rounds in turn.",
        "",
    ]


def _stages(
    engine: Engine, model: Qwen2VL, dtype: torch.dtype, copied: float, peak: int, device: str
) -> list[str]:
    s = engine.stats
    steps = max(s.decode_steps, 1)
    weights = dtype.itemsize * (
        sum(p.numel() for p in model.model.layers.parameters()) + model.lm_head.weight.numel()
    )
    return [
        "| stage of evalkit | seconds | |",
        "|---|---|---|",
        f"| vision | {s.vision_seconds:.2f} | {s.visuals} images, {s.visuals_reused} reused |",
        f"| rest of prefill | {s.prefill_seconds - s.vision_seconds:.2f} | {s.tokens_in:,} "
        f"tokens in {s.packs} packs, "
        f"{s.tokens_reused:,} more saved by shared prefixes |",
        f"| decode | {s.decode_seconds:.2f} | {s.decode_steps} steps of "
        f"{s.rows_decoded / steps:.1f} rows, "
        f"{1e3 * s.decode_seconds / steps:.1f} ms each; reading the weights once takes "
        f"{2e3 * weights / copied:.1f} ms |",
        "",
        f"Peak memory before a peer ran: {peak / 2**20:,.0f} MiB "
        f"{'on the device' if device != 'cpu' else 'resident'}.",
    ]
