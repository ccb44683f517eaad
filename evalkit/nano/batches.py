"""Training batches: scenes as token sequences in which all questions on a scene share its image.

A row is the conversation up to the image, once, then for each question its own ending and answer. A
question sees the image and itself only, and its positions go on right behind the image, so that
each is exactly what a single question looks like in evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.positions import POSITIONS
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import Grid, Span, grid_tokens, merged
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.sampling import Sampling
from evalkit.nano import tokenizer as nano_tokenizer
from evalkit.nano.families import Family, draw
from evalkit.nano.recipe import Recipe
from evalkit.nano.scene import Question, Scene, digest, stream
from evalkit.protocols import LETTERED, QWEN2_VL_BOX, QWEN2_VL_WORDS

BOXES: tuple[Family, ...] = ("grounding", "contrasts", "grids")
"""Families whose answers are boxes."""
MIN_PIXELS = 4 * 28 * 28
"""Small clips stay small, as in the ``mini`` subset of video_qa."""
EXTRA, MOST = 6, 8
"""Questions from number EXTRA on are a scene's extra ones: learnt from, not graded. A row has fewer
than MOST in all.
"""
HEAD = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
TURN = "<|im_end|>\n<|im_start|>assistant\n"


def prompt(family: Family, question: Question) -> str:
    """The text behind the image, as the tasks word it (a test holds the two together); that of
    ``extra`` questions stands as it is.
    """
    if question.kind == "extra":
        return question.text
    if family in BOXES:
        return QWEN2_VL_BOX.text(expression=question.text)
    if family == "clips":
        return LETTERED.text(question.options, question=question.text)
    return QWEN2_VL_WORDS.text(question=question.text)


def target(family: Family, question: Question) -> str:
    """What the model learns to write; corners of boxes in steps of 10 of 1000, so that their last
    digit costs nothing to learn.
    """
    if family not in BOXES or question.kind == "extra":
        return question.answer
    rounded = re.sub(r"\d+", lambda n: str(min(990, round(int(n[0]) / 10) * 10)), question.answer)
    return f"<|box_start|>{rounded}<|box_end|>"


@dataclass(frozen=True)
class Batch:
    """Rows of one family, padded on the right.

    ids and labels [rows, tokens] (label -100: not learnt; a label stands where its token is
    predicted), question [rows, tokens] (-2 padding, -1 shared, else the question's number),
    positions [components, rows, tokens], patches [n, 1176], one grid a row.
    """

    family: Family
    ids: Tensor
    labels: Tensor
    question: Tensor
    positions: Tensor
    patches: Tensor
    grids: tuple[Grid, ...]

    @property
    def mask(self) -> Tensor:
        """Who sees whom [rows, 1, tokens, tokens]."""
        return sees(self.question)

    def to(self, device: str | torch.device) -> Batch:
        tensors = {
            k: getattr(self, k).to(device)
            for k in ("ids", "labels", "question", "positions", "patches")
        }
        return replace(self, **tensors)


def sees(owner: Tensor) -> Tensor:
    """Who sees whom [..., 1, tokens, tokens] of tokens that belong to ``owner`` [..., tokens]: -1
    shared by all, -2 padding, else the number of a question. Earlier ones that are shared or its
    own question's, and itself.
    """
    same = (owner[..., None, :] == -1) | (owner[..., None, :] == owner[..., :, None])
    n = owner.shape[-1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=owner.device).tril()
    itself = torch.eye(n, dtype=torch.bool, device=owner.device)
    return ((same & earlier) | itself)[..., None, :, :]


@lru_cache(maxsize=1)
def shipped_pictures() -> frozenset[str]:
    """Digests of every picture and clip of the ``mini`` subsets: few digits on few cells recur by
    chance, and are drawn again.
    """
    manifest = json.loads(
        (Path(__file__).parent.parent / "data" / "mini" / "manifest.json").read_text(
            encoding="utf-8"
        )
    )
    return frozenset(manifest["pictures"])


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    return nano_tokenizer.build()


def encode(text: str) -> list[int]:
    """Token ids of a text, special tokens among it."""
    return _tokenizer().encode(text, add_special_tokens=False).ids


def make_batch(
    recipe: Recipe, step: int, gates: Mapping[Family, float], half: bool = False
) -> Batch:
    """The batch of one training step; a function of its arguments alone. ``half``: patches in
    bfloat16, half as much to move.
    """
    rng = stream("train", recipe.seed, step)
    mix = recipe.stage(step).weights
    names, weights = list(mix), np.array(list(mix.values()))
    family = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    top, ladder = gates[family], recipe.families[family]
    scenes = []
    for _ in range(recipe.batch):
        near = rng.random() < ladder.near
        while True:
            difficulty = float(
                rng.uniform(max(0.0, top - 0.15), top) if near else rng.uniform(0.0, top)
            )
            seconds: float | None = None
            if ladder.seconds:
                shortest, longest = (round(2 * s) for s in ladder.seconds)
                seconds = float(rng.integers(shortest, longest + 1)) / 2
            scene = draw(family, difficulty, rng, seconds)
            if digest(scene) not in shipped_pictures():
                break
        scenes.append(scene)
    batch = collate(family, scenes, Switches().with_(recipe.switches))
    return replace(batch, patches=batch.patches.bfloat16()) if half else batch


def pixels(scene: Scene, processor: Processor) -> tuple[Tensor, Grid]:
    """Patches and grid as in evaluation, under the switches that the model is trained with."""
    if scene.image is not None:
        return processor.image(scene.image)
    assert scene.frames is not None
    shown = processor.frames(len(scene.frames), scene.fps)
    return processor.video(scene.frames[shown], Limits(MIN_PIXELS))


def step_seconds(scene: Scene, processor: Processor) -> float:
    """Seconds between the temporal steps of a clip, as evaluation counts them; 1 for a picture."""
    if scene.frames is None:
        return 1.0
    total = len(scene.frames)
    shown = Sampling(tuple(processor.frames(total, scene.fps)), total, scene.fps)
    return (1 if processor.switches.tube == "per_frame" else 2) / shown.rate


def collate(family: Family, scenes: list[Scene], switches: Switches) -> Batch:
    """A batch of these scenes, a row each."""
    processor = Processor(switches=switches)
    scheme = POSITIONS[switches.position]
    pad, image_pad = (
        encode("<|endoftext|>")[0],
        encode("<|image_pad|>" if family != "clips" else "<|video_pad|>")[0],
    )
    head, vision_end, end = (encode(t) for t in (HEAD, "<|vision_end|>", "<|im_end|>"))
    rows, patches, grids = [], [], []
    for scene in scenes:
        cut, grid = pixels(scene, processor)
        patches.append(cut)
        grids.append(grid)
        n = grid_tokens(grid)
        visual = Span(n, merged(grid), step_seconds(scene, processor))
        shared = [*head, *[image_pad] * n, *vision_end]
        ids, labels, question = list(shared), [-100] * len(shared), [-1] * len(shared)
        positions = [scheme.ids([Span(len(head)), visual, Span(len(vision_end))], switches)]
        for i, asked in [*enumerate(scene.questions), *enumerate(scene.extra, EXTRA)]:
            ask = encode(prompt(family, asked) + TURN)
            answer = encode(target(family, asked)) + end
            own = ask + answer
            ids += own[:-1]
            labels += [-100] * (len(ask) - 1) + answer
            question += [i] * (len(own) - 1)
            whole = scheme.ids(
                [Span(len(head)), visual, Span(len(vision_end) + len(own) - 1)], switches
            )
            positions.append(whole[:, len(shared) :])
        rows.append((ids, labels, question, torch.cat(positions, dim=1)))
    longest = max(len(r[0]) for r in rows)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (longest - len(values))

    return Batch(
        family,
        torch.tensor([padded(r[0], pad) for r in rows]),
        torch.tensor([padded(r[1], -100) for r in rows]),
        torch.tensor([padded(r[2], -2) for r in rows]),
        torch.stack(
            [torch.nn.functional.pad(r[3], (0, longest - r[3].shape[1])) for r in rows], dim=1
        ),
        torch.cat(patches),
        tuple(grids),
    )
