"""Qwen2.5-VL: Qwen2-VL with another vision tower, and with time in seconds (arXiv 2502.13923)."""

from __future__ import annotations

from typing import ClassVar

from evalkit.models.qwen2_5_vl.config import Qwen2_5VLConfig
from evalkit.models.qwen2_5_vl.switches import Switches
from evalkit.models.qwen2_5_vl.vision import VisionTransformer
from evalkit.models.qwen2_vl.decoder import Decoder
from evalkit.models.qwen2_vl.model import Qwen2VL


class Qwen2_5VL(Qwen2VL):
    """The whole model. Where its frames stand in time is said by ``positions.steps``."""

    Config: ClassVar[type[Qwen2_5VLConfig]] = Qwen2_5VLConfig
    config: Qwen2_5VLConfig
    switches: Switches

    def parts(self) -> tuple[VisionTransformer, Decoder]:
        """The vision tower and the decoder."""
        return VisionTransformer(self.config.vision, self.switches), Decoder(self.config.text)
