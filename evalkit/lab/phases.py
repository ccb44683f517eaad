"""The phase table: how far each axis turns the rotary frequencies over the trained span.

Under half a thousandth of a turn neighbouring places look alike; over one turn they come round
again. An axis has usable positions where some of its frequencies lie between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from evalkit.lab.pictures import Shows
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
    """The phase table of one arm, from the position ids and rotations of its model."""
    model: Any = fresh(study.run(arm, 0).recipe)
    # [components, cells] of 2 x 2 x 2, without time stamps between seconds
    ids = positions_of(model, Shows())((2, 2, 2), 0).float()[:, 1:9]
    out = {}
    for i, axis in enumerate(AXES):
        moved = ids[:, 4 >> i] - ids[:, 0]  # one step along the axis
        cos, sin = model.rotary((moved * STEP)[:, None, None])
        half = cos.shape[-1] // 2
        phase = torch.atan2(sin, cos)[..., :half].abs().flatten() / STEP
        span = study.grids.high[i] - 1
        moving = phase[phase > 1e-9] * span / (2 * math.pi)
        lowest, highest = (float(moving.min()), float(moving.max())) if len(moving) else (0.0, 0.0)
        out[axis] = Turns(lowest, highest, len(moving))
    return out
