"""What ``evalkit bench`` needs of Qwen2.5-VL, beyond what Qwen2-VL's has."""

from __future__ import annotations

from pathlib import Path

from evalkit.models.qwen2_5_vl.config import RELEASED, Qwen2_5VLConfig
from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
from evalkit.models.qwen2_5_vl.processing import Processor
from evalkit.models.qwen2_vl.bench import (
    fuse,
    linear_weights,
    peer,
    placeholders,
    randomised,
    visual_tokens,
)
from evalkit.models.qwen2_vl.checkpoint import load_as

__all__ = [
    "fuse",
    "linear_weights",
    "load",
    "peer",
    "placeholders",
    "processor",
    "random_model",
    "sizes",
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
