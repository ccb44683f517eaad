"""Scenes as pictures and clips, for any model: white cells with grey lines, a coloured square in
the cell of a mark. Lossless, and the same bytes for the same scene and release of the encoder.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.probes.scene import COLOURS, Cells, Mark

if TYPE_CHECKING:
    from PIL import Image

SIDE = 56
"""Pixels on a side of a cell: 2 x 2 visual tokens of Qwen2-VL."""
FRAMES = 2
"""Frames a second; those of a second are the same."""


def frames(grid: Cells, marks: Sequence[Mark]) -> list[Image.Image]:
    """One picture a second."""
    from PIL import Image, ImageDraw

    seconds, rows, columns = grid
    filled = {cell: mark.colour for mark in marks for cell in mark.cells(grid)}
    out = []
    for second in range(seconds):
        image = Image.new("RGB", (columns * SIDE, rows * SIDE), (255, 255, 255))
        pen = ImageDraw.Draw(image)
        for i in range(rows * columns):
            x, y = i % columns * SIDE, i // columns * SIDE
            pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=(200, 200, 200))
            if colour := filled.get(second * rows * columns + i):
                box = (x + 6, y + 6, x + SIDE - 7, y + SIDE - 7)
                pen.rectangle(box, fill=COLOURS[colour])
        out.append(image)
    return out


def png(image: Image.Image) -> bytes:
    """An encoded picture."""
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


def clip(images: Sequence[Image.Image]) -> bytes:
    """An encoded clip, ``FRAMES`` frames for each picture: PNG frames in QuickTime, no loss."""
    import av
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format="mov", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("png", rate=FRAMES)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1
        for image in images:
            for _ in range(FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image))))
        container.mux(stream.encode())
    return out.getvalue()
