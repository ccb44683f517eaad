"""What the vision tower of a lab model is shown of a scene.

As a rule it sees one cell at a time (nine different pictures in all: white and eight colours), so
that where a cell stands reaches the model through the decoder's position ids and in no other way.
``Shows`` changes that: the tower may see the whole scene, frames may share a temporal patch or be
left out, times may be written before each second, and a page may be drawn and resized as real
pictures are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from PIL import Image, ImageDraw
from pydantic import Field, model_validator
from torch import Tensor

from evalkit.config_files import Strict
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.processing import Processor, exact_tokens, target_size
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.nano.grounding import Thing, paint
from evalkit.nano.scene import CELL
from evalkit.nano.train import patches_of
from evalkit.probes.scene import NAMES, Cells, Mark

KINDS_OF_CELL = 1 + len(NAMES)
SMALL = 14
"""Pixels on a side of a square on a drawn page."""


class Shows(Strict):
    """How scenes are shown.

    ``tower``: ``cell``, each cell alone, or ``scene``, the whole with the tower's own positions.
    ``frames``: ``each`` second as a temporal patch of its own (shown twice in it), ``pair``, two
    seconds in one, or ``half``, every second one left out. ``stamps``: the number of each second is
    written before it, and each second is a picture of its own. ``drawn``: a page (one second) is
    drawn with small squares and goes through the processor and its switch ``resolution``;
    ``down: N`` resizes it to N visual tokens and back before that, which takes away information and
    no tokens.
    """

    tower: Literal["cell", "scene"] = "cell"
    frames: Literal["each", "pair", "half"] = "each"
    stamps: bool = False
    drawn: bool = False
    down: int | None = Field(default=None, ge=1, le=4096)

    @model_validator(mode="after")
    def _fits(self) -> Shows:
        if self.down and not self.drawn:
            raise ValueError("down: only a drawn page is resized; say drawn: true")
        if self.drawn and (self.frames != "each" or self.stamps):
            raise ValueError("drawn: a page has one second: neither frames nor stamps")
        if self.stamps and self.tower == "scene":
            raise ValueError("stamps: seconds are pictures of their own: not with tower: scene")
        return self


class Pictures:
    """Scenes as one kind of model is shown them."""

    def __init__(self, shows: Shows, switches: Switches) -> None:
        self.shows = shows
        self.processor = Processor(switches=switches)

    def grid(self, cells: Cells) -> Cells:
        """The grid in visual tokens."""
        t, rows, columns = cells
        if not self.shows.drawn:
            return (t if self.shows.frames == "each" else -(-t // 2), rows, columns)
        p = self.processor
        bounds = Limits(p.config.min_pixels, p.config.max_pixels)
        high, wide = target_size(rows * CELL, columns * CELL, p.switches, Limits(), bounds)
        return (1, high // CELL, wide // CELL)

    @property
    def table(self) -> Tensor:
        """Patches [4 x pictures, 1176] of the different pictures of a cell, in the order of
        ``glyphs``.
        """
        return cell_pairs() if self.shows.frames == "pair" else cell_pictures()

    def glyphs(self, cells: Cells, marks: Sequence[Mark]) -> list[int]:
        """Which picture each visual token shows."""
        t, rows, columns = cells
        n = rows * columns
        filled = [0] * (t * n)
        for mark in marks:
            for at in mark.cells(cells):
                filled[at] = 1 + NAMES.index(mark.colour)
        if self.shows.frames == "each":
            return filled
        seconds = [filled[s * n : (s + 1) * n] for s in range(t)]
        if self.shows.frames == "half":
            return [g for second in seconds[::2] for g in second]
        seconds += seconds[-1:] * (t % 2)
        return [
            a * KINDS_OF_CELL + b
            for first, second in zip(seconds[::2], seconds[1::2])
            for a, b in zip(first, second)
        ]

    def page(self, cells: Cells, marks: Sequence[Mark]) -> Tensor:
        """Patches [4 x visual tokens, 1176] of a drawn page."""
        _, rows, columns = cells
        image = Image.new("RGB", (columns * CELL, rows * CELL), (255, 255, 255))
        pen = ImageDraw.Draw(image)
        for mark in marks:
            _, y, x = mark.place(cells)
            inset = (CELL - SMALL) // 2
            paint(pen, Thing(mark.colour, "square", x * CELL + inset, y * CELL + inset, SMALL))
        if self.shows.down:
            high, wide = exact_tokens(image.height, image.width, self.shows.down)
            small = image.resize((wide, high), Image.Resampling.BICUBIC)
            image = small.resize(image.size, Image.Resampling.BICUBIC)
        return self.processor.image(image)[0]


@lru_cache(maxsize=1)
def cell_pictures() -> Tensor:
    """Patches [36, 1176] of the nine pictures of a cell: white, then the eight colours."""
    image = Image.new("RGB", (3 * CELL, 3 * CELL), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for i, colour in enumerate(NAMES, 1):
        paint(pen, Thing(colour, "square", i % 3 * CELL + 3, i // 3 * CELL + 3, CELL - 6))
    return patches_of(image)


@lru_cache(maxsize=1)
def cell_pairs() -> Tensor:
    """Patches [4 x 81, 1176] of all pairs of pictures of a cell in one temporal patch, the first
    counting most.
    """
    # a patch holds colour, frame, row, column: the two frames are the same in a still
    single = cell_pictures().unflatten(1, (3, 2, 14 * 14)).unflatten(0, (KINDS_OF_CELL, 4))
    n = KINDS_OF_CELL
    first = single[:, None, :, :, :1].expand(n, n, -1, -1, -1, -1)
    second = single[None, :, :, :, 1:].expand(n, n, -1, -1, -1, -1)
    return torch.cat((first, second), dim=4).flatten(0, 2).flatten(1)
