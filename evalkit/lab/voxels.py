"""Voxel scenes: one coloured square somewhere in time, row and column, and the question where.

Trivial to see, hard only in its positions: the vision tower looks at one cell at a time (nine
inputs in all: white and eight colours), so that where a cell stands reaches the model through the
decoder's position ids and in no other way. A scene is a grid of T x R x C cells, one visual token
each; all questions on a scene share it and don't see each other.

Shapes (grids) come from a stream of the step, contents (cell, colour) from one of the seed, so that
models of several seeds can train on one stack of tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pydantic import Field, model_validator
from torch import Tensor

from evalkit.config_files import Strict
from evalkit.nano.batches import encode
from evalkit.nano.grounding import COLOURS, Thing, paint
from evalkit.nano.scene import CELL

Cells = tuple[int, int, int]
"""(seconds, rows, columns) of a scene."""
Kind = Literal["when", "row", "column", "colour"]
View = Literal["whole", "shuffled", "blind", "first_second"]
KINDS: tuple[Kind, ...] = ("when", "row", "column", "colour")
"""What is asked: the place of the mark on one axis, given its colour; its colour, given its place
(with a single mark that needs no positions: the control).
"""
KIND_WORDS = (" TIME", " ROAD", " LANE", " NAME")
"""Single tokens of the nano vocabulary that stand for the four questions."""


class Range(Strict):
    """Grids that are drawn: each side uniformly between ``low`` and ``high``, drawn again until
    there are at least 8 and at most ``most`` cells.
    """

    low: Cells = (2, 2, 2)
    high: Cells = (6, 4, 4)
    most: int = Field(default=32, ge=8)

    @model_validator(mode="after")
    def _fits(self) -> Range:
        if any(a < 1 or a > b for a, b in zip(self.low, self.high)):
            raise ValueError(f"low {self.low} must be 1 or more and not above high {self.high}")
        if not self.grids():
            raise ValueError(
                f"no grid between {self.low} and {self.high} has 8 to {self.most} cells"
            )
        return self

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
    return [g for g in every if 8 <= g[0] * g[1] * g[2] <= most]


class Condition(Strict):
    """Scenes on which models are measured.

    ``view``: what is shown of them: the ``whole``; the mark in a random other cell (``shuffled``:
    nothing about places can be known); no mark at all (``blind``); marks of the first second only.
    ``text``: where the questions stand behind the scene: as the scheme has it (``released``), no
    further away than the furthest in training (``clamped``), or ``moved`` by that many steps.
    ``filler``: tokens of text between the scene and the question ("visual fading").
    """

    cells: Range = Range()
    view: View = "whole"
    text: Literal["released", "clamped"] = "released"
    moved: int = Field(default=0, ge=0)
    filler: int = Field(default=0, ge=0, le=256)
    scenes: int = Field(default=400, gt=0)


@dataclass(frozen=True)
class Batch:
    """Scenes of one batch with their questions, padded on the right.

    ids, glyph, owner, kind and labels are [scenes, tokens]: token ids; which of the nine cell
    pictures a visual token shows; the question that a token belongs to (-1 shared by all, -2
    padding); the kind of the question whose answer is predicted here (-1 elsewhere); the answer's
    token (-100 elsewhere). positions is [components, scenes, tokens].
    """

    ids: Tensor
    glyph: Tensor
    owner: Tensor
    kind: Tensor
    labels: Tensor
    positions: Tensor

    @property
    def visual(self) -> Tensor:
        """Where the visual tokens are [scenes, tokens]."""
        return self.ids == visual_token()

    @property
    def mask(self) -> Tensor:
        """Who sees whom [scenes, 1, tokens, tokens]: earlier ones, shared or its own question's."""
        same = (self.owner[:, None, :] == -1) | (self.owner[:, None, :] == self.owner[:, :, None])
        n = self.owner.shape[1]
        earlier = torch.ones(n, n, dtype=torch.bool, device=same.device).tril()
        return ((same & earlier) | torch.eye(n, dtype=torch.bool, device=same.device))[:, None]

    @property
    def asked(self) -> Tensor:
        """Where an answer is predicted [scenes, tokens]."""
        return self.labels != -100

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


def with_contents(batch: Batch, ids: Tensor, glyph: Tensor) -> Batch:
    """The batch with other token ids and cell pictures, in the same places."""
    return replace(batch, ids=ids, glyph=glyph)


def _one(text: str) -> int:
    ids = encode(text)
    assert len(ids) == 1, f"{text!r} is {len(ids)} tokens of the nano vocabulary"
    return ids[0]


@lru_cache(maxsize=1)
def visual_token() -> int:
    return _one("<|video_pad|>")


@lru_cache(maxsize=1)
def _words() -> tuple[list[int], list[int], list[int], int, int, int]:
    colours = [_one(f" {c}") for c in COLOURS]
    digits = [_one(str(i)) for i in range(10)]
    kinds = [_one(w) for w in KIND_WORDS]
    return colours, digits, kinds, _one("<|vision_start|>"), _one("<|vision_end|>"), _one(" ITEM")


def frame_tokens() -> tuple[int, int, int]:
    """The token before a scene, that of each of its cells, and the token after it."""
    _, _, _, begin, end, _ = _words()
    return begin, visual_token(), end


def answer_tokens() -> set[int]:
    """All tokens that can be an answer."""
    colours, digits, *_ = _words()
    return {*colours, *digits}


def glyph_image() -> Image.Image:
    """The nine cell pictures in one image of 3 x 3 cells: white, then the eight colours."""
    image = Image.new("RGB", (3 * CELL, 3 * CELL), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for i, colour in enumerate(COLOURS, 1):
        paint(pen, Thing(colour, "square", i % 3 * CELL + 3, i // 3 * CELL + 3, CELL - 6))
    return image


class IdsOf(Protocol):
    """A position scheme: ids [components, 1 + cells + 1 + text] of a scene and its text."""

    def __call__(self, grid: Cells, text: int) -> Tensor: ...


class Positions:
    """Position ids of scenes under one scheme, computed once a grid.

    ``ids_of(grid, text)`` gives [components, 1 + cells + 1 + text]: the token before the scene, the
    scene, the token after it, and so many text tokens.
    """

    def __init__(self, ids_of: IdsOf, trained: Range) -> None:
        self.ids_of, self.trained = ids_of, trained
        self._known: dict[tuple[Cells, int], Tensor] = {}

    def __call__(self, grid: Cells, text: int) -> Tensor:
        key = (grid, text)
        if key not in self._known:
            self._known[key] = self.ids_of(grid, text).float()
        return self._known[key]

    @property
    def reach(self) -> Tensor:
        """The furthest start of text in training [components, 1]."""
        starts = [self(g, 0)[:, -1:] for g in self.trained.grids()]
        return torch.stack(starts).amax(0)


def make_batch(
    grids: Sequence[Cells],
    contents: np.random.Generator,
    positions: Positions,
    condition: Condition = Condition(),
    jitter: int = 0,
    limits: Cells = (8, 8, 8),
) -> Batch:
    """Scenes of these grids with one mark each, and up to four questions on each.

    ``jitter``: the text of each scene starts 0 to so many steps further away, drawn for the scene.
    ``limits``: places from these on are not asked for (their digits were never answers in
    training).
    """
    colours, digits, kinds, begin, end, item = _words()
    rows: list[tuple[list[int], list[int], list[int], list[int], list[int], Tensor]] = []
    for grid in grids:
        cells = grid[0] * grid[1] * grid[2]
        cell, colour = int(contents.integers(cells)), int(contents.integers(len(colours)))
        place = np.unravel_index(cell, grid)
        shown = [0] * cells
        at = (
            (cell + int(contents.integers(1, cells))) % cells
            if condition.view == "shuffled"
            else cell
        )
        visible = condition.view in ("whole", "shuffled") or (
            condition.view == "first_second" and place[0] == 0
        )
        if visible:
            shown[at] = colour + 1
        questions = [
            (k, [kinds[k], colours[colour]], digits[place[k] + 1])
            for k in range(3)
            if place[k] < limits[k]
        ]
        if all(p < 8 for p in place):
            where = [kinds[3], *(digits[p + 1] for p in place)]
            questions.append((3, where, colours[colour]))
        longest = max(len(q) for _, q, _ in questions)
        whole = positions(grid, condition.filler + longest)
        head, text = whole[:, : 1 + cells], whole[:, 1 + cells :]
        shift = condition.moved + (int(contents.integers(0, jitter + 1)) if jitter else 0)
        if condition.text == "clamped":
            text = text - (text[:, :1] - positions.reach).clamp(min=0)
        text = text + shift
        ids = [begin, *[visual_token()] * cells, end, *[item] * condition.filler]
        n = len(ids)
        own, kind, labels = [-1] * n, [-1] * n, [-100] * n
        places = [head, text[:, : 1 + condition.filler]]
        for number, (k, tokens, answer) in enumerate(questions):
            ids += tokens
            own += [number] * len(tokens)
            kind += [-1] * (len(tokens) - 1) + [k]
            labels += [-100] * (len(tokens) - 1) + [answer]
            start = 1 + condition.filler
            places.append(text[:, start : start + len(tokens)])
        glyph = [0, *shown] + [0] * (len(ids) - cells - 1)
        rows.append((ids, glyph, own, kind, labels, torch.cat(places, dim=1)))
    longest_row = max(len(r[0]) for r in rows)

    def stacked(column: int, fill: int) -> Tensor:
        return torch.tensor([r[column] + [fill] * (longest_row - len(r[0])) for r in rows])  # type: ignore[operator]

    stood = torch.stack([F.pad(r[5], (0, longest_row - r[5].shape[1])) for r in rows], dim=1)
    return Batch(
        stacked(0, 0), stacked(1, 0), stacked(2, -2), stacked(3, -1), stacked(4, -100), stood
    )


@dataclass(frozen=True)
class Ceiling:
    """The best that can be done with a view: share right, and NLL in nats."""

    right: float
    nll: float


def ceilings(cells: Range, limits: Cells) -> Mapping[str, Mapping[Kind, Ceiling]]:
    """What an ideal observer reaches, by what it is given, from exact enumeration of all scenes.

    ``blind``: the grid's size alone (also ``shuffled``); ``index``: the mark's index in the run and
    the number of tokens, which is all that a 1D scheme tells; ``first_second``: the marks of the
    first second and the grid; ``whole``: everything.
    """
    worlds = [
        (grid, index, np.unravel_index(index, grid), 1.0 / (grid[0] * grid[1] * grid[2]))
        for grid in cells.grids()
        for index in range(grid[0] * grid[1] * grid[2])
    ]
    views = {
        "blind": lambda g, i, p: g,
        "index": lambda g, i, p: (g[0] * g[1] * g[2], i),
        "first_second": lambda g, i, p: (g, i if p[0] == 0 else -1),
        "whole": lambda g, i, p: (g, i),
    }
    out: dict[str, dict[Kind, Ceiling]] = {}
    for view, seen in views.items():
        out[view] = {}
        for axis, kind in enumerate(KINDS[:3]):
            tables: dict[object, dict[int, float]] = {}
            for g, i, p, weight in worlds:
                if p[axis] < limits[axis]:
                    table = tables.setdefault(seen(g, i, p), {})
                    table[int(p[axis])] = table.get(int(p[axis]), 0.0) + weight
            mass = sum(sum(t.values()) for t in tables.values())
            right = sum(max(t.values()) for t in tables.values()) / mass
            nll = -sum(v * np.log(v / sum(t.values())) for t in tables.values() for v in t.values())
            out[view][kind] = Ceiling(right, float(nll / mass))
        blind = view == "blind"
        out[view]["colour"] = Ceiling(1 / 8, float(np.log(8))) if blind else Ceiling(1.0, 0.0)
    share = _first_second_share(cells)
    mixed = Ceiling(share + (1 - share) / 8, (1 - share) * float(np.log(8)))
    out["first_second"]["colour"] = mixed
    return out


def _first_second_share(cells: Range) -> float:
    """How often the mark is in the first second."""
    return float(np.mean([1 / g[0] for g in cells.grids()]))
