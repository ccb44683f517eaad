"""The optimisers of ``evalkit.nano.train`` for a stack of models: AdamW and Muon (``nano.muon``) on
parameters [models, ...], with the rates, stages and clipping of each model.

What changes from step to step is read from a tensor, so that a CUDA graph of a step can be
replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.lab.trainer import Run
from evalkit.nano.muon import Muon, orthogonal
from evalkit.nano.train import factors, optimisers_of, rate

MAX_NORM, BETAS, EPS, MOMENTUM = 1.0, (0.9, 0.98), 1e-8, 0.95
HALVES = ("vision", "merger", "language")


@dataclass(frozen=True)
class Group:
    """How one parameter is stepped: by Muon or AdamW, at this full rate, with this weight decay, in
    which half of the model.
    """

    muon: bool
    rate: float
    decay: float
    half: str


def groups_of(run: Run, model: nn.Module) -> dict[str, Group]:
    """How ``optimisers_of`` would step each parameter, by name; rates at the factor 1."""
    names = {id(p): n for n, p in model.named_parameters()}
    out = {}
    recipe = run.model_copy(update={"rate": 1.0}).recipe
    for optimiser in optimisers_of(recipe, model):  # type: ignore[arg-type]
        for group in optimiser.param_groups:
            for p in group["params"]:
                muon = isinstance(optimiser, Muon)
                out[names[id(p)]] = Group(muon, group["rate"], group["weight_decay"], group["half"])
    return out


def schedule(runs: Sequence[Run], reads_pictures: bool = True) -> Tensor:
    """[steps, 4, halves, models]: the factor on the rates, whether the half learns at all (a tower
    that reads no pictures doesn't), and AdamW's two corrections for the steps that it has learnt.
    """
    out = np.ones((runs[0].steps, 4, len(HALVES), len(runs)))
    for k, run in enumerate(runs):
        recipe, taken = run.recipe, np.zeros(len(HALVES))
        for step in range(run.steps):
            of = factors(recipe, step)
            factor = np.array([of[h] * (reads_pictures or h == "language") for h in HALVES])
            taken += factor > 0
            t = np.maximum(taken, 1)
            out[step, :, :, k] = (
                rate(recipe, step) * factor * run.rate,
                factor > 0,
                1 - BETAS[0] ** t,
                1 - BETAS[1] ** t,
            )
    return torch.from_numpy(out).float()


class Steps:
    """Takes steps on stacked parameters, each model's gradients clipped to a norm of its own."""

    def __init__(
        self, params: dict[str, Tensor], groups: Mapping[str, Group], schedule: Tensor
    ) -> None:
        self.params, self.groups, self.schedule = params, groups, schedule
        self.now = schedule[0].clone()
        self.means = {k: torch.zeros_like(v) for k, v in params.items()}
        self.squares = {k: torch.zeros_like(v) for k, v in params.items() if not groups[k].muon}

    def at(self, step: int) -> None:
        """Sets the step that is taken next."""
        self.now.copy_(self.schedule[step])

    def __call__(self, grads: Mapping[str, Tensor]) -> None:
        learns = self.now[1]
        squares = [
            grads[k].flatten(1).square().sum(1) * learns[HALVES.index(g.half)]
            for k, g in self.groups.items()
        ]
        norms = torch.stack(squares).sum(0).sqrt()
        clip = (MAX_NORM / (norms + 1e-6)).clamp(max=1.0)  # [models]
        for name, p in self.params.items():
            group = self.groups[name]
            each = (-1, *[1] * (p.ndim - 1))
            now = self.now[:, HALVES.index(group.half)]
            factor, active, mean_to, square_to = (x.view(each) for x in now)
            grad, rate_ = grads[name] * clip.view(each), group.rate * factor
            p.mul_(1 - rate_ * group.decay)
            if group.muon:
                mean = self.means[name].lerp_(grad, (1 - MOMENTUM) * active)
                size = max(p.shape[1:]) ** 0.5  # of one model's matrix, not of the stack
                p.sub_(orthogonal(torch.lerp(grad, mean, MOMENTUM)) * (rate_ * 0.2 * size))
            else:
                mean = self.means[name].lerp_(grad, (1 - BETAS[0]) * active)
                square = self.squares[name].lerp_(grad.square(), (1 - BETAS[1]) * active)
                p.sub_(mean / mean_to / ((square / square_to).sqrt() + EPS) * rate_)
