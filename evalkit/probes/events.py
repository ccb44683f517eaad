"""Events: squares that appear in different seconds of a clip, stay a while and are gone.

Made so that time is needed: what is seen stands still within a second (both frames of a temporal
patch are the same), every square stays equally long, and it starts in a second drawn at random, so
that a clip with shuffled seconds tells nothing about when or in which order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evalkit.probes.scene import NAMES, Cells, Mark, Probe, Question, Range

if TYPE_CHECKING:
    import numpy as np

SQUARES = 3


class Events(Probe):
    """Three squares: in which second one of them appears, and which appears second."""

    name = "events"
    title = "when coloured squares appear in a clip, and in which order"
    kinds = ("start", "second")
    trained = Range(low=(4, 2, 2), high=(6, 3, 3), most=32)
    large = Range(low=(12, 2, 2), high=(12, 2, 2), most=48)

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        seconds, rows, columns = grid
        lasts = int(rng.integers(1, 3)) if seconds - 1 >= SQUARES else 1
        starts = rng.choice(seconds - lasts + 1, SQUARES, replace=False)
        within = rng.choice(rows * columns, SQUARES, replace=False)
        colours = rng.permutation(len(NAMES))[:SQUARES]
        return tuple(
            Mark(NAMES[int(c)], int(s) * rows * columns + int(w), lasts)
            for s, w, c in zip(starts, within, colours)
        )

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        if marks[0].place(grid)[0] < self.limits[0]:
            yield Question("start", (marks[0].colour,), "", (0,))
        order = tuple(int(i) for i in rng.permutation(SQUARES))
        names = tuple(marks[i].colour for i in order)
        yield Question("second", names, "", order, options=names)

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        starts = [m.place(grid)[0] for m in marks]
        if kind == "start":
            return str(starts[0] + 1) if starts[0] < self.limits[0] else None
        if len(set(starts)) < len(starts):
            return None
        return about[starts.index(sorted(starts)[1])]

    def places(self, grid: Cells, mark: Mark) -> list[int]:
        """Other seconds, in the same row and column."""
        seconds, rows, columns = grid
        within = mark.cell % (rows * columns)
        return [s * rows * columns + within for s in range(seconds - mark.lasts + 1)]

    def text(self, question: Question, grid: Cells) -> str:
        if question.kind == "start":
            return (
                f"In which second does the {question.about[0]} square appear? Answer with a number."
            )
        first, *others, last = question.about
        return (
            f"Of the {first}, {', '.join(others)} and {last} squares, which appears second? "
            "Answer with its colour."
        )
