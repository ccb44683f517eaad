"""Several models of a study trained in one process, as one stack of tensors (torch.func.vmap).

The arithmetic is that of ``trainer.train`` one model at a time, to rounding. It pays where starting
kernels costs more than running them, on a GPU; on a CPU with matrices of this size it doesn't, so
there studies train side by side in processes instead.

Arms may differ in switches that act through position ids and rotations, and in seed and text
jitter. Sizes, steps and rates must be equal.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from evalkit.errors import UsageError
from evalkit.lab.batches import Batch, Condition, with_contents
from evalkit.lab.trainer import Result, Run, hidden_states, measure, setting_of, training_batch
from evalkit.nano.muon import Muon, orthogonal
from evalkit.nano.train import fresh, optimisers_of, rate

SAME = "probe shows stages start steps batch model trained learning_rate muon rate".split()
"""Fields in which stacked runs must not differ."""
MAX_NORM, BETAS, EPS, MOMENTUM = 1.0, (0.9, 0.98), 1e-8, 0.95


@dataclass(frozen=True)
class Group:
    """How one parameter is stepped: by Muon or AdamW, at this full rate, with this weight decay."""

    muon: bool
    rate: float
    decay: float


class Loss(nn.Module):
    """The loss of one model on one batch, as a module so that its parameters can be exchanged."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(
        self, ids: Tensor, glyph: Tensor, labels: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        model: Any = self.model
        batch = with_contents(self.batch, ids, glyph)
        hidden = hidden_states(model, batch, cos, sin)
        logits = model.lm_head(hidden[self.batch.asked]).float()
        return F.cross_entropy(logits, labels)


def train_stacked(
    runs: Sequence[Run], conditions: Mapping[str, Condition], device: str = "cpu"
) -> list[Result]:
    """``trainer.train`` of every run, in one stack. Raises UsageError for runs that can't share
    one.

    Learning curves are left empty: reading losses back would stop the device at every step.
    """
    started = time.process_time()
    models = trained_stack(runs, device)
    seconds = round((time.process_time() - started) / len(runs), 2)
    out = []
    for run, model in zip(runs, models):
        measured = {name: measure(model, name, c, run) for name, c in conditions.items()}
        out.append(Result(seconds, sum(p.numel() for p in model.parameters()), (), measured))
    return out


def trained_stack(runs: Sequence[Run], device: str = "cpu") -> list[Any]:
    """The runs' models, trained as one stack. Raises UsageError for runs that can't share one."""
    first = runs[0]
    if unequal := [f for f in SAME if any(getattr(r, f) != getattr(first, f) for r in runs)]:
        raise UsageError(f"runs of one stack differ in {', '.join(unequal)}")
    if first.start or first.stages:
        raise UsageError("a stack trains all parts of drawn weights together: no start, no stages")
    models: list[Any] = []
    for run in runs:
        torch.manual_seed(run.seed)
        models.append(fresh(run.recipe).to(device))
    settings = [setting_of(r, m) for m, r in zip(models, runs)]
    groups = groups_of(first, models[0])
    base = copy.deepcopy(models[0])  # not on the meta device: that would untie the head
    stack, _ = stack_module_state(models)
    params = {k: v.detach().clone() for k, v in stack.items()}  # each [models, ...]
    steps = Steps(params, groups)
    for step in range(first.steps):
        batches = [training_batch(r, step, p) for r, p in zip(runs, settings)]
        if any(not torch.equal(b.owner, batches[0].owner) for b in batches):
            raise UsageError(
                f"probe {first.probe} asks other questions with every seed: not for one stack"
            )
        rotations = [m.rotary(b.positions.to(device)) for m, b in zip(models, batches)]
        cos, sin = (torch.stack(side) for side in zip(*rotations))
        ids, glyph, labels = (
            torch.stack(x).to(device)
            for x in zip(*((b.ids, b.glyph, b.labels[b.asked]) for b in batches))
        )
        loss = Loss(base, batches[0].to(device))

        def of_one(p: dict[str, Tensor], *inputs: Tensor, loss: Loss = loss) -> Tensor:
            named = {f"model.{k}": v for k, v in p.items()}
            out: Tensor = functional_call(loss, named, inputs, tie_weights=True)
            return out

        grads, _ = vmap(grad_and_value(of_one))(params, ids, glyph, labels, cos, sin)
        steps(grads, rate(first.recipe, step))
    for i, model in enumerate(models):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(params[name][i])
        model.eval().cpu()
    return models


def groups_of(run: Run, model: nn.Module) -> dict[str, Group]:
    """How ``optimisers_of`` would step each parameter, by name."""
    names = {id(p): n for n, p in model.named_parameters()}
    out = {}
    for optimiser in optimisers_of(run.recipe, model):  # type: ignore[arg-type]
        for group in optimiser.param_groups:
            for p in group["params"]:
                muon = isinstance(optimiser, Muon)
                out[names[id(p)]] = Group(muon, group["rate"], group["weight_decay"])
    return out


class Steps:
    """AdamW and Muon on stacked parameters [models, ...], with one clipping norm a model."""

    def __init__(self, params: dict[str, Tensor], groups: Mapping[str, Group]) -> None:
        self.params, self.groups = params, groups
        self.means = {k: torch.zeros_like(v) for k, v in params.items()}
        self.squares = {k: torch.zeros_like(v) for k, v in params.items() if not groups[k].muon}
        self.taken = 0

    def __call__(self, grads: Mapping[str, Tensor], factor: float) -> None:
        self.taken += 1
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
        clip = (MAX_NORM / (norms + 1e-6)).clamp(max=1.0)  # [models]
        for name, p in self.params.items():
            grad = grads[name] * clip.view(-1, *[1] * (p.ndim - 1))
            group = self.groups[name]
            rate_ = group.rate * factor
            p.mul_(1 - rate_ * group.decay)
            if group.muon:
                mean = self.means[name].lerp_(grad, 1 - MOMENTUM)
                size = max(p.shape[1:]) ** 0.5  # of one model's matrix, not of the stack
                p.add_(orthogonal(torch.lerp(grad, mean, MOMENTUM)), alpha=-rate_ * 0.2 * size)
            else:
                mean = self.means[name].lerp_(grad, 1 - BETAS[0])
                square = self.squares[name].mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
                corrected = (square / (1 - BETAS[1] ** self.taken)).sqrt() + EPS
                p.addcdiv_(mean / (1 - BETAS[0] ** self.taken), corrected, value=-rate_)
