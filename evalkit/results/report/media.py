"""What the samples of journals looked like: questions and small pictures, read again from the
tasks' data.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from evalkit.errors import DataError, EvalkitError
from evalkit.media import decode_image, decode_video
from evalkit.results.cells import StoredCell
from evalkit.task import load_task, read_samples
from evalkit.types import Image, Sample, Text, Video

SIDE = 640
"""Longest side in pixels of a picture."""
FRAMES, FRAME_WIDTH = 6, 200
"""Frames of a clip's strip, and the width of each."""
Keep = Callable[[str, PILImage.Image], str]
"""(name, picture) -> the address under which the page finds the picture; empty for none."""


def embed(name: str, picture: PILImage.Image) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode("ascii")


def beside(folder: Path) -> Keep:
    """Pictures as files of a folder that lies beside the page."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, picture: PILImage.Image) -> str:
        (folder / f"{name}.webp").write_bytes(webp(picture))
        return f"{folder.name}/{name}.webp"

    return keep


def none(name: str, picture: PILImage.Image) -> str:
    return ""


class Gallery:
    """Pictures, each made once for all samples that show it.

    ``pictures``: ``{"src", "width", "height"}``, sizes those of the original (of the strip, for a
    clip), or ``{"fault"}``.
    """

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.pictures: list[dict[str, Any]] = []
        self.made: dict[str, int] = {}

    def show(self, sample: Sample) -> dict[str, Any]:
        """``{"question", "media"}`` of a sample, media by their places in ``pictures``."""
        parts = [p for m in sample.messages for p in m.content]
        question = "\n".join(p.text for p in parts if isinstance(p, Text))
        return {
            "question": question,
            "media": [self._place(p) for p in parts if not isinstance(p, Text)],
        }

    def _place(self, part: Image | Video) -> int:
        try:
            cut = f"{part.start}-{part.end}" if isinstance(part, Video) else ""
            key = hashlib.sha256(f"{part.digest}{cut}".encode()).hexdigest()[:16]
        except OSError as e:
            key = f"unreadable: {e}"
        if key not in self.made:
            self.made[key] = len(self.pictures)
            self.pictures.append(self._picture(part, key))
        return self.made[key]

    def _picture(self, part: Image | Video, key: str) -> dict[str, Any]:
        try:
            picture = decode_image(part) if isinstance(part, Image) else strip(part)
            return {
                "src": self.keep(key, picture),
                "width": picture.width,
                "height": picture.height,
            }
        except (DataError, OSError) as e:
            return {"fault": str(e)}


def strip(clip: Video) -> PILImage.Image:
    """Evenly spaced frames of a clip, side by side."""

    def spaced(total: int, fps: float) -> list[int]:
        return sorted({int(i) for i in np.linspace(0, total - 1, FRAMES)})

    frames = [PILImage.fromarray(f) for f in decode_video(clip, spaced)]
    frames = [
        f.resize((FRAME_WIDTH, max(1, round(f.height * FRAME_WIDTH / f.width)))) for f in frames
    ]
    out = PILImage.new("RGB", ((FRAME_WIDTH + 4) * len(frames) - 4, frames[0].height), "white")
    for i, frame in enumerate(frames):
        out.paste(frame, (i * (FRAME_WIDTH + 4), 0))
    return out


def webp(picture: PILImage.Image) -> bytes:
    small = picture.convert(
        "RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB"
    )
    if small.width < FRAMES * FRAME_WIDTH:
        small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()


def questions(
    cell: StoredCell, ids: set[str], gallery: Gallery, data: Path | None
) -> tuple[Mapping[str, dict[str, Any]], str]:
    """What ``Gallery.show`` gives for the samples of a cell that are among ``ids``; and why some
    are missing, if any are.

    Reads the task's data until all are found; a row that can't be used is passed over, as in the
    run.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        task = load_task(
            f"{cell.run.get('task_file') or cell.run['identity']['task']}:{cell.run['identity']['subset']}"
        )
        for sample in read_samples(task, data):
            if isinstance(sample, Sample) and sample.id in ids:
                found[sample.id] = gallery.show(sample)
            if len(found) == len(ids):
                break
    except (EvalkitError, OSError, ValueError) as e:
        return found, f"{cell.task}: questions and pictures are not shown: {e}"
    absent = len(ids) - len(found)
    return found, f"{cell.task}: {absent} samples are no longer in the data" if absent else ""
