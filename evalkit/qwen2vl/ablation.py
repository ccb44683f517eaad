"""The ablation switches: every way in which this model can be run other than as released, in one frozen value.

A field left at None means "as the weights were trained", which for a released checkpoint is the release. Each switch reaches the
code at exactly one place, named beside it. docs/ablations.md says which source claims what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from evalkit.errors import UsageError

RELEASE: Mapping[str, Any] = {"position": "mrope", "resolution": "dynamic", "vision_gate": 1.0}
"""What the released models do, where a checkpoint does not say otherwise."""


@dataclass(frozen=True)
class Ablation:
    """Switches of the model and of what it sees.

    position: ``mrope`` (paper 2.1) or ``rope1d`` (every token, visual ones too, at its index). rope.POSITIONS.
    resolution: ``dynamic``, ``tokens:N`` (exactly N visual tokens an image) or ``size:HxW``. processing.target_size.
    vision_gate: factor on the visual features where they enter the decoder; 0 is the no-vision baseline. model.embed.
    min_pixels, max_pixels: area bounds of an image, or of each video frame. processing.target_size.
    fps, max_frames: video sampling. processing.sample_frames.
    """

    position: str | None = None
    resolution: str | None = None
    vision_gate: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        from evalkit.qwen2vl.rope import POSITIONS  # the registry of schemes lives where they are computed

        if self.position is not None and self.position not in POSITIONS:
            raise UsageError(f"position={self.position!r}: expected one of {', '.join(POSITIONS)}")
        if self.resolution is not None:
            parse_resolution(self.resolution)
        for name in ("min_pixels", "max_pixels", "fps", "max_frames"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise UsageError(f"{name}={value!r}: expected a number above 0")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise UsageError(f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}")

    def resolve(self, trained_with: Mapping[str, Any]) -> Ablation:
        """Fills the unset model switches with what the weights were trained under."""
        base = {**RELEASE, **trained_with}
        known = {f.name for f in fields(self)}
        if unknown := set(base) - known:
            raise UsageError(f"the checkpoint was trained with switches unknown to this version: {', '.join(sorted(unknown))}")
        return Ablation(**{**base, **self.given()})

    def given(self) -> dict[str, Any]:
        """The switches that are set, by name."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def differences(self, trained_with: Mapping[str, Any]) -> dict[str, Any]:
        """The switches whose value is not what the weights were trained under: any of them makes a result an inference probe."""
        base = {**RELEASE, **trained_with}
        return {k: v for k, v in self.given().items() if base.get(k) != v}


def parse_resolution(text: str) -> tuple[str, tuple[int, ...]]:
    """``dynamic`` -> ("dynamic", ()), ``tokens:64`` -> ("tokens", (64,)), ``size:224x448`` -> ("size", (224, 448)), height first.
    Raises UsageError."""
    mode, _, rest = text.partition(":")
    try:
        numbers = tuple(int(n) for n in rest.split("x")) if rest else ()
    except ValueError:
        numbers = (-1,)
    if (mode, len(numbers)) in (("dynamic", 0), ("tokens", 1), ("size", 2)) and all(n > 0 for n in numbers):
        if mode == "size" and any(n % 28 for n in numbers):
            raise UsageError(f"resolution={text!r}: height and width must be multiples of 28")
        return mode, numbers
    raise UsageError(f"resolution={text!r}: expected dynamic, tokens:N or size:HxW")
