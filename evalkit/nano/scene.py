"""What is drawn: a scene, the questions on it, and the random numbers that it is drawn from.

``evalkit.nano.families`` says what kinds of scenes there are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

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


def digest(scene: Scene) -> str:
    """The first 16 hex digits of SHA-256 over the pixels: the identity of a picture or clip."""
    pixels = scene.frames if scene.frames is not None else np.asarray(scene.image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def stream(split: Literal["train", "mini", "dev"], seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one part of the data; streams of different splits never meet, nor those
    of equally long different keys.
    """
    return np.random.default_rng([{"train": 0, "mini": 1, "dev": 2}[split], seed, *key])
