"""What the samples of journals looked like: small pictures, read again from the tasks' data."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from evalkit.asking import repetitions
from evalkit.errors import reason
from evalkit.files import replace
from evalkit.media import Frame, decode_video, preview
from evalkit.results.cells import task_of
from evalkit.store import CellFolder
from evalkit.task import read_samples
from evalkit.types import Image, Sample, Text, Video

SIDE = 640
"""Longest side in pixels of a picture."""
FRAMES, FRAME_WIDTH = 6, 200
"""Frames of a clip's strip, and the width of each."""
Keep = Callable[[str, PILImage.Image], str]
"""(name, picture) -> the address under which the page finds the picture; empty for none."""


def data_url(picture: PILImage.Image) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode("ascii")


def beside(folder: Path) -> Keep:
    """Pictures as files of a folder that lies beside the page."""

    def keep(name: str, picture: PILImage.Image) -> str:
        replace(folder / f"{name}.webp", webp(picture), durable=False)
        return f"{folder.name}/{name}.webp"

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
    fault: str = ""


class Gallery:
    """Pictures, each made once for all samples that show it."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.pictures: dict[str, Picture] = {}

    def show(self, sample: Sample) -> list[Picture]:
        """The sample's pictures in order. One that can't be made, whatever the task put in its
        place, is said on the page.
        """
        return [self._of(part) for part in media_of(sample)]

    def _of(self, part: Any) -> Picture:
        try:
            key = key_of(part)
        except Exception as e:
            key = f"no digest: {reason(e)}"
        if key not in self.pictures:
            self.pictures[key] = self._picture(part, key)
        return self.pictures[key]

    def _picture(self, part: Any, key: str) -> Picture:
        try:
            if not isinstance(part, Image | Video):
                return Picture(fault=f"{type(part).__name__} is not an Image or a Video")
            picture, size = preview(part, SIDE) if isinstance(part, Image) else strip(part)
            return Picture(self.keep(key, picture), *size, clip=isinstance(part, Video))
        except Exception as e:  # any library may fail on any data; the page is for looking at it
            return Picture(fault=reason(e))


def media_of(sample: Sample) -> list[Any]:
    """What the sample shows, in order."""
    return [p for m in sample.messages for p in m.content if not isinstance(p, Text)]


def key_of(part: Any) -> str:
    """16 hex digits that name a picture or a cut of a clip by its bytes."""
    cut = f"{part.start}-{part.end}" if isinstance(part, Video) else ""
    return hashlib.sha256(f"{part.digest}{cut}".encode()).hexdigest()[:16]


def strip(clip: Video) -> tuple[PILImage.Image, tuple[int, int]]:
    """Evenly spaced frames of a clip, side by side; and the size of that."""

    def spaced(total: int, fps: float) -> list[int]:
        return sorted({int(i) for i in np.linspace(0, total - 1, FRAMES)})

    def small(frame: Frame, total: int) -> Frame:
        height, width, _ = frame.shape
        size = (FRAME_WIDTH, min(max(1, round(height * FRAME_WIDTH / width)), SIDE))
        return np.asarray(PILImage.fromarray(frame).resize(size))

    frames = [PILImage.fromarray(f) for f in decode_video(clip, spaced, small)]
    out = PILImage.new("RGB", ((FRAME_WIDTH + 4) * len(frames) - 4, frames[0].height), "white")
    for i, frame in enumerate(frames):
        out.paste(frame, (i * (FRAME_WIDTH + 4), 0))
    return out, out.size


def webp(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()


def samples_of(cell: CellFolder, data: Path | None) -> Iterator[Sample]:
    """The samples of a cell's task with their media, from its data: by default from where the run
    had them; each as often as it was answered. Raises what the task and its source raise.
    """
    run, task = cell.run, task_of(cell)
    where = data or (Path(run.data_path).expanduser() if run.data_path else None)
    repeats = int(run.identity.asking.get("repeats", 1))
    return (
        dataclasses.replace(sample, id=id)
        for sample in read_samples(task, where)
        if isinstance(sample, Sample)
        for id in repetitions(sample.id, repeats)
    )


def pictures_of(
    cell: CellFolder, ids: set[str], gallery: Gallery, data: Path | None
) -> tuple[Mapping[str, list[Picture]], str]:
    """The pictures of the samples that are among ``ids``, and why some are missing, if any are.

    Reads until all samples are there. Whatever goes wrong there costs the page its pictures, not
    more.
    """
    shown: dict[str, list[Picture]] = {}
    try:
        for sample in samples_of(cell, data):
            if sample.id in ids:
                shown[sample.id] = gallery.show(sample)
            if len(shown) == len(ids):
                break
    except (Exception, SystemExit) as e:
        return shown, f"{cell.task}: pictures are not shown: {reason(e)}"
    absent = len(ids) - len(shown)
    return shown, f"{cell.task}: {absent} samples are no longer in the data" if absent else ""
