"""The MLP of a layer with experts (arXiv 1701.06538; Qwen3, arXiv 2505.09388, section 2).

A router gives each token a probability of every expert. The token passes the few likeliest, each a
SwiGLU, and their outputs are summed, weighted by these probabilities over their sum. Tokens are
grouped by expert, so that an expert multiplies once for all tokens that chose it, and its output is
added to theirs; experts take turns in the order of their numbers, whatever else is in the batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.products import Linear, linear
from evalkit.models.qwen2_vl.decoder import dense
from evalkit.models.qwen2_vl.fused import Model
from evalkit.models.qwen2_vl.fused import compile_parts as compile_others
from evalkit.models.qwen2_vl.fused import fuse as fuse_others
from evalkit.models.qwen3_vl_moe.config import TextConfig

FEW = 128
"""Tokens for which a GPU computes all experts: it would read most of their weights in any case, and
a CUDA graph of a decoding step can't hold numbers of tokens that the router chooses.
"""


class Experts(nn.Module):
    """SwiGLU MLPs of one size. ``gate_up_proj`` is [experts, 2 * inner, hidden], ``down_proj``
    [experts, hidden, inner].
    """

    def __init__(self, count: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)

    def __len__(self) -> int:
        return len(self.down_proj)

    def one(self, number: int, x: Tensor) -> Tensor:
        """What the expert with that number makes of x [tokens, hidden], in the same shape."""
        gate, up = linear(x, self.gate_up_proj[number]).chunk(2, dim=-1)
        return linear(F.silu(gate) * up, self.down_proj[number])

    def all(self, x: Tensor) -> Tensor:
        """What every expert makes of x [tokens, hidden]: [experts, tokens, hidden]."""
        x = x.expand(len(self), *x.shape)
        gate, up = torch.bmm(x, self.gate_up_proj.mT).chunk(2, dim=-1)
        return torch.bmm(F.silu(gate) * up, self.down_proj.mT)


class SeparateExperts(nn.Module):
    """``Experts`` each with layers of its own, for quantisation."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        stacks = zip(experts.gate_up_proj, experts.down_proj)
        self.mlps = nn.ModuleList(ExpertMLP(gate_up, down) for gate_up, down in stacks)

    def __len__(self) -> int:
        return len(self.mlps)

    def one(self, number: int, x: Tensor) -> Tensor:
        return self.mlps[number](x)

    def all(self, x: Tensor) -> Tensor:
        return torch.stack([mlp(x) for mlp in self.mlps])


class ExpertMLP(nn.Module):
    """One of them, over weights [2 * inner, hidden] and [hidden, inner] of the stacks."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = _linear(gate_up), _linear(down)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def _linear(weight: Tensor) -> Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return Linear(layer)


class Router(nn.Linear):
    """Scores of all experts. A kind of its own, since deployments quantise every linear layer of
    the decoder but this one.
    """


class SparseMLP(nn.Module):
    """Experts behind a router. Under tensor parallelism only some of the experts are here, from
    the number ``first`` on, and outputs are summed over all ranks.
    """

    first, is_shared = 0, False

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.gate = Router(config.hidden_size, config.num_experts, bias=False)
        self.experts: Experts | SeparateExperts = Experts(
            config.num_experts, config.hidden_size, config.moe_intermediate_size
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]"""
        tokens = x.flatten(0, -2)
        static = x.is_cuda and (len(tokens) <= FEW or torch.cuda.is_current_stream_capturing())
        way = self.at_once if static else self.grouped
        out = way(tokens, *self.route(tokens))
        if self.is_shared:
            dist.all_reduce(out)
        return out.view_as(x)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shares and the numbers of each token's experts, both [tokens, chosen], for x [tokens,
        hidden]. Probabilities are in fp32, as in transformers.
        """
        shares, numbers = self.gate(x).softmax(-1, dtype=torch.float32).topk(self.chosen)
        shares = shares / shares.sum(-1, keepdim=True)
        return shares.to(x.dtype), numbers

    def grouped(self, x: Tensor, shares: Tensor, numbers: Tensor) -> Tensor:
        """The weighted sum [tokens, hidden], one expert after the other over its own tokens."""
        order = numbers.flatten().argsort(stable=True)
        hit, counts = (y.tolist() for y in numbers.unique(return_counts=True))
        rows = (order // self.chosen).split(counts)
        weights = shares.flatten()[order, None].split(counts)
        out = torch.zeros_like(x)
        for number, its, weight in zip(hit, rows, weights):
            if 0 <= (own := number - self.first) < len(self.experts):
                out.index_add_(0, its, self.experts.one(own, x[its]) * weight)
        return out

    def at_once(self, x: Tensor, shares: Tensor, numbers: Tensor) -> Tensor:
        """The same from all experts over all tokens, in shapes that don't depend on the choice."""
        weights = shares.new_zeros(len(x), len(self.gate.weight)).scatter(1, numbers, shares)
        weights = weights.T[self.first :][: len(self.experts), :, None]  # [experts, tokens, 1]
        # masked, since what nobody asked for may not be finite in half precision
        return (self.experts.all(x) * weights).masked_fill(weights == 0, 0).sum(0)


def sparse(config: TextConfig, number: int) -> nn.Module:
    """The MLP of the layer with that number, which has experts or not."""
    return SparseMLP(config) if config.has_experts(number) else dense(config, number)


def fuse(model: Model) -> Model:
    """What Qwen3-VL's does; with experts apart where they are quantised."""
    s = model.switches
    if s.quantisation != "none" and s.quantised != "tower":
        for part in model.modules():
            if isinstance(part, SparseMLP) and isinstance(part.experts, Experts):
                part.experts = SeparateExperts(part.experts)
    return fuse_others(model)


def share_out(model: Model, rank: int) -> Model:
    """Tells each layer which of its experts this rank has: as many as every other, in order."""
    for part in model.modules():
        if isinstance(part, SparseMLP):
            part.first, part.is_shared = rank * len(part.experts), True
    return model


def compile_parts(model: Model) -> Model:
    """Compiles what Qwen3-VL's does, in place, but for the experts: how many tokens each of them
    has is known on the device alone.
    """
    for part in model.modules():
        if isinstance(part, SparseMLP):
            part.forward = torch.compiler.disable(part.forward)  # type: ignore[method-assign]
    return compile_others(model)
