"""Decoding of images and videos, with bounds and with errors that name the fault.

Images go through Pillow, videos through PyAV. Nothing is re-encoded, and only the frames that are
asked for are kept.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from evalkit.errors import DataError
from evalkit.types import Image, Video

MAX_IMAGE_PIXELS = 178_956_970
"""Larger images are refused before they are decoded: a small file can claim any size."""

SMALL_FRAME = 512 * 512
"""Pixels of a frame below which threads cost a decoder more than they bring."""

ChooseFrames = Callable[[int, float], Sequence[int]]
"""(frames in the clip, its frames per second) -> increasing indices to keep."""


def decode_image(image: Image) -> PILImage.Image:
    """The decoded picture, in the mode it is stored in, orientation tags not applied (as the
    official pipeline reads it).

    Raises DataError when the file can't be read, is not an image, is cut short or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            picture = PILImage.open(io.BytesIO(image.read()))
            if picture.width * picture.height > MAX_IMAGE_PIXELS:
                raise DataError(
                    f"image of {picture.width}x{picture.height} pixels: over the limit of "
                    f"{MAX_IMAGE_PIXELS:,} pixels"
                )
            picture.load()
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"unreadable image{_where(image)}: not an image in a known format"
        ) from None
    except Exception as e:  # damaged files make Pillow's decoders raise anything
        raise DataError(f"unreadable image{_where(image)}: {e}") from e
    return picture


def decode_video(video: Video, choose: ChooseFrames) -> NDArray[np.uint8]:
    """The chosen frames [frames, height, width, 3] of a clip, in order.

    Indices count from the clip's first frame, after ``start`` and ``end`` have cut it. Raises
    DataError when the file can't be read, has no video, or ends before a chosen frame.
    """
    import av
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    try:
        source = io.BytesIO(video.source) if isinstance(video.source, bytes) else str(video.source)
        with av.open(source, metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"no video stream{_where(video)}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"no decoder for its video{_where(video)}")
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            total = stream.frames or sum(1 for p in container.demux(stream) if p.size)
            container.seek(0)
            if stream.width * stream.height < SMALL_FRAME:
                stream.codec_context.thread_count = 1
            convert = VideoReformatter()
            one_thread = (
                {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
            )  # before, there was no choice
            if not fps or not total:
                raise DataError(f"the video states no frame rate or has no frames{_where(video)}")
            first = 0 if video.start is None else min(max(round(video.start * fps), 0), total)
            last = total if video.end is None else min(round(video.end * fps) + 1, total)
            if first >= last:
                raise DataError(
                    f"the cut {video.start}..{video.end} s holds no frame of a clip of "
                    f"{total / fps:.2f} s{_where(video)}"
                )
            wanted = [first + i for i in choose(last - first, fps)]
            kept: dict[int, NDArray[np.uint8]] = {}
            for i, frame in enumerate(container.decode(stream)):
                if i in wanted:
                    kept[i] = np.asarray(
                        convert.reformat(frame, format="rgb24", **one_thread).to_ndarray(),
                        dtype=np.uint8,
                    )
                if i >= wanted[-1]:
                    break
    except (FFmpegError, OSError, ValueError, OverflowError) as e:
        raise DataError(f"unreadable video{_where(video)}: {e}") from e
    if absent := [i for i in wanted if i not in kept]:
        raise DataError(
            f"truncated video{_where(video)}: frame {absent[0]} of {total} can't be decoded"
        )
    if len(sizes := {k.shape for k in kept.values()}) > 1:
        raise DataError(
            f"the frames change size{_where(video)}: "
            f"{', '.join(f'{w}x{h}' for h, w, _ in sorted(sizes))}"
        )
    return np.stack([kept[i] for i in wanted])


def _where(media: Image | Video) -> str:
    return (
        f" ({len(media.source)} bytes)" if isinstance(media.source, bytes) else f" {media.source}"
    )
