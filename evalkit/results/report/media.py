"""What the samples of journals looked like: small pictures, read again from the tasks' data."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image as PILImage

from evalkit.asking import repetitions
from evalkit.errors import reason
from evalkit.files import replace
from evalkit.media import Times, decode_video, frame_times, preview
from evalkit.results.cells import task_of
from evalkit.store import CellFolder
from evalkit.task import read_samples
from evalkit.types import Image, Sample, Text, Video
from evalkit.video_files import Frame

SIDE = 640
"""Longest side in pixels of a picture."""
FRAMES, FRAME_WIDTH = 6, 200
"""Most frames of a clip's strip, and the width of each."""
Keep = Callable[[str, PILImage.Image], str]
"""(name, picture) -> the address under which the page finds the picture; empty for none."""


def data_url(picture: PILImage.Image) -> str:
    """A picture as an address that holds it, for a page of one file."""
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode("ascii")


def beside(folder: Path) -> Keep:
    """Pictures as files of a folder that lies beside the page."""

    def keep(name: str, picture: PILImage.Image) -> str:
        replace(folder / f"{name}.webp", webp(picture), durable=False)
        return f"{quote(folder.name)}/{name}.webp"

    return keep


def none(name: str, picture: PILImage.Image) -> str:
    return ""


@dataclass(frozen=True)
class Picture:
    """One picture of the page: its address and the original's size in pixels (a strip's, for a
    clip), or why there is none.
    """

    src: str = ""
    width: int = 0
    height: int = 0
    clip: bool = False
    """Whether it is a strip of a clip's frames."""
    seconds: float = 0.0
    """How long the clip's file is."""
    times: tuple[float, ...] = ()
    """When the strip's frames are on the screen, in seconds of the file."""
    shown: bool = False
    """Whether they are among those that a model was shown."""
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """What is set of it."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v}


class Gallery:
    """Pictures, each made once for all samples that show it."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.pictures: dict[str, Picture] = {}

    def show(self, sample: Sample, frames: Sequence[Times] = ()) -> list[Picture]:
        """The sample's pictures in order, of its clips the ``frames`` that a model was shown. One
        that can't be made, whatever the task put in its place, is said on the page.
        """
        return [self._of(part, shown) for part, shown in with_frames(sample, frames)]

    def _of(self, part: Any, shown: Times) -> Picture:
        try:
            key = key_of(part, shown)
        except Exception as e:
            key = f"no digest: {reason(e)}"
        if key not in self.pictures:
            self.pictures[key] = made(part, shown, partial(self.keep, key))
        return self.pictures[key]


def made(
    part: Any, shown: Times, keep: Callable[[PILImage.Image], str], side: int = SIDE
) -> Picture:
    """A picture of anything that a task shows, its longer side at most ``side`` pixels."""
    try:
        if isinstance(part, Video):
            of = strip(part, shown)
            return Picture(
                keep(of.picture), *of.picture.size, True, of.seconds, of.times, bool(shown)
            )
        if not isinstance(part, Image):
            return Picture(fault=f"{type(part).__name__} is not an Image or a Video")
        picture, size = preview(part, side)
        return Picture(keep(picture), *size)
    except Exception as e:  # any library may fail on any data; the page is for looking at it
        return Picture(fault=reason(e))


def media_of(sample: Sample) -> list[Any]:
    """What the sample shows, in order."""
    return [p for m in sample.messages for p in m.content if not isinstance(p, Text)]


def with_frames(sample: Sample, frames: Sequence[Times]) -> Iterator[tuple[Any, Times]]:
    """What the sample shows, in order, clips with the times of the frames that were shown of them:
    none where there are not as many clips in it.
    """
    parts = media_of(sample)
    clips = iter(frames if len(frames) == sum(isinstance(p, Video) for p in parts) else ())
    for part in parts:
        yield part, next(clips, ()) if isinstance(part, Video) else ()


def key_of(part: Any, shown: Times = ()) -> str:
    """16 hex digits that name a picture, or frames of a cut of a clip, by its bytes."""
    cut = f"{part.start}-{part.end}{list(shown) or ''}" if isinstance(part, Video) else ""
    return hashlib.sha256(f"{part.digest}{cut}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Strip:
    """Frames of a clip side by side, when they are on the screen, and how long its file is."""

    picture: PILImage.Image
    times: Times
    seconds: float


def strip(clip: Video, shown: Times = ()) -> Strip:
    """Some of the frames that a model was ``shown`` of a clip, or evenly spaced ones where that is
    not known.
    """

    def spaced(count: int) -> list[int]:
        return sorted({int(i) for i in np.linspace(0, count - 1, FRAMES)})

    at = np.array(frame_times(clip, lambda total, fps: range(total)))
    whole = dataclasses.replace(clip, start=None, end=None)
    seconds = at[-1] if whole == clip else frame_times(whole, lambda total, fps: [total - 1])[0]
    wanted = spaced(len(at))
    if shown:
        wanted = sorted({int(np.abs(at - shown[i]).argmin()) for i in spaced(len(shown))})

    def small(frame: Frame, total: int) -> Frame:
        height, width, _ = frame.shape
        size = (FRAME_WIDTH, min(max(1, round(height * FRAME_WIDTH / width)), SIDE))
        return np.asarray(PILImage.fromarray(frame).resize(size))

    frames = [PILImage.fromarray(f) for f in decode_video(clip, lambda *_: wanted, small)]
    out = PILImage.new("RGB", ((FRAME_WIDTH + 4) * len(frames) - 4, frames[0].height), "white")
    for i, frame in enumerate(frames):
        out.paste(frame, (i * (FRAME_WIDTH + 4), 0))
    return Strip(out, tuple(round(float(at[i]), 3) for i in wanted), round(float(seconds), 3))


def webp(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()


def samples_of(cells: Sequence[CellFolder], data: Path | None) -> Iterator[Sample]:
    """The samples of the task of these cells with their media, from its data: by default from where
    the first one's run had them; each under all ids by which a cell has its answers. Raises what
    the task and its source raise.
    """
    run, task = cells[0].run, task_of(cells[0])
    where = data or (Path(run.data_path).expanduser() if run.data_path else None)
    repeats = sorted({int(c.run.identity.asking.get("repeats", 1)) for c in cells})
    return (
        dataclasses.replace(sample, id=id)
        for sample in read_samples(task, where)
        if isinstance(sample, Sample)
        for id in dict.fromkeys(i for n in repeats for i in repetitions(sample.id, n))
    )


def pictures_of(
    cells: Sequence[CellFolder],
    asked: Mapping[str, Sequence[Times]],
    gallery: Gallery,
    data: Path | None,
) -> tuple[Mapping[str, list[Picture]], str]:
    """The pictures of the samples that were ``asked`` (by id, with the frames that were shown of
    their clips), and why some are missing, if any are.

    Reads until all samples are there. Whatever goes wrong there costs the page its pictures, not
    more.
    """
    shown: dict[str, list[Picture]] = {}
    if not asked:
        return shown, ""
    try:
        for sample in samples_of(cells, data):
            if sample.id in asked:
                shown[sample.id] = gallery.show(sample, asked[sample.id])
            if len(shown) == len(asked):
                break
    except (Exception, SystemExit) as e:
        return shown, f"{cells[0].task}: pictures are not shown: {reason(e)}"
    absent = len(asked) - len(shown)
    return shown, f"{cells[0].task}: {absent} samples are no longer in the data" if absent else ""
