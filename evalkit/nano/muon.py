"""Muon (Jordan et al., kellerjordan.github.io/posts/muon): momentum for matrices, its directions
made equally strong.

torch's own Muon multiplies in bfloat16, which most CPUs only emulate, one matrix at a time. This
one multiplies in the parameters' own type, matrices of one shape together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic whose iteration brings every singular value near 1; the author's."""
STEPS, EPS = 5, 1e-7


def orthogonal(x: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to x [n, rows, columns], nearly: singular values come
    out between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=EPS)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For 2D parameters. Steps are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982,
    2.2), so that rates are alike.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, same in shapes.items():
                grads = [p.grad for p in same if p.grad is not None]
                means = [
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in same
                ]
                torch._foreach_lerp_(means, grads, 1 - group["momentum"])
                nesterov = torch.stack(torch._foreach_lerp(grads, means, group["momentum"]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(same, orthogonal(nesterov).unbind(), alpha=-rate)
