"""What the registry of model families offers of Qwen3-VL. Imports torch on use only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.models.qwen2_vl.family import compile_parts as compile_parts
from evalkit.models.qwen2_vl.family import load as load
from evalkit.models.qwen2_vl.family import load_parallel as load_parallel
from evalkit.models.qwen2_vl.family import on_use
from evalkit.models.qwen3_vl.config import Qwen3VLConfig as Config
from evalkit.models.qwen3_vl.switches import BLIND as blind
from evalkit.models.qwen3_vl.switches import Switches as Switches

if TYPE_CHECKING:
    from evalkit.models.qwen3_vl.chat import Chat as Chat
    from evalkit.models.qwen3_vl.model import Qwen3VL as Model
    from evalkit.models.qwen3_vl.processing import Processor as Processor

__all__ = ["Config", "Model", "blind"]

box_space = "norm1000:json"
__getattr__ = on_use(
    {
        "Chat": "evalkit.models.qwen3_vl.chat:Chat",
        "Model": "evalkit.models.qwen3_vl.model:Qwen3VL",
        "Processor": "evalkit.models.qwen3_vl.processing:Processor",
        "bench": "evalkit.models.qwen3_vl.bench",
    }
)
