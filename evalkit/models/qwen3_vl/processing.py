"""Pixels for Qwen3-VL: as for Qwen2.5-VL, in patches of 16 pixels, with its own pixel bounds and
normalisation (qwen-vl-utils 0.0.14 in front of the released image processor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evalkit.models.qwen2_5_vl.processing import Processor as Qwen2_5VLProcessor
from evalkit.models.qwen2_vl.processing import ProcessorConfig as Qwen2VLProcessorConfig


@dataclass(frozen=True)
class ProcessorConfig(Qwen2VLProcessorConfig):
    """How a checkpoint prepares images and frames; the defaults are the released values."""

    family: ClassVar[str] = "Qwen3-VL"
    patch_size: ClassVar[int] = 16
    kinds: ClassVar[tuple[str, ...]] = ("Qwen2VL", "Qwen3VL")
    min_pixels: int = 64 * 32**2
    max_pixels: int = 16_384 * 32**2
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class Processor(Qwen2_5VLProcessor):
    """Turns decoded images and frames into patches."""

    settings = ProcessorConfig
