"""Model families by the ``model_type`` of their ``config.json``.

A family is a module; adding one is a folder in ``evalkit/models`` and a line in ``FAMILIES``, or a
call of ``register`` from anywhere. Modules are imported on use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from evalkit.errors import CheckpointError
from evalkit.models.weights import read_config

if TYPE_CHECKING:
    from evalkit.engine.interface import EngineModel

FAMILIES = {"qwen2_vl": "evalkit.models.qwen2_vl.family"}
"""The module of every family, by ``model_type``."""


class Family(Protocol):
    """What a family's module offers, as attributes of the module.

    Config: its configuration, with ``load(folder)``.
    Switches: its ablation switches; importing them needs no torch.
    Processor: images and videos to patches.
    Chat: messages to token ids and back.
    """

    Config: Any
    Switches: Any
    Processor: Any
    Chat: Any

    @property
    def box_space(self) -> str:
        """The frame in which its models write boxes (``evalkit.types.BoxSpace``)."""

    def load(
        self, folder: Path, dtype: str | None = None, device: str = "cpu", switches: Any = ...
    ) -> EngineModel:
        """The model of a checkpoint folder, ready for inference: its weights may be rearranged.

        Raises CheckpointError.
        """

    def compile_parts(self, model: Any) -> None:
        """Compiles parts of a loaded model in place, where that is faster on long runs."""


def register(model_type: str, module: str) -> None:
    """Adds a family: ``module`` is the importable name of its module."""
    FAMILIES[model_type] = module


def family(model_type: str) -> Family:
    """The family of that ``model_type``. Raises CheckpointError with the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(
            f"model_type {model_type!r} is not implemented here; these are: {known}"
        )
    return cast(Family, import_module(FAMILIES[model_type]))


def model_type(folder: Path) -> str:
    """The ``model_type`` in a checkpoint folder's ``config.json``. Raises CheckpointError, which
    says what the folder is when it is no whole model in plain weights.
    """
    name = read_config(folder).get("model_type")
    if not isinstance(name, str):
        raise CheckpointError(f"{folder / 'config.json'}: no model_type; it is {name!r}")
    return name


def family_of(folder: Path) -> Family:
    """The family of a checkpoint. Raises CheckpointError, with the file, for one that is none."""
    try:
        return family(model_type(folder))
    except CheckpointError as e:
        if str(folder) in str(e):
            raise
        raise CheckpointError(f"{folder / 'config.json'}: {e}") from None
