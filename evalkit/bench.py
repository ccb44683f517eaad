"""The engine measured: items and tokens a second, time by stage, fraction of the roofline, beside
`transformers` in the same run, in turn.

The roofline (``evalkit.roofline``) is counted at the rates that a 2048-cubed product (8192 on a
GPU) and a copy reach on this device in the same run. Pixels and prompts are random; both sides get
the same patches, the same ids and the same number of new tokens, and the answers are compared.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evalkit.engine import EngineModel, Prompt, Replicas, Visual
from evalkit.engine.products import linear
from evalkit.errors import UsageError
from evalkit.models.device import DTYPES
from evalkit.models.limits import Limits
from evalkit.models.registry import FAMILIES, Bench, family, family_of
from evalkit.roofline import Floor, Work, floor, work

Answers = dict[str, tuple[int, ...]]
PAGES = {
    "documents": (1092, 1372, 10),
    "questions": (448, 616, 10),
    "decode": (224, 224, 256),
    "video": (364, 448, 10),
}
"""Height and width in pixels of the pages of a load, and new tokens a question."""
FRAMES = 64
"""Of a clip, in the load of videos."""
QUESTIONS = 4
"""Questions a page, in the load of that name."""
OURS, FLOAT32, COMPILED = "evalkit", "evalkit, float32", "evalkit, compiled"
FIRST = "evalkit, the first question of every page"
"""A side of that load, timed in turn with the others."""


@dataclass(frozen=True)
class Load:
    """``images``: one question an image of 224 to 800 by 224 to 600 pixels, 4 to 48 new tokens.
    ``documents``: one question a page of 1,911 visual tokens, 10 new tokens, as in DocVQA.
    ``questions``: four questions a page of 352 visual tokens, 10 new tokens. ``decode``: one
    question a picture of 64 visual tokens, 256 new tokens. ``video``: one question a clip of 64
    frames and 6,656 visual tokens, 10 new tokens. ``items`` questions, drawn by ``seed``.
    """

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
            show = _clip if self.name == "video" else _page
            page = show(family, rng, height, width, len(out))
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


def _clip(family: Bench, rng: np.random.Generator, height: int, width: int, key: int) -> Visual:
    small = rng.integers(0, 256, (FRAMES, height // 28, width // 28, 3), dtype=np.uint8)
    processor, bounds = family.processor(), Limits(min_pixels=1)
    # resized, since families differ in the sizes of patches
    frames = [
        processor.resize_frame(f.repeat(28, axis=0).repeat(28, axis=1), FRAMES, bounds)
        for f in small
    ]
    patches, media = processor.video_patches(np.stack(frames), None)
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


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of a large product, the best of six; on a CPU by the
    library that the engine takes.
    """
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, dtype=dtype, device=device)
    with torch.inference_mode():
        return 2 * n**3 / _best(lambda: linear(a, a)[0, 0].item(), 6)


def copy_rate(device: str) -> float:
    """Bytes per second read and written by a copy of 256 MiB, the best of six."""
    a = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * len(a) / _best(lambda: b.copy_(a)[0].item(), 6)


def _best(run: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of so many runs."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        run()
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
    engines: of evalkit's sides, after the last round; kernels: of these on a GPU, what ran on it.
    rate, copied: operations and bytes a second that this device reaches.
    work: with every image and shared prefix once; unshared: without sharing.
    peak: bytes of memory before a peer ran.
    compiling: seconds of the first compiled round beyond the next.
    """

    prompts: list[Prompt]
    firsts: list[Prompt]
    times: dict[str, list[float]]
    answers: dict[str, Answers]
    engines: dict[str, Replicas]
    kernels: dict[str, Kernels]
    rate: float
    copied: float
    work: Work
    unshared: Work
    itemsize: int
    peak: int
    visual_tokens: int
    compiling: float

    def seconds(self, side: str) -> float:
        return statistics.median(self.times[side])

    def floor(self, side: str = OURS) -> Floor:
        """The roofline, with the decoding steps that a side of evalkit took."""
        steps = self.engines.get(side, self.engines[OURS]).stats.decode_steps
        return floor(self.work, steps, self.itemsize, self.rate, self.copied)


def measure(
    name: str,
    load_: Load,
    dtype: str,
    device: str,
    rounds: int,
    sizes: Sequence[int],
    compiled: bool = False,
    schemes: Sequence[str] = (),
) -> Measured:
    """Runs every side ``rounds`` times, in turn; evalkit's engines stay, as in a run over many
    questions, but remember no picture of the round before. ``sizes``: batch sizes of
    `transformers`; with none it is left out. ``compiled``: evalkit once more, with compiled layers;
    ``schemes``: once more in each quantisation, of tower and decoder, then compiled too.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    model, family = model_of(name, dtype, device)
    switched = {s: model.switches.with_({"quantisation": s, "quantised": "both"}) for s in schemes}
    prompts = load_.prompts(family, model.config)
    firsts = prompts[::QUESTIONS] if load_.name == "questions" else prompts
    peer = family.peer(model) if sizes else None
    cost = partial(work, family, model.config, family.linear_weights(model), model.cache_shape)
    family.fuse(model)
    engines: dict[str, Replicas] = {}

    def ours(side: str, model: EngineModel, prompts: list[Prompt]) -> Answers:
        engine = engines.setdefault(side, Replicas(model, frozenset()))
        engine.forget()
        return {o.id: o.ids for o in engine.generate(prompts)}

    sides: dict[str, Callable[[], Answers]] = {}
    if dtype != "float32" and device == "cpu" and Path(name).is_dir():
        single = family.fuse(model_of(name, "float32", device)[0])
        sides[FLOAT32] = partial(ours, FLOAT32, single, prompts)
    if len(firsts) < len(prompts):
        sides[FIRST] = partial(ours, FIRST, model, firsts)
    sides[OURS] = partial(ours, OURS, model, prompts)
    compiling = 0.0
    with torch.inference_mode():
        sides[OURS]()
        if compiled:
            other = family.fuse(model_of(name, dtype, device)[0])
            family.compile_parts(other)
            sides[COMPILED] = partial(ours, COMPILED, other, prompts)
            compiling = _best(sides[COMPILED], 1) - _best(sides[COMPILED], 1)
    peak = peak_memory(device)
    with torch.inference_mode():
        for scheme, switches in switched.items():
            other = model_of(name, dtype, device)[0]
            other.switches = switches
            family.fuse(other)
            if compiled:
                family.compile_parts(other)
            side = f"{COMPILED if compiled else OURS}, {scheme}"
            sides[side] = partial(ours, side, other, prompts)
            sides[side]()
    if peer:
        ready = [replace(p, visuals=tuple(map(_normalised, p.visuals))) for p in prompts]
        sides |= {f"transformers, batch {n}": partial(peer, ready, n) for n in sizes}
    times: dict[str, list[float]] = {side: [] for side in sides}
    answers: dict[str, Answers] = {}
    rates = []
    with torch.inference_mode():
        for _ in range(rounds):
            rates.append(product_rate(DTYPES[dtype], device))
            for side, run in sides.items():
                times[side].append(_best(lambda: answers.update({side: run()}), 1))  # noqa: B023
        kernels = (
            {side: profiled(sides[side]) for side in (OURS, COMPILED) if side in sides}
            if device != "cpu"
            else {}
        )
    return Measured(
        prompts=prompts,
        firsts=firsts,
        times=times,
        answers=answers,
        engines=engines,
        kernels=kernels,
        rate=statistics.median(rates),
        copied=copy_rate(device),
        work=cost(prompts),
        unshared=cost(prompts, shared=False),
        itemsize=DTYPES[dtype].itemsize,
        peak=peak,
        visual_tokens=sum(family.visual_tokens(m) for p in prompts for m in p.media),
        compiling=compiling,
    )


def _normalised(visual: Visual) -> Visual:
    return replace(visual, patches=visual.pixels(torch.device("cpu")), normalise=None)


@dataclass(frozen=True)
class Kernels:
    """Seconds that a GPU spent in kernels, by kind, of ``wall`` seconds of a profiled run."""

    wall: float
    products: float
    attention: float
    copies: float
    other: float
    longest: tuple[tuple[str, float], ...]

    @property
    def busy(self) -> float:
        return (self.products + self.attention + self.copies + self.other) / self.wall


KINDS = {
    "attention": ("flash", "fmha", "attention", "sdp"),
    "products": ("gemm", "nvjet", "cutlass", "cublas", "splitk", "gemv"),
    "copies": ("memcpy", "memset"),
}
"""Words in the names of a GPU's kernels that tell what they are, asked in this order."""


def profiled(run: Callable[[], object]) -> Kernels:
    """What ran on the GPU while ``run`` did."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        wall = _best(run, 1)
    kinds, names = Counter[str](), Counter[str]()
    for event in seen.key_averages():
        seconds = event.self_device_time_total / 1e6
        kind = next(
            (k for k, words in KINDS.items() if any(w in event.key.lower() for w in words)), "other"
        )
        kinds[kind] += seconds
        names[event.key] += seconds
    return Kernels(
        wall,
        kinds["products"],
        kinds["attention"],
        kinds["copies"],
        kinds["other"],
        tuple(names.most_common(12)),
    )
