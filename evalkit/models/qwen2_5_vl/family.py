"""What the registry of model families offers of Qwen2.5-VL. Imports torch on use only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.models.qwen2_5_vl.config import Qwen2_5VLConfig as Config
from evalkit.models.qwen2_5_vl.switches import BLIND, Switches
from evalkit.models.qwen2_vl.family import compile_parts

if TYPE_CHECKING:
    from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
    from evalkit.models.qwen2_5_vl.model import Qwen2_5VL as Model
    from evalkit.models.qwen2_5_vl.processing import Processor
    from evalkit.models.qwen2_vl.chat import Chat

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

box_space = "resized:json"
blind = BLIND


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2_5VL:
    """The model of a checkpoint folder for inference: its projections are fused. Raises
    CheckpointError.
    """
    from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
    from evalkit.models.qwen2_vl.checkpoint import load_as
    from evalkit.models.qwen2_vl.fused import fuse

    return fuse(load_as(Qwen2_5VL, folder, dtype, device, switches))


def load_parallel(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2_5VL:
    """This rank's share of the model, in the default process group. Raises CheckpointError, and
    UsageError for what can't be shared.
    """
    from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
    from evalkit.models.qwen2_vl.parallel import load_parallel as load_share

    return load_share(Qwen2_5VL, folder, dtype, device, switches)


LATE = {
    "Chat": "evalkit.models.qwen2_vl.chat.Chat",
    "Model": "evalkit.models.qwen2_5_vl.model.Qwen2_5VL",
    "Processor": "evalkit.models.qwen2_5_vl.processing.Processor",
    "bench": "evalkit.models.qwen2_5_vl.bench",
}


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(name)
    module, _, attribute = LATE[name].rpartition(".")
    if name == "bench":
        return import_module(LATE[name])
    return getattr(import_module(module), attribute)
