"""Batches of scenes: token ids, pictures, positions and answers, under one condition.

All questions on a scene share it and don't see each other. Shapes (grids) come from a stream of the
step, contents from one of the seed, so that models of several seeds can train on one stack of
tensors where the probe asks the same number of questions on every scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from evalkit.config_files import Strict
from evalkit.lab.pictures import Pictures
from evalkit.models.qwen2_vl.rope import Grid
from evalkit.nano.batches import encode, sees
from evalkit.probes.scene import NAMES, Cells, Probe, Question, Range, View, shown

KIND_WORDS = {
    "when": " TIME",
    "row": " ROAD",
    "column": " LANE",
    "colour": " NAME",
    "before": " DATE",
    "above": " FLAT",
    "left": " PORT",
    "at": " SEAT",
    "present": " UNIT",
    "count": " TOTAL",
    "start": " STEP",
    "second": " RANK",
    "needle": " GATE",
    "next": " PAGE",
}
"""Single tokens of the nano vocabulary that stand for the kinds of questions."""
OTHER_WORDS = {"yes": " left", "no": " right", "white": " NUT", "filler": " ITEM"}
"""Those that stand for words which the vocabulary lacks."""


class Condition(Strict):
    """Scenes on which models are measured.

    ``cells``: their grids; by default those of training. ``view``: what is shown of them.
    ``text``: where the questions stand behind the scene: as the scheme has it (``released``), no
    further away than the furthest in training (``clamped``), or ``moved`` by that many steps.
    ``filler``: words between the scene and the question (by default the probe's own number).
    ``apart``: seconds between a needle and its look-alike.
    """

    cells: Range | None = None
    view: View = "whole"
    text: Literal["released", "clamped"] = "released"
    moved: int = Field(default=0, ge=0)
    filler: int | None = Field(default=None, ge=0, le=256)
    apart: int | None = Field(default=None, ge=1, le=64)
    scenes: int = Field(default=400, gt=0)


@dataclass(frozen=True)
class Batch:
    """Scenes of one batch with their questions, padded on the right.

    ids, glyph, owner, kind and labels are [scenes, tokens]: token ids; which picture of the table
    a visual token shows; the question that a token belongs to (-1 shared by all, -2 padding); the
    kind of the question whose answer is predicted here, by its number in the probe (-1 elsewhere);
    the answer's token (-100 elsewhere). positions is [components, scenes, tokens]. allowed is
    [answers, most]: the tokens between which each question lets one choose, then -1. table:
    patches of the different pictures of a cell, or patches and grids of what the tower sees of the
    scenes; neither where scenes are written as words.
    """

    ids: Tensor
    glyph: Tensor
    owner: Tensor
    kind: Tensor
    labels: Tensor
    positions: Tensor
    allowed: Tensor
    table: Tensor | None = None
    patches: Tensor | None = None
    grids: tuple[Grid, ...] = ()

    @property
    def visual(self) -> Tensor:
        """Where the visual tokens are [scenes, tokens]."""
        return self.ids == visual_token()

    @property
    def mask(self) -> Tensor:
        """Who sees whom [scenes, 1, tokens, tokens]: earlier ones, shared or its own question's."""
        return sees(self.owner)

    @property
    def asked(self) -> Tensor:
        """Where an answer is predicted [scenes, tokens]."""
        return self.labels != -100

    def to(self, device: str) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()
        }
        return Batch(**moved)


@lru_cache(maxsize=256)
def token(word: str) -> int:
    """The token of an answer, of a kind of question, or of anything else that a lab model reads.
    Raises ValueError for a word that is no single token.
    """
    text = KIND_WORDS.get(word) or OTHER_WORDS.get(word)
    text = text or (word if word.isdecimal() or word.startswith("<") else f" {word}")
    ids = encode(text)
    if len(ids) != 1:
        raise ValueError(
            f"{text!r}: {len(ids)} tokens of the nano vocabulary; give {word!r} one in KIND_WORDS, "
            "of KEYS in nano/documents.py"
        )
    return ids[0]


@lru_cache(maxsize=1)
def visual_token() -> int:
    """The token that stands for a cell of a scene."""
    return token("<|video_pad|>")


def options_of(question: Question) -> tuple[str, ...]:
    """The answers between which a question lets one choose: its own, all colours, or 1 to 8."""
    if question.options:
        return question.options
    return NAMES if question.answer in NAMES else tuple(str(i + 1) for i in range(8))


@lru_cache(maxsize=256)
def _tokens(words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(token(w) for w in words)


class IdsOf(Protocol):
    """A position scheme: ids [components, tokens] of a scene (in visual tokens) and its text."""

    def __call__(self, grid: Cells, text: int) -> Tensor: ...


class Positions:
    """Position ids of scenes under one scheme, computed once a grid.

    ``ids_of(grid, text)``: the token before the scene, the scene with its time stamps if any, the
    token after it, and so many text tokens. ``trained``: the grids of training, in visual tokens.
    """

    def __init__(self, ids_of: IdsOf, trained: Sequence[Cells]) -> None:
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
        starts = [self(g, 0)[:, -1:] for g in self.trained]
        return torch.stack(starts).amax(0)


@dataclass(frozen=True)
class Setting:
    """What turns scenes into batches: the probe, the pictures, the position scheme, and whether
    cells are written as words instead (the text on which a model is trained first).
    """

    probe: Probe
    pictures: Pictures
    positions: Positions
    words: bool = False


@dataclass
class _Row:
    """One scene on its way into a batch."""

    ids: list[int]
    glyph: list[int]
    owner: list[int]
    kind: list[int]
    labels: list[int]
    places: list[Tensor]


def make_batch(
    grids: Sequence[Cells],
    contents: np.random.Generator,
    setting: Setting,
    condition: Condition = Condition(),
    jitter: int = 0,
) -> Batch:
    """Scenes of these grids with their questions.

    ``jitter``: the text of each scene starts 0 to so many steps further away, drawn apart from the
    contents, so that arms with and without it see the same scenes.
    """
    rows, allowed, patches, shapes = [], [], [], []
    shows = setting.pictures.shows
    (apart,) = contents.spawn(1)
    for cells, moved in zip(grids, apart.integers(0, jitter + 1, len(grids))):
        scene = setting.probe.scene(contents, cells)
        marks = shown(setting.probe, scene, condition.view, contents)
        filler = scene.filler if condition.filler is None else condition.filler
        shift = condition.moved + int(moved)
        grid = setting.pictures.grid(cells)
        glyphs = [0] * (grid[0] * grid[1] * grid[2])
        if shows.drawn:
            patches.append(setting.pictures.page(cells, marks))
        else:
            glyphs = setting.pictures.glyphs(cells, marks)
        shapes.append(grid)
        rows.append(_row(setting, scene.questions, grid, glyphs, filler, shift, condition))
        allowed += [_tokens(options_of(q)) for q in scene.questions]
    width = max(len(r.ids) for r in rows)

    def stacked(lists: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([r + [fill] * (width - len(r)) for r in lists])

    places = [torch.cat(r.places, dim=1) for r in rows]
    most = max(map(len, allowed))
    batch = Batch(
        stacked([r.ids for r in rows], 0),
        stacked([r.glyph for r in rows], 0),
        stacked([r.owner for r in rows], -2),
        stacked([r.kind for r in rows], -1),
        stacked([r.labels for r in rows], -100),
        torch.stack([F.pad(p, (0, width - p.shape[1])) for p in places], dim=1),
        torch.tensor([[*tokens, *[-1] * (most - len(tokens))] for tokens in allowed]),
    )
    if setting.words:
        return batch
    if not shows.drawn and shows.tower == "cell":
        return replace(batch, table=setting.pictures.table)
    if shows.drawn:
        pixels = torch.cat(patches)
    else:
        pixels = setting.pictures.table.unflatten(0, (-1, 4))[batch.glyph[batch.visual]].flatten(
            0, 1
        )
    whole = tuple((t, 2 * h, 2 * w) for t, h, w in shapes)  # in patches
    alone = ((1, 2, 2),) * (len(pixels) // 4)
    return replace(batch, patches=pixels, grids=whole if shows.tower == "scene" else alone)


def _row(
    setting: Setting,
    questions: Sequence[Question],
    grid: Cells,
    glyphs: list[int],
    filler: int,
    shift: int,
    condition: Condition,
) -> _Row:
    """One scene's tokens with all its questions."""
    frame = grid[1] * grid[2]
    scene, pictures = [], []
    for second in range(grid[0]):
        shows = glyphs[second * frame : (second + 1) * frame]
        if setting.pictures.shows.stamps:
            scene.append(token(str(second % 10)))
            pictures.append(0)
        named = [NAMES[g - 1] if g else "white" for g in shows] if setting.words else []
        scene += [token(n) for n in named] or [visual_token()] * frame
        pictures += shows
    asked = [[token(q.kind), *(token(w) for w in q.about)] for q in questions]
    whole = setting.positions(grid, filler + max(map(len, asked)))
    head, text = whole[:, : 1 + len(scene)], whole[:, 1 + len(scene) :]
    if condition.text == "clamped":
        text = text - (text[:, :1] - setting.positions.reach).clamp(min=0)
    text = text + shift
    ids = [token("<|vision_start|>"), *scene, token("<|vision_end|>")]
    ids += [token("filler")] * filler
    n = len(ids)
    row = _Row(ids, [0, *pictures], [-1] * n, [-1] * n, [-100] * n, [head, text[:, : 1 + filler]])
    start = 1 + filler
    for number, (question, tokens) in enumerate(zip(questions, asked)):
        kind = setting.probe.kinds.index(question.kind)
        row.ids += tokens
        row.owner += [number] * len(tokens)
        row.kind += [-1] * (len(tokens) - 1) + [kind]
        row.labels += [-100] * (len(tokens) - 1) + [token(question.answer)]
        row.places.append(text[:, start : start + len(tokens)])
    row.glyph += [0] * (len(row.ids) - len(row.glyph))
    return row
