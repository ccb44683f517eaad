"""What ``evalkit bench`` needs of Qwen2-VL: random weights in the released sizes, what its linear
layers cost, and the same model in `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalkit.engine.interface import Media
from evalkit.engine.sequence import Prompt
from evalkit.models.device import DTYPES
from evalkit.models.qwen2_vl.checkpoint import load_as, transformers_state
from evalkit.models.qwen2_vl.config import RELEASED, Qwen2VLConfig
from evalkit.models.qwen2_vl.fused import compile_parts as compile_parts
from evalkit.models.qwen2_vl.fused import fuse as fuse
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import MERGE, grid_tokens
from evalkit.models.registry import LinearWeights, family, family_of

sizes = RELEASED
processor = Processor


def load(folder: Path, dtype: str, device: str) -> Qwen2VL:
    """A checkpoint's model with the released names, not fused yet. Raises CheckpointError."""
    model: Qwen2VL = load_as(family_of(folder).Model, folder, dtype, device)
    return model


def random_model(config: Qwen2VLConfig, dtype: str, device: str) -> Qwen2VL:
    """A model of that generation and size with random weights."""
    with torch.device("meta"):
        model: Qwen2VL = family(config.model_type).Model(config).to(DTYPES[dtype])
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim == 1 and ("norm" in key or "ln_q" in key):
                p.fill_(1.0 if key.endswith("weight") else 0.0)
            else:
                p.normal_(0, 0.02, generator=generator)
    return model.eval().requires_grad_(False)


def placeholders(config: Qwen2VLConfig, media: Media) -> tuple[int, ...]:
    """Token ids that stand for an image or video in a prompt, its delimiters included."""
    token = config.video_token_id if media.is_video else config.image_token_id
    visual = (token,) * visual_tokens(media)
    return (config.vision_start_token_id, *visual, config.vision_end_token_id)


def visual_tokens(media: Media) -> int:
    """Visual tokens of an image or video."""
    return grid_tokens(media.grid)


def linear_weights(model: Qwen2VL) -> LinearWeights:
    """Weights of the linear layers of a model that is not fused."""

    merger = matrices(model.visual.merger)
    return LinearWeights(
        per_patch=matrices(model.visual) - merger + merger / MERGE**2,
        per_token=matrices(model.model.layers),
        per_new_token=model.lm_head.weight.numel(),
    )


def tower_attention(config: Any, media: Media) -> float:
    """Operations of the tower's attention over an image or video: each frame pair by itself."""
    t, h, w = media.grid
    return 4.0 * config.vision.width * config.vision.depth * t * (h * w) ** 2


def decoder_attention(config: Any) -> float:
    """Operations of the decoder's attention for one query and key, over all layers."""
    text = config.text
    return 4.0 * text.num_attention_heads * text.head_dim * text.num_hidden_layers


def matrices(module: nn.Module) -> int:
    """Numbers in the matrices of a module's linear layers."""
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)


def peer(
    model: Qwen2VL,
) -> Callable[[Sequence[Prompt], int], dict[str, tuple[int, ...]]]:
    """The same weights in `transformers`: answers by id of prompts whose patches are normalised
    already, in batches of a size.

    generate() as harnesses call it: arrival order, left padding, each batch to its longest answer,
    cut per row; no stop tokens.
    """
    hf, pad = in_transformers(model), model.config.bos_token_id

    def answers(prompts: Sequence[Prompt], batch_size: int) -> dict[str, tuple[int, ...]]:
        out: dict[str, tuple[int, ...]] = {}
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            longest = max(len(p.ids) for p in batch)
            padding = [longest - len(p.ids) for p in batch]
            ids = [[pad] * n + list(p.ids) for n, p in zip(padding, batch)]
            mask = [[0] * n + [1] * len(p.ids) for n, p in zip(padding, batch)]
            tokens = torch.tensor(ids, device=hf.device)  # [batch, longest]
            new = hf.generate(
                input_ids=tokens,
                attention_mask=torch.tensor(mask, device=hf.device),
                mm_token_type_ids=(tokens == hf.config.image_token_id).int()
                + 2 * (tokens == hf.config.video_token_id).int(),
                **_media(batch, hf.device),
                max_new_tokens=max(p.max_new_tokens for p in batch),
                do_sample=False,
            )[:, longest:].tolist()
            out |= {p.id: tuple(row[: p.max_new_tokens]) for p, row in zip(batch, new)}
        return out

    return answers


def _media(batch: Sequence[Prompt], device: torch.device) -> dict[str, torch.Tensor]:
    """The images and videos of a batch as `transformers` names them."""
    out = {}
    for is_video, pixels, grid in (
        (False, "pixel_values", "image_grid_thw"),
        (True, "pixel_values_videos", "video_grid_thw"),
    ):
        if visuals := [v for p in batch for v in p.visuals if v.media.is_video == is_video]:
            out[pixels] = torch.cat([v.patches for v in visuals]).to(device)
            out[grid] = torch.tensor([v.media.grid for v in visuals], device=device)
    return out


def in_transformers(model: Qwen2VL) -> Any:
    """The same weights in `transformers`, on the same device."""
    import transformers

    kind = getattr(transformers, model.config.architecture)
    with torch.device("meta"):
        hf = kind(kind.config_class(**model.config.to_dict())).to(model.dtype)
    hf = hf.to_empty(device=model.device).eval()
    for part in hf.modules():  # what is computed, not stored
        if hasattr(part, "inv_freq"):
            fresh = type(part)(part.dim) if not hasattr(part, "config") else type(part)(part.config)
            part.inv_freq = fresh.inv_freq.to(model.device)
            if hasattr(part, "original_inv_freq"):
                part.original_inv_freq = part.inv_freq
    hf.load_state_dict(transformers_state(model), strict=True)
    hf.generation_config.eos_token_id = None
    return hf
