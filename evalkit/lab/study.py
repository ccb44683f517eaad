"""A study: arms, conditions, seeds and hypotheses, read from YAML and fixed before the run.

Arms are the levels of factors, crossed. A factor's first level is its default; ``also`` adds arms
off the grid. Every arm of a seed has the same initialisation, scenes and number of steps, so that
their difference is the arm's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from evalkit.config_files import Strict, find_shipped, read_yaml
from evalkit.errors import CheckpointError
from evalkit.lab.batches import Condition, token
from evalkit.lab.trainer import Part, Run, Start
from evalkit.nano.recipe import ModelSize
from evalkit.nano.train import config
from evalkit.probes import PROBES
from evalkit.probes.scene import Range

SIZE = ModelSize(
    vision_depth=1,
    vision_width=64,
    vision_heads=2,
    depth=2,
    width=128,
    heads=2,
    kv_heads=1,
    intermediate=192,
    rope_theta=10.0,
)
"""0.58 million parameters."""


def _one_line(text: str) -> str:
    """A text for a cell of a table."""
    text = " ".join(text.split())
    if not text or re.search(r'["|]', text):
        raise ValueError(f'{text!r}: expected a line of text without " and |')
    return text


def _folder(text: str) -> str:
    if not re.fullmatch(r"\w[\w .+-]*", text):
        raise ValueError(
            f"{text!r}: expected letters, digits, spaces and . _ + -, since it names a folder"
        )
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Level(Strict):
    """What a level of a factor sets: switches of the model, how far training moves text, what the
    tower is shown (the keys of ``Shows``), which parts learn when, what the model starts from, and
    its size.
    """

    switches: dict[str, Any] = Field(default_factory=dict)
    text_jitter: int | None = Field(default=None, ge=0, le=65_536)
    shows: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[Part, ...] = ()
    start: Start | None = None
    model: ModelSize | None = None


class Hypothesis(Strict):
    """A claim about NLL in nats: arm ``a`` minus arm ``b`` on one kind of question in one
    condition.

    ``below: x``: the difference is under x. ``within: x``: it is no larger than x either way. The
    bound is the smallest effect of interest. Arms are named by factor and level; factors left out
    have their defaults.
    """

    name: Line
    claim: Line
    kind: str
    condition: str
    a: dict[str, str]
    b: dict[str, str]
    below: float | None = Field(default=None, lt=0, allow_inf_nan=False)
    within: Positive | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Hypothesis:
        if (self.below is None) == (self.within is None):
            raise ValueError("give one of below (an effect) and within (no effect worth having)")
        return self


class Study(Strict):
    """One study. ``probe``: what is asked. ``grid``: the factors that are crossed. ``trained``: the
    grids of training, by default the probe's. ``start``: what all arms start from. ``rate_check``:
    factors on the learning rates, tried on every arm with the first seed alone, to see whether the
    rate favours one. ``batch``: scenes a step (from a checkpoint, questions). ``learning_rate`` is
    AdamW's, ``muon`` Muon's.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, AfterValidator(_folder)]
    question: str
    probe: str = "where"
    seeds: int = Field(default=8, ge=2, le=64)
    factors: dict[Line, Annotated[dict[Line, Level], Field(min_length=1)]] = Field(min_length=1)
    grid: tuple[str, ...] = Field(min_length=1)
    also: tuple[dict[str, str], ...] = ()
    baseline: dict[str, str] = Field(default_factory=dict)
    hypotheses: tuple[Hypothesis, ...] = ()
    trained: Range | None = None
    conditions: dict[Line, Condition] = Field(min_length=1)
    rate_check: tuple[Positive, ...] = ()
    steps: int = Field(default=280, gt=0, le=1_000_000)
    batch: int = Field(default=16, gt=0, le=4096)
    learning_rate: Positive = 2e-3
    muon: Positive = 5e-3
    model: ModelSize = SIZE
    start: Start | None = None

    @model_validator(mode="after")
    def _fits(self) -> Study:
        if self.probe not in PROBES:
            raise ValueError(f"probe: {self.probe!r} is none of {', '.join(PROBES)}")
        if strange := sorted(set(self.grid) - set(self.factors)):
            raise ValueError(
                f"grid: {', '.join(strange)} not among factors {', '.join(self.factors)}"
            )
        for name in ("grid", "rate_check"):
            if len(set(given := getattr(self, name))) < len(given):
                raise ValueError(f"{name}: {', '.join(map(str, given))}: each may be there once")
        if 1 in self.rate_check:
            raise ValueError("rate_check: 1 is the rate of every run; give other factors")
        if self.conditions[self.first_condition].view != "whole":
            raise ValueError(
                f"conditions: arms are compared by the first one, {self.first_condition!r}, which "
                "must show all of a scene: put one of view: whole before it"
            )
        for kind in self.kinds:
            token(kind)  # raises where a probe's kind has no word
        places = [("baseline", self.baseline)]
        places += [(f"also.{i}", levels) for i, levels in enumerate(self.also)]
        for h in self.hypotheses:
            places += [(f"hypothesis {h.name}: a", h.a), (f"hypothesis {h.name}: b", h.b)]
            if h.kind not in self.kinds:
                raise ValueError(
                    f"hypothesis {h.name}: kind {h.kind!r} is none of {', '.join(self.kinds)}"
                )
            if h.condition not in self.conditions:
                raise ValueError(
                    f"hypothesis {h.name}: condition {h.condition!r} is none of "
                    f"{', '.join(self.conditions)}"
                )
        for where, levels in places:
            for factor, level in levels.items():
                if level not in self.factors.get(factor, {}):
                    known = ", ".join(f"{f}: {'|'.join(ls)}" for f, ls in self.factors.items())
                    raise ValueError(f"{where}: {factor}: {level!r} unknown; there are: {known}")
        arms = {a.name for a in self.arms()}
        if len({h.name for h in self.hypotheses}) < len(self.hypotheses):
            raise ValueError("hypotheses: two have the same name")
        sides = [("baseline", self.baseline)]
        for h in self.hypotheses:
            sides += [(f"hypothesis {h.name}", h.a), (f"hypothesis {h.name}", h.b)]
            if self.arm(h.a) == self.arm(h.b):
                raise ValueError(f"hypothesis {h.name}: a and b are the same arm")
        for where, side in sides:
            if (name := self.arm(side).name) not in arms:
                raise ValueError(f"{where}: no arm {name!r}; add it under also")
        trained: dict[str, str] = {}
        for arm in self.arms():
            run = self.run(arm, 0)
            try:
                config(run.recipe)
            except CheckpointError as e:
                raise ValueError(f"model: {e}") from None
            for condition in self.conditions.values():
                run.asks(condition)
            twin = trained.setdefault(run.model_dump_json(), arm.name)
            if twin != arm.name:
                raise ValueError(f"arms {twin!r} and {arm.name!r} train the same; leave one out")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of questions."""
        return PROBES[self.probe].kinds

    @property
    def places(self) -> tuple[str, ...]:
        """Those that only positions answer."""
        return tuple(k for k in self.kinds if k not in PROBES[self.probe].controls)

    @property
    def grids(self) -> Range:
        """The grids of training."""
        return self.trained or PROBES[self.probe].trained

    @property
    def first_condition(self) -> str:
        """The condition that comes first, by which arms are compared: the trained sizes."""
        return next(iter(self.conditions))

    def arm(self, levels: dict[str, str]) -> Arm:
        """The arm of these levels, other factors at their defaults."""
        chosen = {f: levels.get(f, next(iter(ls))) for f, ls in self.factors.items()}
        return Arm.of(self, chosen)

    def arms(self) -> list[Arm]:
        """All arms: the grid, then what ``also`` adds, each once."""
        crossed = itertools.product(*(self.factors[f] for f in self.grid))
        every = [self.arm(dict(zip(self.grid, levels))) for levels in crossed]
        return list(dict.fromkeys([*every, *(self.arm(levels) for levels in self.also)]))

    def run(self, arm: Arm, seed: int, rate: float = 1.0) -> Run:
        """What trains one arm with one seed."""
        levels = [self.factors[f][level] for f, level in arm.levels]
        switches: dict[str, Any] = {}
        shows: dict[str, Any] = {}
        chosen: dict[str, Any] = {}
        for level in levels:
            switches |= level.switches
            shows |= level.shows
            for name in ("text_jitter", "stages", "start", "model"):
                if name in level.model_fields_set:
                    chosen[name] = getattr(level, name)
        given = {
            "seed": seed,
            "probe": self.probe,
            "rate": rate,
            "switches": switches,
            "shows": shows,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "muon": self.muon,
            "model": self.model,
            "trained": self.grids,
            "start": self.start,
        }
        return Run.model_validate(given | {k: v for k, v in chosen.items() if v is not None})

    def runs(self) -> Iterator[tuple[Arm, Run]]:
        """All runs, seed by seed, so that what is done first can already be compared."""
        for seed in range(self.seeds):
            for arm in self.arms():
                yield arm, self.run(arm, seed)
        for factor in self.rate_check:
            for arm in self.arms():
                yield arm, self.run(arm, 0, factor)


class Arm(Strict):
    """One combination of levels. ``name`` says all but defaults of factors off the grid."""

    name: str
    levels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, study: Study, levels: dict[str, str]) -> Arm:
        """The arm of these levels, a level for every factor of the study."""
        said = [
            level if f == study.grid[0] else f"{f} {level}"
            for f, level in levels.items()
            if f in study.grid or level != next(iter(study.factors[f]))
        ]
        return cls(name=", ".join(said), levels=tuple(levels.items()))


def find_study(name: str) -> Path:
    """The file of a shipped study, or the given file. Raises UsageError with the shipped names."""
    return find_shipped(name, Path(__file__).parent / "studies", "studies")


def load_study(path: Path) -> Study:
    """Reads a study. Raises UsageError that names file, line and field."""
    return read_yaml(path, Study)
