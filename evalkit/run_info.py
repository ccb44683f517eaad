"""What was run, as values: ``RunInfo`` is run.json. Read also from the files of evalkit 0.1
(schema 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from evalkit.json_fields import number, typed, whole
from evalkit.provenance import GitState
from evalkit.records import SCHEMA_VERSION
from evalkit.task import Metric
from evalkit.types import (
    BoxSpace,
    MediaBudget,
    is_box_space,
)


@dataclass(frozen=True)
class Selection:
    """Which samples of a subset a run takes; all of them when nothing is set."""

    first: tuple[int, int] | None = None
    """(start, stop): the samples from start up to but not including stop, in the data's order."""
    drawn: int | None = None
    """So many samples at random, by ``seed``."""
    seed: int = 0
    """Seed of the random draw."""
    ids: tuple[str, ...] = ()
    """The samples of these ids."""

    @property
    def partial(self) -> bool:
        return self.first is not None or self.drawn is not None or bool(self.ids)

    def draw(self, total: int) -> set[int]:
        """The positions that ``drawn`` and ``seed`` take of so many samples."""
        import numpy as np

        return set(np.random.default_rng(self.seed).permutation(total)[: self.drawn].tolist())

    def to_json(self) -> dict[str, Any]:
        """What is set; empty for everything."""
        chosen = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v}
        return chosen if self.partial else {}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        start_stop = [whole(v) for v in typed(value, "first", list, [])]
        if len(start_stop) not in (0, 2):
            raise ValueError(f"'first' is {start_stop}")
        return cls(
            first=(start_stop[0], start_stop[1]) if start_stop else None,
            drawn=typed(value, "drawn", int, None),
            seed=typed(value, "seed", int, 0),
            ids=tuple(map(str, typed(value, "ids", list, []))),
        )


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that can change an answer or a score of a cell; its digest names the folder."""

    task: str
    """Name of the task."""
    subset: str
    """Name of its subset."""
    task_version: int
    """The task's version: raised when prompts, parsing or metrics change a score."""
    data: Mapping[str, Any]
    """Where the rows come from: kind, names, and a ``revision`` or a ``sha256`` of the contents
    (without one, a finished cell is compared with its data by every run)."""
    budget: MediaBudget
    """How much of the media the task lets a model see."""
    max_new_tokens: int
    """Limit of an answer's length."""
    rank: bool
    """True when choices are ranked by log-likelihood, not generated."""
    fingerprint: Mapping[str, Any]
    """What the adapter says can change an answer: weights, switches, dtype, generation."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Code that has no release: SHA-256 of a task or adapter file and of what it imports from its
    folder; of evalkit's own code where it was edited. Absent when there is none."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Name and settings of the protocol (prompt, order of media, stop rule, reader of answers).
    Absent for the task's default one."""
    control: str = ""
    """What was done to the pictures (blind, text-only, ...); absent when nothing was."""

    asking: Mapping[str, Any] = field(default_factory=dict)
    """What is asked beyond the task's own question: system prompt, examples and their data,
    temperature, seed, repeats. Absent when nothing is."""

    @property
    def protocol_name(self) -> str:
        """Empty for the default one."""
        return str(self.protocol.get("name", ""))

    def to_json(self) -> dict[str, Any]:
        out = {f.name: getattr(self, f.name) for f in fields(self)} | {
            "data": dict(self.data),
            "budget": asdict(self.budget),
            "fingerprint": dict(self.fingerprint),
            "code": dict(self.code),
            "protocol": dict(self.protocol),
            "asking": dict(self.asking),
        }
        absent = ("code", "protocol", "asking", "control")
        return {k: v for k, v in out.items() if v or k not in absent}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        return cls(
            task=typed(value, "task", str),
            subset=typed(value, "subset", str),
            task_version=typed(value, "task_version", int),
            data=dict(typed(value, "data", Mapping)),
            budget=MediaBudget(**typed(value, "budget", Mapping)),
            max_new_tokens=typed(value, "max_new_tokens", int),
            rank=typed(value, "rank", bool),
            fingerprint=dict(typed(value, "fingerprint", Mapping)),
            code=dict(typed(value, "code", Mapping, {})),
            protocol=dict(typed(value, "protocol", Mapping, {})),
            asking=dict(typed(value, "asking", Mapping, {})),
            control=typed(value, "control", str, ""),
        )


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run of a cell; a cell that was resumed has several."""

    created: str = ""
    """When it began: ISO 8601, UTC."""
    selection: Selection = Selection()
    """Which samples it asked for."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter says that can't change an answer: device, batch size."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that can change a number."""
    git: GitState | None = None
    """The repository around the folder where it was run; null outside of one."""
    command: str = ""
    """The command or Python call that repeats it, without secrets."""

    def to_json(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "selection": self.selection.to_json(),
            "details": dict(self.details),
            "versions": dict(self.versions),
            "git": asdict(self.git) if self.git else None,
            "command": self.command,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Session:
        return cls(**cls._arguments(value))

    @staticmethod
    def _arguments(value: Mapping[str, Any]) -> dict[str, Any]:
        git = value.get("git")
        return {
            "created": typed(value, "created", str, ""),
            "selection": Selection.from_json(typed(value, "selection", Mapping, {})),
            "details": dict(typed(value, "details", Mapping, {})),
            "versions": dict(typed(value, "versions", Mapping, {})),
            "git": GitState(**git) if git else None,
            "command": typed(value, "command", str, ""),
        }


@dataclass(frozen=True, kw_only=True)
class RunInfo(Session):
    """run.json: what was asked of which model, by which code, and how to repeat it."""

    model: str
    """What tables call the model: a hub id or shipped name, or the last part of its path."""
    model_path: str = ""
    """Where the model was: its path, resolved, the home folder as ~; empty for a name."""
    identity: Identity
    """What can change an answer or a score."""
    metrics: tuple[Metric, ...] = ()
    """The metrics of the task's subset, the headline first."""
    task_file: str = ""
    """The file that the task was given as, code or data; empty for an installed one."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How a task that was given as data is read: columns, metric, prompt. Absent for others."""
    data_path: str = ""
    """The local copy of the data that was given; empty for the task's own source."""
    box_space: BoxSpace | None = None
    """How the adapter's model writes box corners."""
    blind: Mapping[str, Any] = field(default_factory=dict)
    """The settings that hide all media from the model, as the adapter names them: those of its
    no-vision baseline. Empty where it names none."""
    prompt_digest: str = ""
    """8 hex digits of SHA-256 over the protocol's prompt and settings; empty where the task has
    none, and in older results."""
    earlier: tuple[Session, ...] = ()
    """The runs that this one goes on from, oldest first."""

    def session(self) -> Session:
        """The part that differs between the runs of a cell."""
        return Session(**{f.name: getattr(self, f.name) for f in fields(Session)})

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "model_path": self.model_path,
            "identity": self.identity.to_json(),
            "metrics": [asdict(m) | {"units": list(m.units)} for m in self.metrics],
            "task_file": self.task_file,
            **({"reading": dict(self.reading)} if self.reading else {}),
            "data_path": self.data_path,
            "box_space": self.box_space,
            "blind": dict(self.blind),
            "prompt_digest": self.prompt_digest,
            **super().to_json(),
            "earlier": [s.to_json() for s in self.earlier],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunInfo:
        """Reads schemas 1 and 2. Raises KeyError, ValueError or TypeError for what is none."""
        return cls(
            model=typed(value, "model", str),
            model_path=typed(value, "model_path", str, ""),
            identity=Identity.from_json(typed(value, "identity", Mapping)),
            metrics=tuple(map(_metric, typed(value, "metrics", list, []))),
            task_file=typed(value, "task_file", str, ""),
            reading=dict(typed(value, "reading", Mapping, {})),
            data_path=typed(value, "data_path", str, ""),
            box_space=_box_space(value),
            blind=dict(typed(value, "blind", Mapping, {})),
            prompt_digest=typed(value, "prompt_digest", str, ""),
            earlier=tuple(Session.from_json(s) for s in typed(value, "earlier", list, [])),
            **cls._arguments(value),
        )


def _metric(value: Mapping[str, Any]) -> Metric:
    metric = Metric(**{**value, "units": tuple(map(str, typed(value, "units", list, [])))})
    typed(value, "name", str)
    typed(value, "weight", str, None)
    typed(value, "total", bool, False)
    typed(value, "group", str, None)
    typed(value, "higher_is_better", bool, True)
    number(metric.scale)
    return metric


def _box_space(value: Mapping[str, Any]) -> BoxSpace | None:
    item = value.get("box_space")
    if item is not None and not is_box_space(item):
        raise ValueError(f"'box_space' is {item!r:.80}, no space of boxes")
    return item
