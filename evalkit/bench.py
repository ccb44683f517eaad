"""The engine measured: items and tokens a second, time by stage, fraction of the roofline, beside
`transformers` in the same run, in turn.

The roofline is that of the linear layers: the time that they alone would take, each image and
shared prefix once, at the rate that a 2048-cubed product (8192 on a GPU) reaches on this device in
the same run. Pixels and prompts are random; both sides get the same patches, the same ids and the
same number of new tokens, and the answers are compared.
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

from evalkit.engine import Engine, EngineModel, Prompt, Visual
from evalkit.errors import UsageError
from evalkit.models.device import DTYPES
from evalkit.models.limits import Limits
from evalkit.models.registry import FAMILIES, Bench, LinearWeights, family, family_of

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

    def prompts(self, family: Bench, config: Any) -> list[Prompt]:
        """The prompts, for models of that family and configuration."""
        rng = np.random.default_rng(self.seed)
        out: list[Prompt] = []
        while len(out) < self.items:
            if self.name == "images":
                w, h = int(rng.integers(224, 801)), int(rng.integers(224, 601))
                page, new = _page(family, rng, h, w, len(out)), int(rng.integers(4, 49))
                out.append(_ask(family, config, rng, page, len(out), new))
                continue
            height, width, new = PAGES[self.name]
            page = _page(family, rng, height, width, len(out))
            head = _text(rng, 20)
            questions = QUESTIONS if self.name == "questions" else 1
            for _ in range(min(questions, self.items - len(out))):
                out.append(_ask(family, config, rng, page, len(out), new, head))
        return out


def _page(family: Bench, rng: np.random.Generator, height: int, width: int, key: int) -> Visual:
    small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    processor = family.processor()
    image = Image.fromarray(small).resize((width, height))
    patches, media = processor.image_patches(image, Limits())
    return Visual(patches, media, key, processor.normalise)


def _ask(
    family: Bench,
    config: Any,
    rng: np.random.Generator,
    page: Visual,
    number: int,
    new: int,
    head: Sequence[int] | None = None,
) -> Prompt:
    before, after = head or _text(rng, 20), _text(rng, 30)
    visual = family.placeholders(config, page.media)
    prefix = len(before) + len(visual)
    return Prompt(str(number), (*before, *visual, *after), (page,), new, prefix=prefix)


def _text(rng: np.random.Generator, tokens: int) -> list[int]:
    return [int(x) for x in rng.integers(0, 250, tokens)]


def model_of(name: str, dtype: str, device: str) -> tuple[Any, Bench]:
    """A checkpoint folder's model, or one of a released size (``2B``) with random weights, and how
    its family is measured. Raises UsageError.
    """
    families = [own for f in FAMILIES if (own := getattr(family(f), "bench", None))]
    for own in families:
        if name in own.sizes:
            return own.random_model(own.sizes[name], dtype, device), own
    if not Path(name).is_dir():
        sizes = ", ".join(size for own in families for size in own.sizes)
        raise UsageError(f"{name}: neither a checkpoint folder nor one of {sizes}")
    own = getattr(family_of(Path(name)), "bench", None)
    if own is None:
        raise UsageError(f"{name}: its model family has no benchmark")
    return own.load(Path(name), dtype, device), own


def linear_flop(weights: LinearWeights, prompts: list[Prompt], shared: bool) -> float:
    """Floating-point operations of the linear layers, logits only where a token is chosen;
    ``shared``: each image and prefix once.
    """
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
    new = sum(p.max_new_tokens for p in prompts)
    return 2.0 * (
        weights.per_patch * patches + weights.per_token * tokens + weights.per_new_token * new
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


def peak_memory(device: str) -> int:
    """Bytes at the highest so far: of the device's memory, or resident in this process."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Measured:
    """One benchmark's numbers.

    times: seconds of every round, and answers of the last, by side.
    engine: evalkit's, after its last round.
    rate, copied: operations and bytes a second that this device reaches.
    flop: of the linear layers, with every image and shared prefix once, and without sharing.
    peak: bytes of memory before a peer ran.
    """

    prompts: list[Prompt]
    firsts: list[Prompt]
    times: dict[str, list[float]]
    answers: dict[str, Answers]
    engine: Engine
    rate: float
    copied: float
    flop: tuple[float, float]
    weights: LinearWeights
    peak: int
    visual_tokens: int

    def seconds(self, side: str) -> float:
        return statistics.median(self.times[side])


def measure(
    name: str, load_: Load, dtype: str, device: str, rounds: int, sizes: Sequence[int]
) -> Measured:
    """Runs every side ``rounds`` times, in turn. ``sizes``: batch sizes of `transformers`; with
    none it is left out.
    """
    model, family = model_of(name, dtype, device)
    prompts = load_.prompts(family, model.config)
    firsts = prompts[::QUESTIONS] if load_.name == "questions" else prompts
    peer = family.peer(model) if sizes else None
    weights = family.linear_weights(model)
    family.fuse(model)
    last: list[Engine] = []

    def ours(model: EngineModel, prompts: list[Prompt]) -> Answers:
        last[:] = [Engine(model, frozenset())]
        return {o.id: o.ids for o in last[0].generate(prompts)}

    sides: dict[str, Callable[[], Answers]] = {}
    if dtype != "float32" and device == "cpu" and Path(name).is_dir():
        single = family.fuse(model_of(name, "float32", device)[0])
        sides["evalkit, float32"] = partial(ours, single, prompts)
    if len(firsts) < len(prompts):
        sides[FIRST] = partial(ours, model, firsts)
    # the last of ours: its engine is the one that is looked into
    sides["evalkit"] = partial(ours, model, prompts)
    with torch.inference_mode():
        ours(model, prompts)
    peak = peak_memory(device)
    if peer:
        ready = [replace(p, visuals=tuple(map(_normalised, p.visuals))) for p in prompts]
        sides |= {f"transformers, batch {n}": partial(peer, ready, n) for n in sizes}
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
    return Measured(
        prompts=prompts,
        firsts=firsts,
        times=times,
        answers=answers,
        engine=last[0],
        rate=statistics.median(rates),
        copied=copy_rate(device),
        flop=(linear_flop(weights, prompts, True), linear_flop(weights, prompts, False)),
        weights=weights,
        peak=peak,
        visual_tokens=sum(family.visual_tokens(m) for p in prompts for m in p.media),
    )


def _normalised(visual: Visual) -> Visual:
    return replace(visual, patches=visual.pixels(torch.device("cpu")), normalise=None)


def bench(
    name: str, load_: Load, dtype: str, device: str, rounds: int, sizes: Sequence[int]
) -> str:
    """``measure`` as a page of markdown."""
    m = measure(name, load_, dtype, device, rounds, sizes)
    prompts, roofline = m.prompts, m.flop[0] / m.rate
    new = sum(p.max_new_tokens for p in prompts)
    tokens_in = sum(len(p.ids) for p in prompts)
    chip = (
        torch.cuda.get_device_name()
        if device != "cpu"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    page = [
        f"# {Path(name).name}, {dtype}, load {load_.name}: {len(prompts)} questions, "
        f"{m.visual_tokens:,} visual tokens, {new:,} new tokens",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {chip}, torch {torch.__version__}, transformers "
        f"{version('transformers')}; median of {rounds} rounds in turn.",
        "",
        f"{m.flop[0] / 1e12:.2f} TFLOP in linear layers with every image and shared prefix "
        f"once ({m.flop[1] / 1e12:.2f} without",
        f"sharing); a large product reaches {m.rate / 1e9:,.0f} GFLOP/s, a copy "
        f"{m.copied / 1e9:.1f} GB/s: roofline {roofline:.3g} s.",
        "",
        "| | seconds | items/s | tokens in/s | tokens out/s | fraction of roofline | answers as "
        "evalkit's |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in m.times:
        if side == FIRST:
            continue
        t = m.seconds(side)
        same = sum(m.answers[side][p.id] == m.answers["evalkit"][p.id] for p in prompts)
        page.append(
            f"| {side} | {t:.2f} | {len(prompts) / t:.1f} | {tokens_in / t:,.0f} | "
            f"{new / t:,.0f} | {roofline / t:.0%} | {same} of {len(prompts)} |"
        )
    if FIRST in m.times:
        one, every = m.seconds(FIRST), m.seconds("evalkit")
        further = (every - one) / (len(prompts) - len(m.firsts)) / (one / len(m.firsts))
        page += [
            "",
            f"The first question of every page alone takes {one:.2f} s: a further question "
            f"of a page costs {further:.0%} of the first.",
        ]
    return "\n".join([*page, "", *_stages(m, DTYPES[dtype], device), ""])


def _stages(m: Measured, dtype: torch.dtype, device: str) -> list[str]:
    s = m.engine.stats
    steps = max(s.decode_steps, 1)
    read = dtype.itemsize * (m.weights.per_token + m.weights.per_new_token)
    return [
        "| stage of evalkit | seconds | |",
        "|---|---|---|",
        f"| vision | {s.vision_seconds:.2f} | {s.visuals} images, {s.visuals_reused} reused |",
        f"| rest of prefill | {s.prefill_seconds - s.vision_seconds:.2f} | {s.tokens_in:,} tokens "
        f"in {s.packs} packs, {s.tokens_reused:,} more saved by shared prefixes |",
        f"| decode | {s.decode_seconds:.2f} | {s.decode_steps} steps of "
        f"{s.rows_decoded / steps:.1f} rows, {1e3 * s.decode_seconds / steps:.1f} ms each; "
        f"reading the weights once takes {2e3 * read / m.copied:.1f} ms |",
        "",
        f"Peak memory before a peer ran: {m.peak / 2**20:,.0f} MiB "
        f"{'on the device' if device != 'cpu' else 'resident'}.",
    ]
