"""Small encoded pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def png(width: int, height: int, shade: int | None = 0, seed: int = 0) -> bytes:
    """A PNG of one shade of grey, or of coloured noise where ``shade`` is None."""
    if shade is None:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
    else:
        picture = Image.new("RGB", (width, height), (shade,) * 3)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
