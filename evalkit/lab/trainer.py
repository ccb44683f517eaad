"""One model of a study: trained on a probe's scenes, then measured under every condition.

A run is a function of its ``Run``: the same on every machine with the same build of torch, whatever
runs beside it. It takes half a minute on one thread; one that was killed starts again.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.code import LAB, code_of_module, source_of_module
from evalkit.config_files import Strict
from evalkit.engine.interface import Media
from evalkit.lab.batches import (
    Batch,
    Condition,
    IdsOf,
    Positions,
    Setting,
    make_batch,
    token,
    visual_token,
)
from evalkit.lab.pictures import Pictures, Shows
from evalkit.nano.recipe import ModelSize, Recipe
from evalkit.nano.scene import stream
from evalkit.nano.train import MaskedProduct, fresh, optimisers_of, set_rates
from evalkit.probes import PROBES
from evalkit.probes.lookup import Needle
from evalkit.probes.scene import Cells, Probe, Range

LOGGED = 20
"""Steps in a row of the learning curve."""
MEASURED = 40
"""Scenes of a batch on which models are measured."""
START_REACH = 4
"""Text is trained up to so many times further out than a scene's own tokens reach."""


class Part(Strict):
    """A part of the training: its share of the steps, and factors on the learning rates of the
    tower and of the language model (0: frozen), as the stages of the paper.
    """

    share: float = Field(gt=0, le=1)
    vision: float = Field(default=1.0, ge=0, le=1)
    language: float = Field(default=1.0, ge=0, le=1)


class Start(Strict):
    """What arms start from, trained for so many steps with the run's seed.

    Without ``probe``: one model a seed that has read the scenes written as words, under 1D
    positions and far offsets; every arm adapts it with its own scheme, as papers adapt a language
    model. With it: the arm itself, trained on that probe first.
    """

    steps: int = Field(default=280, gt=0)
    probe: str | None = None


class Run(Strict):
    """Everything that decides a run. ``rate`` multiplies both learning rates, AdamW's
    (``learning_rate``) and Muon's (``muon``); other fields as in ``study.Study`` and
    ``study.Level``.
    """

    seed: int = Field(ge=0)
    probe: str = "where"
    switches: dict[str, Any] = Field(default_factory=dict)
    shows: Shows = Shows()
    text_jitter: int = Field(default=0, ge=0)
    stages: tuple[Part, ...] = ()
    start: Start | None = None
    rate: float = Field(default=1.0, gt=0)
    steps: int = Field(default=280, gt=0)
    batch: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    muon: float = Field(default=5e-3, gt=0)
    model: ModelSize
    trained: Range = Range()

    @model_validator(mode="after")
    def _fits(self) -> Run:
        for name in (self.probe, self.start.probe if self.start else None):
            if name and name not in PROBES:
                raise ValueError(f"probe: {name!r} is none of {', '.join(PROBES)}")
        if max(self.trained.high) > 8:
            raise ValueError(
                f"trained: {self.trained.high}: at most 8 seconds, rows and columns, whose numbers "
                "are answers of one token; larger scenes can be among the conditions"
            )
        if self.shows.drawn and self.trained.high[0] > 1:
            raise ValueError("drawn: a page has one second; trained grids have more")
        if self.stages and abs(sum(p.share for p in self.stages) - 1) > 1e-6:
            raise ValueError("stages: shares must add up to 1")
        return self

    @property
    def recipe(self) -> Recipe:
        """The training recipe; its family only fills its place."""
        parts = self.stages or (Part(share=1.0),)
        ends = [round(self.steps * sum(p.share for p in parts[: i + 1])) for i in range(len(parts))]
        stages = [
            {"name": str(i), "steps": b - a, "weights": {"clips": 1.0}}
            | {"vision": p.vision, "language": p.language}
            for i, (p, a, b) in enumerate(zip(parts, [0, *ends], ends))
        ]
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
                "stages": stages,
            }
        )

    def asks(self, condition: Condition = Condition()) -> Probe:
        """The probe, as a condition wants it. Raises ValueError for ``apart`` under another."""
        kind = PROBES[self.probe]
        if condition.apart is None:
            return kind(self.trained.high)
        if not issubclass(kind, Needle):
            raise ValueError(f"apart: only the probe needle has a look-alike, not {self.probe}")
        return kind(self.trained.high, condition.apart)

    def key(self, conditions: Mapping[str, Condition], source: bool = False) -> str:
        """The identity of a run and of what was measured, 12 hex digits. Edited code of the model,
        the scenes or the training makes another. ``source``: that by the code's very source instead
        of its recorded version, which stays when the code is recorded afterwards.
        """
        content = {
            "version": source_of_module(LAB) if source else code_of_module(LAB) or 1,
            "run": self.model_dump(mode="json", exclude_defaults=True),
            "conditions": {
                k: c.model_dump(mode="json", exclude_defaults=True) for k, c in conditions.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Measurement:
    """Answers to one kind of question under one condition.

    nll: mean negative log-likelihood of the answer's token, in nats. right: share of greedy answers
    that are right. valid: share of greedy answers that are among the question's options (two named
    colours, all colours, 1 to 8, yes and no). choice: share right when made to choose among them.
    n: questions.
    """

    nll: float
    right: float
    valid: float
    choice: float
    n: int


@dataclass(frozen=True)
class CurvePoint:
    """Means over the training steps up to ``step`` since the point before, by kind of question: NLL
    in nats, and the share of right answers.
    """

    step: int
    nll: Mapping[str, float]
    right: Mapping[str, float]

    @classmethod
    def of(cls, step: int, seen: Mapping[str, Measurement]) -> CurvePoint:
        nll = {k: round(m.nll, 4) for k, m in seen.items()}
        return cls(step, nll, {k: round(m.right, 4) for k, m in seen.items()})


@dataclass(frozen=True)
class Result:
    """What a run left: processor seconds, parameters, its learning curve, by condition and kind
    what was measured, and on what (torch and device).
    """

    seconds: float
    parameters: int
    curve: tuple[CurvePoint, ...]
    conditions: Mapping[str, Mapping[str, Measurement]]
    made: str = ""

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
            raw.get("made", ""),
        )


def train(run: Run, conditions: Mapping[str, Condition]) -> Result:
    """Trains one model on the calling thread and measures it."""
    started = time.process_time()
    model, curve = trained(run)
    measured = {name: measure(model, name, c, run) for name, c in conditions.items()}
    return Result(
        round(time.process_time() - started, 2),
        sum(p.numel() for p in model.parameters()),
        curve,
        measured,
        f"torch {torch.__version__}, CPU",
    )


def trained(run: Run) -> tuple[Any, tuple[CurvePoint, ...]]:
    """The run's model, ready to be measured, and its learning curve."""
    torch.manual_seed(run.seed)
    model: Any = fresh(run.recipe)
    if run.start:
        before = begins_with(run, run.start)
        model.load_state_dict(_begun(before.model_dump_json(), not run.start.probe))
    setting = setting_of(run, model)
    curve = tuple(fitted(model, run, (training_batch(run, s, setting) for s in range(run.steps))))
    return model.eval(), curve


def fitted(model: Any, run: Run, batches: Iterator[Batch]) -> Iterator[CurvePoint]:
    """Takes the run's steps on these batches and gives the points of its learning curve."""
    recipe = run.recipe
    optimisers = optimisers_of(recipe, model)
    totals = Totals(run.asks().kinds)
    for step, batch in enumerate(batches):
        set_rates(recipe, step, optimisers)
        logits, labels, kinds = answer_logits(model, batch)
        nll = F.cross_entropy(logits, labels, reduction="none")
        nll.mean().backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        totals.add(nll.detach(), logits.detach(), labels, kinds, batch.allowed)
        if (step + 1) % LOGGED == 0 or step + 1 == run.steps:
            yield CurvePoint.of(step + 1, totals.measured())
            totals = Totals(totals.kinds)


def begins_with(run: Run, start: Start) -> Run:
    """The training that a run starts from. Arms share that of text but for the base of the
    frequencies, which is one of the text model.
    """
    same: dict[str, Any] = {"start": None, "stages": (), "steps": start.steps, "rate": 1.0}
    if start.probe:
        return run.model_copy(update=same | {"probe": start.probe})
    theta = {k: v for k, v in run.switches.items() if k == "theta"}
    same |= {"switches": {"position": "rope1d"} | theta, "shows": Shows(), "text_jitter": 0}
    return run.model_copy(update=same)


@lru_cache(maxsize=2)
def _begun(run_json: str, words: bool) -> Mapping[str, Tensor]:
    """The weights of a model that others start from; trained once a process for all arms."""
    run = Run.model_validate_json(run_json)
    torch.manual_seed(run.seed)
    model: Any = fresh(run.recipe)
    for _ in fitted(model, run, start_batches(run, setting_of(run, model), words)):
        pass
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def start_batches(run: Run, setting: Setting, words: bool) -> Iterator[Batch]:
    """The batches of a training that others start from, of scenes of its own; those of text reach
    far.
    """
    setting = replace(setting, words=words)
    jitter = START_REACH * run.trained.most if words else run.text_jitter
    for step in range(run.steps):
        yield training_batch(run, step, setting, "start", jitter)


def setting_of(run: Run, model: Any, condition: Condition = Condition()) -> Setting:
    """The run's probe, pictures and positions."""
    pictures = Pictures(run.shows, model.switches)
    trained = [pictures.grid(g) for g in run.trained.grids()]
    positions = Positions(positions_of(model, run.shows), trained)
    return Setting(run.asks(condition), pictures, positions)


def training_batch(
    run: Run, step: int, setting: Setting, data: str = "scenes", jitter: int | None = None
) -> Batch:
    """The batch of one step. Shapes are those of the step alone, contents also of the seed. What
    a model starts from has scenes of its own.
    """
    own = () if data == "scenes" else (zlib.crc32(data.encode()),)
    shapes = stream("train", 0, step, *own)
    grids = [run.trained.draw(shapes) for _ in range(run.batch)]
    contents = stream("train", run.seed + 1, step, *own)
    far = run.text_jitter if jitter is None else jitter
    return make_batch(grids, contents, setting, jitter=far)


def positions_of(model: Any, shows: Shows) -> IdsOf:
    """How a model's scheme places a scene and the text after it."""
    before, visual, after = token("<|vision_start|>"), visual_token(), token("<|vision_end|>")

    def ids_of(grid: Cells, text: int) -> Tensor:
        t, rows, columns = grid  # a token is 2 x 2 patches
        scene, media = [visual] * (t * rows * columns), [_media(t, rows, columns)]
        if shows.stamps:
            scene = ([token("0")] + [visual] * (rows * columns)) * t
            media = [_media(1, rows, columns)] * t
        placed: Tensor = model.position_ids([before, *scene, after], media, following=text)
        return placed

    return ids_of


def _media(t: int, rows: int, columns: int) -> Media:
    return Media((t, 2 * rows, 2 * columns), is_video=True)


def answer_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, vocab], labels [n] and kinds [n] of the answers that are predicted."""
    cos, sin = model.rotary(batch.positions)
    hidden = hidden_states(model, batch, cos, sin)
    return (
        model.lm_head(hidden[batch.asked]).float(),
        batch.labels[batch.asked],
        batch.kind[batch.asked],
    )


def hidden_states(model: Any, batch: Batch, cos: Tensor, sin: Tensor) -> Tensor:
    """[scenes, tokens, hidden]. A tower that sees one cell at a time reads the table of different
    cells, and scenes look them up.
    """
    x = model.model.embed_tokens(batch.ids)
    if batch.patches is None and batch.table is None:
        return _decoded(model, x, cos, sin, batch)
    # the kernel that has a batching rule, and the faster one here
    with sdpa_kernel(SDPBackend.MATH):
        if batch.patches is not None:
            features = model.visual(batch.patches, batch.grids)  # [visual tokens, hidden]
            order = (batch.visual.flatten().cumsum(0) - 1).clamp(min=0).view(batch.ids.shape)
        else:
            assert batch.table is not None
            features = model.visual(batch.table, [(1, 2, 2)] * (len(batch.table) // 4))
            order = batch.glyph
    if model.switches.vision_gate != 1.0:
        features = features * model.switches.vision_gate
    x = torch.where(batch.visual[..., None], features[order], x)
    return _decoded(model, x, cos, sin, batch)


def _decoded(model: Any, x: Tensor, cos: Tensor, sin: Tensor, batch: Batch) -> Tensor:
    out: Tensor = model.decode(x, cos, sin, MaskedProduct(batch.mask), batch.ids)
    return out


@torch.no_grad()
def measure(model: Any, name: str, condition: Condition, run: Run) -> dict[str, Measurement]:
    """Measures one condition."""
    totals = Totals(run.asks().kinds)
    for batch in test_batches(run, name, condition, setting_of(run, model, condition)):
        logits, labels, kinds = answer_logits(model, batch)
        nll = F.cross_entropy(logits, labels, reduction="none")
        totals.add(nll, logits, labels, kinds, batch.allowed)
    return totals.measured()


def test_batches(run: Run, name: str, condition: Condition, setting: Setting) -> Iterator[Batch]:
    """What a condition is measured on: scenes that all arms of a seed share and other seeds
    don't.
    """
    contents = stream("dev", 1000 + run.seed, zlib.crc32(name.encode()))
    cells = condition.cells or run.trained
    for start in range(0, condition.scenes, MEASURED):
        grids = [cells.draw(contents) for _ in range(min(MEASURED, condition.scenes - start))]
        yield make_batch(grids, contents, setting, condition)


class Totals:
    """Sums over answers, by kind."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.sums = torch.zeros(len(kinds), 5, dtype=torch.float64)

    def add(
        self, nll: Tensor, logits: Tensor, labels: Tensor, kinds: Tensor, allowed: Tensor
    ) -> None:
        """Adds answers: NLL [n], logits [n, vocab], right tokens and kinds [n], and the tokens
        between which each may choose [n, most].
        """
        greedy = logits.argmax(-1)
        valid = (allowed == greedy[:, None]).any(-1)
        among = logits.gather(1, allowed.clamp(min=0)).masked_fill(allowed < 0, -torch.inf)
        chosen = allowed.gather(1, among.argmax(-1, keepdim=True))[:, 0]
        columns = torch.stack(
            (
                nll.double(),
                (greedy == labels).double(),
                valid.double(),
                (chosen == labels).double(),
                torch.ones_like(nll, dtype=torch.float64),
            ),
            dim=1,
        )
        self.sums.index_add_(0, kinds.cpu(), columns.cpu())

    def measured(self) -> dict[str, Measurement]:
        out: dict[str, Measurement] = {}
        for kind, (*sums, n) in zip(self.kinds, self.sums.tolist()):
            if n:
                nll, right, valid, choice = (round(s / n, 5) for s in sums)
                out[kind] = Measurement(nll, right, valid, choice, int(n))
        return out
