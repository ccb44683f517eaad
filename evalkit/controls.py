"""Controls: the same questions with the pictures hidden, taken away, stopped, shuffled or swapped.

How much of a score needs the picture is found by asking again without it; Goyal et al., "Making the
V in VQA Matter" (CVPR 2017), and Cores et al., "TVBench" (2024), found large parts of well-known
benchmarks answered blind, or from a single frame. A control changes requests, never models, so that
it works with every adapter; the same sample is changed alike in every run.

===================  ==============================================================================
``blind``            each picture is a uniform grey one of its size; each clip as many grey frames
``text-only``        pictures and clips are left out
``single-frame``     each clip is its middle frame, as a picture
``shuffled-frames``  the frames of each clip in an order drawn from the sample's id
``image-swapped``    pictures and clips are those of the next sample with other ones; the last
                     samples have those of the first
===================  ==============================================================================

A sample without anything that the control could change is that sample's error: its score would be
the uncontrolled one's under another name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import cycle
from typing import Any, TypeGuard

from evalkit.errors import DataError, UsageError
from evalkit.rows import image_size
from evalkit.task import RowError
from evalkit.types import Image, MediaBudget, Message, Sample, Video

CONTROLS = ("blind", "text-only", "single-frame", "shuffled-frames", "image-swapped")
GREY = 128
FPS, MAX_FRAMES, MAX_PIXELS = 2.0, 768, 768 * 28 * 28
"""Of a clip that is written anew, where the task's budget says nothing: frames a second, frames,
and pixels of a frame."""


def check_control(name: str) -> str:
    """A control's name, or empty for none. Raises UsageError with those that there are."""
    if name and name not in CONTROLS:
        raise UsageError(f"no control {name!r}; there are: {', '.join(CONTROLS)}")
    return name


def controlled(
    messages: Sequence[Message], control: str, id: str, budget: MediaBudget
) -> tuple[Message, ...]:
    """A conversation under a control; ``id`` is its sample's. Raises DataError when there is
    nothing to change, or what there is can't be read.
    """
    media = [p for m in messages for p in m.content if _is_medium(p)]
    if control in ("single-frame", "shuffled-frames"):
        media = [p for p in media if isinstance(p, Video)]
    if not media:
        kind = "clip" if control.endswith(("frame", "frames")) else "picture or clip"
        raise DataError(f"control {control}: the sample has no {kind}")
    if control == "image-swapped":  # done before: it takes two samples
        return tuple(messages)

    def changed(part: Any) -> Any:
        if isinstance(part, Image) and control == "blind":
            return Image(grey(*image_size(part)))
        if isinstance(part, Video) and control != "text-only":
            return _still(part) if control == "single-frame" else _anew(part, control, id, budget)
        return part

    def stays(part: Any) -> bool:
        return control != "text-only" or not _is_medium(part)

    return tuple(
        replace(m, content=tuple(changed(p) for p in m.content if stays(p))) for m in messages
    )


def swapped(samples: Iterable[Sample | RowError]) -> Iterator[Sample | RowError]:
    """The samples in their order, each with the media of the next one of another cluster (its k-th
    the other's k-th, and from the first again where that has fewer); the last ones have those of
    the first. A RowError where there is no other picture in the data.
    """
    first: list[Sample] = []  # the first samples of two clusters
    waiting: list[Sample | RowError] = []
    for sample in samples:
        if isinstance(sample, Sample) and _media(sample):
            if len(first) < 2 and all(_differ(f, sample) for f in first):
                first.append(sample)
            while waiting and (done := _swapped(waiting[0], [sample])):
                waiting.pop(0)
                yield done
        waiting.append(sample)
    for one in waiting:
        why = "control image-swapped: there is no other picture in the data"
        yield _swapped(one, first) or RowError(one.id, why)


def _swapped(one: Sample | RowError, others: Sequence[Sample]) -> Sample | RowError | None:
    """A sample with the media of the first of the others that differs; what has none as it is."""
    if isinstance(one, RowError) or not _media(one):
        return one
    other = next((o for o in others if _differ(o, one)), None)
    if other is None:
        return None
    media = cycle(_media(other))
    messages = tuple(
        replace(m, content=tuple(next(media) if _is_medium(p) else p for p in m.content))
        for m in one.messages
    )
    return replace(one, messages=messages)


def _media(sample: Sample) -> list[Image | Video]:
    return [p for m in sample.messages for p in m.content if _is_medium(p)]


def _is_medium(part: object) -> TypeGuard[Image | Video]:
    return isinstance(part, Image | Video)


def _differ(a: Sample, b: Sample) -> bool:
    """Whether two samples are of other clusters and of other pictures."""
    try:
        same = [m.digest for m in _media(a)] == [m.digest for m in _media(b)]
    except OSError:
        return False
    return not same and (a.cluster or a.id) != (b.cluster or b.id)


@lru_cache(maxsize=64)
def grey(width: int, height: int) -> bytes:
    """A PNG of one grey."""
    from PIL import Image as PILImage

    out = io.BytesIO()
    PILImage.new("RGB", (width, height), (GREY, GREY, GREY)).save(out, "PNG")
    return out.getvalue()


def _still(clip: Video) -> Image:
    """The middle frame of a clip, as a picture."""
    from evalkit.media import pictures

    (picture,), _ = pictures(clip, lambda total, fps: [total // 2])
    return picture


def _anew(clip: Video, control: str, id: str, budget: MediaBudget) -> Video:
    """A clip of as many frames as the budget shows of this one, over the same time, without loss:
    in another order, or grey.
    """
    import numpy as np

    from evalkit.media import decode_video

    rate = Fraction(1)

    def choose(total: int, fps: float) -> list[int]:
        nonlocal rate
        aim = round(total / fps * (budget.fps or FPS))
        count = max(min(aim, budget.max_frames or MAX_FRAMES, total), min(4, total))
        rate = Fraction(count * fps / total).limit_denominator(1000)
        return [int(i) for i in np.linspace(0, total - 1, count).round()]

    frames = decode_video(clip, choose, lambda frame, total: _bounded(frame, budget.max_pixels))
    if control == "blind":
        frames = np.full_like(frames, GREY)
    else:
        seed = int.from_bytes(hashlib.sha256(f"{id} {clip.digest}".encode()).digest()[:8])
        order = np.random.default_rng(seed).permutation(len(frames))
        if len(order) < 2:
            raise DataError("control shuffled-frames: the clip has a single frame")
        frames = frames[np.roll(order, 1) if (np.diff(order) == 1).all() else order]
    return Video(_encoded(frames, rate))


def _bounded(frame: Any, most: int | None) -> Any:
    """A frame within the pixels that a model is shown of one."""
    import numpy as np
    from PIL import Image as PILImage

    height, width, _ = frame.shape
    scale = ((most or MAX_PIXELS) / (height * width)) ** 0.5
    if scale >= 1:
        return frame
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(PILImage.fromarray(frame).resize(size, PILImage.Resampling.BICUBIC))


def _encoded(frames: Any, rate: Fraction) -> bytes:
    """Frames [frames, height, width, 3] as a clip, bit for bit (FFV1 in Matroska)."""
    import av

    out = io.BytesIO()
    options = {"fflags": "+bitexact"}  # without it, each file has an identifier of its own
    with av.open(out, "w", format="matroska", options=options) as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return out.getvalue()
