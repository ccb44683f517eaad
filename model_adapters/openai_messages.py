"""Conversations as the OpenAI protocol has them: parts of text, and media as data URLs.

Pictures are sent as PNG, so that a server sees the pixels that evalkit's own decoder sees; a PNG
file goes as it is. Frames of a clip are chosen here and sent one by one, or the whole file goes as
``video_url`` (vLLM, SGLang and ``evalkit serve`` take it).
"""

from __future__ import annotations

import base64
import io
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal

from PIL import Image as Pillow

from evalkit.errors import DataError
from evalkit.media import (
    ChooseFrames,
    Times,
    decode_image,
    decode_video,
    noted_frames,
    open_image,
    opened,
)
from evalkit.types import Image, MediaBudget, Message, Part, Text, Video

ImageForm = Literal["png", "jpeg", "original"]
VideoForm = Literal["frames", "url"]
FPS, MAX_FRAMES = 2.0, 32
"""Of a clip that is sent as frames, where neither the task nor the user says anything."""
JPEG_QUALITY = 95
KEPT = 8
"""Pictures and clips that are kept as they are sent, for the next questions about them."""


@dataclass(frozen=True)
class Form:
    """How media are sent. ``resize``: pictures and frames are brought within the pixel bounds here,
    for servers that take none.
    """

    images: ImageForm = "png"
    videos: VideoForm = "frames"
    resize: bool = False


Sent = tuple[tuple[Part, ...], tuple[Times, ...]]
"""A part of a message as it is sent, and when the frames of a clip are that were chosen for it."""


class Prepared:
    """Conversations with their media as they are sent. What was made last is kept: a page's and a
    clip's next questions send the same, and threads that want it at once make it once.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.made: OrderedDict[Hashable, Future[Sent]] = OrderedDict()

    def __call__(
        self, messages: Sequence[Message], form: Form, budget: MediaBudget
    ) -> tuple[tuple[Message, ...], tuple[Times, ...]]:
        """Pictures as bytes of the right form, clips as their frames unless they go whole, and when
        these frames are, a clip each. Raises DataError for media that can't be read or sent.
        """
        sent = [[self._sent(part, form, budget) for part in m.content] for m in messages]
        return (
            tuple(
                replace(m, content=tuple(p for parts, _ in of for p in parts))
                for m, of in zip(messages, sent)
            ),
            tuple(t for of in sent for _, times in of for t in times),
        )

    def _sent(self, part: Part, form: Form, budget: MediaBudget) -> Sent:
        whole = isinstance(part, Video) and form.videos == "url"
        if isinstance(part, Text) or whole:
            return (part,), ()
        key = part.digest, replace(part, source=b""), form, budget
        with self.lock:
            known = self.made.get(key)
            future = self.made[key] = known or Future()
            self.made.move_to_end(key)
            while len(self.made) > KEPT:
                self.made.popitem(last=False)
        if known is None:
            try:
                future.set_result(_made(part, form, budget))
            except BaseException as e:
                future.set_exception(e)
        return future.result()


def _made(part: Image | Video, form: Form, budget: MediaBudget) -> Sent:
    if isinstance(part, Image):
        return (Image(_encoded(part, form, budget)),), ()
    with noted_frames() as times:
        shown = tuple(map(Image, frames(part, form, budget)))
    return shown, tuple(times)


def chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A prepared conversation as a request's ``messages``; a message of one text is a string."""
    return [{"role": m.role, "content": _content(m)} for m in messages]


def _content(message: Message) -> str | list[dict[str, Any]]:
    if len(message.content) == 1 and isinstance(text := message.content[0], Text):
        return text.text
    return [_part(part) for part in message.content]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        data = part.read()
        kind = Pillow.MIME[open_image(data).format]
        return {"type": "image_url", "image_url": {"url": data_url(kind, data)}}
    if any((part.start is not None, part.end is not None, part.upright, part.fps)):
        raise DataError(
            "a clip that is cut, turned or a folder of frames can't be sent whole; send its frames "
            "(videos=frames)"
        )
    return {"type": "video_url", "video_url": {"url": data_url("video/mp4", part.read())}}


def data_url(kind: str, data: bytes) -> str:
    """``data:image/png;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image, form: Form, budget: MediaBudget) -> bytes:
    """A picture's bytes as they are sent."""
    with opened(image) as picture:
        size = picture.size
        plain = picture.format == "PNG" and picture.mode in ("RGB", "L")
        plain = plain and not picture.has_transparency_data and not image.upright
    keeps = not form.resize or bounded(size, budget) == size
    if keeps and (form.images == "original" or (form.images == "png" and plain)):
        return image.read()
    pixels = decode_image(image)
    if form.resize:
        pixels = _resized(pixels, budget)
    return _saved(pixels, "jpeg" if form.images == "jpeg" else "png")


def _resized(picture: Any, budget: MediaBudget) -> Any:
    size = bounded(picture.size, budget)
    return picture if size == picture.size else picture.resize(size, Pillow.Resampling.BICUBIC)


def _saved(picture: Any, kind: Literal["png", "jpeg"]) -> bytes:
    out = io.BytesIO()
    if kind == "jpeg":
        picture.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def bounded(size: tuple[int, int], budget: MediaBudget) -> tuple[int, int]:
    """(width, height) within a budget's pixel bounds, the shape kept as far as whole pixels do."""
    width, height = size
    area = width * height
    low, high = budget.min_pixels, budget.max_pixels
    if high and area > high:
        scale = math.sqrt(high / area)
        return max(int(width * scale), 1), max(int(height * scale), 1)
    if low and area < low:
        scale = math.sqrt(low / area)
        return math.ceil(width * scale), math.ceil(height * scale)
    return size


def frames(video: Video, form: Form, budget: MediaBudget) -> list[bytes]:
    """The frames that are shown of a clip, as PNG: ``budget.fps`` a second, evenly from the first
    to the last, at most ``budget.max_frames``.
    """
    chosen = decode_video(video, chooser(budget))
    pictures = map(Pillow.fromarray, chosen)
    return [_saved(_resized(p, budget) if form.resize else p, "png") for p in pictures]


def chooser(budget: MediaBudget) -> ChooseFrames:
    """Which frames of a clip are sent within a budget."""

    def choose(total: int, rate: float) -> list[int]:
        return frame_indices(total, rate, budget.fps or FPS, budget.max_frames or MAX_FRAMES)

    return choose


def frame_indices(total: int, rate: float, fps: float, most: int) -> list[int]:
    """Increasing indices of at most ``most`` of ``total`` frames, ``fps`` of each second of a clip
    of ``rate`` frames a second; at least one.
    """
    n = max(min(round(total / rate * fps), most, total), 1)
    if n == 1:
        return [0]
    return [round(i * (total - 1) / (n - 1)) for i in range(n)]
