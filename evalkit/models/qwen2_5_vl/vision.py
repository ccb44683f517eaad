"""The vision tower of Qwen2.5-VL: attention in windows, RMSNorm and SwiGLU (arXiv 2502.13923,
section 2.1.1).

All but four blocks attend within windows of 8x8 patches, cut from the top left of each frame pair;
those at its right and lower edge are smaller. Patches are put in the order of their windows before
the first block, so that a window is a segment, and their features are put back behind the merger.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from evalkit.models.qwen2_5_vl.config import VisionConfig
from evalkit.models.qwen2_5_vl.switches import Switches
from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.config import Tower
from evalkit.models.qwen2_vl.decoder import MLP, RMSNorm
from evalkit.models.qwen2_vl.rope import Grid, merged
from evalkit.models.qwen2_vl.vision import VisionTransformer as Qwen2VLVisionTransformer
from evalkit.models.qwen2_vl.vision import rotations, scopes

Norm = partial(RMSNorm, eps=1e-6)


def swiglu(config: Tower) -> MLP:
    """A block's MLP, with biases."""
    return MLP(config.width, config.inner, bias=True)


def windows(grids: Sequence[Grid], side: int) -> tuple[Tensor, list[int]]:
    """Indices of the visual tokens [tokens] in the order of their windows of ``side`` x ``side``
    tokens, in each frame pair the whole ones before the cut ones; and how many tokens each window
    has. Grids are in patches.
    """
    order: list[Tensor] = []
    sizes: list[int] = []
    start = 0
    for grid in grids:
        t, h, w = merged(grid)
        frame = torch.arange(h * w).view(h, w)
        cut = [part for rows in frame.split(side) for part in rows.split(side, dim=1)]
        cut.sort(key=Tensor.numel, reverse=True)  # equal ones side by side run as one batch
        within = torch.cat([part.flatten() for part in cut])
        order += [within + start + k * h * w for k in range(t)]
        sizes += [part.numel() for part in cut] * t
        start += t * h * w
    return torch.cat(order), sizes


class VisionTransformer(Qwen2VLVisionTransformer):
    """Patch embedding, blocks and merger."""

    config: VisionConfig
    switches: Switches

    def __init__(self, config: VisionConfig, switches: Switches = Switches()) -> None:
        super().__init__(config, switches, swiglu, Norm)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features [sum of t * h * w / 4, output] of packed patches [sum of t * h * w, 1176], items
        in the order of grids.
        """
        x = self.patch_embed(patches)  # [patches, width]
        cos, sin = rotations(grids, self.config, self.switches, x.device)
        whole = scopes(grids, self.switches, x.device)
        side, full = self._side(), self._full()
        if side is None or full.issuperset(range(len(self.blocks))):
            for block in self.blocks:
                x = block(x, cos, sin, whole)
            return self.merger(x)
        block_size = self.config.spatial_merge_size**2  # patches of a visual token
        order, sizes = windows(grids, side)
        order = order.to(x.device)
        x, cos, sin = (y.unflatten(0, (-1, block_size))[order].flatten(0, 1) for y in (x, cos, sin))
        parts = Segments([n * block_size for n in sizes], x.device)
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin, whole if number in full else parts)
        merged_ = self.merger(x)
        out = torch.empty_like(merged_)
        out[order] = merged_
        return out

    def _side(self) -> int | None:
        """Visual tokens on a side of a window; None where there are no windows."""
        pixels = self.switches.vision_window.pixels
        if pixels is None:
            pixels = self.config.window_size
        return pixels // (self.config.patch_size * self.config.spatial_merge_size) or None

    def _full(self) -> frozenset[int]:
        """The blocks that see the whole frame pair."""
        asked = self.switches.vision_full_layers
        if asked.every:
            return frozenset(range(len(self.blocks)))
        own = self.config.fullatt_block_indexes
        return frozenset(own if asked.numbers is None else asked.numbers)
