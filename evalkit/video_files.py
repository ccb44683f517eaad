"""Files of clips as PyAV reads them, within bounds: when their frames are shown, and the frames."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.bounds import bounds, over
from evalkit.errors import DataError
from evalkit.formats import VIDEO_FORMATS
from evalkit.timeline import Timeline
from evalkit.types import Image, Video

SMALL_FRAME = 512 * 512
"""Pixels of a frame below which threads cost a decoder more than they bring."""
Frame = NDArray[np.uint8]
"""[height, width, 3]."""
Frames = NDArray[np.uint8]
"""[frames, height, width, 3]."""


def read_timeline(video: Video) -> Timeline:
    """When the frames of a clip's file are shown, by its packets, without decoding: an edit list
    hides some of those that the header counts, and a file that was cut short has fewer. Raises
    DataError, and what PyAV raises.
    """
    with _open(video) as container:
        stream = _stream(container, video)
        rate, unit = stream.average_rate or stream.guessed_rate, stream.time_base
        stated, seconds = stream.frames, _stated_seconds(container, stream)
        count, hidden, stamps, end = 0, 0, [], 0
        for packet in container.demux(stream):  # kept as numbers: a file may be gigabytes
            if not packet.size:
                continue
            if count + hidden == bounds().clip_frames:
                raise DataError(f"video{where(video)}: {over('clip_frames')}")
            if packet.is_discard:
                hidden += 1
                continue
            count += 1
            if packet.pts is not None:
                stamps.append(packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
    stamps.sort()
    if len(set(stamps)) < count or unit is None:
        stamps = []  # none, or the same for several frames: they are counted in decoding order
    if not rate and len(stamps) > 1:
        rate = Fraction(count - 1) / ((stamps[-1] - stamps[0]) * unit)
    if not rate or not count:
        raise DataError(f"the video states no frame rate or has no frames{where(video)}")
    fps = float(rate)
    times = tuple(float((s - stamps[0]) * unit) for s in stamps) or tuple(
        i / fps for i in range(count)
    )
    unseen = max(stated - hidden - count, 0)
    expected = count
    if seconds is None or not stamps:
        expected += unseen
    else:
        # What the stated end leaves room for. A header's count alone is no proof: AVI counts the
        # empty packets, too, with which it fills gaps.
        steps = np.diff(times) if count > 1 else np.array([1 / fps])
        step = float(np.median(steps))
        room = seconds - float((end - stamps[0]) * unit)
        if unseen and room > step / 2:
            expected += min(unseen, max(round(room / step), 1))
        elif room > 2 * steps.max():
            expected += round(room / step)
    return Timeline(times, tuple(stamps), fps, expected)


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """How long the video is by the file's header; None where it doesn't say, or says it of the
    sound as well.
    """
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):  # Matroska: 00:00:05.000000000
        hours, minutes, seconds = (float(x) for x in tag.rstrip("\0").split(":"))
        return 3600 * hours + 60 * minutes + seconds
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def decoded_frames(
    video: Video, timeline: Timeline, wanted: Collection[int]
) -> Iterator[tuple[int, Frame]]:
    """Those of the ``wanted`` frames that decode, each with its index in the timeline. Raises
    DataError, and what PyAV raises.
    """
    from av.video.reformatter import VideoReformatter

    places = {stamp: i for i, stamp in enumerate(timeline.stamps)}
    last = max(wanted)
    convert = VideoReformatter()
    with _open(video) as container:
        stream = _stream(container, video)
        if stream.width * stream.height < SMALL_FRAME:
            stream.codec_context.thread_count = 1
        for number, frame in enumerate(_decoded(container, stream)):
            i = places.get(frame.pts, -1) if places else number
            if i in wanted and not frame.is_corrupt:  # what the decoder made up is no frame
                rgb = np.asarray(
                    convert.reformat(frame, format="rgb24", **_one_thread()).to_ndarray(),
                    dtype=np.uint8,
                )
                if video.upright and frame.rotation % 90 == 0:
                    rgb = np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))
                yield i, rgb
            if i >= last:
                break


def _decoded(container: Any, stream: Any) -> Any:
    """The frames that decode; what a decoder can't make sense of costs its own frame alone."""
    from av.error import FFmpegError, InvalidDataError

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # the file ends in the middle of a packet
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except InvalidDataError:
            continue


def _open(video: Video) -> Any:
    import av

    if not isinstance(video.source, bytes) and not video.source.is_file():
        absent = not video.source.exists()
        raise OSError("no such file" if absent else "not a regular file")
    # without "file:" a name with a colon in it is taken for an address
    source = io.BytesIO(video.source) if isinstance(video.source, bytes) else f"file:{video.source}"
    options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
    # container options alone: as options of every stream, PyAV 15 crashes where streams come late
    return av.open(source, container_options=options, **_lenient())


def _stream(container: Any, video: Video) -> Any:
    from av.stream import Disposition

    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:  # at most the picture of a cover
        raise DataError(f"no video stream{where(video)}")
    stream = moving[0]
    if stream.codec_context is None:
        raise DataError(f"no decoder for its video{where(video)}")
    most = bounds().frame_pixels
    if stream.width * stream.height > most:
        raise DataError(
            f"frames of {stream.width}x{stream.height} pixels{where(video)}: {over('frame_pixels')}"
        )
    # frames that grow later are refused by the decoder, which counts its padding, too
    stream.codec_context.options = {"max_pixels": str(2 * most)}
    return stream


@lru_cache(maxsize=1)
def _lenient() -> dict[str, Any]:
    """PyAV before 19 decodes titles strictly unless told otherwise; later ones know no such
    argument.
    """
    import av

    return {"metadata_errors": "replace"} if _version(av) < 19 else {}


@lru_cache(maxsize=1)
def _one_thread() -> dict[str, Any]:
    """From PyAV 17 on the conversion to RGB takes threads, which cost small frames more than they
    bring.
    """
    import av

    return {"threads": 1} if _version(av) >= 17 else {}


def _version(av: Any) -> int:
    return int(av.__version__.split(".")[0])


def where(media: Image | Video) -> str:
    """Which file it is, at the end of an error's words."""
    return (
        f" ({len(media.source)} bytes)" if isinstance(media.source, bytes) else f" {media.source}"
    )
