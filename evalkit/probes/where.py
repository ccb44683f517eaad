"""Where: the second, row and column of one mark, and (the control) what colour it has.

``Fading`` puts text between the scene and the question (as DIPE, arXiv 2603.10863, does);
``Aspect`` asks on a single page, small or long in training and large in the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from evalkit.probes.scene import NAMES, Cells, Mark, Probe, Question, Range, spoken

if TYPE_CHECKING:
    import numpy as np

AXES = ("when", "row", "column")
ASKED = {
    "when": "In which second does the {} square appear?",
    "row": "In which row is the {} square?",
    "column": "In which column is the {} square?",
}


class Where(Probe):
    """One mark: its second, its row, its column; and its colour, given its place."""

    name = "where"
    title = "the second, row and column of one coloured square"
    kinds: ClassVar[tuple[str, ...]] = (*AXES, "colour")
    controls = ("colour",)

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        cell, colour = int(rng.integers(math.prod(grid))), int(rng.integers(len(NAMES)))
        return (Mark(NAMES[colour], cell),)

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        (mark,) = marks
        place = mark.place(grid)
        for axis, kind in enumerate(AXES):
            if kind in self.kinds and place[axis] < self.limits[axis]:
                yield Question(kind, (mark.colour,), "", (0,))
        if all(p < 8 for p in place):
            yield Question("colour", spoken(place), "", (0,))

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        (mark,) = marks
        place = mark.place(grid)
        if kind == "colour":
            return mark.colour if spoken(place) == tuple(about) else None
        axis = AXES.index(kind)
        return str(place[axis] + 1) if place[axis] < self.limits[axis] else None

    def text(self, question: Question, grid: Cells) -> str:
        if question.kind != "colour":
            return f"{ASKED[question.kind].format(question.about[0])} Answer with a number."
        return f"Which colour is the square {at(question.about, grid)}? Answer with one word."


class Fading(Where):
    """``Where`` with 0 to 16 words between the scene and its questions."""

    name = "fading"
    title = "where one coloured square is, with text between the scene and the question"
    words: ClassVar[int] = 16

    def filler(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.words + 1))


class Aspect(Where):
    """``Where`` on one page: up to 8 rows or columns in training, 8 of both in the test."""

    name = "aspect"
    title = "row and column of one coloured square on long and large pages"
    kinds = ("row", "column", "colour")
    trained = Range(low=(1, 1, 1), high=(1, 8, 8), most=16)
    large = Range(low=(1, 6, 6), high=(1, 8, 8), most=64)


def at(place: Sequence[str], grid: Cells) -> str:
    """A place in words, as far as the grid has more than one."""
    names = [f"{axis} {p}" for axis, p, n in zip(("second", "row", "column"), place, grid) if n > 1]
    return "in " + ", ".join(names) if names else "in the picture"
