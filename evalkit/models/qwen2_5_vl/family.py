"""What the registry of model families offers of Qwen2.5-VL. Imports torch on use only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.models.qwen2_5_vl.config import Qwen2_5VLConfig as Config
from evalkit.models.qwen2_5_vl.switches import BLIND as blind
from evalkit.models.qwen2_5_vl.switches import Switches as Switches
from evalkit.models.qwen2_vl.family import compile_parts as compile_parts
from evalkit.models.qwen2_vl.family import load as load
from evalkit.models.qwen2_vl.family import load_parallel as load_parallel
from evalkit.models.qwen2_vl.family import on_use

if TYPE_CHECKING:
    from evalkit.models.qwen2_5_vl.model import Qwen2_5VL as Model
    from evalkit.models.qwen2_5_vl.processing import Processor as Processor
    from evalkit.models.qwen2_vl.chat import Chat as Chat

__all__ = ["Config", "Model", "blind"]

box_space = "resized:json"
__getattr__ = on_use(
    {
        "Chat": "evalkit.models.qwen2_vl.chat:Chat",
        "Model": "evalkit.models.qwen2_5_vl.model:Qwen2_5VL",
        "Processor": "evalkit.models.qwen2_5_vl.processing:Processor",
        "bench": "evalkit.models.qwen2_5_vl.bench",
    }
)
