"""What ``evalkit bench`` needs of Qwen2.5-VL, beyond what Qwen2-VL's has."""

from __future__ import annotations

from evalkit.engine.interface import Media
from evalkit.models.qwen2_5_vl.config import RELEASED, Qwen2_5VLConfig
from evalkit.models.qwen2_5_vl.processing import Processor
from evalkit.models.qwen2_5_vl.vision import windows
from evalkit.models.qwen2_vl.bench import compile_parts as compile_parts
from evalkit.models.qwen2_vl.bench import decoder_attention as decoder_attention
from evalkit.models.qwen2_vl.bench import fuse as fuse
from evalkit.models.qwen2_vl.bench import linear_weights as linear_weights
from evalkit.models.qwen2_vl.bench import load as load
from evalkit.models.qwen2_vl.bench import peer as peer
from evalkit.models.qwen2_vl.bench import placeholders as placeholders
from evalkit.models.qwen2_vl.bench import random_model as random_model
from evalkit.models.qwen2_vl.bench import visual_tokens as visual_tokens

sizes = RELEASED
processor = Processor


def tower_attention(config: Qwen2_5VLConfig, media: Media) -> float:
    """Operations of the tower's attention over an image or video: in windows, but for the blocks
    that see whole frame pairs.
    """
    v, (t, h, w) = config.vision, media.grid
    whole = len(v.fullatt_block_indexes)
    side = v.window_size // (v.patch_size * v.spatial_merge_size)
    _, tokens = windows([media.grid], side)
    parts = sum((n * v.spatial_merge_size**2) ** 2 for n in tokens)
    return 4.0 * v.width * (whole * t * (h * w) ** 2 + (v.depth - whole) * parts)
