"""A study on a released checkpoint: every arm adapts it with its own switches, the tower frozen.

As the papers on position schemes do it: the weights of a trained model, another scheme, some steps
of fine-tuning on the probe's scenes with the vision tower as it was (arXiv 2510.23095 freezes it
too); merger and language model learn. Scenes are drawn as clips and pages (``probes.drawing``) and
questions are asked in words, through the checkpoint's own processor and chat template; an answer is
its tokens and the end of the turn.
"""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.adapter import chat_messages
from evalkit.code import FINETUNE, code_of_module, source_of_module
from evalkit.errors import UsageError
from evalkit.lab.batches import Condition, options_of
from evalkit.lab.pictures import Shows
from evalkit.lab.trainer import LOGGED, CurvePoint, Measurement, Result, Run
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.attention import causal
from evalkit.models.qwen2_vl.chat import Chat
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.positions import POSITIONS
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import Span, merged
from evalkit.models.registry import model_type
from evalkit.models.sampling import Sampling
from evalkit.models.weights import weights_digest
from evalkit.nano.scene import stream
from evalkit.nano.train import rate
from evalkit.probes.drawing import FRAMES, frames
from evalkit.probes.scene import Probe, Question, Scene, shown
from evalkit.rows import ask
from evalkit.types import Image, Video

RATE = 1e-5
"""AdamW's learning rate for a released checkpoint, as those papers use."""
OWN_SIZE = Limits(min_pixels=4 * 28 * 28)
"""Scenes are small and are shown as they are, as the probes' tasks show them."""
WORDS = "bread coffee market river station garden window morning".split()


@dataclass(frozen=True)
class Checkpoint:
    """Where arms start from: a checkpoint folder of the Qwen2-VL family, and where to train."""

    folder: Path
    device: str = "cpu"

    @cached_property
    def digest(self) -> str:
        """What identifies its weights."""
        return weights_digest(self.folder)

    def check(self, runs: Sequence[Run]) -> None:
        """Raises UsageError where a run changes what a checkpoint fixes."""
        if (kind := model_type(self.folder)) != "qwen2_vl":
            raise UsageError(
                f"{self.folder}: a checkpoint of {kind}; studies start from those of qwen2_vl"
            )
        changes = {
            "shows": any(run.shows != Shows() for run in runs),
            "stages": any(run.stages for run in runs),
            "start": any(run.start for run in runs),
            "text_jitter": any(run.text_jitter for run in runs),
            "model": any(run.model != runs[0].model for run in runs),
        }
        if also := [name for name, changed in changes.items() if changed]:
            raise UsageError(
                "--start: arms of a checkpoint differ in switches alone; this study has also "
                f"{', '.join(also)}"
            )

    def key(self, run: Run, conditions: Mapping[str, Condition], source: bool = False) -> str:
        """The identity of a run from this checkpoint: sizes are the checkpoint's."""
        code = source_of_module(FINETUNE) if source else code_of_module(FINETUNE)
        own = f"{run.key(conditions, source)} from {self.digest} at {RATE:g} {code}".rstrip()
        return hashlib.sha256(own.encode()).hexdigest()[:12]

    def on(self, device: str) -> Checkpoint:
        """The same, trained on another device."""
        return replace(self, device=device)

    def train(self, run: Run, conditions: Mapping[str, Condition]) -> Result:
        """Fine-tunes one arm with one seed and measures it. Raises CheckpointError and
        UsageError.
        """
        started = time.process_time()
        torch.manual_seed(run.seed)
        config = Qwen2VLConfig.load(self.folder)
        switches = config.trained.with_(run.switches)
        model: Any = load(self.folder, "float32", self.device, switches)
        reader = Reader(
            run.asks(), Chat(self.folder, config), Processor.load(self.folder, switches)
        )
        curve = tuple(_fitted(model, run, reader, self.device))
        model.eval()
        measured = {n: _measured(model, n, c, run, reader) for n, c in conditions.items()}
        size = sum(p.numel() for p in model.parameters())
        return Result(round(time.process_time() - started, 2), size, curve, measured)


@dataclass(frozen=True)
class Asked:
    """One question as a checkpoint reads it. ids: prompt and answer; answer: where the answer's
    tokens begin; options: the first token of each option.
    """

    ids: list[int]
    answer: int
    patches: Tensor
    media: Any
    kind: str
    options: list[int]


@dataclass(frozen=True)
class Reader:
    """Turns scenes into what the checkpoint's model reads."""

    probe: Probe
    chat: Chat
    processor: Processor

    def asked(
        self, scene: Scene, question: Question, condition: Condition, rng: np.random.Generator
    ) -> Asked:
        """One question on a scene, as a condition shows it."""
        marks = shown(self.probe, scene, condition.view, rng)
        images = frames(scene.grid, marks)
        if len(images) == 1:
            pixels, media = self.processor.image_patches(images[0], OWN_SIZE)
        else:
            clip = [np.asarray(i) for i in images for _ in range(FRAMES)]
            resized = [self.processor.resize_frame(f, len(clip), OWN_SIZE) for f in clip]
            sampling = Sampling(tuple(range(len(clip))), len(clip), FRAMES)
            pixels, media = self.processor.video_patches(np.stack(resized), sampling)
        filler = scene.filler if condition.filler is None else condition.filler
        between = " ".join([*(WORDS * (filler // len(WORDS) + 1))[:filler], ""])
        part = Video(b"") if media.is_video else Image(b"")
        text = between + self.probe.text(question, scene.grid)
        rendered = self.chat.render(chat_messages(ask(part, text)))
        prompt = self.chat.encode(rendered, [media])
        said = self.chat.encode(f"{question.answer}<|im_end|>")
        options = [self.chat.encode(o)[0] for o in options_of(question)]
        patches = self.processor.normalise(pixels)
        return Asked([*prompt, *said], len(prompt), patches, media, question.kind, options)


def _fitted(model: Any, run: Run, reader: Reader, device: str) -> Iterator[CurvePoint]:
    """Fine-tunes the model; gives the points of its learning curve."""
    merger = {id(p) for p in model.visual.merger.parameters()}
    tower = {id(p) for p in model.visual.parameters()} - merger
    for p in model.parameters():
        p.requires_grad_(id(p) not in tower)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    seen = _Sums()
    for step in range(run.steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * run.rate * rate(run.recipe, step)
        shapes, contents = stream("train", 0, step), stream("train", run.seed + 1, step)
        for _ in range(run.batch):  # one sequence at a time: prompts have no padding
            scene = reader.probe.scene(contents, run.trained.draw(shapes))
            question = scene.questions[int(contents.integers(len(scene.questions)))]
            asked = reader.asked(scene, question, Condition(), contents)
            logits, labels = _answer(model, asked, device)
            loss = F.cross_entropy(logits, labels)
            (loss / run.batch).backward()
            seen.add(asked, logits.detach(), labels)
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if (step + 1) % LOGGED == 0 or step + 1 == run.steps:
            yield CurvePoint.of(step + 1, seen.measured())
            seen = _Sums()


def _answer(model: Any, asked: Asked, device: str) -> tuple[Tensor, Tensor]:
    """Logits [n, vocab] and labels [n] of an answer's tokens."""
    ids = torch.tensor([asked.ids[:-1]], device=device)
    positions = model.position_ids(asked.ids[:-1], [asked.media]).to(device)[:, None]
    (features,) = model.encode(asked.patches.to(device, model.dtype), [asked.media])
    x = model.embed(ids, features)
    hidden = model.decode(x, *model.rotary(positions), causal, ids)
    labels = torch.tensor(asked.ids[asked.answer :], device=device)
    return model.logits(hidden[0, asked.answer - 1 :]).float(), labels


@torch.no_grad()
def _measured(
    model: Any, name: str, condition: Condition, run: Run, reader: Reader
) -> dict[str, Measurement]:
    """Measures one condition, on scenes that all arms of a seed share."""
    probe = run.asks(condition)
    told = Reader(probe, reader.chat, reader.processor)
    contents = stream("dev", 1000 + run.seed, zlib.crc32(name.encode()))
    cells = condition.cells or run.trained
    own = model.switches
    if condition.text == "clamped":
        model.switches = own.with_({"text_offset": f"clamp:{_reach(run, reader, own)}"})
    elif condition.moved:
        model.switches = own.with_({"text_offset": f"add:{condition.moved}"})
    sums = _Sums()
    try:
        for _ in range(condition.scenes):
            scene = probe.scene(contents, cells.draw(contents))
            for question in scene.questions:
                asked = told.asked(scene, question, condition, contents)
                logits, labels = _answer(model, asked, str(model.device))
                sums.add(asked, logits, labels)
    finally:
        model.switches = own
    return sums.measured()


def _reach(run: Run, reader: Reader, switches: Any) -> int:
    """The furthest that text starts behind the start of a scene in training, in steps."""
    furthest = 1.0
    for grid in run.trained.grids():
        scene = Scene(grid, (), ())
        media = reader.asked(scene, _ANY, Condition(), np.random.default_rng(0)).media
        tokens = merged(media.grid)
        parts = [Span(1), Span(math.prod(tokens), tokens), Span(1)]
        ids = POSITIONS[switches.position].ids(parts, switches)
        furthest = max(furthest, float(ids[0, -1] - 1))
    return math.ceil(furthest)


_ANY = Question("colour", ("1", "1", "1"), "red", ())


class _Sums:
    """Sums over answers, by kind."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def add(self, asked: Asked, logits: Tensor, labels: Tensor) -> None:
        greedy = logits.argmax(-1)
        first = logits[0]
        best = max(asked.options, key=lambda t: float(first[t]))
        new = (
            float(F.cross_entropy(logits, labels)),
            float(bool((greedy == labels).all())),
            float(int(greedy[0]) in asked.options),
            float(best == int(labels[0])),
            1.0,
        )
        old = self.of.setdefault(asked.kind, [0.0] * 5)
        self.of[asked.kind] = [a + b for a, b in zip(old, new)]

    def measured(self) -> dict[str, Measurement]:
        out = {}
        for kind, (*sums, n) in self.of.items():
            nll, right, valid, choice = (round(s / n, 5) for s in sums)
            out[kind] = Measurement(nll, right, valid, choice, int(n))
        return out
