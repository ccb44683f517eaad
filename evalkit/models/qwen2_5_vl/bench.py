"""What ``evalkit bench`` needs of Qwen2.5-VL, beyond what Qwen2-VL's has."""

from __future__ import annotations

from pathlib import Path

from evalkit.engine.interface import Media
from evalkit.models.qwen2_5_vl.config import RELEASED, Qwen2_5VLConfig
from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
from evalkit.models.qwen2_5_vl.processing import Processor
from evalkit.models.qwen2_5_vl.vision import windows
from evalkit.models.qwen2_vl.bench import (
    compile_parts,
    decoder_attention,
    fuse,
    linear_weights,
    peer,
    placeholders,
    randomised,
    visual_tokens,
)
from evalkit.models.qwen2_vl.checkpoint import load_as

__all__ = [
    "compile_parts",
    "decoder_attention",
    "fuse",
    "linear_weights",
    "load",
    "peer",
    "placeholders",
    "processor",
    "random_model",
    "sizes",
    "tower_attention",
    "visual_tokens",
]

sizes = RELEASED


def load(folder: Path, dtype: str, device: str) -> Qwen2_5VL:
    """A checkpoint's model with the released names, not fused yet. Raises CheckpointError."""
    return load_as(Qwen2_5VL, folder, dtype, device)


def random_model(config: Qwen2_5VLConfig, dtype: str, device: str) -> Qwen2_5VL:
    """A model of that size with random weights."""
    return randomised(Qwen2_5VL, config, dtype, device)


def processor() -> Processor:
    """With the settings of the release."""
    return Processor()


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
