"""The ablation switches of Qwen2.5-VL: those of Qwen2-VL, and what this generation adds (windows in
the vision tower) or has at another value (absolute time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from evalkit.models.qwen2_vl.switches import BLIND
from evalkit.models.qwen2_vl.switches import Switches as Qwen2VLSwitches
from evalkit.models.switch import switch

__all__ = ["BLIND", "FullLayers", "Switches", "Window"]

TOKEN = 28
"""Pixels on a side of one visual token."""


@dataclass(frozen=True)
class Window:
    """Pixels on a side of a window of the vision tower: the checkpoint's (None), or 0: no
    windows.
    """

    pixels: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``checkpoint``, ``off`` or a multiple of 28. Raises ValueError."""
        if text in ("checkpoint", "off"):
            return cls(None if text == "checkpoint" else 0)
        if text.isdecimal() and (pixels := int(text)) > 0 and pixels % TOKEN == 0:
            return cls(pixels)
        raise ValueError(f"expected checkpoint, off or pixels, a multiple of {TOKEN}")

    def __str__(self) -> str:
        return "checkpoint" if self.pixels is None else str(self.pixels or "off")


@dataclass(frozen=True)
class FullLayers:
    """Blocks of the vision tower that see the whole frame pair: the checkpoint's (None), all of
    them, or those of these numbers.
    """

    numbers: tuple[int, ...] | None = None
    every: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """``checkpoint``, ``none``, ``all`` or numbers such as ``7,15``. Raises ValueError."""
        if text in ("checkpoint", "all"):
            return cls(every=text == "all")
        try:
            numbers = () if text == "none" else tuple(sorted({int(n) for n in text.split(",")}))
        except ValueError:
            numbers = (-1,)
        if any(n < 0 for n in numbers):
            raise ValueError("expected checkpoint, none, all or numbers of blocks such as 7,15")
        return cls(numbers)

    def __str__(self) -> str:
        if self.numbers is None:
            return "all" if self.every else "checkpoint"
        return ",".join(map(str, self.numbers)) or "none"


@dataclass(frozen=True)
class Switches(Qwen2VLSwitches):
    """Switches of the model and of what it sees."""

    time: str = switch(
        "absolute",
        choices=("absolute", "index", "constant"),
        needs={"position": ("mrope", "mrope_i", "mhrope"), "layout": ("3d", "reset")},
        help="where the frame pairs of a video stand in time: at their seconds, one apart, or all "
        "at one time",
        read_in="qwen2_vl.positions.steps",
        source="absolute: arXiv 2502.13923, section 2.1.2; index: arXiv 2409.12191",
    )
    vision_window: Window = switch(
        Window(),
        kind=Window,
        choices=("checkpoint", "off", "PIXELS"),
        help="side of the vision tower's windows in pixels; off: every block sees the frame pair",
        read_in="vision.VisionTransformer.forward",
        source="112: arXiv 2502.13923, section 2.1.1",
    )
    vision_full_layers: FullLayers = switch(
        FullLayers(),
        kind=FullLayers,
        choices=("checkpoint", "none", "all", "N,..."),
        help="blocks of the vision tower that see the whole frame pair",
        read_in="vision.VisionTransformer.forward",
        source='arXiv 2502.13923, section 2.1.1 ("only four layers")',
    )
