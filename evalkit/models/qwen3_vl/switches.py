"""The ablation switches of Qwen3-VL: those of Qwen2-VL, and what this generation adds (DeepStack,
the position table, timestamps) or has at another value (interleaved frequencies).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from evalkit.models.qwen2_vl.switches import BLIND
from evalkit.models.qwen2_vl.switches import Resolution as Qwen2VLResolution
from evalkit.models.qwen2_vl.switches import Switches as Qwen2VLSwitches
from evalkit.models.switch import switch

__all__ = ["BLIND", "DeepStack", "Layers", "Resolution", "Switches"]


@dataclass(frozen=True)
class Resolution(Qwen2VLResolution):
    """How large images are shown; a visual token has 32 pixels on a side."""

    token: ClassVar[int] = 32


def _numbers(text: str) -> tuple[int, ...]:
    """``0,2`` as whole numbers from 0, each once. Raises ValueError."""
    numbers = tuple(int(n) for n in text.split(","))
    if any(n < 0 for n in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(text)
    return numbers


@dataclass(frozen=True)
class DeepStack:
    """Which features of the tower's blocks the decoder is given (None: all), times ``gain``."""

    chosen: tuple[int, ...] | None = None
    gain: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """``on``, ``off``, numbers such as ``0,2``, or ``gain:0.5``. Raises ValueError."""
        if text in ("on", "off"):
            return cls(None if text == "on" else ())
        form, _, rest = text.partition(":")
        try:
            if form == "gain" and math.isfinite(gain := float(rest)):
                return cls(gain=gain)
            return cls(tuple(sorted(_numbers(text))))
        except ValueError:
            raise ValueError("expected on, off, numbers such as 0,2, or gain:G") from None

    def __str__(self) -> str:
        if self.gain != 1:
            return f"gain:{self.gain:g}"
        return "on" if self.chosen is None else ",".join(map(str, self.chosen)) or "off"


@dataclass(frozen=True)
class Layers:
    """The decoder's layers behind which DeepStack adds its features, in the features' order; None:
    the first ones.
    """

    numbers: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``first``, or numbers such as ``0,1,2``. Raises ValueError."""
        if text == "first":
            return cls()
        try:
            return cls(_numbers(text))
        except ValueError:
            raise ValueError("expected first, or numbers of layers such as 0,1,2") from None

    def __str__(self) -> str:
        return "first" if self.numbers is None else ",".join(map(str, self.numbers))


@dataclass(frozen=True)
class Switches(Qwen2VLSwitches):
    """Switches of the model and of what it sees."""

    combine: str = switch(
        "interleaved",
        choices=("interleaved", "sections", "low_time", "no_time", "heads", "kron"),
        needs={"position": ("mrope", "rope1d")},
        help="how time, row and column share the rotary frequencies",
        read_in="qwen2_vl.positions.sections",
        source="interleaved: arXiv 2511.21631, section 2.1; sections: arXiv 2409.12191",
    )
    time: str = switch(
        "text",
        choices=("text", "absolute", "index", "constant"),
        help="how time is told: frame pairs apart, each after its timestamp (text); or a video in "
        "one piece without, its pairs at their seconds, one apart, or all at one time",
        read_in="chat.Chat.encode",
        source="text: arXiv 2511.21631, section 2.3; absolute: arXiv 2502.13923",
    )
    timestamps: str = switch(
        "seconds",
        choices=("seconds", "hms", "index", "off"),
        needs={"time": ("text",)},
        help="text before each frame pair: its second, as h:m:s, its number, or none",
        read_in="chat.stamp",
        source="arXiv 2511.21631, section 2.3; seconds: the release",
    )
    timestamp_place: str = switch(
        "before",
        choices=("before", "inside"),
        needs={"time": ("text",)},
        help="timestamps before the opening delimiter of a frame pair, or behind it",
        read_in="chat.Chat.spelled",
        source="before: the release; inside: a defect of a port (lmms-engine #132)",
    )
    video_wrapper: str = switch(
        "replace",
        choices=("replace", "keep"),
        needs={"time": ("text",)},
        help="the delimiters that the template puts around a video: in place of them its frame "
        "pairs have their own, or both are there",
        read_in="chat.Chat.spelled",
        source="replace: transformers 4.57, with which it was released; keep: 5.10 to 5.23",
    )
    vision_table: str = switch(
        "bilinear",
        choices=("bilinear", "bilinear_fp32", "half_pixel", "nearest", "off"),
        help="the learned positions of patches: interpolated from corner to corner (in the "
        "weights' precision, or in fp32), from pixel centres, taken from the nearest, or left out",
        read_in="vision.VisionTransformer.table",
        source="bilinear: the release; bilinear_fp32: transformers 5.23; half_pixel: a defect of "
        "ports (llama.cpp #25781)",
    )
    deepstack: DeepStack = switch(
        DeepStack(),
        kind=DeepStack,
        choices=("on", "off", "N,...", "gain:G"),
        help="which features of the tower's blocks reach the decoder's layers, and times what",
        read_in="vision.VisionTransformer.forward",
        source="arXiv 2511.21631, section 2.2, table 12",
    )
    deepstack_layers: Layers = switch(
        Layers(),
        kind=Layers,
        choices=("first", "N,..."),
        help="the decoder's layers behind which they are added",
        read_in="model.Qwen3VL.parts",
        source='arXiv 2511.21631, section 2.2 ("the first three layers")',
    )
    qk_norm: str = switch(
        "on",
        choices=("on", "off"),
        help="RMSNorm of queries and keys in the decoder",
        read_in="decoder.Attention",
        source="on: Qwen3 (arXiv 2505.09388)",
    )
    resolution: Resolution = switch(
        Resolution(),
        kind=Resolution,
        choices=("dynamic", "tokens:N", "size:HxW"),
        help="size of images and frames: their own, N visual tokens, or a height and width",
        read_in="qwen2_vl.processing.target_size",
        source="arXiv 2409.12191, section 2.1 and table 7",
    )
