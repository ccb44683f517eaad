"""Training a nano model: one joint mix of families, each at the difficulty that it has earned.

The recipe's findings (learning rate, aligned cells first, difficulty gated by accuracy, loss on
answers only) are in the model card. A run is a function of its recipe: batches come from numbered
random streams and from gates that lag a fixed number of steps, so that a run which was killed goes
on from its last checkpoint with the same data.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace as with_changes
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.errors import EvalkitError
from evalkit.files import remove_parts, replace
from evalkit.malloc import give_back_freed_memory, keep_freed_memory
from evalkit.models.device import without_emulation
from evalkit.models.qwen2_vl.checkpoint import save
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen2_vl.fused import compile_parts
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.nano import tokenizer
from evalkit.nano.batches import BOXES, EXTRA, MOST, Batch, collate, make_batch
from evalkit.nano.curves import plot
from evalkit.nano.families import Family, draw
from evalkit.nano.muon import Muon
from evalkit.nano.recipe import Recipe
from evalkit.nano.scene import stream
from evalkit.nano.state import begin_with, remember, restore
from evalkit.palette import NO_PICTURES

TIDY = 100
"""After so many steps freed memory goes back to the system."""
GATE_QUESTIONS, GATE_STEP = 200, 0.02
HELD_OUT = 48
"""Scenes a family and difficulty in a row of the curve."""


def config(recipe: Recipe) -> Qwen2VLConfig:
    """The model's configuration; the vocabulary is the nano tokenizer's, padded to a multiple of
    64.
    """
    m, words = recipe.model, tokenizer.build()
    dim = m.width // m.heads
    t = dim // 8
    h = (dim // 2 - t) // 2
    vocabulary = words.get_vocab(with_added_tokens=True)
    ids = {s: vocabulary[s] for s in tokenizer.SPECIALS}
    return Qwen2VLConfig(
        VisionConfig(
            depth=m.vision_depth,
            embed_dim=m.vision_width,
            num_heads=m.vision_heads,
            hidden_size=m.width,
        ),
        TextConfig(
            vocab_size=-(-words.get_vocab_size() // 64) * 64,
            hidden_size=m.width,
            intermediate_size=m.intermediate,
            num_hidden_layers=m.depth,
            num_attention_heads=m.heads,
            num_key_value_heads=m.kv_heads,
            rms_norm_eps=1e-6,
            rope_theta=m.rope_theta,
            mrope_section=(t, h, dim // 2 - t - h),
        ),
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_ids=(ids["<|im_end|>"],),
        dtype="float32",
        trained_with=recipe.switches,
    )


def initialised(model: Qwen2VL) -> Qwen2VL:
    """Weights as the releases began: normal with deviation 0.02, biases zero. (torch's own
    initialisation did not learn to read.)
    """
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            nn.init.normal_(p, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    return model


def fresh(recipe: Recipe) -> Qwen2VL:
    """The recipe's model with drawn weights, ready to train. Weights follow torch's global seed."""
    return initialised(Qwen2VL(config(recipe))).train()


def patches_of(image: Image.Image) -> Tensor:
    """Patches [n, 1176] of an image, sides multiples of 28, as evaluation makes them."""
    return Processor().image(image)[0]


class MaskedProduct:
    """Attention as two products and a softmax; an ``Attend``.

    On short sequences the backward pass of the fused kernel is slower, here as in the vision tower
    (``SDPBackend.MATH`` below).
    """

    def __init__(self, mask: Tensor) -> None:
        self.bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[2] // k.shape[2]
        q, k, v = (
            q.transpose(1, 2),
            k.transpose(1, 2).repeat_interleave(groups, 1),
            v.transpose(1, 2).repeat_interleave(groups, 1),
        )
        weights = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 + self.bias
        return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def answer_logits(model: Qwen2VL, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, vocab] and labels [n] where an answer's token is predicted, and which question [n]
    each belongs to.
    """
    with sdpa_kernel(SDPBackend.MATH) if batch.ids.device.type == "cpu" else nullcontext():
        features = model.visual(batch.patches, batch.grids)
    x = model.embed(batch.ids, features)
    hidden = model.decode(x, *model.rotary(batch.positions), MaskedProduct(batch.mask), batch.ids)
    where = batch.labels != -100
    rows = torch.arange(len(batch.ids), device=x.device)[:, None].expand_as(where)
    return (
        model.lm_head(hidden[where]).float(),
        batch.labels[where],
        (rows * MOST + batch.question)[where],
    )


def loss_and_accuracy(model: Qwen2VL, batch: Batch) -> tuple[Tensor, float, float, int]:
    """Loss (each answer weighted by 1 / sqrt of its length); share of exact answers, share of right
    tokens, number of graded answers.
    """
    logits, labels, asked = answer_logits(model, batch)
    number, index, lengths = asked.unique(return_inverse=True, return_counts=True)
    weights = lengths[index].float().rsqrt()
    loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    right = logits.detach().argmax(-1) == labels
    exact = torch.ones(len(lengths), dtype=torch.bool, device=index.device)
    exact[index[~right]] = False
    graded = number % MOST < EXTRA
    return (
        loss,
        float(exact[graded].float().mean()),
        float(right[graded[index]].float().mean()),
        int(graded.sum()),
    )


class Gates:
    """The difficulty that each family has earned: it rises when the mean accuracy of about 200
    answers passes the recipe's gate.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.level: dict[Family, float] = {f: m.start for f, m in recipe.families.items()}
        self.seen: dict[str, list[float]] = {f: [0.0, 0.0] for f in recipe.families}

    def add(self, family: Family, accuracy: float, answers: int) -> None:
        seen, gate = self.seen[family], self.recipe.families[family].gate
        seen[0] += accuracy * answers
        seen[1] += answers
        if seen[1] >= GATE_QUESTIONS:
            mean = seen[0] / seen[1]
            if gate is not None and mean > gate:
                self.level[family] = min(
                    1.0, self.level[family] + GATE_STEP * (2 if mean > (1 + gate) / 2 else 1)
                )
            self.seen[family] = [0.0, 0.0]


def rate(recipe: Recipe, step: int) -> float:
    """The factor on all learning rates: a linear warm-up, constant for a while, then linear to 2
    per cent.
    """
    falling = max(0.0, (step / recipe.steps - recipe.decay_from) / (1 - recipe.decay_from))
    return min(1.0, (step + 1) / max(recipe.warmup, 1), 1 - 0.98 * falling)


def optimisers_of(recipe: Recipe, model: Qwen2VL) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, when the recipe has a rate for it; AdamW for the
    rest.

    Each group carries its full ``rate`` and the group of its stage that it belongs to (``half``:
    vision, merger or language).
    """
    groups: dict[tuple[bool, str, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        half = (
            "merger"
            if ".merger." in name
            else "vision"
            if name.startswith("visual.")
            else "language"
        )
        inside = p.ndim == 2 and (".blocks." in name or ".layers." in name or ".merger." in name)
        groups.setdefault((inside and recipe.muon is not None, half, p.ndim >= 2), []).append(p)

    def chosen(muon: bool, rate: float | None) -> list[dict[str, Any]]:
        decay = recipe.weight_decay
        return [
            {"params": ps, "half": half, "rate": rate, "weight_decay": decay if matrices else 0.0}
            for (m, half, matrices), ps in groups.items()
            if m == muon
        ]

    out: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            chosen(False, recipe.learning_rate),
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
    ]
    if recipe.muon is not None:
        out.append(Muon(chosen(True, recipe.muon), lr=recipe.muon))
    return out


def factors(recipe: Recipe, step: int) -> dict[str, float]:
    """The factor on the rates of each half of the model in the stage that a step belongs to."""
    stage = recipe.stage(step)
    return {
        "vision": stage.vision,
        "language": stage.language,
        "merger": max(stage.vision, stage.language),
    }


def set_rates(recipe: Recipe, step: int, optimisers: list[torch.optim.Optimizer]) -> None:
    """Sets learning rates for a step. Parameter groups whose factor is 0 in this stage are frozen
    (``requires_grad=False``).
    """
    now, factor = rate(recipe, step), factors(recipe, step)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * now * factor[group["half"]]
            for p in group["params"]:
                p.requires_grad_(factor[group["half"]] > 0)


Levels = dict[Family, float]


class Ahead:
    """The batches of the coming steps, in order: ``workers`` processes draw them, and a thread has
    the next one on the device. ``half`` as in ``make_batch``.
    """

    def __init__(self, recipe: Recipe, device: str, half: bool, workers: int) -> None:
        self.recipe, self.device, self.half = recipe, device, half
        self.pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=begin_worker
        )
        self.mover = ThreadPoolExecutor(1)
        self.drawn: deque[tuple[Levels, Future[Batch]]] = deque()
        self.following: Future[Batch] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.mover.shutdown()
        self.pool.shutdown()

    @property
    def levels(self) -> list[Levels]:
        """The difficulties of what is drawn and not taken yet."""
        return [levels for levels, _ in self.drawn]

    def order(self, step: int, levels: Mapping[Family, float]) -> None:
        """Has the batch of a step drawn at these difficulties; none beyond the recipe's end."""
        if step < self.recipe.steps:
            own = dict(levels)
            batch = self.pool.submit(make_batch, self.recipe, step, own, half=self.half)
            self.drawn.append((own, batch))

    def take(self) -> Batch:
        """The next batch, on the device."""
        batch = (self.following or self._move()).result()
        self.drawn.popleft()
        self.following = self._move() if self.drawn else None
        return batch

    def _move(self) -> Future[Batch]:
        _, drawn = self.drawn[0]
        return self.mover.submit(lambda: drawn.result().to(self.device))


def train(
    recipe: Recipe,
    out: Path,
    start: Path | None = None,
    resume: bool = True,
    save_seconds: float = 120.0,
    log_steps: int = 250,
    workers: int = 1,
) -> Path:
    """Runs the recipe to its end and exports to ``out/model``; goes on from ``out/state`` when
    there is one. Returns the export.

    ``start``: a checkpoint whose weights the run begins with, instead of drawn ones
    (``begin_with``). Runs on CUDA where there is any. Writes a state every ``save_seconds``, a row
    of ``out/curve.csv`` every ``log_steps``, its picture at the end. ``workers`` processes draw the
    batches; what they draw does not depend on their number.
    """
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = fresh(recipe).to(device)
    begun = resume and (out / "state" / "state.json").is_file()
    if start is not None and not begun:
        begin_with(model, start)
    optimisers = optimisers_of(recipe, model)
    mixed = recipe.bfloat16 and without_emulation("bfloat16", device) == "bfloat16"
    if recipe.compile:
        compile_parts(model)
    gates = Gates(recipe)
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "running": {}, "ahead": []}
    if begun:
        progress = restore(out / "state", recipe, model, optimisers)
        gates.level.update(progress["level"])
        gates.seen.update(progress["seen"])
        print(f"resumed at step {progress['step']}", flush=True)
    first, running, pending = progress["step"], progress["running"], progress["ahead"]
    remove_parts(out)
    curve = read_curve(out / "curve.csv", first)
    saved = time.monotonic()
    began = saved - progress["seconds"]
    with Ahead(recipe, device, mixed, workers) as batches:
        for i in range(recipe.ahead):
            batches.order(first + i, pending[i] if i < len(pending) else gates.level)
        for step in range(first, recipe.steps):
            batch = batches.take()
            set_rates(recipe, step, optimisers)
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                loss, exact, right, answers = loss_and_accuracy(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            gates.add(batch.family, right if batch.family in BOXES else exact, answers)
            total = running.setdefault(batch.family, [0.0, 0])
            running[batch.family] = [total[0] + float(loss.detach()), total[1] + 1]
            batches.order(step + recipe.ahead, gates.level)
            if (step + 1) % TIDY == 0:
                give_back_freed_memory()
            last, now = step + 1 == recipe.steps, time.monotonic()
            if last or (step + 1) % log_steps == 0:
                about = {
                    "step": step + 1,
                    "stage": recipe.stage(step).name,
                    "seconds": round(now - began, 1),
                }
                row = about | curve_row(recipe, model, running, gates)
                running.clear()
                print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
                curve.append(row)
                replace(out / "curve.csv", curve_text(curve))
            if last or now - saved > save_seconds:
                saved = now
                progress = {
                    "step": step + 1,
                    "seconds": now - began,
                    "running": running,
                    "level": gates.level,
                    "seen": gates.seen,
                    "ahead": batches.levels,
                }
                remember(out / "state", recipe, model, optimisers, progress)
    trained = export(model, out / "model")
    if curve:
        try:
            plot(out / "curve.csv", out / "curve.png")
        except ImportError:  # a picture less is no reason to end without a model
            print(NO_PICTURES)
    return trained


def begin_worker() -> None:
    """One thread, and an end when the trainer ends, however that comes."""
    torch.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def curve_row(
    recipe: Recipe, model: Qwen2VL, running: Mapping[str, list[float]], gates: Gates
) -> dict[str, Any]:
    """Of each family the mean loss since the row before (``running``: sum and number), its
    difficulty, and what is right of held-out scenes.
    """
    losses = {
        f"loss_{f}": round(running[f][0] / running[f][1], 4) if f in running else ""
        for f in recipe.families
    }
    levels = {f"gate_{f}": round(gates.level[f], 3) for f in recipe.families}
    return {**losses, **levels, **held_out(model, recipe)}


@torch.no_grad()
def held_out(model: Qwen2VL, recipe: Recipe) -> dict[str, float]:
    """Share of exact answers (of right tokens, for boxes), teacher-forced, on scenes of a stream
    that training doesn't use.
    """
    out = {}
    device = next(model.parameters()).device
    for i, family in enumerate(recipe.families):
        for difficulty in (0.1, 0.25, 0.6):
            rng = stream("dev", recipe.seed, i, int(difficulty * 100))
            drawn = [with_changes(draw(family, difficulty, rng), extra=()) for _ in range(HELD_OUT)]
            _, exact, right, _ = loss_and_accuracy(
                model, collate(family, drawn, model.switches).to(device)
            )
            name, value = (f"{family} tokens", right) if family in BOXES else (family, exact)
            out[f"{name}@{difficulty}"] = round(value, 3)
    return out


def export(model: Qwen2VL, folder: Path) -> Path:
    """Writes the model as a released checkpoint. Raises EvalkitError when the disk refuses."""
    try:
        with tempfile.TemporaryDirectory() as companions:
            tokenizer.write(Path(companions))
            save(model.cpu(), folder, companions=Path(companions), dtype="float32")
    except OSError as e:
        raise EvalkitError(f"{folder}: the model can't be written ({e})") from e
    return folder


def read_curve(path: Path, last: int) -> list[dict[str, Any]]:
    """The rows of a curve up to a step: a run that goes on from there makes the later ones again.
    Raises EvalkitError when there is a file and it can't be read.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, csv.Error) as e:
        raise EvalkitError(f"{path}: can't be read ({e}); remove it to begin a new curve") from e
    whole = [r for r in rows if None not in r.values() and str(r.get("step")).isdecimal()]
    by_step = {int(row["step"]): row for row in whole}  # a run of before 0.2 kept steps twice
    return [row for step, row in by_step.items() if step <= last]


def curve_text(rows: list[dict[str, Any]]) -> str:
    """A curve as CSV, columns those of its last row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[-1], restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
