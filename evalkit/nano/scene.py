"""What is drawn: scenes with questions, from a seed and a difficulty.

``draw(family, difficulty, rng)`` makes one scene. Difficulty runs from 0 (one character per visual
token, one object) to 1 (free layout, sizes and shapes); the tiers of the ``mini`` subsets are
points and ranges on that scale. Everything comes from the generator that is passed in, so equal
seeds give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

Family = Literal["documents", "grounding", "clips", "words", "contrasts", "grids"]
Tier = Literal["easy", "medium", "hard"]
FAMILIES: tuple[Family, ...] = ("documents", "grounding", "clips", "words")
CELL = 28
"""Pixels on a side of one visual token."""


@dataclass(frozen=True)
class Question:
    """One question on a scene. ``answer`` is what a model should write; ``box`` is (x, y, width,
    height) in pixels.
    """

    text: str
    answer: str
    kind: str
    box: tuple[int, int, int, int] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A picture, or the frames [n, height, width, 3] of a clip at ``fps``, and what is asked about
    it; ``extra`` in training only.
    """

    questions: tuple[Question, ...]
    difficulty: float
    image: Image.Image | None = None
    frames: np.ndarray | None = None
    fps: float = 0.0
    extra: tuple[Question, ...] = ()


def draw(family: Family, difficulty: float, rng: np.random.Generator) -> Scene:
    """A scene of the family; difficulty in [0, 1]."""
    from . import clips, documents, grids, grounding, words

    make: dict[Family, Callable[[float, np.random.Generator], Scene]] = {
        "documents": documents.draw,
        "grounding": grounding.draw,
        "clips": clips.draw,
        "words": words.draw,
        "contrasts": partial(grounding.draw, alike=True),
        "grids": grids.draw,
    }
    return make[family](difficulty, rng)


def digest(scene: Scene) -> str:
    """The first 16 hex digits of SHA-256 over the pixels: the identity of a picture or clip."""
    pixels = scene.frames if scene.frames is not None else np.asarray(scene.image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def stream(split: Literal["train", "mini", "dev"], seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one part of the data; streams of different splits never meet, nor those
    of equally long different keys.
    """
    return np.random.default_rng([{"train": 0, "mini": 1, "dev": 2}[split], seed, *key])


def tier_difficulty(tier: Tier, rng: np.random.Generator) -> float:
    """easy is .1, medium .25, hard anything from .6 to 1."""
    return {"easy": 0.1, "medium": 0.25, "hard": float(rng.uniform(0.6, 1.0))}[tier]
