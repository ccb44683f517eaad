"""What the registry of model families offers of Qwen2-VL. Imports torch on use only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from evalkit.models.qwen2_vl.config import Qwen2VLConfig as Config
from evalkit.models.qwen2_vl.switches import BLIND as blind
from evalkit.models.qwen2_vl.switches import Switches as Switches
from evalkit.models.registry import family_of

if TYPE_CHECKING:
    from evalkit.models.qwen2_vl.chat import Chat as Chat
    from evalkit.models.qwen2_vl.model import Qwen2VL
    from evalkit.models.qwen2_vl.model import Qwen2VL as Model
    from evalkit.models.qwen2_vl.processing import Processor as Processor

__all__ = ["Config", "Model", "blind"]

box_space = "norm1000"


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2VL:
    """The model of a checkpoint folder for inference, of the generation that the folder names: its
    projections are fused. Raises CheckpointError.
    """
    from evalkit.models.qwen2_vl.checkpoint import load_as
    from evalkit.models.qwen2_vl.fused import fuse

    model: Qwen2VL = load_as(family_of(folder).Model, folder, dtype, device, switches)
    return fuse(model)


def load_parallel(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2VL:
    """This rank's share of such a model, in the default process group. Raises CheckpointError, and
    UsageError for what can't be shared.
    """
    from evalkit.models.qwen2_vl.parallel import load_parallel as load_share

    share: Qwen2VL = load_share(family_of(folder).Model, folder, dtype, device, switches)
    return share


def compile_parts(model: Qwen2VL) -> None:
    """Compiles norms and MLPs of a loaded model in place."""
    from evalkit.models.qwen2_vl.fused import compile_parts as compile_

    compile_(model)


def on_use(places: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that imports a name when it is used, from where ``places`` says,
    as ``module`` or ``module:attribute``.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(name)
        return resolve_name(places[name])

    return get


__getattr__ = on_use(
    {
        "Chat": "evalkit.models.qwen2_vl.chat:Chat",
        "Model": "evalkit.models.qwen2_vl.model:Qwen2VL",
        "Processor": "evalkit.models.qwen2_vl.processing:Processor",
        "bench": "evalkit.models.qwen2_vl.bench",
    }
)
