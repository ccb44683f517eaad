"""Pixels for Qwen2.5-VL: as for Qwen2-VL, under the budgets of qwen-vl-utils 0.0.10.

A video may have 115,200 visual tokens (90 % of 128,000), a frame's share of them is a bound that
no setting exceeds, and the number of frame pairs is rounded down.
"""

from __future__ import annotations

import math
from typing import ClassVar

from evalkit.models.qwen2_vl.processing import Processor as Qwen2VLProcessor
from evalkit.models.qwen2_vl.processing import ProcessorConfig as Qwen2VLProcessorConfig


class ProcessorConfig(Qwen2VLProcessorConfig):
    """How a checkpoint prepares images and frames."""

    family: ClassVar[str] = "Qwen2.5-VL"
    kinds: ClassVar[tuple[str, ...]] = ("Qwen2VL", "Qwen2_5_VL")


class Processor(Qwen2VLProcessor):
    """Turns decoded images and frames into patches."""

    settings: ClassVar[type[Qwen2VLProcessorConfig]] = ProcessorConfig
    video_tokens = 115_200
    whole = math.floor
    capped = True
