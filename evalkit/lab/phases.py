"""The phase table: how far each axis turns the rotary frequencies over the trained span.

Under half a thousandth of a turn neighbouring places look alike; over one turn they come round
again. An axis has usable positions where some of its frequencies lie between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from evalkit.lab.pictures import Pictures
from evalkit.lab.study import Arm, Study
from evalkit.lab.trainer import positions_of
from evalkit.nano.train import fresh

AXES = ("second", "row", "column")
STEP = 1e-3
"""Positions moved by for a derivative: frequencies are at most 1, so the phase can't wrap."""


@dataclass(frozen=True)
class Turns:
    """Turns over the trained span of one axis: those of its slowest and its fastest frequency, and
    how many frequencies it moves. 0 of 0 where the axis moves none.
    """

    slowest: float
    fastest: float
    frequencies: int


def turns(study: Study, arm: Arm) -> dict[str, Turns]:
    """The phase table of one arm, from the position ids and rotations of its model. A step along an
    axis is one in a scene of 2 x 2 x 2 visual tokens, the span that of the trained scenes in visual
    tokens.
    """
    run = study.run(arm, 0)
    model: Any = fresh(run.recipe)
    ids = positions_of(model, run.shows)((2, 2, 2), 0).float()
    first = 1 + run.shows.stamps  # after the token that begins a scene
    next_ = (first + 4 + run.shows.stamps, first + 2, first + 1)
    pictures = Pictures(run.shows, model.switches)
    shown = [pictures.grid(cells) for cells in study.grids.grids()]
    out = {}
    for i, axis in enumerate(AXES):
        moved = ids[:, next_[i]] - ids[:, first]
        cos, sin = model.rotary((moved * STEP)[:, None, None])
        half = cos.shape[-1] // 2
        phase = torch.atan2(sin, cos)[..., :half].abs().flatten() / STEP
        span = max(grid[i] for grid in shown) - 1
        moving = phase[(phase > 1e-9) & (span > 0)] * span / (2 * math.pi)
        lowest, highest = (float(moving.min()), float(moving.max())) if len(moving) else (0.0, 0.0)
        out[axis] = Turns(lowest, highest, len(moving))
    return out
