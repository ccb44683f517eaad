"""The same numbers sooner: the layers of a loaded model with joined weights, run in blocks of rows.

Norms, projections, RoPE and the MLP act on each token alone. On a CPU the fused layers run them
over blocks of 1,024 tokens, so that intermediates stay in cache; on a GPU over the whole pack.
Attention itself is untouched. Products go to the library that is the faster on the processor.
Loaded models are changed in place; after ``fuse`` their weights no longer have the released names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.interface import Attend
from evalkit.engine.products import Linear
from evalkit.engine.quantised import quantise
from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.decoder import MLP, Attention, DecoderLayer, RMSNorm
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.vision import VisionBlock, VisionMLP

Model = TypeVar("Model", bound=Qwen2VL)
ROWS = 1024
"""Tokens that a CPU takes at a time: fewer cost calls, more cost caches."""


def by_rows(work: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """``work(*inputs)`` for inputs [tokens, ...] that it treats token by token."""
    n, x = len(inputs[0]), inputs[0]
    if x.device.type != "cpu" or n <= ROWS:
        return work(*inputs)
    out: tuple[Tensor, ...] = ()
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        parts = work(*(y[rows] for y in inputs))
        out = out or tuple(y.new_empty(n, *y.shape[1:]) for y in parts)
        for whole, part in zip(out, parts):
            whole[rows] = part
    return out


class FusedAttention(nn.Module):
    """``Attention`` with one product for queries, keys and values."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.head_dim = attention.head_dim
        self.heads = [p.out_features // self.head_dim for p in parts]
        self.qkv_proj = Linear(*parts)
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.o_proj = attention.o_proj

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # [tokens, hidden] -> [tokens, all heads, head_dim]
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split(self.heads, dim=-2)
        return self.q_norm(q), self.k_norm(k), v


class FusedMLP(nn.Module):
    """``MLP`` with one product for gate and up."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.gate_up_proj = Linear(mlp.gate_proj, mlp.up_proj)
        self.down_proj = mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
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
    """A ``DecoderLayer`` with joined weights, in blocks of rows."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        layer.add_module("self_attn", FusedAttention(layer.self_attn))
        if isinstance(layer.mlp, MLP):
            layer.add_module("mlp", FusedMLP(layer.mlp))
        self.layer = layer

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        q, k, v = by_rows(self.layer.project, *(y.flatten(0, 1) for y in (x, cos, sin)))
        q, k, v = (y.unflatten(0, x.shape[:2]) for y in (q, k, v))  # [batch, tokens, heads, ...]
        attended = attend(self.layer.number, q, k, v)
        (out,) = by_rows(self._finish, x.flatten(0, 1), attended.flatten(0, 1))
        return out.view_as(x)

    def _finish(self, x: Tensor, attended: Tensor) -> tuple[Tensor]:
        return (self.layer.finish(x, attended),)


class FusedVisionBlock(nn.Module):
    """A ``VisionBlock`` in blocks of rows."""

    def __init__(self, block: VisionBlock) -> None:
        super().__init__()
        fused = {VisionMLP: FusedVisionMLP, MLP: FusedMLP}.get(type(block.mlp))
        if fused:
            block.add_module("mlp", fused(block.mlp))
        self.block = block

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        q, k, v = by_rows(self.block.project, x, cos, sin)
        (out,) = by_rows(self._finish, x, segments.attend(q, k, v))
        return out

    def _finish(self, x: Tensor, attended: Tensor) -> tuple[Tensor]:
        return (self.block.finish(x, attended),)


def fuse(model: Model) -> Model:
    """Replaces every layer of a model that is not trained any more, in place, one at a time; then
    rounds what ``quantisation`` asks for.
    """
    for i, block in enumerate(model.visual.blocks):
        assert isinstance(block, VisionBlock)
        model.visual.blocks[i] = FusedVisionBlock(block)
    for i, layer in enumerate(model.model.layers):
        assert isinstance(layer, DecoderLayer)
        model.model.layers[i] = FusedDecoderLayer(layer)
    for part in [*model.modules()]:
        for name, child in part.named_children():
            if type(child) is nn.Linear:
                part.add_module(name, Linear(child))
    if (scheme := model.switches.quantisation) != "none":
        chosen = model.switches.quantised
        blocks = () if chosen == "decoder" else model.visual.blocks
        layers = () if chosen == "tower" else model.model.layers
        quantise((*blocks, *layers), scheme)
    return model


def compile_parts(model: Model) -> Model:
    """Compiles what lies between attention and attention, for any number of tokens; in place.

    On a GPU each layer's two sides of attention, whose element-wise work becomes a few kernels: the
    layers of a kind share their code, so that one of them is compiled. On a CPU norms and MLPs
    alone, whose blocks of rows stay in cache. Takes half a minute at first use, and on a CPU a C++
    compiler; what was compiled is kept in torch's cache on disk.
    """
    if model.device.type == "cpu":
        for part in model.modules():
            if isinstance(part, RMSNorm | MLP | FusedMLP | VisionMLP | FusedVisionMLP):
                part.compile(dynamic=True)
        return model
    for fused in (*model.visual.blocks, *model.model.layers):
        assert isinstance(fused, FusedVisionBlock | FusedDecoderLayer)
        part = fused.block if isinstance(fused, FusedVisionBlock) else fused.layer
        for name in ("project", "finish"):
            setattr(part, name, torch.compile(getattr(part, name), dynamic=True))
    return model
