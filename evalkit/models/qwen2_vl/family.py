"""What the registry of model families offers of Qwen2-VL. Imports torch on use only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.models.qwen2_vl.config import Qwen2VLConfig as Config
from evalkit.models.qwen2_vl.switches import BLIND, Switches

if TYPE_CHECKING:
    from evalkit.models.qwen2_vl.chat import Chat
    from evalkit.models.qwen2_vl.model import Qwen2VL
    from evalkit.models.qwen2_vl.model import Qwen2VL as Model
    from evalkit.models.qwen2_vl.processing import Processor

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

box_space = "norm1000"
blind = BLIND


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2VL:
    """The model of a checkpoint folder for inference: its projections are fused. Raises
    CheckpointError.
    """
    from evalkit.models.qwen2_vl.checkpoint import load as load_released
    from evalkit.models.qwen2_vl.fused import fuse

    return fuse(load_released(folder, dtype, device, switches))


def load_parallel(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2VL:
    """This rank's share of the model, in the default process group. Raises CheckpointError, and
    UsageError for what can't be shared.
    """
    from evalkit.models.qwen2_vl.model import Qwen2VL
    from evalkit.models.qwen2_vl.parallel import load_parallel as load_share

    return load_share(Qwen2VL, folder, dtype, device, switches)


def compile_parts(model: Qwen2VL) -> None:
    """Compiles norms and MLPs of a loaded model in place."""
    from evalkit.models.qwen2_vl.fused import compile_parts as compile_

    compile_(model)


def __getattr__(name: str) -> Any:
    if name == "bench":
        return import_module("evalkit.models.qwen2_vl.bench")
    if name == "Chat":
        from evalkit.models.qwen2_vl.chat import Chat

        return Chat
    if name == "Model":
        from evalkit.models.qwen2_vl.model import Qwen2VL

        return Qwen2VL
    if name == "Processor":
        from evalkit.models.qwen2_vl.processing import Processor

        return Processor
    raise AttributeError(name)
