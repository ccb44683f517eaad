"""What ``evalkit bench`` needs of Qwen3-VL, beyond what Qwen2-VL's has."""

from __future__ import annotations

from pathlib import Path

from evalkit.models.qwen2_vl.bench import (
    compile_parts,
    decoder_attention,
    fuse,
    matrices,
    peer,
    placeholders,
    randomised,
    tower_attention,
    visual_tokens,
)
from evalkit.models.qwen2_vl.checkpoint import load_as
from evalkit.models.qwen2_vl.rope import MERGE
from evalkit.models.qwen3_vl.config import RELEASED, Qwen3VLConfig
from evalkit.models.qwen3_vl.model import Qwen3VL
from evalkit.models.qwen3_vl.processing import Processor
from evalkit.models.registry import LinearWeights

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


def load(folder: Path, dtype: str, device: str) -> Qwen3VL:
    """A checkpoint's model with the released names, not fused yet. Raises CheckpointError."""
    return load_as(Qwen3VL, folder, dtype, device)


def random_model(config: Qwen3VLConfig, dtype: str, device: str) -> Qwen3VL:
    """A model of that size with random weights."""
    return randomised(Qwen3VL, config, dtype, device)


def processor() -> Processor:
    """With the settings of the release."""
    return Processor()


def linear_weights(model: Qwen3VL) -> LinearWeights:
    """Weights of the linear layers of a model that is not fused; the position table is none."""
    tower = model.visual
    merged = matrices(tower.merger) + matrices(tower.deepstack_merger_list)
    return LinearWeights(
        per_patch=matrices(tower.patch_embed) + matrices(tower.blocks) + merged / MERGE**2,
        per_token=matrices(model.model.layers),
        per_new_token=model.lm_head.weight.numel(),
    )
