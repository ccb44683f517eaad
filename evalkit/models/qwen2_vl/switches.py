"""The ablation switches: every way in which this model can be run other than as released, in one
frozen value.

A field left at None means "as the weights were trained", which for a released checkpoint is the
release. Each switch reaches the code at exactly one place, named beside it. docs/ablations.md says
which source claims what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from evalkit.errors import UsageError

RELEASE: Mapping[str, Any] = {
    "position": "mrope",
    "next_position": "max_all",
    "combine": "sections",
    "resolution": "dynamic",
    "rounding": "round",
    "vision_position": "rope2d",
    "vision_time": "off",
    "vision_scope": "slice",
    "tube": "pair",
    "vision_gate": 1.0,
    "cross_modal": "off",
}
"""What the released models do, where a checkpoint does not say otherwise."""

LARGEST = 100_000_000
"""Pixels of the largest image that a switch may ask for."""

BUDGETS = ("min_pixels", "max_pixels", "fps", "max_frames")
"""How much is shown: settings of an evaluation, chosen anew for every benchmark, not something that
weights are trained under.
"""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "position": ("mrope", "rope1d", "mrope_i", "mhrope", "videorope", "hope", "vrope"),
    "next_position": ("max_all", "max_hw"),
    "combine": ("sections", "interleaved", "kron"),
    "rounding": ("round", "ceil", "floor"),
    "vision_position": ("rope2d", "rope1d", "none"),
    "vision_time": ("off", "on"),
    "vision_scope": ("slice", "clip"),
    "tube": ("pair", "per_frame"),
}
"""The values of the switches that are words."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "next_position": ("mrope",),
    "combine": ("mrope", "rope1d"),
    "temporal_spacing": ("videorope", "hope"),
}
"""The position schemes under which a switch has a meaning."""


@dataclass(frozen=True)
class Ablation:
    """Switches of the model and of what it sees.

    position: how tokens are placed and rotated, a name in positions.POSITIONS.
    next_position: where text goes on after a visual, ``max_all`` (paper) or ``max_hw``
        (transformers 5.23). positions.mrope_ids.
    combine: how the three components share the frequencies, under mrope and rope1d.
        positions.sections.
    theta: the decoder's RoPE base. positions._theta.
    temporal_spacing: positions between frames, under videorope and hope. positions.diagonal_ids.
    resolution: ``dynamic``, ``tokens:N`` (exactly N visual tokens an image) or ``size:HxW``.
        processing.target_size.
    rounding: sides to multiples of 28 by ``round`` (half to even), ``ceil`` or ``floor``.
        processing.smart_resize.
    vision_position: positions of the vision tower: ``rope2d``, ``rope1d`` (raster order) or
        ``none``. rope.vision_angles.
    vision_time: ``on`` adds the frame pair's number to the tower's positions. rope.vision_angles.
    vision_scope: what a patch attends to in the tower: its frame pair (``slice``) or its whole
        ``clip``. vision.forward.
    tube: ``pair`` of frames a patch, or ``per_frame``, each frame twice.
        processing.Processor.video.
    vision_gate: factor on the visual features where they enter the decoder; 0 is the no-vision
        baseline. model.embed.
    cross_modal: attention between visual tokens and text: ``off``, ``multiply:S`` (its logits times
        S) or ``bias:S`` (log S added). decoder.CrossModal.
    min_pixels, max_pixels: area bounds of an image, or of each video frame. processing.target_size.
    fps, max_frames: video sampling. processing.sample_frames.
    """

    position: str | None = None
    next_position: str | None = None
    combine: str | None = None
    theta: float | None = None
    temporal_spacing: float | None = None
    resolution: str | None = None
    rounding: str | None = None
    vision_position: str | None = None
    vision_time: str | None = None
    vision_scope: str | None = None
    tube: str | None = None
    vision_gate: float | None = None
    cross_modal: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                quotes = " (in YAML with quotes: 'off', 'on')" if isinstance(value, bool) else ""
                raise UsageError(f"{name}={value!r}: expected one of {', '.join(known)}{quotes}")
        for name, schemes in NEEDS.items():
            value = getattr(self, name)
            if (
                value not in (None, RELEASE.get(name))
                and self.position is not None
                and self.position not in schemes
            ):
                raise UsageError(
                    f"{name}={value!r} has no meaning under position={self.position}: only "
                    f"under {', '.join(schemes)}"
                )
        if self.resolution is not None:
            parse_resolution(self.resolution)
        if self.cross_modal is not None:
            parse_cross_modal(self.cross_modal)
        for name in ("theta", "temporal_spacing", "fps"):
            value = getattr(self, name)
            if value is not None and not (_number(value) and value > 0):
                raise UsageError(f"{name}={value!r}: expected a number above 0")
        for name in ("min_pixels", "max_pixels", "max_frames"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value <= 0
            ):
                raise UsageError(f"{name}={value!r}: expected a whole number above 0")
        if self.min_pixels and self.min_pixels > LARGEST:
            raise UsageError(
                f"min_pixels={self.min_pixels}: images are made at most {LARGEST:,} pixels large"
            )
        if self.vision_gate is not None and not _number(self.vision_gate):
            raise UsageError(f"vision_gate={self.vision_gate!r}: expected a number")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise UsageError(f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}")

    def resolve(self, trained_with: Mapping[str, Any]) -> Ablation:
        """Fills the unset model switches with what the weights were trained under, unless they mean
        nothing under a given position.
        """
        base = {**RELEASE, **trained_with}
        known = {f.name for f in fields(self)}
        if unknown := set(base) - known:
            raise UsageError(
                "the checkpoint was trained with switches unknown to this version: "
                f"{', '.join(sorted(unknown))}"
            )
        position = self.position or base["position"]
        base = {
            k: v
            for k, v in base.items()
            if position in NEEDS.get(k, (position,)) or v == RELEASE.get(k)
        }
        return Ablation(**{**base, **self.given()})

    def given(self) -> dict[str, Any]:
        """The switches that are set, by name."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def differences(self, trained_with: Mapping[str, Any]) -> dict[str, Any]:
        """The switches whose value is not what the weights were trained under: any of them makes a
        result an inference probe.

        ``BUDGETS`` are not among them.
        """
        base = {**RELEASE, **trained_with}
        return {k: v for k, v in self.given().items() if k not in BUDGETS and base.get(k) != v}


def parse_cross_modal(text: str) -> tuple[str, float]:
    """``off`` -> ("off", 1.0), ``multiply:0.7`` -> ("multiply", 0.7), ``bias:0.7`` -> ("bias",
    0.7). Raises UsageError.
    """
    form, _, rest = str(text).partition(":")
    try:
        scale = float(rest) if rest else 1.0
    except ValueError:
        scale = 0.0
    if (form, bool(rest)) in (
        ("off", False),
        ("multiply", True),
        ("bias", True),
    ) and 0 < scale < float("inf"):
        return form, scale
    raise UsageError(
        f"cross_modal={text!r}: expected off (in YAML with quotes: 'off'), multiply:S or "
        "bias:S with S above 0"
    )


def parse_resolution(text: str) -> tuple[str, tuple[int, ...]]:
    """``dynamic`` -> ("dynamic", ()), ``tokens:64`` -> ("tokens", (64,)), ``size:224x448`` ->
    ("size", (224, 448)), height first. Raises UsageError."""
    mode, _, rest = str(text).partition(":")
    try:
        numbers = tuple(int(n) for n in rest.split("x")) if rest else ()
    except ValueError:
        numbers = (-1,)
    if (mode, len(numbers)) in (("dynamic", 0), ("tokens", 1), ("size", 2)) and all(
        n > 0 for n in numbers
    ):
        if mode == "size" and any(n % 28 for n in numbers):
            raise UsageError(f"resolution={text!r}: height and width must be multiples of 28")
        if math.prod(numbers) * (784 if mode == "tokens" else 1) > LARGEST:
            raise UsageError(
                f"resolution={text!r}: images are made at most {LARGEST:,} pixels large; a "
                "token has 784"
            )
        return mode, numbers
    raise UsageError(f"resolution={text!r}: expected dynamic, tokens:N or size:HxW")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
