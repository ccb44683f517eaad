"""Training a nano model: one joint mix of families, each at the difficulty that it has earned.

The recipe's findings (learning rate, aligned cells first, difficulty gated by accuracy, loss on answers only) are in the model card. A run
is a function of its recipe: batches come from numbered random streams and from gates that lag a fixed number of steps, so that a run which
was killed goes on from its last checkpoint with the same data.
"""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evalkit.errors import UsageError
from evalkit.qwen2vl.ablation import Ablation
from evalkit.qwen2vl.checkpoint import save
from evalkit.qwen2vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.qwen2vl.model import Qwen2VL

from . import tokenizer
from .batches import Batch, collate, make_batch
from .recipe import Recipe
from .scene import Family, draw, stream

LAG = 6
"""Batches are drawn this many steps ahead, with the gates of that time."""
GATE_QUESTIONS, GATE_STEP = 200, 0.02


def config(recipe: Recipe) -> Qwen2VLConfig:
    """The model's configuration; the vocabulary is the nano tokenizer's, padded to a multiple of 64."""
    m, words = recipe.model, tokenizer.build()
    dim = m.width // m.heads
    t = dim // 8
    h = (dim // 2 - t) // 2
    vocabulary = words.get_vocab(with_added_tokens=True)
    ids = {s: vocabulary[s] for s in tokenizer.SPECIALS}
    return Qwen2VLConfig(
        VisionConfig(depth=m.vision_depth, embed_dim=m.vision_width, num_heads=m.vision_heads, hidden_size=m.width),
        TextConfig(
            vocab_size=-(-words.get_vocab_size() // 64) * 64,
            hidden_size=m.width,
            intermediate_size=m.intermediate,
            num_hidden_layers=m.depth,
            num_attention_heads=m.heads,
            num_key_value_heads=m.kv_heads,
            rope_theta=m.rope_theta,
            mrope_section=(t, h, dim // 2 - t - h),
        ),
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        dtype="float32",
        trained_with=recipe.switches,
    )


def initialised(model: Qwen2VL) -> Qwen2VL:
    """Weights as the releases began: normal with deviation 0.02, biases zero. (torch's own initialisation did not learn to read.)"""
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            nn.init.normal_(p, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    return model


class MaskedProduct:
    """Attention as two products and a softmax; an ``Attend``. Faster to train with on short sequences than the fused kernel."""

    def __init__(self, mask: Tensor) -> None:
        self.bias = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[2] // k.shape[2]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2).repeat_interleave(groups, 1), v.transpose(1, 2).repeat_interleave(groups, 1)
        weights = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 + self.bias
        return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def answer_logits(model: Qwen2VL, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, vocab] and labels [n] where an answer's token is predicted, and which question [n] each belongs to."""
    features = model.visual(batch.patches, batch.grids)
    images, videos = (None, features) if batch.family == "clips" else (features, None)
    x = model.embed(batch.ids, images, videos)
    hidden = model.model(x, *model.rotary(batch.positions), MaskedProduct(batch.mask))
    where = batch.labels != -100
    rows = torch.arange(len(batch.ids))[:, None].expand_as(where)
    return model.lm_head(hidden[where]).float(), batch.labels[where], (rows * 8 + batch.question)[where]


def loss_and_accuracy(model: Qwen2VL, batch: Batch) -> tuple[Tensor, float, float, int]:
    """Loss (each answer weighted by 1 / sqrt of its length), share of exact answers, share of right tokens, number of answers."""
    logits, labels, asked = answer_logits(model, batch)
    _, index, lengths = asked.unique(return_inverse=True, return_counts=True)
    weights = lengths[index].float().rsqrt()
    loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    right = logits.detach().argmax(-1) == labels
    wrong = torch.zeros(len(lengths)).index_add_(0, index, (~right).float())
    return loss, float((wrong == 0).float().mean()), float(right.float().mean()), len(lengths)


class Gates:
    """The difficulty that each family has earned: it rises when the mean accuracy of about 200 answers passes the recipe's gate."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.level: dict[Family, float] = {f: m.start for f, m in recipe.families.items()}
        self.seen: dict[str, list[float]] = {f: [0.0, 0.0] for f in recipe.families}

    def add(self, family: Family, accuracy: float, answers: int) -> None:
        seen = self.seen[family]
        seen[0] += accuracy * answers
        seen[1] += answers
        if seen[1] >= GATE_QUESTIONS:
            mean, gate = seen[0] / seen[1], self.recipe.families[family].gate
            if mean > gate:
                self.level[family] = min(1.0, self.level[family] + GATE_STEP * (2 if mean > (1 + gate) / 2 else 1))
            self.seen[family] = [0.0, 0.0]


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate: a linear warm-up, constant for a while, then linear to 2 per cent."""
    falling = max(0.0, (step / recipe.steps - recipe.decay_from) / (1 - recipe.decay_from))
    return recipe.learning_rate * min(1.0, (step + 1) / max(recipe.warmup, 1), 1 - 0.98 * falling)


def train(recipe: Recipe, out: Path, resume: bool = True, save_seconds: float = 120.0) -> Path:
    """Runs the recipe to its end and exports to ``out/model``; goes on from ``out/state`` when there is one. Returns the export."""
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    model = initialised(Qwen2VL(config(recipe), Ablation(**recipe.switches))).train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    gates, start, seconds = Gates(recipe), 0, 0.0
    pending: list[dict[Family, float]] = []
    if resume and (out / "state" / "state.json").is_file():
        start, seconds, pending = restore(out / "state", recipe, model, optimiser, gates)
        print(f"resumed at step {start}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    began = saved - seconds
    running: dict[str, list[float]] = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=begin_worker) as pool:
        ahead: deque[tuple[dict[Family, float], Future[Batch]]] = deque()

        def order(step: int, levels: dict[Family, float]) -> None:
            if step < recipe.steps:
                ahead.append((levels, pool.submit(make_batch, recipe, step, levels)))

        for i in range(LAG):
            order(start + i, pending[i] if i < len(pending) else dict(gates.level))
        for step in range(start, recipe.steps):
            batch = ahead.popleft()[1].result()
            for group in optimiser.param_groups:
                group["lr"] = rate(recipe, step)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                loss, exact, right, answers = loss_and_accuracy(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            gates.add(batch.family, right if batch.family == "grounding" else exact, answers)
            running.setdefault(batch.family, []).append(float(loss.detach()))
            order(step + LAG, dict(gates.level))
            last = step + 1 == recipe.steps
            if last or time.monotonic() - saved > save_seconds:
                saved = time.monotonic()
                progress = {"step": step + 1, "seconds": round(saved - began, 1)}
                remember(out / "state", recipe, model, optimiser, gates, progress, [levels for levels, _ in ahead])
                row = dict(progress)
                row |= {f"loss_{f}": round(sum(running.get(f, [0])) / max(len(running.get(f, [])), 1), 4) for f in recipe.families}
                row |= {f"gate_{f}": round(gates.level[f], 3) for f in recipe.families}
                row |= held_out(model, recipe)
                running.clear()
                log(out / "curve.csv", row)
    return export(model, out / "model")


@torch.no_grad()
def begin_worker() -> None:
    """One thread, and an end when the trainer ends, however that comes."""
    torch.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def held_out(model: Qwen2VL, recipe: Recipe, scenes: int = 48) -> dict[str, float]:
    """Share of exact answers (of right tokens, for boxes), teacher-forced, on scenes that training never draws."""
    out = {}
    for i, family in enumerate(recipe.families):
        for difficulty in (0.1, 0.25):
            rng = stream("dev", recipe.seed, i, int(difficulty * 100))
            drawn = [draw(family, difficulty, rng) for _ in range(scenes)]
            _, exact, right, _ = loss_and_accuracy(model, collate(family, drawn, model.ablation))
            name, value = (f"{family} tokens", right) if family == "grounding" else (family, exact)
            out[f"{name}@{difficulty}"] = round(value, 3)
    return out


def remember(
    folder: Path,
    recipe: Recipe,
    model: Qwen2VL,
    optimiser: torch.optim.Optimizer,
    gates: Gates,
    progress: dict[str, Any],
    ahead: list[dict[Family, float]],
) -> None:
    """Writes a checkpoint that a kill can't tear: tensors under a new name first, then the small file that points at them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    params = [p for g in optimiser.param_groups for p in g["params"]]
    by_id = {id(p): n for n, p in model.named_parameters()}
    for p in params:
        for key, value in optimiser.state[p].items():
            tensors[f"optimiser.{key}.{by_id[id(p)]}"] = value if value.ndim else value.reshape(1)
    file = folder / f"step-{progress['step']}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    state = {"schema_version": 1, **progress, "tensors": file.name, "level": gates.level, "seen": gates.seen, "ahead": ahead}
    state["recipe"] = recipe.model_dump(mode="json")
    part = folder / "state.json.part"
    part.write_text(json.dumps(state), encoding="utf-8")
    part.replace(folder / "state.json")
    for old in folder.glob("step-*.safetensors"):
        if old != file:
            old.unlink()


def restore(
    folder: Path, recipe: Recipe, model: Qwen2VL, optimiser: torch.optim.Optimizer, gates: Gates
) -> tuple[int, float, list[dict[Family, float]]]:
    """Loads what ``remember`` wrote; returns the next step, the seconds so far, and the gates of the batches that were under way.

    Raises UsageError when the state is that of another recipe.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["recipe"] != recipe.model_dump(mode="json"):
        changed = [k for k, v in recipe.model_dump(mode="json").items() if state["recipe"].get(k) != v]
        raise UsageError(f"{folder}: was begun with another recipe ({', '.join(changed)} differ); choose another --out")
    tensors = load_file(folder / state["tensors"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
            kept = {k.split(".")[1]: v for k, v in tensors.items() if k.startswith("optimiser.") and k.split(".", 2)[2] == name}
            optimiser.state[p] = {k: v.reshape(()) if k == "step" else v for k, v in kept.items()}
    gates.level.update(state["level"])
    gates.seen.update(state["seen"])
    return state["step"], state["seconds"], state["ahead"]


def export(model: Qwen2VL, folder: Path) -> Path:
    """Writes the model as a released checkpoint."""
    tokenizer.write(folder)
    save(model, folder, dtype="float32")
    return folder


def log(path: Path, row: dict[str, Any]) -> None:
    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
