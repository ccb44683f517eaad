"""Qwen3-VL with experts: the MLPs are others, and so is the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import nn

from evalkit.models.qwen3_vl.model import Qwen3VL
from evalkit.models.qwen3_vl_moe.config import Qwen3VLMoeConfig
from evalkit.models.qwen3_vl_moe.experts import sparse


class Qwen3VLMoe(Qwen3VL):
    """The whole model."""

    Config: ClassVar[type[Qwen3VLMoeConfig]] = Qwen3VLMoeConfig
    mlp: ClassVar[Callable[..., nn.Module]] = staticmethod(sparse)
    config: Qwen3VLMoeConfig

    @property
    def activation_bytes(self) -> int:
        """Bytes that a visual token holds at its peak, which may be in an expert that all chose."""
        text = self.config.text
        token = self.dtype.itemsize * (4 * text.moe_intermediate_size + 8 * text.hidden_size)
        return max(super().activation_bytes, token)
