"""The vision tower: patches of any number of images and videos in, one feature per 2x2 patches out
(paper section 2.1).

All images and clips of a call travel as one packed list of patches; attention stays inside each
frame pair of each item, so there is no padding and the result does not depend on what else is in
the pack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evalkit.models.qwen2_vl.attention import Segments
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


class VisionAttention(nn.Module):
    """The projections of a block's attention."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)


class VisionMLP(nn.Module):
    """Two layers with quick GELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.embed_dim * config.mlp_ratio)
        self.fc2 = nn.Linear(config.embed_dim * config.mlp_ratio, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class VisionBlock(nn.Module):
    """Norm, attention, norm, MLP, each pair added to the residual stream. ``project`` and
    ``finish`` are what lies before and behind attention; both act on each patch alone.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[patches, embed_dim] -> rotated queries and keys, and values, [patches, heads,
        head_dim]. Rotated in fp32, as released.
        """
        heads = self.attn.heads
        qkv = self.attn.qkv(self.norm1(x)).unflatten(-1, (3 * heads, -1))
        qk, v = qkv.split((2 * heads, heads), dim=1)
        q, k = rotate(qk.float(), cos, sin).to(v.dtype).chunk(2, dim=1)
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output [patches, embed_dim] for its input ``x`` and the attention output
        [patches, heads, head_dim].
        """
        x = x + self.attn.proj(attended.flatten(1))
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        return self.finish(x, segments.attend(*self.project(x, cos, sin)))


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
    """Patch embedding, blocks and merger."""

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
        c, switches = self.config, self.switches
        x = self.patch_embed(patches)  # [patches, embed_dim]
        cos, sin = vision_angles(  # [patches, head_dim]
            grids,
            c.head_dim,
            c.rope_theta,
            c.spatial_merge_size,
            x.device,
            switches.vision_position,
            time=switches.vision_time == "on",
        )
        if switches.vision_scope == "clip":
            lengths = [t * h * w for t, h, w in grids]
        else:  # each frame pair apart
            lengths = [h * w for t, h, w in grids for _ in range(t)]
        segments = Segments(lengths, x.device)
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(x)
