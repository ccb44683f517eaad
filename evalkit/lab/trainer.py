"""One model of a study: trained on voxel scenes, then measured under every condition.

A run is a function of its ``Run``: the same on every machine with the same build of torch, whatever
runs beside it. It takes half a minute on one thread; one that was killed starts again.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.code import LAB, code_of_module
from evalkit.config_files import Strict
from evalkit.engine.interface import Media
from evalkit.lab import voxels
from evalkit.lab.voxels import KINDS, Batch, Cells, Condition, Kind, Positions, Range
from evalkit.nano.recipe import ModelSize, Recipe
from evalkit.nano.scene import stream
from evalkit.nano.train import MaskedProduct, fresh, optimisers_of, patches_of, set_rates

LOGGED = 20
"""Steps in a row of the learning curve."""


class Run(Strict):
    """Everything that decides a run. ``rate`` multiplies both learning rates."""

    seed: int = Field(ge=0)
    switches: dict[str, Any] = Field(default_factory=dict)
    text_jitter: int = Field(default=0, ge=0)
    rate: float = Field(default=1.0, gt=0)
    steps: int = Field(default=280, gt=0)
    batch: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    muon: float = Field(default=5e-3, gt=0)
    model: ModelSize
    trained: Range = Range()

    @property
    def recipe(self) -> Recipe:
        """The training recipe; its family and stage only fill their places."""
        return Recipe.model_validate(
            {
                "name": "lab",
                "seed": self.seed,
                "batch": self.batch,
                "warmup": 50,
                "decay_from": 0.6,
                "learning_rate": self.learning_rate * self.rate,
                "muon": self.muon * self.rate,
                "model": self.model.model_dump(),
                "switches": self.switches,
                "families": {"clips": {"gate": None}},
                "stages": [{"name": "all", "steps": self.steps, "weights": {"clips": 1.0}}],
            }
        )

    def key(self, conditions: Mapping[str, Condition]) -> str:
        """The identity of a run and of what was measured, 12 hex digits. Edited code of the model,
        the scenes or the training makes another.
        """
        content = {
            "version": code_of_module(LAB) or 1,
            "run": self.model_dump(mode="json"),
            "conditions": {k: c.model_dump(mode="json") for k, c in conditions.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Measurement:
    """Answers to one kind of question under one condition.

    nll: mean negative log-likelihood of the answer's token, in nats. right: share of greedy answers
    that are right. valid: share of greedy answers that are possible answers at all (a digit, a
    colour). n: questions.
    """

    nll: float
    right: float
    valid: float
    n: int


@dataclass(frozen=True)
class CurvePoint:
    """Means over the training steps up to ``step`` since the point before."""

    step: int
    nll: Mapping[Kind, float]
    right: Mapping[Kind, float]


@dataclass(frozen=True)
class Result:
    """What a run left: processor seconds, parameters, its learning curve, and by condition and kind
    what was measured.
    """

    seconds: float
    parameters: int
    curve: tuple[CurvePoint, ...]
    conditions: Mapping[str, Mapping[Kind, Measurement]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Result:
        return cls(
            raw["seconds"],
            raw["parameters"],
            tuple(CurvePoint(**p) for p in raw["curve"]),
            {
                c: {k: Measurement(**m) for k, m in kinds.items()}
                for c, kinds in raw["conditions"].items()
            },
        )


def train(run: Run, conditions: Mapping[str, Condition]) -> Result:
    """Trains one model on the calling thread and measures it."""
    started = time.process_time()
    torch.manual_seed(run.seed)
    model = fresh(run.recipe)
    optimisers = optimisers_of(run.recipe, model)
    positions, glyphs = (
        Positions(positions_of(model), run.trained),
        patches_of(voxels.glyph_image()),
    )
    curve: list[CurvePoint] = []
    totals = Totals()
    for step in range(run.steps):
        set_rates(run.recipe, step, optimisers)
        batch = training_batch(run, step, positions)
        logits, labels, kinds = answer_logits(model, batch, glyphs)
        nll = F.cross_entropy(logits, labels, reduction="none")
        nll.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        totals.add(nll.detach(), logits.detach().argmax(-1), labels, kinds)
        if (step + 1) % LOGGED == 0 or step + 1 == run.steps:
            seen = totals.measured()
            curve.append(
                CurvePoint(
                    step + 1,
                    {k: round(m.nll, 4) for k, m in seen.items()},
                    {k: round(m.right, 4) for k, m in seen.items()},
                )
            )
            totals = Totals()
    model.eval()
    measured = {
        name: measure(model, name, condition, run, positions, glyphs)
        for name, condition in conditions.items()
    }
    return Result(
        round(time.process_time() - started, 2),
        sum(p.numel() for p in model.parameters()),
        tuple(curve),
        measured,
    )


def training_batch(run: Run, step: int, positions: Positions) -> Batch:
    """The batch of one step. Shapes are those of the step alone, contents also of the seed."""
    shapes = stream("train", 0, step)
    grids = [run.trained.draw(shapes) for _ in range(run.batch)]
    contents = stream("train", run.seed + 1, step)
    return voxels.make_batch(grids, contents, positions, jitter=run.text_jitter)


def positions_of(model: Any) -> voxels.IdsOf:
    """How a model's scheme places a scene and the text after it."""
    before, visual, after = voxels.frame_tokens()

    def ids_of(grid: Cells, text: int) -> Tensor:
        t, rows, columns = grid
        ids = [before, *[visual] * (t * rows * columns), after]
        scene = Media((t, 2 * rows, 2 * columns), is_video=True)  # in patches: 2 x 2 a cell
        placed: Tensor = model.position_ids(ids, [scene], following=text)
        return placed

    return ids_of


def answer_logits(model: Any, batch: Batch, glyphs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, vocabulary], labels [n] and kinds [n] where answers are predicted."""
    cos, sin = model.rotary(batch.positions)
    hidden = hidden_states(model, batch, glyphs, cos, sin)
    return (
        model.lm_head(hidden[batch.asked]).float(),
        batch.labels[batch.asked],
        batch.kind[batch.asked],
    )


def hidden_states(model: Any, batch: Batch, glyphs: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[scenes, tokens, hidden]. The tower sees nine cells, each alone; scenes look them up."""
    with sdpa_kernel(
        SDPBackend.MATH
    ):  # the kernel that has a batching rule, and the faster one here
        cells = model.visual(glyphs, [(1, 2, 2)] * 9)  # [9, hidden]
    x = torch.where(
        batch.visual[..., None], cells[batch.glyph], model.model.embed_tokens(batch.ids)
    )
    out: Tensor = model.model(x, cos, sin, MaskedProduct(batch.mask))
    return out


@torch.no_grad()
def measure(
    model: Any, name: str, condition: Condition, run: Run, positions: Positions, glyphs: Tensor
) -> dict[Kind, Measurement]:
    """Measures one condition, on scenes that all arms of a seed share and other seeds don't."""
    contents = stream("dev", 1000 + run.seed, zlib.crc32(name.encode()))
    totals = Totals()
    for start in range(0, condition.scenes, 40):
        grids = [condition.cells.draw(contents) for _ in range(min(40, condition.scenes - start))]
        batch = voxels.make_batch(grids, contents, positions, condition, limits=run.trained.high)
        logits, labels, kinds = answer_logits(model, batch, glyphs)
        totals.add(
            F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1), labels, kinds
        )
    return totals.measured()


class Totals:
    """Sums over answers, by kind."""

    def __init__(self) -> None:
        self.sums = torch.zeros(len(KINDS), 4, dtype=torch.float64)
        self.possible = torch.tensor(sorted(voxels.answer_tokens()))

    def add(self, nll: Tensor, answers: Tensor, labels: Tensor, kinds: Tensor) -> None:
        """Adds answers (tokens) [n] with their NLL, right tokens and kinds [n]."""
        valid = torch.isin(answers, self.possible)
        columns = torch.stack((nll.double(), (answers == labels).double(), valid.double()), dim=1)
        self.sums.index_add_(0, kinds, F.pad(columns, (0, 1), value=1.0))

    def measured(self) -> dict[Kind, Measurement]:
        out: dict[Kind, Measurement] = {}
        for kind, row in zip(KINDS, self.sums.tolist()):
            nll, right, valid, n = row
            if n:
                out[kind] = Measurement(
                    round(nll / n, 5), round(right / n, 5), round(valid / n, 5), int(n)
                )
        return out
