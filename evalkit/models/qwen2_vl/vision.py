"""The vision tower: patches of any number of images and videos in, one feature per 2x2 patches out
(paper section 2.1).

All images and clips of a call travel as one packed list of patches; attention stays inside each
frame pair of each item, so there is no padding and the result does not depend on what else is in
the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.config import Tower
from evalkit.models.qwen2_vl.rope import Grid, rotate, vision_angles
from evalkit.models.qwen2_vl.switches import Switches

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class PatchEmbed(nn.Module):
    """The released Conv3d over 2 frames of a patch, kernel = stride, as the equal matrix product on
    flattened patches.
    """

    def __init__(self, config: Tower, bias: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(config.patch_features, config.width, bias)

    def forward(self, patches: Tensor) -> Tensor:
        """[patches, channels * 2 * height * width] -> [patches, width]"""
        return self.proj(patches.to(self.proj.weight.dtype))


class VisionAttention(nn.Module):
    """The projections of a block's attention."""

    def __init__(self, config: Tower) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)


class VisionMLP(nn.Module):
    """Two layers with quick GELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, config: Tower) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.inner)
        self.fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class VisionBlock(nn.Module):
    """Norm, attention, norm, MLP, each pair added to the residual stream. ``project`` and
    ``finish`` are what lies before and behind attention; both act on each patch alone.

    ``mlp`` (of a config) and ``norm`` (of a width) are the generation's.
    """

    def __init__(
        self,
        config: Tower,
        mlp: Callable[[Tower], nn.Module] = VisionMLP,
        norm: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(config.width), norm(config.width)
        self.attn = VisionAttention(config)
        self.mlp = mlp(config)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[patches, width] -> rotated queries and keys, and values, [patches, heads, head_dim].
        Rotated in fp32, as released.
        """
        heads = self.attn.heads
        qkv = self.attn.qkv(self.norm1(x)).unflatten(-1, (3 * heads, -1))
        qk, v = qkv.split((2 * heads, heads), dim=1)
        q, k = rotate(qk.float(), cos, sin).to(v.dtype).chunk(2, dim=1)
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output [patches, width] for its input ``x`` and the attention output
        [patches, heads, head_dim].
        """
        x = x + self.attn.proj(attended.flatten(1))
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        return self.finish(x, segments.attend(*self.project(x, cos, sin)))


class PatchMerger(nn.Module):
    """Joins each 2x2 block of patches (contiguous rows) into one token of the decoder's width."""

    def __init__(self, config: Tower, norm: Callable[[int], nn.Module] = LayerNorm) -> None:
        super().__init__()
        wide = config.width * config.spatial_merge_size**2
        self.wide = wide
        self.ln_q = norm(config.width)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, config.output))

    def forward(self, x: Tensor) -> Tensor:
        """[patches, width] -> [patches / 4, output]"""
        return self.mlp(self.ln_q(x).view(-1, self.wide))


class VisionTransformer(nn.Module):
    """Patch embedding, blocks and merger; ``mlp`` and ``norm`` as a block has them."""

    def __init__(
        self,
        config: Tower,
        switches: Switches = Switches(),
        mlp: Callable[[Tower], nn.Module] = VisionMLP,
        norm: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.config = config
        self.switches = switches
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config, mlp, norm) for _ in range(config.depth))
        self.merger: nn.Module = PatchMerger(config, norm)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features [sum of t * h * w / 4, output] of packed patches [sum of t * h * w, 1176],
        items in the order of grids.
        """
        device = patches.device
        cos, sin = rotations(grids, self.config, self.switches, device)
        return self.read(patches, cos, sin, scopes(grids, self.switches, device))

    def read(self, patches: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        """``forward`` with what follows from the grids given: rotations [patches, head_dim], and
        which patches see each other.
        """
        x = self.patch_embed(patches)  # [patches, width]
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(x)


def rotations(
    grids: Sequence[Grid], config: Tower, switches: Switches, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin [patches, head_dim] of a tower's positions."""
    return vision_angles(
        grids,
        config.head_dim,
        config.rope_theta,
        config.spatial_merge_size,
        device,
        switches.vision_position,
        time=switches.vision_time == "on",
    )


def scopes(grids: Sequence[Grid], switches: Switches, device: torch.device) -> Segments:
    """What patches attend to where no windows divide it: each frame pair apart, or the clip."""
    if switches.vision_scope == "clip":
        return Segments([t * h * w for t, h, w in grids], device)
    return Segments([h * w for t, h, w in grids for _ in range(t)], device)
