"""Text in and out for Qwen3-VL: no system prompt of its own, and time as text (arXiv 2511.21631,
section 2.3).

In place of a video the prompt has its frame pairs one by one, each between delimiters of its own
and after its timestamp, the mean of its two frames' times. All is written out before anything is
tokenised, since a timestamp may merge with the text before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from evalkit.engine.interface import Media
from evalkit.models.qwen2_vl.chat import CHAT_TEMPLATE as QWEN2_VL_TEMPLATE
from evalkit.models.qwen2_vl.chat import Chat as Qwen2VLChat
from evalkit.models.qwen3_vl.switches import Switches
from evalkit.models.sampling import Sampling

CHAT_TEMPLATE = QWEN2_VL_TEMPLATE[QWEN2_VL_TEMPLATE.index("{%- for message") :]
"""The format of the released Instruct models, for checkpoints that carry no template."""
UNKNOWN_FPS = 24.0
"""Frames a second where the times of a video are not known, as in transformers."""


class Chat(Qwen2VLChat):
    """The tokenizer and template of one checkpoint."""

    template_text: ClassVar[str] = CHAT_TEMPLATE
    switches: Switches

    def encode(self, text: str, media: Sequence[Media] = ()) -> list[int]:
        """Token ids of a rendered prompt, each visual placeholder repeated for its grid. Raises
        DataError when placeholders and media do not match.
        """
        if self.switches.time == "text":
            text, media = self.spelled(text, media)
        return super().encode(text, media)

    def spelled(self, text: str, media: Sequence[Media]) -> tuple[str, list[Media]]:
        """``text`` with each video written out as its frame pairs, and the media with each video as
        many of one.
        """
        start, pad, end = (
            str(self.tokenizer.id_to_token(i))
            for i in (
                self.config.vision_start_token_id,
                self.config.video_token_id,
                self.config.vision_end_token_id,
            )
        )
        videos = iter([m for m in media if m.is_video])

        def written(found: re.Match[str]) -> str:
            video = next(videos, None)
            if video is None:
                return found[0]  # one too many, which is refused with the others
            stamps = [stamp(*at, self.switches) for at in enumerate(times(video))]
            if self.switches.timestamp_place == "inside":
                pairs = "".join(f"{start}{time}{pad}{end}" for time in stamps)
            else:
                pairs = "".join(f"{time}{start}{pad}{end}" for time in stamps)
            keep = self.switches.video_wrapper == "keep"
            return f"{found[1] or ''}{pairs}{found[2] or ''}" if keep else pairs

        wrapped = rf"({re.escape(start)})?{re.escape(pad)}({re.escape(end)})?"
        return re.sub(wrapped, written, text), [part for m in media for part in pairs_of(m)]


def pairs_of(media: Media) -> list[Media]:
    """A video as its frame pairs; an image as it is."""
    if not media.is_video:
        return [media]
    t, h, w = media.grid
    return [replace(media, grid=(1, h, w), times=())] * t


def times(video: Media) -> tuple[float, ...]:
    """The second of each frame pair."""
    if video.times:
        return video.times
    frames = 2 * video.grid[0]
    return Sampling(tuple(range(frames)), frames, UNKNOWN_FPS).times(2)


def stamp(number: int, seconds: float, switches: Switches) -> str:
    """What stands before a frame pair."""
    if switches.timestamps == "seconds":
        return f"<{seconds:.1f} seconds>"
    if switches.timestamps == "index":
        return f"<{number}>"
    if switches.timestamps == "off":
        return ""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    return f"<{hours}:{minutes:02}:{rest // 10:02}.{rest % 10}>"
