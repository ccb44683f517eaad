"""What can be known at best: ideal observers of a probe, by what they know of a scene."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np

from evalkit.probes.scene import Cells, Knowledge, Probe, Range

SCENES = 400
"""About so many scenes are asked about, the same number of every grid."""
KNOWLEDGE: tuple[Knowledge, ...] = get_args(Knowledge)


@dataclass(frozen=True)
class Ceiling:
    """The best that can be done with a view: share right, and NLL in nats."""

    right: float
    nll: float


def ceilings(
    probe: Probe, cells: Range, scenes: int = SCENES
) -> Mapping[Knowledge, Mapping[str, Ceiling]]:
    """What an ideal observer reaches on each kind of question, by what it knows.

    The mean over drawn scenes of its exact beliefs: the probability that it gives to the likeliest
    answer, and the entropy. A grid in proportion as often as it is drawn.
    """
    return _ceilings(type(probe), probe.limits, cells.low, cells.high, cells.most, scenes)


@lru_cache(maxsize=128)
def _ceilings(
    kind: type[Probe], limits: Cells, low: Cells, high: Cells, most: int, scenes: int
) -> Mapping[Knowledge, Mapping[str, Ceiling]]:
    probe, cells = kind(limits), Range(low=low, high=high, most=most)
    rng = np.random.default_rng(0)
    grids = cells.grids()
    beliefs: dict[Knowledge, dict[str, list[dict[str, float]]]] = {
        k: {q: [] for q in probe.kinds} for k in KNOWLEDGE
    }
    for grid in grids:
        for _ in range(max(4, scenes // len(grids))):
            scene = probe.scene(rng, grid)
            for question in scene.questions:
                for known in KNOWLEDGE:
                    belief = probe.posterior(scene, question, known, cells)
                    beliefs[known][question.kind].append(belief)
    return {
        known: {q: _mean(of) for q, of in asked.items() if of} for known, asked in beliefs.items()
    }


def _mean(beliefs: list[dict[str, float]]) -> Ceiling:
    right = sum(max(b.values()) for b in beliefs) / len(beliefs)
    nll = sum(-p * math.log(p) for b in beliefs for p in b.values() if p > 0) / len(beliefs)
    return Ceiling(right, nll)
