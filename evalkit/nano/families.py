"""The families of scenes, and how hard they are.

``draw(family, difficulty, rng)`` makes one scene. Difficulty runs from 0 (one character per visual
token, one object) to 1 (free layout, sizes and shapes); the tiers of the ``mini`` subsets are
points and ranges on that scale. Everything comes from the generator that is passed in, so equal
seeds give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np

from evalkit.nano import clips, documents, grids, grounding, words
from evalkit.nano.scene import Scene

Family = Literal["documents", "grounding", "clips", "words", "contrasts", "grids"]
Tier = Literal["easy", "medium", "hard"]
FAMILIES: tuple[Family, ...] = ("documents", "grounding", "clips", "words")
"""The families of the ``mini`` subsets; the others are for training and twins."""

Draw = Callable[[float, np.random.Generator], Scene]
DRAW: Mapping[Family, Draw] = {
    "documents": documents.draw,
    "grounding": grounding.draw,
    "clips": clips.draw,
    "words": words.draw,
    "contrasts": partial(grounding.draw, alike=True),
    "grids": grids.draw,
}


def draw(
    family: Family, difficulty: float, rng: np.random.Generator, seconds: float | None = None
) -> Scene:
    """A scene of the family; difficulty in [0, 1]. ``seconds``: the length of a clip, instead of
    one that goes with the difficulty.
    """
    if seconds is not None and family == "clips":
        return clips.draw(difficulty, rng, seconds)
    return DRAW[family](difficulty, rng)


def tier_difficulty(tier: Tier, rng: np.random.Generator) -> float:
    """easy is .1, medium .25, hard anything from .6 to 1."""
    return {"easy": 0.1, "medium": 0.25, "hard": float(rng.uniform(0.6, 1.0))}[tier]
