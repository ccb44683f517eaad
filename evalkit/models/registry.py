"""Model families by the ``model_type`` of their ``config.json``.

A family is a module; adding one is a folder in ``evalkit/models`` and a line in ``FAMILIES``, or a
call of ``register`` from anywhere. Modules are imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from evalkit.errors import CheckpointError
from evalkit.models.limits import Limits
from evalkit.models.switch import SwitchSet
from evalkit.models.weights import read_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from evalkit.engine.interface import EngineModel, Media
    from evalkit.engine.sequence import Prompt
    from evalkit.models.sampling import Sampling

FAMILIES = {
    "qwen2_vl": "evalkit.models.qwen2_vl.family",
    "qwen2_5_vl": "evalkit.models.qwen2_5_vl.family",
    "qwen3_vl": "evalkit.models.qwen3_vl.family",
    "qwen3_vl_moe": "evalkit.models.qwen3_vl_moe.family",
}
"""The module of every family, by ``model_type``."""


class Config(Protocol):
    """A checkpoint's configuration; a class of a family.

    dtype: of the weights, ``float32``, ``bfloat16`` or ``float16``.
    max_tokens: the longest sequence that the model is made for.
    trained: all switches as the weights were trained; trained_with: those that the checkpoint
        names.
    """

    @property
    def dtype(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def trained(self) -> SwitchSet: ...
    @property
    def trained_with(self) -> Mapping[str, Any]: ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises CheckpointError."""


class Processor(Protocol):
    """Images and videos to patches; a class of a family. Raises DataError for media that can't be
    shown.

    limits: the bounds that hold where a task sets none.
    """

    @property
    def limits(self) -> Limits: ...

    @classmethod
    def load(cls, folder: Path, switches: Any) -> Self:
        """With the settings of a checkpoint, under switches. Raises CheckpointError."""

    def frames(self, total: int, video_fps: float, task: Limits) -> list[int]:
        """Indices of the frames that are shown of a video of ``total`` frames."""

    def image_patches(self, image: Image.Image, task: Limits) -> tuple[Tensor, Media]:
        """Patches [patches, ...] of an image within a task's bounds, as they wait on the CPU."""

    def resize_frame(self, frame: NDArray[np.uint8], total: int, task: Limits) -> NDArray[np.uint8]:
        """A frame [height, width, 3] of ``total`` that are shown, at the size at which the model
        sees it. Called while a clip is decoded, so that large frames are never held together.
        """

    def video_patches(
        self, frames: NDArray[np.uint8], sampling: Sampling | None
    ) -> tuple[Tensor, Media]:
        """Patches [patches, ...] of frames [frames, height, width, 3]; ``sampling`` says when they
        are.
        """

    def size(self, media: Media) -> tuple[int, int]:
        """(width, height) in pixels at which the model sees an image or video; only asked where
        boxes are in these pixels.
        """

    def normalise(self, patches: Tensor) -> Tensor:
        """What the model reads [patches, ...] of patches that waited, on their device."""


class Chat(Protocol):
    """A checkpoint's tokenizer and chat template; a class of a family.

    stop_ids: tokens that end an answer; visual_ids: placeholders of images and videos.
    generation: how answers are generated, in words: part of a cell's identity.
    template: the chat template (``evalkit.models.template.Template``), which may be replaced; a
        family without one takes none of a user's.
    """

    template: Any

    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def visual_ids(self) -> frozenset[int]: ...
    @property
    def generation(self) -> str: ...

    def __init__(self, folder: Path, config: Any, switches: Any) -> None:
        """Raises CheckpointError."""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt's text of messages as chat templates take them. Raises DataError."""

    def encode(self, text: str, media: Sequence[Media] = ()) -> list[int]:
        """Token ids, each placeholder repeated once per visual token of its image or video. Raises
        DataError.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids."""


@dataclass(frozen=True)
class LinearWeights:
    """Weights of a model's linear layers; each costs two floating-point operations for every patch,
    token, or new token (logits) that passes it. Those that see merged patches count in part.
    """

    per_patch: float
    per_token: int
    per_new_token: int


class Bench(Protocol):
    """What the benchmark asks of a family, beyond running it: a module.

    sizes: configurations by a short name, of which it measures random weights.
    processor: makes a processor with the settings of the release.
    """

    sizes: Mapping[str, Any]
    processor: Callable[[], Processor]

    def load(self, folder: Path, dtype: str, device: str) -> Any:
        """A checkpoint's model as ``peer`` and ``linear_weights`` read it. Raises
        CheckpointError.
        """

    def random_model(self, config: Any, dtype: str, device: str) -> Any:
        """A model of one of ``sizes``, in the same form."""

    def fuse(self, model: Any) -> Any:
        """Makes a model ready for inference, in place."""

    def compile_parts(self, model: Any) -> Any:
        """Compiles what the family compiles of a model made ready by ``fuse``, in place."""

    def placeholders(self, config: Any, media: Media) -> tuple[int, ...]:
        """Token ids that stand for an image or video in a prompt, its delimiters included."""

    def visual_tokens(self, media: Media) -> int:
        """Visual tokens of an image or video."""

    def linear_weights(self, model: Any) -> LinearWeights:
        """What the linear layers cost."""

    def tower_attention(self, config: Any, media: Media) -> float:
        """Floating-point operations of the vision tower's attention over an image or video."""

    def decoder_attention(self, config: Any) -> float:
        """Those of the decoder's attention for one query that sees one key, over all layers."""

    def peer(self, model: Any) -> Callable[[Sequence[Prompt], int], dict[str, tuple[int, ...]]]:
        """The same weights in `transformers`: a function from prompts with normalised patches and a
        batch size to answers by id, without stop tokens.
        """


class Family(Protocol):
    """What a family's module offers, as attributes of the module.

    Config, Processor, Chat: classes, see above.
    Switches: its ablation switches; importing them needs no torch.
    Model: the class of its models: an ``EngineModel`` with ``config``, the ``switches`` that it was
        built with, and the checkpoint's ``folder`` (None for one that was not loaded).
    blind: the switch values that hide all media from the model; None where there are none.
    box_space: the frame in which its models write boxes (``evalkit.types.BoxSpace``); None where
        they write none.
    bench: for ``evalkit bench``; may be absent, as may ``load_parallel``.
    """

    Config: type[Config]
    Switches: type[SwitchSet]
    Processor: type[Processor]
    Chat: type[Chat]
    Model: type[Any]
    blind: Mapping[str, Any] | None
    box_space: Any
    bench: Bench

    def load(
        self,
        folder: Path,
        dtype: str | None = None,
        device: str = "cpu",
        switches: Any = None,
    ) -> EngineModel:
        """The model of a checkpoint folder, ready for inference: its weights may be rearranged.

        Raises CheckpointError.
        """

    def load_parallel(
        self,
        folder: Path,
        dtype: str | None = None,
        device: str = "cpu",
        switches: Any = None,
    ) -> EngineModel:
        """This rank's share of the model, in the default process group. Raises CheckpointError, and
        UsageError for what can't be shared.
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
    """The family of a checkpoint. Raises CheckpointError, with the file, where there is none."""
    try:
        return family(model_type(folder))
    except CheckpointError as e:
        if str(folder) in str(e):
            raise
        raise CheckpointError(f"{folder / 'config.json'}: {e}") from None
