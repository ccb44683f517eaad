"""Bounds on what a model is shown of its media, and which of several bounds holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.models.switch import SwitchSet


@dataclass(frozen=True)
class Limits:
    """Bounds on what is shown of media; None leaves a bound to whoever comes next.

    min_pixels, max_pixels: area of an image, or of each video frame.
    fps, max_frames: sampling of a video, in frames a second and in all.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None


def media_limits(switches: SwitchSet, task: Limits, checkpoint: Limits) -> Limits:
    """The bounds that hold: a switch goes before the task's budget, the task's before the
    checkpoint's.

    A pixel bound given by a switch moves the other one out of its way: ``max_pixels`` below the
    task's ``min_pixels`` lowers that, and the reverse.
    """

    def first(name: str) -> Any:
        return getattr(switches, name, None) or getattr(task, name) or getattr(checkpoint, name)

    low, high = first("min_pixels"), first("max_pixels")
    if getattr(switches, "max_pixels", None) and low:
        low = min(low, high)
    if getattr(switches, "min_pixels", None) and high:
        high = max(low, high)
    return Limits(low, high, first("fps"), first("max_frames"))
