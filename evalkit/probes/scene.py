"""Scenes of coloured squares in a grid of seconds, rows and columns; what a probe has to say.

A scene is a grid of T x R x C cells: white, but for its marks. A view shows less than all of it.
Places are counted from 0 here, and from 1 in questions and answers.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

Cells = tuple[int, int, int]
"""(seconds, rows, columns) of a scene."""
View = Literal["whole", "shuffled", "blind", "first_second"]
"""What is shown of a scene: all; every mark at a place drawn anew (the time of it, where a mark
stays for a while); no mark; what is seen in the first second.
"""
Knowledge = Literal["whole", "shuffled", "blind", "first_second", "index"]
"""What an observer knows: that of a view, or (``index``) the marks' indices in the run of tokens
and their number, which is all that a 1D position scheme tells.
"""
COLOURS = {
    "red": (220, 40, 40),
    "blue": (40, 70, 220),
    "green": (30, 150, 60),
    "yellow": (235, 200, 30),
    "purple": (140, 50, 170),
    "orange": (240, 130, 20),
    "black": (20, 20, 20),
    "pink": (245, 130, 180),
}
NAMES = tuple(COLOURS)
UNKNOWN = "?"
"""The colour of a mark that was not seen."""


@dataclass(frozen=True)
class Range:
    """Grids that are drawn: those with each side between ``low`` and ``high`` that have 8 to
    ``most`` cells, all equally often. Studies' files give it as a mapping. Raises ValueError where
    there is no such grid.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    low: Cells = (2, 2, 2)
    high: Cells = (6, 4, 4)
    most: int = 32

    def __post_init__(self) -> None:
        if any(a < 1 or a > b or b > 64 for a, b in zip(self.low, self.high)):
            raise ValueError(
                f"low {self.low} must be 1 or more and not above high {self.high}, and that not "
                "above 64"
            )
        if not self.grids():
            raise ValueError(
                f"no grid between {self.low} and {self.high} has 8 to {self.most} cells"
            )

    def grids(self) -> list[Cells]:
        """All grids of the range; each is drawn equally often."""
        return _grids(self.low, self.high, self.most)

    def draw(self, rng: np.random.Generator) -> Cells:
        grids = self.grids()
        return grids[int(rng.integers(len(grids)))]


@lru_cache(maxsize=64)
def _grids(low: Cells, high: Cells, most: int) -> list[Cells]:
    seconds, rows, columns = (range(a, b + 1) for a, b in zip(low, high))
    every = itertools.product(seconds, rows, columns)
    return [g for g in every if 8 <= math.prod(g) <= most]


@dataclass(frozen=True)
class Mark:
    """A coloured square: the index of its first cell, in the order second, row, column, and for how
    many seconds it stays there.
    """

    colour: str
    cell: int
    lasts: int = 1

    def place(self, grid: Cells) -> Cells:
        """Its first second, its row and its column."""
        _, rows, columns = grid
        second, within = divmod(self.cell, rows * columns)
        return second, *divmod(within, columns)

    def cells(self, grid: Cells) -> list[int]:
        """The cells that it fills."""
        return [self.cell + k * grid[1] * grid[2] for k in range(self.lasts)]


@dataclass(frozen=True)
class Question:
    """One question on a scene, answered with one word.

    ``about``: the colours and the places (from 1) that it names. ``marks``: those on whose places
    the answer depends, by their number in the scene. ``options``: the answers between which the
    question lets one choose, where there are few.
    """

    kind: str
    about: tuple[str, ...]
    answer: str
    marks: tuple[int, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A grid, the marks in it, and what is asked. ``filler``: words between it and a question."""

    grid: Cells
    marks: tuple[Mark, ...]
    questions: tuple[Question, ...]
    filler: int = 0


class Probe(ABC):
    """Base class of probes. ``limits``: places from these on are not asked for (in training their
    numbers were never answers).

    Class attributes: ``name``; ``title``, a line; ``kinds`` of questions; ``controls``, the kinds
    that no position is needed for; ``trained``, the grids that models are trained on unless a study
    says otherwise; ``large``, some beyond them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    controls: ClassVar[tuple[str, ...]] = ()
    trained: ClassVar[Range] = Range()
    large: ClassVar[Range] = Range(low=(12, 2, 2), high=(12, 2, 2), most=48)

    def __init__(self, limits: Cells = (8, 8, 8)) -> None:
        self.limits = limits

    @abstractmethod
    def marks(self, rng: np.random.Generator, grid: Cells) -> tuple[Mark, ...]:
        """The marks of one scene."""

    @abstractmethod
    def questions(
        self, rng: np.random.Generator, grid: Cells, marks: tuple[Mark, ...]
    ) -> Iterator[Question]:
        """What is asked about them; their ``answer`` is left empty."""

    @abstractmethod
    def answer(
        self, kind: str, about: Sequence[str], grid: Cells, marks: Sequence[Mark]
    ) -> str | None:
        """The answer in a world with these marks (those that the question depends on); None where
        the question would not be asked.
        """

    @abstractmethod
    def text(self, question: Question, grid: Cells) -> str:
        """The question in words."""

    def scene(self, rng: np.random.Generator, grid: Cells) -> Scene:
        """One scene with its questions. Every scene has at least one."""
        while True:
            marks = self.marks(rng, grid)
            asked = []
            for q in self.questions(rng, grid, marks):
                given = self.answer(q.kind, q.about, grid, [marks[i] for i in q.marks])
                assert given is not None, f"{self.name}: {q} can't be answered"
                asked.append(replace(q, answer=given))
            if asked:
                return Scene(grid, marks, tuple(asked), self.filler(rng))

    def filler(self, rng: np.random.Generator) -> int:
        """Words of text between a scene and its questions."""
        return 0

    def places(self, grid: Cells, mark: Mark) -> list[int]:
        """The first cells at which a mark could stand."""
        return list(range(math.prod(grid)))

    def worlds(
        self, scene: Scene, question: Question, known: Knowledge, cells: Range
    ) -> Iterator[tuple[Cells, tuple[Mark, ...]]]:
        """All worlds, equally likely, that look like the scene to one who knows ``known``, as far
        as the question depends on them: a grid, and the marks of the question. A mark whose colour
        was neither seen nor named is ``UNKNOWN``.
        """
        marks = [scene.marks[i] for i in question.marks]
        if known == "index":
            size = math.prod(scene.grid)
            for grid in cells.grids():
                same_step = grid[1] * grid[2] == scene.grid[1] * scene.grid[2]
                if math.prod(grid) == size and (same_step or all(m.lasts == 1 for m in marks)):
                    yield grid, tuple(marks)
            return
        choices = []
        for mark in marks:
            seen = self.sees(scene.grid, mark, known)
            places = self.places(scene.grid, mark)
            if known == "first_second" and not seen:
                places = [p for p in places if p >= scene.grid[1] * scene.grid[2]]
            if known == "whole" or (known == "first_second" and seen):
                places = [mark.cell]
            named = seen or known == "shuffled" or mark.colour in question.about
            colour = mark.colour if named else UNKNOWN
            choices.append([replace(mark, cell=p, colour=colour) for p in places])
        for world in itertools.product(*choices):
            if len({m.cell for m in world}) == len(world):
                yield scene.grid, world

    @staticmethod
    def sees(grid: Cells, mark: Mark, known: Knowledge) -> bool:
        """Whether a mark is shown where it stands."""
        return known in ("whole", "index") or (
            known == "first_second" and mark.cell < grid[1] * grid[2]
        )

    def posterior(
        self, scene: Scene, question: Question, known: Knowledge, cells: Range
    ) -> dict[str, float]:
        """What an ideal observer who knows ``known`` believes: a probability for each answer."""
        counts: dict[str, float] = {}
        for grid, marks in self.worlds(scene, question, known, cells):
            answer = self.answer(question.kind, question.about, grid, marks)
            if answer is not None:
                counts[answer] = counts.get(answer, 0.0) + 1.0
        if unknown := counts.pop(UNKNOWN, 0.0):
            seen = {m.colour for m in scene.marks if self.sees(scene.grid, m, known)}
            free = [c for c in NAMES if c not in seen and c not in question.about]
            for colour in free:
                counts[colour] = counts.get(colour, 0.0) + unknown / len(free)
        total = sum(counts.values())
        return {answer: n / total for answer, n in counts.items()}


def shown(probe: Probe, scene: Scene, view: View, rng: np.random.Generator) -> tuple[Mark, ...]:
    """The marks of a scene as a view shows them."""
    if view == "blind":
        return ()
    if view == "first_second":
        return tuple(
            replace(m, lasts=1) for m in scene.marks if m.cell < scene.grid[1] * scene.grid[2]
        )
    if view == "whole":
        return scene.marks
    moved: list[Mark] = []
    taken: set[int] = set()
    for mark in scene.marks:
        places = probe.places(scene.grid, mark)
        while True:
            at = replace(mark, cell=places[int(rng.integers(len(places)))])
            if not taken & set(at.cells(scene.grid)):
                break
        taken |= set(at.cells(scene.grid))
        moved.append(at)
    return tuple(moved)


def drawn_marks(rng: np.random.Generator, grid: Cells, count: int) -> tuple[Mark, ...]:
    """``count`` marks of different colours in different cells."""
    cells = rng.choice(math.prod(grid), count, replace=False)
    colours = rng.permutation(len(NAMES))[:count]
    return tuple(Mark(NAMES[int(c)], int(at)) for at, c in zip(cells, colours))


def spoken(place: Sequence[int]) -> tuple[str, ...]:
    """Places as questions name them: from 1."""
    return tuple(str(p + 1) for p in place)
