"""The ablation switches of Qwen2-VL: every way in which this model can be run other than as
released, in one frozen value.

Each switch reaches the code at exactly one place, ``read_in``. docs/ablations.md says which source
claims what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from evalkit.errors import UsageError
from evalkit.models.switch import SwitchSet, switch

LARGEST = 100_000_000
"""Pixels of the largest image that a switch may ask for."""

SPACING = {
    "mrope": 1.0,
    "mrope_i": 1.0,
    "mhrope": 1.0,
    "videorope": 2.0,
    "hope": 1.0,
    "v2pe": 16.0,
    "circle": 1.0,
}
"""``temporal_spacing`` of the position schemes that have one, where it is not set."""

TOKENS_PER_SECOND = 2.0
"""Positions to a second under ``time=absolute``, where neither switch nor checkpoint says."""


@dataclass(frozen=True)
class Resolution:
    """How large images are shown: ``dynamic`` (their own size within pixel bounds), ``tokens``
    (exactly so many visual tokens) or ``size`` (height, width).

    token: pixels on a side of one visual token.
    """

    token: ClassVar[int] = 28
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
        if mode == "size" and any(n % cls.token for n in numbers):
            raise ValueError(f"height and width must be multiples of {cls.token}")
        if math.prod(numbers) * (cls.token**2 if mode == "tokens" else 1) > LARGEST:
            raise ValueError(
                f"images are made at most {LARGEST:,} pixels large; a token has {cls.token**2}"
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
class Ratio:
    """Shares of time, row and column, in proportion; empty: as the weights were trained."""

    parts: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """``trained`` or ``24:20:20`` (time, row, column). Raises ValueError."""
        if text == "trained":
            return cls()
        try:
            parts = tuple(int(n) for n in text.split(":"))
        except ValueError:
            parts = ()
        if len(parts) != 3 or min(parts) < 0 or not 0 < sum(parts) <= 4096:
            raise ValueError("expected trained or T:H:W, three whole numbers such as 24:20:20")
        return cls(parts)

    def shares(self, n: int) -> tuple[int, ...]:
        """``n`` in these proportions, whole; what is left over goes to the largest remainders."""
        whole = [n * p // sum(self.parts) for p in self.parts]
        by_rest = sorted(range(3), key=lambda i: -(n * self.parts[i] % sum(self.parts)))
        for i in by_rest[: n - sum(whole)]:
            whole[i] += 1
        return tuple(whole)

    def __str__(self) -> str:
        return ":".join(map(str, self.parts)) or "trained"


@dataclass(frozen=True)
class TextOffset:
    """Where text goes on after a visual: as the scheme has it (``released``), at most ``steps``
    beyond the visual's start (``clamp``), or ``steps`` further away (``add``).
    """

    form: Literal["released", "clamp", "add"] = "released"
    steps: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """``released``, ``clamp:8`` or ``add:6``. Raises ValueError."""
        if text == "released":
            return cls()
        form, _, rest = text.partition(":")
        if form in ("clamp", "add") and rest.isdecimal() and 0 < int(rest) <= 1_000_000:
            return cls(form, int(rest))  # type: ignore[arg-type]
        raise ValueError("expected released, clamp:N or add:N with N from 1 to 1,000,000")

    def __str__(self) -> str:
        return self.form if self.form == "released" else f"{self.form}:{self.steps}"


@dataclass(frozen=True)
class Switches(SwitchSet):
    """Switches of the model and of what it sees."""

    position: str = switch(
        "mrope",
        choices=(
            "mrope",
            "rope1d",
            "mrope_i",
            "mhrope",
            "videorope",
            "hope",
            "vrope",
            "v2pe",
            "circle",
            "none",
        ),
        help="how tokens are placed and rotated in the decoder",
        read_in="positions.POSITIONS",
        source="arXiv 2409.12191, section 2.1; the successors' papers below",
    )
    layout: str = switch(
        "3d",
        choices=("3d", "reset", "diagonal"),
        needs={"position": ("mrope",)},
        help="where visual tokens lie: beyond the text in all components, rows and columns from "
        "zero, or frames on the diagonal of text",
        read_in="positions.mrope_ids",
        source="3d: released; reset: arXiv 2510.23095; diagonal: arXiv 2502.05173",
    )
    next_position: str = switch(
        "max_all",
        choices=("max_all", "max_hw"),
        needs={"position": ("mrope",), "layout": ("3d",)},
        help="where text continues after a visual: beyond all components, or rows and columns only",
        read_in="positions.mrope_ids",
        source="max_all: arXiv 2409.12191, section 2.1; max_hw: transformers 5.23",
    )
    time: str = switch(
        "index",
        choices=("index", "absolute", "constant"),
        needs={"position": ("mrope", "mrope_i", "mhrope"), "layout": ("3d", "reset")},
        help="where the frame pairs of a video stand in time: one apart, at their seconds, or all "
        "at one time",
        read_in="positions.steps",
        source="index: arXiv 2409.12191, section 2.1; absolute: arXiv 2502.13923, section 2.1.2",
    )
    tokens_per_second: float | None = switch(
        None,
        kind=float,
        above=0,
        needs={"time": ("absolute",)},
        unset="the checkpoint's, else 2",
        help="positions to a second",
        read_in="positions.steps",
        source="2: the released Qwen2.5-VL; 4: the default in transformers",
    )
    time_rounding: str = switch(
        "after",
        choices=("after", "before"),
        needs={"time": ("absolute",)},
        help="when times are cut to whole positions: after the product with the number of the "
        "pair, or before",
        read_in="positions.steps",
        source="after: arXiv 2502.13923; before: transformers 4.50 to 5.2",
    )
    combine: str = switch(
        "sections",
        choices=("sections", "interleaved", "low_time", "no_time", "heads", "kron"),
        needs={"position": ("mrope", "rope1d")},
        help="how time, row and column share the rotary frequencies",
        read_in="positions.sections",
        source="sections: released; interleaved, heads: arXiv 2510.23095; low_time: arXiv "
        "2502.05173; no_time: arXiv 2505.20444; kron: third-party write-ups",
    )
    ratio: Ratio = switch(
        Ratio(),
        kind=Ratio,
        choices=("trained", "T:H:W"),
        needs={
            "position": ("mrope", "mrope_i", "mhrope", "videorope", "hope", "circle"),
            "combine": ("sections", "interleaved", "low_time", "no_time", "heads"),
        },
        help="shares of time, row and column in the rotary frequencies (or key-value heads)",
        read_in="positions._shares",
        source="arXiv 2510.23095, table 8: 0:32:32 to 48:8:8",
    )
    text_offset: TextOffset = switch(
        TextOffset(),
        kind=TextOffset,
        choices=("released", "clamp:N", "add:N"),
        help="where text goes on after an image or a video: as the scheme has it, at most N steps "
        "beyond the visual's start, or N steps further away",
        read_in="positions.moved_text",
        source="not in the release: tells what a long clip costs from what far-off text costs",
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
        read_in="switches.Switches.spacing",
        source="arXiv 2502.05173, 2505.20444 and 2412.09616; arXiv 2510.23095, table 9",
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
        help="how the sides of an image become whole visual tokens",
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
    quantisation: str = switch(
        "none",
        choices=("none", "w8a8", "fp8", "w8a16", "w4a16"),
        trained=False,
        help="numbers of the linear layers' weights (w) and of what they are given (a): 8-bit "
        "whole numbers, 8-bit floats (E4M3), or weights alone of 8 or 4 bits; to nearest",
        read_in="fused.fuse",
        source="schemes of llm-compressor, without calibration",
    )
    quantised: str = switch(
        "decoder",
        choices=("decoder", "tower", "both"),
        needs={"quantisation": ("w8a8", "fp8", "w8a16", "w4a16")},
        trained=False,
        help="whose blocks are quantised; merger and output head never are",
        read_in="fused.fuse",
        source="decoder: the released AWQ and GPTQ checkpoints of Qwen2-VL",
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
    def position_says(self) -> str:
        """The setting that asks for heads of their own, as a user gave it."""
        return "combine=heads" if self.combine == "heads" else f"position={self.position}"

    @property
    def spacing(self) -> float | None:
        """``temporal_spacing``, or what the position scheme takes by itself; None under one that
        has no such setting.
        """
        return self.temporal_spacing or SPACING.get(self.position)

    @property
    def rate(self) -> float:
        """``tokens_per_second``, or what the release has."""
        return self.tokens_per_second or TOKENS_PER_SECOND

    def value(self, name: str) -> Any:
        resolved = {"temporal_spacing": self.spacing, "tokens_per_second": self.rate}
        return resolved[name] if name in resolved else super().value(name)


BLIND = {"vision_gate": 0}
"""The switch values under which the model sees nothing of its images and videos."""
