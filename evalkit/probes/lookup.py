"""Looking up: what stands at a place, in a second, or next in reading order, among several marks.

``Needle`` has a look-alike some seconds away: rotary positions of one period confuse the two where
the distance is that period (V-NIAH-D of VideoRoPE, arXiv 2502.05173). ``Reading`` asks in reading
order on a page, which diagonal layouts are reported to break (arXiv 2510.23095).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from evalkit.probes.scene import (
    UNKNOWN,
    Cells,
    Knowledge,
    Mark,
    Probe,
    Question,
    Range,
    Scene,
    drawn_marks,
    spoken,
)
from evalkit.probes.where import at

if TYPE_CHECKING:
    import numpy as np


class LookUp(Probe):
    """Two to four marks; the colour at a place. The places of two of them are asked for."""

    name = "lookup"
    title = "which of several coloured squares stands at a given place"
    kinds: ClassVar[tuple[str, ...]] = ("at",)
    asked: ClassVar[int] = 2

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        return drawn_marks(rng, grid, int(rng.integers(2, 5)))

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        for i in rng.permutation(len(marks))[: self.asked]:
            place = marks[int(i)].place(grid)
            if all(p < 8 for p in place):
                yield Question("at", spoken(place), "", (int(i),))

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        (mark,) = marks
        return mark.colour if spoken(mark.place(grid)) == tuple(about) else None

    def worlds(
        self, scene: Scene, question: Question, known: Knowledge, cells: Range
    ) -> Iterator[tuple[Cells, tuple[Mark, ...]]]:
        """Any of the marks may be the one that is asked for."""
        for i in range(len(scene.marks)):
            yield from super().worlds(scene, replace(question, marks=(i,)), known, cells)

    def text(self, question: Question, grid: Cells) -> str:
        return f"Which colour is the square {at(question.about, grid)}? Answer with one word."


class Needle(LookUp):
    """Two marks in different seconds, ``apart`` seconds from each other where given; the colour in
    the second of one of them.
    """

    name = "needle"
    title = "the coloured square of a given second, with a look-alike some seconds away"
    kinds = ("needle",)
    trained = Range(low=(4, 2, 2), high=(8, 2, 2), most=32)
    large = Range(low=(16, 2, 2), high=(16, 2, 2), most=64)

    def __init__(self, limits: Cells = (8, 8, 8), apart: int | None = None) -> None:
        super().__init__(limits)
        self.apart = apart

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        seconds, rows, columns = grid
        asked = int(rng.integers(min(seconds, self.limits[0])))
        others = [s for s in range(seconds) if s != asked]
        near = [s for s in others if self.apart and abs(s - asked) == self.apart]
        other = int(rng.choice(near or others))
        needle, lure = drawn_marks(rng, (1, rows, columns), 2)
        frame = rows * columns
        return (
            replace(needle, cell=needle.cell + asked * frame),
            replace(lure, cell=lure.cell + other * frame),
        )

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        yield Question("needle", spoken(marks[0].place(grid)[:1]), "", (0,))

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        (mark,) = marks
        return mark.colour if spoken(mark.place(grid)[:1]) == tuple(about) else None

    def text(self, question: Question, grid: Cells) -> str:
        return f"Which colour is the square of second {question.about[0]}? Answer with one word."


class Reading(LookUp):
    """A page with four to six marks: which one follows another, line by line."""

    name = "reading"
    title = "which coloured square follows another in reading order on a page"
    kinds = ("next",)
    trained = Range(low=(1, 3, 3), high=(1, 6, 6), most=32)
    large = Range(low=(1, 8, 8), high=(1, 10, 10), most=100)

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        return drawn_marks(rng, grid, int(rng.integers(4, 7)))

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        order = sorted(range(len(marks)), key=lambda i: marks[i].cell)
        for k in rng.permutation(len(marks) - 1)[: self.asked]:
            before, after = order[int(k)], order[int(k) + 1]
            yield Question("next", (marks[before].colour,), "", (before, after))

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        return marks[1].colour

    def worlds(
        self, scene: Scene, question: Question, known: Knowledge, cells: Range
    ) -> Iterator[tuple[Cells, tuple[Mark, ...]]]:
        """Where places are hidden any other mark may follow; a page has one second, and the index
        in the run is the reading order.
        """
        before, after = (scene.marks[i] for i in question.marks)
        if known in ("whole", "first_second", "index"):
            yield scene.grid, (before, after)
            return
        for mark in scene.marks:
            if mark != before:
                colour = mark.colour if known == "shuffled" else UNKNOWN
                yield scene.grid, (before, replace(mark, colour=colour))

    def text(self, question: Question, grid: Cells) -> str:
        return (
            f"Reading line by line from the top left, which colour is the first square after the "
            f"{question.about[0]} one? Answer with one word."
        )
