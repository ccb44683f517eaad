"""The same numbers sooner: projections that read the same input joined into one product,
temporaries that stay in a CPU's caches.

What lies between two attentions works token by token. On a CPU the fused layers do it for a
thousand tokens at a time, from the norm to the queries, keys and values, and from the mixture to
the next residual; on a GPU for all at once. Loaded models are changed in place; after ``fuse``
their weights no longer have the released names.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.interface import Attend
from evalkit.models.qwen2_vl.decoder import MLP, DecoderLayer, RMSNorm
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.rope import rotate
from evalkit.models.qwen2_vl.vision import Segments, VisionBlock, VisionMLP

ROWS = 1024
"""Tokens that a CPU takes at a time: fewer cost calls, more cost caches."""


def by_rows(work: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """What ``work`` makes of inputs [tokens, ...], which it treats token by token."""
    n, x = len(inputs[0]), inputs[0]
    if x.device.type != "cpu" or n <= ROWS:
        return work(*inputs)
    out: tuple[Tensor, ...] = ()
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        made = work(*(y[rows] for y in inputs))
        out = out or tuple(y.new_empty(n, *y.shape[1:]) for y in made)
        for whole, part in zip(out, made):
            whole[rows] = part
    return out


class FusedMLP(nn.Module):
    """``MLP`` with one product for gate and up."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), requires_grad=False
        )
        self.down_proj = mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.weight).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate).mul_(up))


class FusedVisionMLP(nn.Module):
    """``VisionMLP`` that overwrites its temporaries."""

    def __init__(self, mlp: VisionMLP) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2((1.702 * x).sigmoid_().mul_(x))


class FusedDecoderLayer(nn.Module):
    """``DecoderLayer`` with one product for queries, keys and values, and one for gate and up."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.layer, self.head_dim = attention.layer, attention.head_dim
        self.heads = [p.out_features // self.head_dim for p in parts]
        self.weight = nn.Parameter(torch.cat([p.weight for p in parts]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([p.bias for p in parts]), requires_grad=False)
        self.o_proj, self.mlp = attention.o_proj, FusedMLP(layer.mlp)
        self.input_layernorm, self.post_attention_layernorm = (
            layer.input_layernorm,
            layer.post_attention_layernorm,
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        q, k, v = by_rows(self._project, *(y.flatten(0, 1) for y in (x, cos, sin)))
        mixed = attend(self.layer, *(y.unflatten(0, x.shape[:2]) for y in (q, k, v)))
        (out,) = by_rows(self._finish, x.flatten(0, 1), mixed.flatten(0, 1).flatten(1))
        return out.view_as(x)

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        qkv = F.linear(self.input_layernorm(x), self.weight, self.bias).unflatten(
            -1, (-1, self.head_dim)
        )
        q, k, v = qkv.split(self.heads, dim=-2)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def _finish(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, ...]:
        x = x + self.o_proj(mixed)
        return (x + self.mlp(self.post_attention_layernorm(x)),)


class FusedVisionBlock(nn.Module):
    """``VisionBlock`` with one rotation for queries and keys."""

    def __init__(self, block: VisionBlock) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, FusedVisionMLP(block.mlp)
        self.heads, self.qkv, self.proj = block.attn.heads, block.attn.qkv, block.attn.proj

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        qk, v = by_rows(self._project, x, cos, sin)
        q, k = qk.chunk(2, dim=1)
        mixed = segments.attend(q, k, v)
        return by_rows(self._finish, x, mixed.flatten(1))[0]

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3 * self.heads, -1))
        qk, v = qkv.split((2 * self.heads, self.heads), dim=1)
        return rotate(qk.float(), cos, sin).to(v.dtype), v

    def _finish(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, ...]:
        x = x + self.proj(mixed)
        return (x + self.mlp(self.norm2(x)),)


def fuse(model: Qwen2VL) -> Qwen2VL:
    """Replaces every layer of a model that is not trained any more, in place, one at a time."""
    for i, block in enumerate(model.visual.blocks):
        assert isinstance(block, VisionBlock)
        model.visual.blocks[i] = FusedVisionBlock(block)
    for i, layer in enumerate(model.model.layers):
        assert isinstance(layer, DecoderLayer)
        model.model.layers[i] = FusedDecoderLayer(layer)
    return model


def compile_parts(model: Qwen2VL) -> Qwen2VL:
    """Compiles norms and MLPs, for any number of tokens. Takes 20 to 30 seconds at first use and a
    C++ compiler on a CPU.
    """
    for part in model.modules():
        if isinstance(part, RMSNorm | MLP | FusedMLP | VisionMLP | FusedVisionMLP):
            part.compile(dynamic=True)
    return model
