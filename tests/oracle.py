"""`transformers` as the oracle: the same weights, the same patches."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from evalkit.models.qwen2_vl.checkpoint import transformers_state
from evalkit.models.qwen2_vl.model import Qwen2VL

Model = TypeVar("Model", bound=Qwen2VL)


def random_weights(model: Model, seed: int, std: float = 0.08) -> Model:
    """Weights large enough for logits that differ, norms near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.1 * noise if p.ndim == 1 and "weight" in name else noise * std)
    return model.eval().requires_grad_(False)


def hf_model(model: Qwen2VL, config: Any = None) -> Any:
    """The same model in `transformers`, fp32, strictly loaded; ``config`` replaces ours."""
    import transformers

    kind = getattr(transformers, model.config.architecture)
    hf = kind(config or kind.config_class(**model.config.to_dict())).float().eval()
    hf.load_state_dict(transformers_state(model), strict=True)
    return hf


def hf_forward(hf: Any, input_ids: Tensor, mask: Tensor, **media: Any) -> Tensor:
    types = (input_ids == hf.config.image_token_id).int() + 2 * (
        input_ids == hf.config.video_token_id
    ).int()
    tensors = {
        k: v if isinstance(v, Tensor) else torch.tensor(v) for k, v in media.items() if len(v)
    }
    return hf(input_ids=input_ids, attention_mask=mask, mm_token_type_ids=types, **tensors).logits
