"""What the registry of model families offers of Qwen3-VL. Imports torch on use only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.models.qwen2_vl.family import compile_parts
from evalkit.models.qwen3_vl.config import Qwen3VLConfig as Config
from evalkit.models.qwen3_vl.switches import BLIND, Switches

if TYPE_CHECKING:
    from evalkit.models.qwen3_vl.chat import Chat
    from evalkit.models.qwen3_vl.model import Qwen3VL
    from evalkit.models.qwen3_vl.model import Qwen3VL as Model
    from evalkit.models.qwen3_vl.processing import Processor

__all__ = [
    "Chat",
    "Config",
    "Model",
    "Processor",
    "Switches",
    "blind",
    "box_space",
    "compile_parts",
    "load",
]

box_space = "norm1000:json"
blind = BLIND


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen3VL:
    """The model of a checkpoint folder for inference: its projections are fused. Raises
    CheckpointError.
    """
    from evalkit.models.qwen2_vl.checkpoint import load_as
    from evalkit.models.qwen2_vl.fused import fuse
    from evalkit.models.qwen3_vl.model import Qwen3VL

    return fuse(load_as(Qwen3VL, folder, dtype, device, switches))


def load_parallel(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen3VL:
    """This rank's share of the model, in the default process group. Raises CheckpointError, and
    UsageError for what can't be shared.
    """
    from evalkit.models.qwen2_vl.parallel import load_parallel as load_share
    from evalkit.models.qwen3_vl.model import Qwen3VL

    return load_share(Qwen3VL, folder, dtype, device, switches)


LATE = {
    "Chat": "evalkit.models.qwen3_vl.chat.Chat",
    "Model": "evalkit.models.qwen3_vl.model.Qwen3VL",
    "Processor": "evalkit.models.qwen3_vl.processing.Processor",
    "bench": "evalkit.models.qwen3_vl.bench",
}


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(name)
    module, _, attribute = LATE[name].rpartition(".")
    if name == "bench":
        return import_module(LATE[name])
    return getattr(import_module(module), attribute)
