"""What ``evalkit bench`` needs of Qwen3-VL, beyond what Qwen2-VL's has."""

from __future__ import annotations

from evalkit.models.qwen2_vl.bench import compile_parts as compile_parts
from evalkit.models.qwen2_vl.bench import decoder_attention as decoder_attention
from evalkit.models.qwen2_vl.bench import fuse as fuse
from evalkit.models.qwen2_vl.bench import load as load
from evalkit.models.qwen2_vl.bench import matrices
from evalkit.models.qwen2_vl.bench import peer as peer
from evalkit.models.qwen2_vl.bench import placeholders as placeholders
from evalkit.models.qwen2_vl.bench import random_model as random_model
from evalkit.models.qwen2_vl.bench import tower_attention as tower_attention
from evalkit.models.qwen2_vl.bench import visual_tokens as visual_tokens
from evalkit.models.qwen2_vl.rope import MERGE
from evalkit.models.qwen3_vl.config import RELEASED
from evalkit.models.qwen3_vl.model import Qwen3VL
from evalkit.models.qwen3_vl.processing import Processor
from evalkit.models.registry import LinearWeights

sizes = RELEASED
processor = Processor


def linear_weights(model: Qwen3VL) -> LinearWeights:
    """Weights of the linear layers of a model that is not fused; the position table is none."""
    tower = model.visual
    merged = matrices(tower.merger) + matrices(tower.deepstack_merger_list)
    return LinearWeights(
        per_patch=matrices(tower.patch_embed) + matrices(tower.blocks) + merged / MERGE**2,
        per_token=matrices(model.model.layers),
        per_new_token=model.lm_head.weight.numel(),
    )
