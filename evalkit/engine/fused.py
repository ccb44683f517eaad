"""The same numbers from fewer operations: projections that read the same input joined into one product, element-wise parts compiled.

Both change a loaded model in place; after ``fuse`` its weights no longer have the released names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.qwen2vl.decoder import MLP, Attend, Attention, DecoderLayer, RMSNorm
from evalkit.qwen2vl.model import Qwen2VL
from evalkit.qwen2vl.rope import rotate
from evalkit.qwen2vl.vision import VisionMLP


class FusedAttention(nn.Module):
    """``Attention`` with one product for queries, keys and values."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.layer, self.head_dim = attention.layer, attention.head_dim
        self.heads = [p.out_features // self.head_dim for p in parts]
        self.weight = nn.Parameter(torch.cat([p.weight for p in parts]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([p.bias for p in parts]), requires_grad=False)
        self.o_proj = attention.o_proj

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        qkv = F.linear(x, self.weight, self.bias).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split(self.heads, dim=-2)
        return self.o_proj(attend(self.layer, rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(-2))


class FusedMLP(nn.Module):
    """``MLP`` with one product for gate and up."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), requires_grad=False)
        self.down_proj = mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.weight).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate).mul_(up))


def fuse(model: Qwen2VL) -> Qwen2VL:
    """Joins the projections of every decoder layer, in place, one layer at a time."""
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        layer.self_attn = FusedAttention(layer.self_attn)  # type: ignore[assignment]
        layer.mlp = FusedMLP(layer.mlp)  # type: ignore[assignment]
    return model


def compile_parts(model: Qwen2VL) -> Qwen2VL:
    """Compiles norms and MLPs, for any number of tokens. Takes 20 to 30 seconds at first use and a C++ compiler on a CPU."""
    for part in model.modules():
        if isinstance(part, RMSNorm | MLP | FusedMLP | VisionMLP):
            part.compile(dynamic=True)
    return model
