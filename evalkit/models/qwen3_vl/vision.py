"""The vision tower of Qwen3-VL: a learned position table beside rotary positions, and DeepStack
(arXiv 2511.21631, sections 2.1 and 2.2).

The table has 48 x 48 positions, which are stretched over each image. Behind some blocks a merger of
its own makes features for the decoder's first layers; they lie beside those of the last block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.models.qwen2_vl.config import Tower
from evalkit.models.qwen2_vl.rope import Grid, in_blocks
from evalkit.models.qwen2_vl.vision import PatchEmbed, rotations, scopes
from evalkit.models.qwen2_vl.vision import VisionTransformer as Qwen2VLVisionTransformer
from evalkit.models.qwen3_vl.config import VisionConfig
from evalkit.models.qwen3_vl.switches import Switches


class VisionMLP(nn.Module):
    """Two layers with GELU in its tanh form between them."""

    def __init__(self, config: Tower) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.width, config.inner)
        self.linear_fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class PatchMerger(nn.Module):
    """Joins each 2x2 block of patches into one token of the decoder's width; ``joined_norm`` norms
    the four together rather than each.
    """

    def __init__(self, config: Tower, joined_norm: bool = False) -> None:
        super().__init__()
        self.wide = config.width * config.spatial_merge_size**2
        self.norm = nn.LayerNorm(self.wide if joined_norm else config.width, eps=1e-6)
        self.joined_norm = joined_norm
        self.linear_fc1 = nn.Linear(self.wide, self.wide)
        self.linear_fc2 = nn.Linear(self.wide, config.output)

    def forward(self, x: Tensor) -> Tensor:
        """[patches, width] -> [patches / 4, output]"""
        x = self.norm(x.view(-1, self.wide)) if self.joined_norm else self.norm(x)
        return self.linear_fc2(F.gelu(self.linear_fc1(x.view(-1, self.wide))))


def places(n: int, side: int, how: str) -> Tensor:
    """Where ``n`` patches along an axis lie on a table with ``side`` positions [n], fp32."""
    if how == "half_pixel":
        return ((torch.arange(n) + 0.5) * side / n - 0.5).clamp(0, side - 1)
    place = torch.linspace(0, side - 1, n)
    return place.round() if how == "nearest" else place


def corners(grids: Sequence[Grid], side: int, merge: int, how: str) -> tuple[Tensor, Tensor]:
    """The four table entries around each patch and their weights, both [patches, 4], patches in
    merge-block order.
    """
    entries, weights = [], []
    for t, h, w in grids:
        y, x = in_blocks(h, w, merge)
        a, b = places(h, side, how)[y], places(w, side, how)[x]
        low_a, low_b = a.long(), b.long()
        high_a, high_b = ((low + 1).clamp(max=side - 1) for low in (low_a, low_b))
        da, db = a - low_a, b - low_b
        near = [low_a * side + low_b, low_a * side + high_b]
        far = [high_a * side + low_b, high_a * side + high_b]
        shares = [(1 - da) * (1 - db), (1 - da) * db, da * (1 - db), da * db]
        entries.append(torch.stack(near + far, -1).repeat(t, 1))
        weights.append(torch.stack(shares, -1).repeat(t, 1))
    return torch.cat(entries), torch.cat(weights)


class VisionTransformer(Qwen2VLVisionTransformer):
    """Patch embedding, position table, blocks, and a merger for each of the features."""

    config: VisionConfig
    switches: Switches

    def __init__(self, config: VisionConfig, switches: Switches = Switches()) -> None:
        super().__init__(config, switches, VisionMLP)
        self.patch_embed = PatchEmbed(config, bias=True)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.width)
        self.merger = PatchMerger(config)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, joined_norm=True) for _ in config.deepstack_visual_indexes
        )

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features [sum of t * h * w / 4, (1 + chosen) * output] of packed patches [sum of t * h *
        w, 1536], items in the order of grids: those of the last block, then DeepStack's.
        """
        x = self.table(self.patch_embed(patches), grids)  # [patches, width]
        cos, sin = rotations(grids, self.config, self.switches, x.device)
        segments = scopes(grids, self.switches, x.device)
        blocks, features = self.config.deepstack_visual_indexes, []
        chosen, gain = self.switches.deepstack.chosen, self.switches.deepstack.gain
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin, segments)
            if number in blocks and (chosen is None or blocks.index(number) in chosen):
                feature = self.deepstack_merger_list[blocks.index(number)](x)
                features.append(feature if gain == 1 else feature * gain)
        return torch.cat([self.merger(x), *features], dim=-1)

    def table(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """``x`` [patches, width] with the learned positions added.

        The release interpolates in the precision of the weights, ``bilinear_fp32`` in fp32.
        """
        how = self.switches.vision_table
        if how == "off":
            return x
        c = self.config
        entries, weights = (
            y.to(x.device) for y in corners(grids, c.table_side, c.spatial_merge_size, how)
        )
        if how != "bilinear_fp32":
            weights = weights.to(self.pos_embed.weight.dtype)
        a, b, c_, d = (self.pos_embed(entries) * weights[..., None]).unbind(1)
        return x + (a + b + c_ + d).to(x.dtype)
