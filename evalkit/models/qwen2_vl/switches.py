"""The ablation switches of Qwen2-VL: every way in which this model can be run other than as
released, in one frozen value.

Each switch reaches the code at exactly one place, ``read_in``. docs/ablations.md says which source
claims what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from evalkit.errors import UsageError
from evalkit.models.switch import SwitchSet, switch

LARGEST = 100_000_000
"""Pixels of the largest image that a switch may ask for."""

TOKEN = 28
"""Pixels on a side of one visual token."""

SPACING = {"videorope": 2.0, "hope": 1.0}
"""``temporal_spacing`` of the position schemes that have one, where it is not set."""


@dataclass(frozen=True)
class Resolution:
    """How large images are shown: ``dynamic`` (their own size within pixel bounds), ``tokens``
    (exactly so many visual tokens) or ``size`` (height, width).
    """

    mode: Literal["dynamic", "tokens", "size"] = "dynamic"
    numbers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """``dynamic``, ``tokens:64`` or ``size:224x448`` (height first). Raises ValueError."""
        mode, _, rest = text.partition(":")
        try:
            numbers = tuple(int(n) for n in rest.split("x")) if rest else ()
        except ValueError:
            numbers = (-1,)
        lengths = {"dynamic": 0, "tokens": 1, "size": 2}
        if lengths.get(mode) != len(numbers) or any(n < 1 for n in numbers):
            raise ValueError("expected dynamic, tokens:N or size:HxW")
        if mode == "size" and any(n % TOKEN for n in numbers):
            raise ValueError(f"height and width must be multiples of {TOKEN}")
        if math.prod(numbers) * (TOKEN**2 if mode == "tokens" else 1) > LARGEST:
            raise ValueError(
                f"images are made at most {LARGEST:,} pixels large; a token has {TOKEN**2}"
            )
        return cls(mode, numbers)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.mode}:{'x'.join(map(str, self.numbers))}" if self.numbers else self.mode


@dataclass(frozen=True)
class CrossModal:
    """Attention between visual tokens and text: untouched (``off``), its logits times ``scale``
    (``multiply``), or log ``scale`` added to them (``bias``).
    """

    form: Literal["off", "multiply", "bias"] = "off"
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """``off``, ``multiply:0.7`` or ``bias:0.7``. Raises ValueError."""
        if text == "off":
            return cls()
        form, _, rest = text.partition(":")
        try:
            scale = float(rest)
        except ValueError:
            scale = 0.0
        if form in ("multiply", "bias") and 0 < scale < math.inf:
            return cls(form, scale)  # type: ignore[arg-type]
        raise ValueError("expected off, multiply:S or bias:S with S above 0")

    def __str__(self) -> str:
        return self.form if self.form == "off" else f"{self.form}:{self.scale:g}"


@dataclass(frozen=True)
class Switches(SwitchSet):
    """Switches of the model and of what it sees."""

    position: str = switch(
        "mrope",
        choices=("mrope", "rope1d", "mrope_i", "mhrope", "videorope", "hope", "vrope", "none"),
        help="how tokens are placed and rotated in the decoder",
        read_in="positions.POSITIONS",
        source="arXiv 2409.12191, section 2.1; the successors' papers below",
    )
    next_position: str = switch(
        "max_all",
        choices=("max_all", "max_hw"),
        needs={"position": ("mrope",)},
        help="where text continues after a visual: beyond all components, or rows and columns only",
        read_in="positions.mrope_ids",
        source="max_all: arXiv 2409.12191, section 2.1; max_hw: transformers 5.23",
    )
    combine: str = switch(
        "sections",
        choices=("sections", "interleaved", "kron"),
        needs={"position": ("mrope", "rope1d")},
        help="how time, row and column share the rotary frequencies",
        read_in="positions.sections",
        source="sections: released; interleaved: arXiv 2510.23095; kron: third-party write-ups",
    )
    theta: float | None = switch(
        None,
        kind=float,
        above=0,
        unset="the checkpoint's `rope_theta` (1e6)",
        help="the base of the decoder's RoPE",
        read_in="positions._theta",
        source="released configuration; third-party write-ups speak of 1e4",
    )
    temporal_spacing: float | None = switch(
        None,
        kind=float,
        above=0,
        needs={"position": tuple(SPACING)},
        unset=", ".join(f"{frames:g} ({scheme})" for scheme, frames in SPACING.items()),
        help="positions between consecutive frame pairs",
        read_in="positions.diagonal_ids",
        source="arXiv 2502.05173 and 2505.20444",
    )
    resolution: Resolution = switch(
        Resolution(),
        kind=Resolution,
        choices=("dynamic", "tokens:N", "size:HxW"),
        help="size of images and frames: their own, N visual tokens, or a height and width",
        read_in="processing.target_size",
        source="section 2.1 and table 7",
    )
    rounding: str = switch(
        "round",
        choices=("round", "ceil", "floor"),
        help="how the sides of an image become multiples of 28 pixels",
        read_in="processing.smart_resize",
        source="round: released; ceil: third-party write-ups of the token counts",
    )
    vision_position: str = switch(
        "rope2d",
        choices=("rope2d", "rope1d", "none"),
        help="positions of the vision tower: row and column, raster order, or none",
        read_in="rope.vision_angles",
        source="section 2.1",
    )
    vision_time: str = switch(
        "off",
        choices=("off", "on"),
        help="whether the frame pair's number is added to the vision tower's positions",
        read_in="rope.vision_angles",
        source="not in the release: third-party write-ups give the tower a temporal RoPE",
    )
    vision_scope: str = switch(
        "slice",
        choices=("slice", "clip"),
        help="what a patch attends to in the vision tower: its frame pair or the whole clip",
        read_in="vision.VisionTransformer.forward",
        source="slice: released code",
    )
    tube: str = switch(
        "pair",
        choices=("pair", "per_frame"),
        help="frames in a patch: a pair, or each frame alone, shown twice",
        read_in="processing.Processor.video_patches",
        source="pair: section 2.1; per_frame: third-party write-ups",
    )
    vision_gate: float = switch(
        1.0,
        kind=float,
        help="factor on the visual features where they enter the decoder; 0 hides all media",
        read_in="model.Qwen2VL.embed",
        source="not in the paper: third-party write-ups speak of gated injection",
    )
    cross_modal: CrossModal = switch(
        CrossModal(),
        kind=CrossModal,
        choices=("off", "multiply:S", "bias:S"),
        help="attention between visual tokens and text: logits times S, or ln S added to them",
        read_in="attention.CrossModal",
        source="not in the paper: third-party write-ups have it multiplied by 0.7",
    )
    min_pixels: int | None = switch(
        None,
        kind=int,
        above=0,
        at_most=LARGEST,
        budget=True,
        unset="the task's, else the checkpoint's",
        unit="pixels",
        help="least area of an image, or of each video frame",
        read_in="limits.media_limits",
        source="section 2.1; the official settings differ by benchmark",
    )
    max_pixels: int | None = switch(
        None,
        kind=int,
        above=0,
        budget=True,
        unset="the task's, else the checkpoint's",
        unit="pixels",
        help="greatest area of an image, or of each video frame",
        read_in="limits.media_limits",
        source="section 2.1; the official settings differ by benchmark",
    )
    fps: float | None = switch(
        None,
        kind=float,
        above=0,
        budget=True,
        unset="the task's, else 2",
        unit="a second",
        help="frames of a video that are shown, a second",
        read_in="limits.media_limits",
        source='section 2.1 ("two frames per second")',
    )
    max_frames: int | None = switch(
        None,
        kind=int,
        above=0,
        budget=True,
        unset="the task's, else 768",
        help="most frames of a video that are shown",
        read_in="limits.media_limits",
        source="qwen-vl-utils 0.0.8",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise UsageError(f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}")

    @property
    def spacing(self) -> float | None:
        """``temporal_spacing``, or what the position scheme takes by itself; None under one that
        has no such setting.
        """
        return self.temporal_spacing or SPACING.get(self.position)

    def value(self, name: str) -> Any:
        return self.spacing if name == "temporal_spacing" else super().value(name)


BLIND = {"vision_gate": 0}
"""The switch values under which the model sees nothing of its images and videos."""
