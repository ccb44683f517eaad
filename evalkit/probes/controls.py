"""Controls: questions that no position is needed for. Schemes that differ here differ in something
else than positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evalkit.probes.scene import NAMES, Cells, Knowledge, Mark, Probe, Question, Range, Scene
from evalkit.probes.scene import drawn_marks as drawn

if TYPE_CHECKING:
    import numpy as np

MOST = 3
"""Marks in a scene, from 1."""


class Controls(Probe):
    """One to three marks: is there one of this colour, and how many are there?"""

    name = "controls"
    title = "which colours there are, and how many: no position is needed"
    kinds = ("present", "count")
    controls = kinds

    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        return drawn(rng, grid, int(rng.integers(1, MOST + 1)))

    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        there = [m.colour for m in marks]
        absent = [c for c in NAMES if c not in there]
        colour = str(rng.choice(there if rng.random() < 0.5 else absent))
        everything = tuple(range(len(marks)))
        yield Question("present", (colour,), "", everything, options=("yes", "no"))
        yield Question("count", (), "", everything)

    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        if kind == "count":
            return str(len(marks))
        return "yes" if about[0] in {m.colour for m in marks} else "no"

    def posterior(
        self, scene: Scene, question: Question, known: Knowledge, cells: Range
    ) -> dict[str, float]:
        """Bayes over the number of marks; in a view of the first second those seen there are
        given.
        """
        if known in ("whole", "shuffled", "index"):
            return {question.answer: 1.0}
        frame, size = scene.grid[1] * scene.grid[2], math.prod(scene.grid)
        seen = [m for m in scene.marks if self.sees(scene.grid, m, known)]
        number = dict.fromkeys(range(1, MOST + 1), 1.0)
        if known == "first_second":
            s = len(seen)
            number = {
                k: math.comb(frame, s) * math.comb(size - frame, k - s) / math.comb(size, k)
                for k in range(max(1, s), MOST + 1)
            }
        if question.kind == "count":
            return {str(k): p / sum(number.values()) for k, p in number.items()}
        if question.about[0] in {m.colour for m in seen}:
            return {"yes": 1.0}
        # a colour that is there was asked for as often as one that is not; unseen are k - s of k
        yes = sum(p * (k - len(seen)) / k for k, p in number.items())
        no = sum(number.values())
        return {"yes": yes / (yes + no), "no": no / (yes + no)}

    def text(self, question: Question, grid: Cells) -> str:
        if question.kind == "count":
            return "How many coloured squares are there? Answer with a number."
        return f"Is there a {question.about[0]} square? Answer yes or no."
