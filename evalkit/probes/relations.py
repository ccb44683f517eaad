"""Relations: which of two marks comes first, is further left, is higher up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evalkit.probes.scene import Cells, Mark, Probe, Question, drawn_marks

if TYPE_CHECKING:
    import numpy as np

AXES = ("before", "above", "left")
ASKED = {
    "before": "Which square appears earlier, the {} one or the {} one?",
    "above": "Which square is in a higher row, the {} one or the {} one?",
    "left": "Which square is further left, the {} one or the {} one?",
}


class Relations(Probe):
    """Two marks are compared on each axis on which they differ; in half of the scenes there is a
    third.
    """

    name = "relations"
    title = "which of two coloured squares is earlier, higher, further left"
    kinds = AXES

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        return drawn_marks(rng, grid, int(rng.integers(2, 4)))

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        for axis, kind in enumerate(AXES):
            a, b = (0, 1) if rng.random() < 0.5 else (1, 0)
            if marks[a].place(grid)[axis] != marks[b].place(grid)[axis]:
                names = (marks[a].colour, marks[b].colour)
                yield Question(kind, names, "", (a, b), options=names)

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        a, b = (m.place(grid)[AXES.index(kind)] for m in marks)
        return None if a == b else about[0] if a < b else about[1]

    def text(self, question: Question, grid: Cells) -> str:
        return f"{ASKED[question.kind].format(*question.about)} Answer with its colour."
