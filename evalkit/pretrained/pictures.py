"""What a model that takes pictures is shown of images and videos."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image as PILImage

from evalkit.adapter import media_of
from evalkit.errors import DataError
from evalkit.media import decode_image, decode_video
from evalkit.types import Image, MediaBudget, Request, Video

FRAMES = 8
"""Of a video, where it is shown as pictures and nothing else is asked for."""


def pictures(part: Image | Video, budget: MediaBudget, frames: int) -> list[PILImage.Image]:
    """An image, or at most ``frames`` of a video. Raises DataError."""
    if isinstance(part, Image):
        return [decode_image(part).convert("RGB")]
    most = most_frames(budget, frames)
    shown = decode_video(part, lambda total, fps: spread(total, most))
    return [PILImage.fromarray(frame) for frame in shown]


def pictures_of(request: Request, frames: int) -> list[PILImage.Image]:
    """Those of all media of a request, ``pictures`` of each. Raises DataError, also where there is
    none.
    """
    media = media_of(request.messages)
    if shown := [p for part in media for p in pictures(part, request.budget, frames)]:
        return shown
    raise DataError("a picture is needed, and there is none")


def most_frames(budget: MediaBudget, frames: int) -> int:
    """The fewer of an adapter's frames and those that a task allows."""
    return min(frames, budget.max_frames or frames)


def spread(total: int, most: int) -> list[int]:
    """Indices of at most ``most`` of ``total`` frames, the middles of as many equal parts."""
    count = min(total, most)
    return [int((i + 0.5) * total / count) for i in range(count)]


def sheet(shown: Sequence[PILImage.Image]) -> PILImage.Image:
    """Pictures of one size on one, in rows, as near to a square as their number allows."""
    columns = math.ceil(math.sqrt(len(shown)))
    width, height = shown[0].size
    out = PILImage.new("RGB", (columns * width, math.ceil(len(shown) / columns) * height))
    for i, picture in enumerate(shown):
        out.paste(picture, (i % columns * width, i // columns * height))
    return out
