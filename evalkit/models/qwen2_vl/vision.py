"""The vision tower: patches of any number of images and videos in, one feature per 2x2 patches out
(paper section 2.1).

All images and clips of a call travel as one packed list of patches; attention stays inside each
frame pair of each item, so there is no padding and the result does not depend on what else is in
the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.models.qwen2_vl.config import VisionConfig
from evalkit.models.qwen2_vl.rope import Grid, rotate, vision_angles
from evalkit.models.qwen2_vl.switches import Switches


class PatchEmbed(nn.Module):
    """The released Conv3d over 2x14x14 pixels, kernel = stride, as the equal matrix product on
    flattened patches.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.patch_features, config.embed_dim, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """[patches, channels * 2 * 14 * 14] -> [patches, embed_dim]"""
        return self.proj(patches.to(self.proj.weight.dtype))


class Segments:
    """Which packed patches attend to each other: runs of given lengths.

    ``lengths`` in packed order, one per frame pair. Neighbours of equal length are batched:
    attention runs once for each such run, without a mask. In half precision on a GPU one
    variable-length kernel takes unequal lengths together (on equal ones it is the slower: 17.6 ms
    against 12.0 for 16 pages of 7,644 patches on an H200).
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        self.lengths, self.device, self.longest = lengths, device, max(lengths)
        self.runs = [(n, sum(1 for _ in run)) for n, run in groupby(lengths)]

    @cached_property
    def ends(self) -> Tensor:
        """[segments + 1]: where each begins, and the end."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32).to(self.device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Full attention inside each segment; q, k, v and the result are [patches, heads,
        head_dim].
        """
        if (
            q.is_cuda
            and q.dtype != torch.float32
            and len(self.runs) > 1
            and (varlen := _varlen_attention())
        ):
            mixed = varlen(q, k, v, self.ends, self.ends, self.longest, self.longest)
            assert isinstance(mixed, Tensor)
            return mixed
        out, start = [], 0
        for n, count in self.runs:
            run = slice(start, start := start + n * count)
            parts = [x[run].unflatten(0, (count, n)).transpose(1, 2) for x in (q, k, v)]
            out.append(attention(*parts).transpose(1, 2).flatten(0, 1))
        return torch.cat(out) if len(out) > 1 else out[0]


@lru_cache(maxsize=1)
def _varlen_attention() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn  # takes more than a second
    except ImportError:  # torch before 2.10
        return None
    return varlen_attn


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full attention [..., tokens, head_dim]. In bfloat16 on a CPU as products, 256 queries at a
    time: over twice as fast as the kernel.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    keys, v = k.transpose(-1, -2).contiguous(), v.contiguous()
    out = torch.empty_like(q)
    for i in range(0, q.shape[-2], 256):
        weights = (q[..., i : i + 256, :] * q.shape[-1] ** -0.5) @ keys
        out[..., i : i + 256, :] = weights.softmax(-1) @ v
    return out


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        q, k = (rotate(y.float(), cos, sin).to(v.dtype) for y in (q, k))
        return self.proj(segments.attend(q, k, v).flatten(1))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.embed_dim * config.mlp_ratio)
        self.fc2 = nn.Linear(config.embed_dim * config.mlp_ratio, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, segments)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Joins each 2x2 block of patches (contiguous rows) into one token of the decoder's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.width = config.embed_dim * config.spatial_merge_size**2
        self.ln_q = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, config.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[patches, embed_dim] -> [patches / 4, hidden_size]"""
        return self.mlp(self.ln_q(x).view(-1, self.width))


class VisionTransformer(nn.Module):
    def __init__(self, config: VisionConfig, switches: Switches = Switches()) -> None:
        super().__init__()
        self.config = config
        self.switches = switches
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features [sum of t * h * w / 4, hidden_size] of packed patches [sum of t * h * w, 1176],
        items in the order of grids.
        """
        c = self.config
        x = self.patch_embed(patches)
        a = self.switches
        time = a.vision_time == "on"
        cos, sin = vision_angles(
            grids, c.head_dim, c.rope_theta, c.spatial_merge_size, x.device, a.vision_position, time
        )
        clips = a.vision_scope == "clip"
        segments = Segments(
            [n for t, h, w in grids for n in ([t * h * w] if clips else [h * w] * t)], x.device
        )
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(x)
