"""What ``evalkit bench`` needs of Qwen3-VL's mixtures of experts, beyond what Qwen3-VL's has."""

from __future__ import annotations

from dataclasses import replace

from evalkit.models.qwen3_vl.bench import decoder_attention as decoder_attention
from evalkit.models.qwen3_vl.bench import linear_weights as weights_but_experts
from evalkit.models.qwen3_vl.bench import load as load
from evalkit.models.qwen3_vl.bench import peer as peer
from evalkit.models.qwen3_vl.bench import placeholders as placeholders
from evalkit.models.qwen3_vl.bench import processor as processor
from evalkit.models.qwen3_vl.bench import random_model as random_model
from evalkit.models.qwen3_vl.bench import tower_attention as tower_attention
from evalkit.models.qwen3_vl.bench import visual_tokens as visual_tokens
from evalkit.models.qwen3_vl_moe.config import RELEASED
from evalkit.models.qwen3_vl_moe.experts import Experts
from evalkit.models.qwen3_vl_moe.experts import compile_parts as compile_parts
from evalkit.models.qwen3_vl_moe.experts import fuse as fuse
from evalkit.models.qwen3_vl_moe.model import Qwen3VLMoe
from evalkit.models.registry import LinearWeights

sizes = RELEASED


def linear_weights(model: Qwen3VLMoe) -> LinearWeights:
    """Weights of the linear layers, as in Qwen3-VL; of experts those that a token passes."""
    found, text = weights_but_experts(model), model.config.text
    stored = sum(
        p.numel() for m in model.modules() if isinstance(m, Experts) for p in m.parameters()
    )
    passed = stored * text.num_experts_per_tok // text.num_experts
    return replace(found, per_token=found.per_token + passed)
