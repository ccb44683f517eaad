"""Decoding of images and videos, with bounds and with errors that name the fault.

Images go through Pillow, videos through PyAV. Formats are told by content, from a list: neither a
suffix nor a file that names other files (a playlist, a PostScript page) decides what is opened.
docs/media.md states the rules: transparency, bit depth, orientation, frames.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.bounds import bounds, over
from evalkit.errors import DataError
from evalkit.formats import IMAGE_FORMATS, frame_files
from evalkit.subtitles import interleaved
from evalkit.timeline import Timeline
from evalkit.types import Image, Interleaved, MediaBudget, Part, Text, Video
from evalkit.video_files import Frame, Frames, decoded_frames, read_timeline, where

STRIP = 4_000_000
"""Pixels of a picture that are converted at once: a large one is never held in several forms."""
INTERLEAVED_FRAMES = 16
"""Pictures of an interleaved clip where the budget doesn't say."""
MAX_MISSING = 0.05
"""Share of a clip's frames that may be absent (one always may): a neighbour takes their place."""

ChooseFrames = Callable[[int, float], Sequence[int]]
"""(frames in the clip, its frames per second) -> increasing indices to keep."""
Times = tuple[float, ...]
"""When frames are shown, in seconds from the start of the file."""
Resize = Callable[[Frame, int], Frame]
"""(a frame, how many are kept in all) -> the frame as it is kept."""

logger = logging.getLogger("evalkit")
_NOTED: ContextVar[list[Times] | None] = ContextVar("frames", default=None)


def decode_image(image: Image) -> Any:
    """The decoded picture, a ``PIL.Image.Image`` of mode RGB.

    Transparent pictures are laid on white, 16-bit grey is scaled to 8 bits. Orientation tags are
    applied where ``image.upright`` says so. Raises DataError when the file can't be read, is not an
    image, is cut short, is too large, or has a mode whose range is not known.
    """
    with opened(image) as picture:
        picture.load()
        return _rgb(_turned(picture) if image.upright else picture)


def preview(image: Image, side: int) -> tuple[Any, tuple[int, int]]:
    """A picture of at most ``side`` x ``side`` pixels to look at, and width and height of the whole
    one. A large one is made smaller before its colours are converted, while it is decoded where
    the format can do that. Raises DataError as ``decode_image``.
    """
    from PIL import Image as PILImage

    with opened(image) as picture:
        width, height = picture.size
        picture.draft(None, (side, side))
        picture.load()
        if (share := STRIP / (picture.width * picture.height)) < 1:
            size = (max(1, int(s * math.sqrt(share))) for s in picture.size)
            picture = picture.resize(tuple(size), PILImage.Resampling.NEAREST)
        if image.upright:
            turned = _turned(picture)
            if (turned.width > turned.height) != (picture.width > picture.height):
                width, height = height, width
            picture = turned
        picture = _rgb(picture)
        picture.thumbnail((side, side))
        return picture, (width, height)


def _turned(picture: Any) -> Any:
    """A picture as its orientation tag says, whatever its other tags hold."""
    from PIL.Image import Transpose as T

    ways = [T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM]
    ways += [T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90]  # of the tags 2 to 8
    tag = orientation(picture)
    return picture.transpose(ways[tag - 2]) if tag > 1 else picture


def orientation(picture: Any) -> int:
    """The EXIF orientation of a picture, 1 to 8; 0 where there is none, or none that can be read:
    a damaged tag turns nothing.
    """
    try:
        tag = picture.getexif().get(274)
    except Exception:  # Pillow raises anything here, SyntaxError among it
        return 0
    return int(tag) if tag in range(1, 9) else 0


@contextmanager
def opened(image: Image) -> Iterator[Any]:
    """A ``PIL.Image.Image`` within bounds, of which only the header was read. Whatever is raised
    while it is used becomes a DataError that names the file.
    """
    from PIL import Image as PILImage
    from PIL import UnidentifiedImageError

    try:
        source = image.source
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) > (
            bounds().image_bytes
        ):
            raise DataError(f"image{where(image)}: {over('image_bytes')}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            most = bounds().image_pixels
            if most > 2 * (PILImage.MAX_IMAGE_PIXELS or most):  # where Pillow refuses
                PILImage.MAX_IMAGE_PIXELS = most
            picture = open_image(image.read())
            if picture.width * picture.height > most:
                raise DataError(
                    f"image of {picture.width}x{picture.height} pixels: {over('image_pixels')}"
                )
            _check_levels(picture)
            _scale_key(picture)
            yield picture
    except DataError:
        raise
    except PILImage.DecompressionBombError:
        raise DataError(f"image{where(image)}: {over('image_pixels')}") from None
    except UnidentifiedImageError:
        raise DataError(f"unreadable image{where(image)}: not an image in a known format") from None
    except Exception as e:  # damaged files make Pillow's decoders raise anything
        raise DataError(f"unreadable image{where(image)}: {e}") from e


def open_image(data: bytes) -> Any:
    """A ``PIL.Image.Image`` of which only the header was read. Raises what Pillow raises; formats
    that are not on the list count as unknown (Pillow would start other programs for some).
    """
    from PIL import Image as PILImage
    from PIL import UnidentifiedImageError

    PILImage.preinit()  # the common formats; loading them all takes longer than most pictures
    common = [f for f in IMAGE_FORMATS if f in PILImage.OPEN]
    try:
        return PILImage.open(io.BytesIO(data), formats=common)
    except UnidentifiedImageError:
        PILImage.init()
        others = [f for f in IMAGE_FORMATS if f in PILImage.OPEN and f not in common]
        return PILImage.open(io.BytesIO(data), formats=others)


def _rgb(picture: Any) -> Any:
    """8-bit colours on white. Pillow's own conversion drops alpha (leaving what lies under it) and
    clips 16 bits to 8 (leaving white).
    """
    from PIL import Image as PILImage

    def on_white(strip: Any) -> Any:
        strip = strip.convert("RGBA")
        white = PILImage.new("RGBA", strip.size, "white")
        return PILImage.alpha_composite(white, strip).convert("RGB")

    key = picture.info.get("transparency")

    def eight_bits(strip: Any) -> Any:
        levels = np.asarray(strip).astype(np.uint32)
        if key is not None:
            levels[levels == key] = 65_535
        return PILImage.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")

    if picture.mode.startswith("I;16"):
        return _by_strips(picture, eight_bits)
    if picture.has_transparency_data:
        return _by_strips(picture, on_white)
    if picture.mode in ("I", "F"):
        raise DataError(
            f"image of mode {picture.mode} (32 bits a pixel): which values mean black and white "
            "is not known; save it with 8 or 16 bits"
        )
    return picture.convert("RGB")


def _check_levels(picture: Any) -> None:
    """Raises DataError for a TIFF of grey levels that Pillow gives as they are stored, though they
    have fewer than 16 bits, or 0 means white in them.
    """
    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16") and tags:
        bits, white_is_0 = tags.get(258, (16,))[0], tags.get(262) == 0
        if bits != 16 or white_is_0:
            raise DataError(
                f"TIFF of {bits} bits a pixel{', 0 for white' if white_is_0 else ''}: its levels "
                "would be shown too dark or inverted; save it with 8 bits, or 16 with 0 for black"
            )


def _scale_key(picture: Any) -> None:
    """Brings the transparent colour of a PNG to 8 bits: it is given in the bits of the file, and
    Pillow compares it with levels of 8.
    """
    key = picture.info.get("transparency")
    if picture.format != "PNG" or not isinstance(key, int | tuple):
        return
    stored = picture.tile[0][3] if picture.tile else None
    if isinstance(key, tuple):
        if stored == "RGB;16B":
            picture.info["transparency"] = tuple(v >> 8 for v in key)
    elif stored in ("L;2", "L;4"):
        picture.info["transparency"] = key * {"L;2": 85, "L;4": 17}[stored]


def _by_strips(picture: Any, convert: Callable[[Any], Any]) -> Any:
    """``convert``, to RGB, so many rows at a time as have ``STRIP`` pixels."""
    from PIL import Image as PILImage

    rows = max(STRIP // picture.width, 1)
    if rows >= picture.height:
        return convert(picture)
    out = PILImage.new("RGB", picture.size)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        out.paste(convert(picture.crop((0, top, picture.width, bottom))), (0, top))
    return out


@contextmanager
def noted_frames() -> Iterator[list[Times]]:
    """The times of the frames of every clip that is decoded inside, in that order: what an adapter
    says of the frames that its model was shown.
    """
    noted: list[Times] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def decode_video(video: Video, choose: ChooseFrames, resize: Resize | None = None) -> Frames:
    """The chosen frames [frames, height, width, 3] of a clip, in order.

    Indices count from the clip's first frame, after ``start`` and ``end`` (by presentation time)
    have cut it. Frames count as the file's packets tell, not its header. ``resize`` is applied to
    each frame as it is decoded, so that a clip takes no more memory than what is kept of it.

    Where a few frames can't be decoded (``MAX_MISSING``), the nearest earlier one is shown in their
    place and a warning says how many. Raises DataError when the file can't be read, has no video,
    or when more is missing.
    """
    from av.error import FFmpegError

    try:
        timeline, wanted = _chosen(video, choose)
        frames, whole = _frames(video, timeline, wanted, resize)
    except (FFmpegError, OSError, ValueError, OverflowError) as e:
        raise DataError(f"unreadable video{where(video)}: {e}") from e
    missing = [i for i in wanted if i not in whole]
    lost = max(timeline.expected - len(timeline.times), 0)
    if missing or lost:
        allowed = max(1, int(MAX_MISSING * timeline.expected))
        if len(missing) + lost > allowed or not whole:
            what = f"frame {missing[0]}" if missing else f"{lost} frames at its end"
            raise DataError(
                f"truncated video{where(video)}: {what} of {timeline.expected} can't be decoded"
            )
        logger.warning(
            "video%s: %d of %d frames can't be decoded; the nearest are shown instead",
            where(video),
            len(missing) + lost,
            timeline.expected,
        )
    rows = {i: row for row, i in enumerate(wanted) if i in whole}
    shown = list(wanted)
    for row, i in enumerate(wanted):
        if i not in whole:
            shown[row] = max((k for k in rows if k < i), default=min(rows))
            frames[row] = frames[rows[shown[row]]]
    if (noted := _NOTED.get()) is not None:
        noted.append(tuple(round(timeline.times[i], 3) for i in shown))
    return frames


def pictures(video: Video, choose: ChooseFrames) -> tuple[list[Image], Times]:
    """The chosen frames of a clip as pictures, without loss, and when they are shown. Raises
    DataError as ``decode_video``.
    """
    from PIL import Image as PILImage

    def encoded(frame: Frame) -> Image:
        out = io.BytesIO()
        PILImage.fromarray(frame).save(out, "PNG", compress_level=1)
        return Image(out.getvalue())

    with noted_frames() as noted:
        frames = decode_video(video, choose)
    return [encoded(frame) for frame in frames], noted[0]


def laid_out(part: Part, budget: MediaBudget) -> Sequence[Part]:
    """The pictures and texts of an interleaved clip, at most ``max_frames`` pictures of the budget
    (``INTERLEAVED_FRAMES``), evenly spaced; another part as it is. Raises DataError as
    ``decode_video``.
    """
    if not isinstance(part, Interleaved):
        return [part]

    def choose(total: int, fps: float) -> list[int]:
        count = max(min(budget.max_frames or INTERLEAVED_FRAMES, int(total / fps)), 1)
        return [total // count * i for i in range(count)]

    images, times = pictures(part, choose)
    order = interleaved(part.cues, times)
    if part.apart:
        lines = "\n".join(p if isinstance(p, str) else "" for p in order)
        return [*images, Text(f"{lines}\n")]
    return [Text(f"{p}\n") if isinstance(p, str) else images[p] for p in order]


def frame_times(video: Video, choose: ChooseFrames) -> list[float]:
    """When the chosen frames are shown, in seconds from the start of the file. Reads no frame.
    Raises DataError as ``decode_video``.
    """
    from av.error import FFmpegError

    try:
        timeline, wanted = _chosen(video, choose)
    except (FFmpegError, OSError, ValueError, OverflowError) as e:
        raise DataError(f"unreadable video{where(video)}: {e}") from e
    return [timeline.times[i] for i in wanted]


def _chosen(video: Video, choose: ChooseFrames) -> tuple[Timeline, list[int]]:
    """The timeline of a clip, and the indices in it of the frames that are shown."""
    for name, value in (("start", video.start), ("end", video.end)):
        if value is not None and not math.isfinite(value):
            raise DataError(f"unreadable video{where(video)}: {name} is {value}")
    timeline = _folder_timeline(video) if _is_folder(video) else read_timeline(video)
    part = timeline.cut(video.start, video.end)
    if not part:
        raise DataError(
            f"the cut {video.start}..{video.end} s holds no frame of a clip of "
            f"{timeline.times[-1] + 1 / timeline.fps:.2f} s{where(video)}"
        )
    return timeline, [part[i] for i in choose(len(part), timeline.rate(part))]


def _frames(
    video: Video, timeline: Timeline, wanted: Sequence[int], resize: Resize | None
) -> tuple[Frames, set[int]]:
    """The frames [frames, height, width, 3] at indices of the timeline, and the indices of those
    that decode; what the others hold is undefined.
    """
    rows: dict[int, list[int]] = {}
    for row, i in enumerate(wanted):
        rows.setdefault(i, []).append(row)
    whole: set[int] = set()
    out: Frames = np.empty((0, 0, 0, 3), np.uint8)
    decoded = (
        _of_folder(video, rows) if _is_folder(video) else decoded_frames(video, timeline, rows)
    )
    for i, rgb in decoded:
        kept = resize(rgb, len(wanted)) if resize else rgb
        if not whole:  # one array from the start: a list of frames would be held twice
            out = np.empty((len(wanted), *kept.shape), np.uint8)
        elif kept.shape != out.shape[1:]:
            sizes = sorted(s[1::-1] for s in (out.shape[1:], kept.shape))
            raise DataError(
                f"the frames change size{where(video)}: {', '.join(f'{w}x{h}' for w, h in sizes)}"
            )
        out[rows[i]] = kept
        whole.add(i)
    return out, whole


def _is_folder(video: Video) -> bool:
    return not isinstance(video.source, bytes) and video.source.is_dir()


def _folder_timeline(video: Video) -> Timeline:
    """The pictures of a folder, at the rate that the data state."""
    if video.fps is None or not 0 < video.fps < math.inf:
        raise DataError(
            f"a folder of frames{where(video)} shown at {video.fps} pictures a second: give their "
            "rate, Video(folder, fps=3)"
        )
    count = len(frame_files(Path(video.source)))  # type: ignore[arg-type]  # it is a folder
    if not count:
        raise DataError(f"no pictures in the folder of frames{where(video)}")
    if count > bounds().clip_frames:
        raise DataError(f"video{where(video)}: {over('clip_frames')}")
    return Timeline(tuple(i / video.fps for i in range(count)), (), video.fps, count)


def _of_folder(video: Video, wanted: Collection[int]) -> Iterator[tuple[int, Frame]]:
    """As ``decoded_frames``."""
    files = frame_files(Path(video.source))  # type: ignore[arg-type]  # it is a folder
    for i in sorted(wanted):
        picture = Image(files[i], upright=video.upright)
        try:
            with opened(picture) as header:
                width, height = header.size
            if small := width * height <= bounds().frame_pixels:
                rgb = np.asarray(decode_image(picture))
        except DataError:
            continue  # as a frame of a stream that can't be decoded
        if not small:
            raise DataError(
                f"frames of {width}x{height} pixels{where(video)}: {over('frame_pixels')}"
            )
        yield i, rgb
