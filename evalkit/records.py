"""What a run leaves behind, as values: the record of a sample, what was run, and what came out.

``Record`` is a line of the journal, ``RunInfo`` is run.json, ``CellResults`` is results.json, and
``Ending`` is the journal's line from which results.json can be made again. Each writes itself with
``to_json`` and is read with ``from_json``, also from the files of evalkit 0.1 (schema 1).
docs/formats.md lists the fields for people; a test holds it to the docstrings here.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from operator import add, attrgetter, itemgetter
from typing import Any, Literal, get_args

from evalkit.provenance import GitState
from evalkit.safe_text import masked
from evalkit.task import Metric
from evalkit.types import (
    BoxSpace,
    Completion,
    FinishReason,
    MediaBudget,
    Sample,
    Score,
    Text,
    TokenCounts,
    is_box_space,
)
from evalkit.units import Counted, Seen

SCHEMA_VERSION = 2
"""Of the journal, run.json and results.json; 1 was written by evalkit 0.1 and is read."""
READABLE = (1, 2)

FailedIn = Literal["row", "adapter", "scoring"]
"""Where a sample was lost: its row could not be made into it, the adapter gave no answer, or the
answer could not be scored."""


@dataclass(frozen=True)
class Record:
    """One sample of a cell: what was asked, what came back, and how it scored. A journal's line."""

    id: str
    """Name of the sample, unique in the cell."""
    cluster: str = ""
    """What the sample shares with others (its image, its clip); intervals are over clusters."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the task says of the sample, to group by."""
    target: Any = None
    """What counts as right, as the task gave it."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question."""
    prompt: str = ""
    """First 16 hex digits of SHA-256 over roles, texts and the bytes of media (12 digits in
    records of evalkit 0.1, over the names and sizes of media)."""
    question: str = ""
    """The text parts of the conversation as sent, a line break between two parts."""
    text: str | None = None
    """The answer; null when there is none."""
    finish_reason: FinishReason | None = None
    """Why the answer ended: stop (end token), length (token limit), rank (choices were ranked),
    error; null when nothing was asked."""
    tokens: TokenCounts = TokenCounts()
    """Tokens in (text, visual) and out."""
    seconds: float = 0.0
    """From the request's entry into the model to its end."""
    logprobs: tuple[float, ...] = ()
    """Summed log-likelihood of each choice, when choices were ranked."""
    box_space: BoxSpace | None = None
    """How the model writes box corners; null for a model that draws none."""
    frames: tuple[tuple[float, ...], ...] = ()
    """Of each clip, when the frames that the model was shown are on the screen, in seconds from the
    start of the file; empty where the adapter doesn't say."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The metrics' values, before their scale is applied; empty when the sample has no score."""
    parsed: Any = None
    """The answer as the task read it."""
    unparsed: bool = False
    """True when the answer could not be read; it then scores lowest."""
    error: str | None = None
    """Why the sample has no score; null when it has one."""
    failed_in: FailedIn | None = None
    """Where it was lost: row, adapter or scoring; null when it has a score."""

    @property
    def scored(self) -> bool:
        """Whether the sample counts; one that failed is asked again by the next run."""
        return self.error is None

    @classmethod
    def of(
        cls, sample: Sample, prompt: str, completion: Completion, score: Score | str | None
    ) -> Record:
        """The record of an answered sample. ``score`` is why scoring failed when it is text, and
        None when the completion is an error.
        """
        about: dict[str, Any] = {"error": completion.error, "failed_in": "adapter"}
        if completion.error is None:
            about = _outcome(score)
        return cls(
            id=completion.id,
            cluster=sample.cluster or completion.id,
            metadata=dict(sample.metadata),
            target=sample.target,
            choices=tuple(sample.choices),
            prompt=prompt,
            question=question_of(sample),
            text=completion.text,
            finish_reason=completion.finish_reason,
            tokens=completion.tokens,
            seconds=round(completion.seconds, 4),
            logprobs=tuple(completion.logprobs),
            box_space=completion.box_space,
            frames=tuple(map(tuple, completion.frames)),
            **about,
        )

    @classmethod
    def of_row(cls, id: str, error: str) -> Record:
        """The record of a row, or a sample, that can't be asked."""
        return cls(id, cluster=id, error=error, failed_in="row")

    def rescored(self, score: Score | str | None) -> Record:
        """The same answer with another score, or with the reason why it has none."""
        return record_of(dict(zip(_DEFAULTS, _values_in(self))) | _outcome(score))

    @property
    def answered(self) -> bool:
        """Whether there is an answer that can be scored (again)."""
        return self.text is not None and self.failed_in in (None, "scoring")

    def sample(self) -> Sample:
        """The sample, without its messages: what ``Task.score`` may look at."""
        return Sample(
            messages=(),
            target=self.target,
            choices=tuple(self.choices),
            cluster=self.cluster,
            metadata=dict(self.metadata),
            id=self.id,
        )

    def completion(self) -> Completion:
        """The answer as the adapter gave it."""
        return Completion(
            self.id,
            self.text or "",
            self.finish_reason or "stop",
            self.tokens,
            self.seconds,
            tuple(self.logprobs),
            self.box_space,
            frames=self.frames,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **dict(zip(_DEFAULTS, _values_in(self))),
            "metadata": dict(self.metadata),
            "choices": list(self.choices),
            "tokens": dict(vars(self.tokens)),
            "logprobs": list(self.logprobs),
            "frames": list(map(list, self.frames)),
            "scores": dict(self.scores),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Reads schemas 1 and 2. Raises ValueError or TypeError for what is no record."""
        if "frames" not in value:  # before evalkit 0.3
            value = {**value, "frames": []}
        # a journal has a hundred thousand of them, nearly all of the same kinds of values
        try:
            values = _values_of(value)
            kinds: tuple[type, ...] = tuple(map(type, values))
        except KeyError:
            kinds = ()
        if kinds in _PROVEN:
            told = dict(zip(_DEFAULTS, values))
        else:
            told = _checked(value)
            if kinds and told == dict(zip(_DEFAULTS, values)):
                _PROVEN.add(kinds)
        for key, names in _NAMES.items():
            if told[key] is not None and told[key] not in names:
                raise ValueError(f"{key!r} is {told[key]!r:.80}, not one of {', '.join(names)}")
        tokens, logprobs, frames = told["tokens"], told["logprobs"], told["frames"]
        numbers = [*told["scores"].values(), *tokens.values(), *logprobs, told["seconds"]]
        for clip in frames:
            numbers.extend(clip)
        if not (_NUMBERS.issuperset(map(type, numbers)) and all(map(math.isfinite, numbers))):
            raise TypeError(f"{numbers!r:.80} are not all finite numbers")
        told["cluster"] = told["cluster"] or told["id"]
        told["choices"] = tuple(told["choices"])
        told["logprobs"] = tuple(logprobs)
        told["frames"] = tuple(map(tuple, frames))
        told["tokens"] = _token_counts(*tokens, *tokens.values())
        return record_of(told)


_DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(Record)}
_values_of = itemgetter(*_DEFAULTS)
_values_in = attrgetter(*_DEFAULTS)
_tokens_in = attrgetter(*(f.name for f in fields(TokenCounts)))
_PROVEN: set[tuple[type, ...]] = set()
"""Kinds of values, field by field, that were found to be those of a whole record."""
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("id", "cluster", "prompt", "question", "text", "error"), str),
    **dict.fromkeys(("metadata", "tokens", "scores"), dict),
    **dict.fromkeys(("choices", "logprobs", "frames"), list),
    "unparsed": bool,
}
"""What JSON must have for a field of a record."""
_NUMBERS = {int, float}
_NAMES: Mapping[str, Sequence[str]] = {
    "finish_reason": get_args(FinishReason),
    "failed_in": get_args(FailedIn),
}


def _checked(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, with defaults for what is absent, of the kinds that they must have.
    Raises ValueError or TypeError.
    """
    told = {k: v for k, v in value.items() if v is not None and k in _DEFAULTS}
    for key, kind in _KINDS.items():
        if key in told and type(told[key]) is not kind:
            raise TypeError(f"{key!r} is {json.dumps(told[key], default=str):.80}")
    if "id" not in told:
        raise ValueError("no 'id'")
    if "error" not in told:
        if "scores" not in told:
            raise ValueError("neither scores nor an error")
        if told["scores"] and value.get("text", "") is None:
            raise ValueError("scores of no answer")
        told.pop("failed_in", None)
    elif "failed_in" not in told:  # schema 1 said it in words only
        by_scoring = told["error"].startswith("scoring failed")
        lost_in = "adapter" if "text" in told else "row"
        told["failed_in"] = "scoring" if by_scoring else lost_in
    empty: dict[str, Any] = {"metadata": {}, "scores": {}, "tokens": {}, "choices": []}
    return {**_DEFAULTS, **empty, "logprobs": [], "frames": [], **told}


@lru_cache(maxsize=4096)
def _token_counts(*names_and_numbers: Any) -> TokenCounts:
    """Names, and then as many numbers. Raises TypeError for a name that is none."""
    half = len(names_and_numbers) // 2
    return TokenCounts(**dict(zip(names_and_numbers[:half], map(int, names_and_numbers[half:]))))


def record_of(values: Mapping[str, Any]) -> Record:
    """A record of all fields, in their order and checked before, without the constructor of a
    frozen dataclass: for so many fields that takes as long as reading the line. Set one by one,
    they take a third of the memory that they would in a dictionary.
    """
    record = object.__new__(Record)
    for name, value in values.items():
        _set(record, name, value)
    return record


_set = object.__setattr__


def _outcome(score: Score | str | None) -> dict[str, Any]:
    """The fields of a score, or of why there is none."""
    if isinstance(score, Score):
        return {
            "scores": {k: float(v) for k, v in score.values.items()},
            "parsed": score.parsed,
            "unparsed": score.unparsed,
            "error": None,
            "failed_in": None,
        }
    return {
        "scores": {},
        "parsed": None,
        "unparsed": False,
        "error": score or "no score",
        "failed_in": "scoring",
    }


def question_of(sample: Sample) -> str:
    """The text parts of a sample's conversation, a line break between two parts."""
    return "\n".join(p.text for m in sample.messages for p in m.content if isinstance(p, Text))


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
        start_stop = [_whole(v) for v in _typed(value, "first", list, [])]
        if len(start_stop) not in (0, 2):
            raise ValueError(f"'first' is {start_stop}")
        return cls(
            first=(start_stop[0], start_stop[1]) if start_stop else None,
            drawn=_typed(value, "drawn", int, None),
            seed=_typed(value, "seed", int, 0),
            ids=tuple(map(str, _typed(value, "ids", list, []))),
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
            task=_typed(value, "task", str),
            subset=_typed(value, "subset", str),
            task_version=_typed(value, "task_version", int),
            data=dict(_typed(value, "data", Mapping)),
            budget=MediaBudget(**_typed(value, "budget", Mapping)),
            max_new_tokens=_typed(value, "max_new_tokens", int),
            rank=_typed(value, "rank", bool),
            fingerprint=dict(_typed(value, "fingerprint", Mapping)),
            code=dict(_typed(value, "code", Mapping, {})),
            protocol=dict(_typed(value, "protocol", Mapping, {})),
            asking=dict(_typed(value, "asking", Mapping, {})),
            control=_typed(value, "control", str, ""),
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
            "created": _typed(value, "created", str, ""),
            "selection": Selection.from_json(_typed(value, "selection", Mapping, {})),
            "details": dict(_typed(value, "details", Mapping, {})),
            "versions": dict(_typed(value, "versions", Mapping, {})),
            "git": GitState(**git) if git else None,
            "command": _typed(value, "command", str, ""),
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
            model=_typed(value, "model", str),
            model_path=_typed(value, "model_path", str, ""),
            identity=Identity.from_json(_typed(value, "identity", Mapping)),
            metrics=tuple(map(_metric, _typed(value, "metrics", list, []))),
            task_file=_typed(value, "task_file", str, ""),
            reading=dict(_typed(value, "reading", Mapping, {})),
            data_path=_typed(value, "data_path", str, ""),
            box_space=_box_space(value),
            blind=dict(_typed(value, "blind", Mapping, {})),
            prompt_digest=_typed(value, "prompt_digest", str, ""),
            earlier=tuple(Session.from_json(s) for s in _typed(value, "earlier", list, [])),
            **cls._arguments(value),
        )


def seen_of(records: Sequence[Record], metric: Metric) -> Seen:
    """What a metric needs of records."""
    scores = [r.scores for r in records]
    return Seen(
        [s.get(metric.name) for s in scores],
        [r.cluster for r in records],
        [r.metadata for r in records] if metric.group or metric.units else None,
        [s.get(metric.weight, 0.0) for s in scores] if metric.weight else None,
    )


@dataclass(frozen=True)
class MetricResult:
    """One metric of a cell, as people read it: ``scale`` has been applied."""

    metric: str
    """Name of the metric."""
    value: float
    """The mean over scored samples; the mean of the groups' means when there is a group."""
    ci_low: float | None
    """Lower end of the 95 % interval over clusters; null when there is none."""
    ci_high: float | None
    """Upper end of it."""
    n: int
    """Samples that have this metric."""
    clusters: int
    """Clusters that they fall into."""
    group: str | None
    """The metadata key whose groups are averaged (a macro average); null for a plain mean."""
    higher_is_better: bool
    """Whether more is better."""
    scale: float
    """What the samples' values were multiplied by (100 for per cent)."""
    units: tuple[str, ...] = ()
    """Metadata keys by whose values samples are counted together, a unit having the least value of
    its samples; empty where each sample counts."""
    weight: str | None = None
    """The other value of a sample by which the mean is weighted; null where all count alike."""
    total: bool = False
    """Whether the groups' means are added up, each multiplied by ``scale``."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"units": list(self.units)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MetricResult:
        low, high = (None if value[k] is None else _number(value[k]) for k in ("ci_low", "ci_high"))
        return cls(
            metric=_typed(value, "metric", str),
            value=_number(value["value"]),
            ci_low=low,
            ci_high=high,
            n=_typed(value, "n", int),
            clusters=_typed(value, "clusters", int),
            group=_typed(value, "group", str, None),
            higher_is_better=_typed(value, "higher_is_better", bool),
            scale=_number(value["scale"]),
            units=tuple(map(str, _typed(value, "units", list, []))),
            weight=_typed(value, "weight", str, None),
            total=_typed(value, "total", bool, False),
        )

    @classmethod
    def of(cls, samples: Sequence[Record] | Seen, metric: Metric) -> MetricResult | None:
        """A metric over samples; None when none of them has it (hidden answers). Those without a
        score are left out, with the units that they belong to.
        """
        seen = samples if isinstance(samples, Seen) else seen_of(samples, metric)
        counted = Counted.of(seen, metric)
        if not counted.values:
            return None
        mean, scale = counted.interval, metric.scale * counted.added
        return cls(
            metric=metric.name,
            value=mean.value * scale,
            ci_low=None if mean.low is None else mean.low * scale,
            ci_high=None if mean.high is None else mean.high * scale,
            n=len(seen.values) - seen.values.count(None),
            clusters=len(set(counted.clusters)),
            group=metric.group,
            higher_is_better=metric.higher_is_better,
            scale=metric.scale,
            units=metric.units,
            weight=metric.weight,
            total=metric.total,
        )

    @property
    def definition(self) -> Metric:
        """The metric that this is the result of."""
        return Metric(
            self.metric,
            self.group,
            self.higher_is_better,
            self.scale,
            self.units,
            self.weight,
            self.total,
        )


@dataclass(frozen=True, kw_only=True)
class CellResults:
    """results.json: what came out of a cell. Derived from its journal, and can be made again."""

    created: str = ""
    """When the last answer was made: ISO 8601, UTC."""
    rescored: str | None = None
    """When the answers were last scored anew without asking the model; null when never (true in
    files of evalkit 0.1, which kept no date)."""
    selection: Selection = Selection()
    """Which samples count here."""
    complete: bool
    """Whether every selected sample was asked; false for a run that was stopped."""
    missing_shards: tuple[str, ...] = ()
    """Shards (2/3) of a run in several that have samples without a record."""
    inference_probe: bool = False
    """Whether the weights ran with settings that they were not trained with."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Switches that differ from what the weights were trained with."""
    seconds: float = 0.0
    """Wall-clock time of the last run."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter measured of itself in the last run."""
    n: int
    """Scored samples."""
    n_total: int
    """Samples that were asked or failed before."""
    errors: int
    """Samples without a score."""
    unparsed: int
    """Scored samples whose answer could not be read; they score lowest."""
    tokens: TokenCounts = TokenCounts()
    """Tokens of all scored samples."""
    metrics: tuple[MetricResult, ...] = ()
    """One entry a metric, the headline first."""

    @classmethod
    def of(cls, records: Iterable[Record], metrics: Sequence[Metric], **about: Any) -> CellResults:
        """Counts and metrics of records. ``about``: the other fields."""
        return cls(**_counts(records, metrics), **about)

    def of_records(
        self, records: Iterable[Record], metrics: Sequence[Metric], **about: Any
    ) -> CellResults:
        """The same run's results with the counts and metrics of these records, and ``about``."""
        return replace(self, **_counts(records, metrics), **about)

    @property
    def partial(self) -> bool:
        """Whether the scores are of a part of the subset, and not to be quoted."""
        return not self.complete or self.selection.partial

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "missing_shards": list(self.missing_shards),
            "selection": self.selection.to_json(),
            "switches": dict(self.switches),
            "stats": dict(self.stats),
            "tokens": asdict(self.tokens),
            "metrics": [m.to_json() for m in self.metrics],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CellResults:
        """Reads schemas 1 and 2. Raises KeyError, ValueError or TypeError for what is none."""
        created = _typed(value, "created", str, "")
        if isinstance(value.get("rescored"), bool):  # schema 1
            value = {**value, "rescored": created if value["rescored"] else None}
        return cls(
            created=created,
            rescored=_typed(value, "rescored", str, None),
            selection=Selection.from_json(_typed(value, "selection", Mapping, {})),
            complete=_typed(value, "complete", bool),
            missing_shards=tuple(map(str, _typed(value, "missing_shards", list, []))),
            inference_probe=_typed(value, "inference_probe", bool, False),
            switches=masked(_typed(value, "switches", Mapping, {})),
            seconds=_number(value.get("seconds") or 0.0),
            stats=dict(_typed(value, "stats", Mapping, {})),
            n=_typed(value, "n", int),
            n_total=_typed(value, "n_total", int),
            errors=_typed(value, "errors", int),
            unparsed=_typed(value, "unparsed", int),
            tokens=TokenCounts(**_typed(value, "tokens", Mapping, {})),
            metrics=tuple(MetricResult.from_json(m) for m in _typed(value, "metrics", list, [])),
        )


class Tally:
    """Counts of records, and what metrics need of them: each is looked at once, and goes."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.n = self.total = self.unparsed = 0
        self.tokens = [0] * len(fields(TokenCounts))
        # a score that is not there is NaN, which none is
        names = dict.fromkeys(name for m in metrics for name in (m.name, m.weight) if name)
        self.scores = {name: array("d") for name in names}
        self.clusters: list[str] = []
        self.keys = tuple(dict.fromkeys(k for m in metrics for k in (m.group, *m.units) if k))
        self.metadata: list[Mapping[str, str]] = []
        self.kinds: dict[tuple[str | None, ...], Mapping[str, str]] = {}

    def add(self, record: Record) -> None:
        self.total += 1
        if record.error is None:
            self.n += 1
            self.unparsed += record.unparsed
            self.tokens = list(map(add, self.tokens, _tokens_in(record.tokens)))
        for name, values in self.scores.items():
            values.append(record.scores.get(name, math.nan))
        self.clusters.append(record.cluster)
        if self.keys:
            told = record.metadata
            kind = tuple(str(told[k]) if k in told else None for k in self.keys)
            mine = {k: v for k, v in zip(self.keys, kind) if v is not None}
            self.metadata.append(self.kinds.setdefault(kind, mine))

    def seen(self, metric: Metric) -> Seen:
        """What a metric needs of the records."""
        weights = self.scores[metric.weight] if metric.weight else None
        return Seen(
            [None if math.isnan(v) else v for v in self.scores[metric.name]],
            self.clusters,
            self.metadata if metric.group or metric.units else None,
            None if weights is None else [0.0 if math.isnan(w) else w for w in weights],
        )

    def counts(self) -> dict[str, Any]:
        """Of ``CellResults``."""
        results = (MetricResult.of(self.seen(metric), metric) for metric in self.metrics)
        return {
            "n": self.n,
            "n_total": self.total,
            "errors": self.total - self.n,
            "unparsed": self.unparsed,
            "tokens": TokenCounts(*self.tokens),
            "metrics": tuple(m for m in results if m),
        }


def _counts(records: Iterable[Record], metrics: Sequence[Metric]) -> dict[str, Any]:
    tally = Tally(metrics)
    for record in records:
        tally.add(record)
    return tally.counts()


@dataclass(frozen=True)
class Ending:
    """What had come out when a run ended, and of which samples."""

    results: CellResults
    """As results.json has them."""
    digest: str
    """SHA-256 over the ids of the samples that count, sorted."""
    ids: tuple[str, ...] = ()
    """Those ids where a part of the samples was selected; otherwise all of the journal count."""

    @classmethod
    def of(cls, results: CellResults, ids: Iterable[str]) -> Ending:
        chosen = tuple(ids)
        return cls(results, _ids_digest(chosen), chosen if results.selection.partial else ())

    def records(self, records: Mapping[str, Record]) -> list[Record]:
        """Those of a journal's records that count."""
        if self.results.selection.partial:
            return [records[id] for id in self.ids if id in records]
        return list(records.values())

    def results_of(self, records: Mapping[str, Record], metrics: Sequence[Metric]) -> CellResults:
        """The results by a journal's records as they are now: complete as long as these are of the
        same samples.
        """
        mine = self.records(records)
        same = _ids_digest(r.id for r in mine) == self.digest
        return self.results.of_records(mine, metrics, complete=self.results.complete and same)

    def to_json(self) -> dict[str, Any]:
        ids = {"ids": list(self.ids)} if self.ids else {}
        return {"results": self.results.to_json(), "digest": self.digest, **ids}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ending:
        return cls(
            CellResults.from_json(_typed(value, "results", Mapping)),
            _typed(value, "digest", str),
            tuple(_typed(value, "ids", list, [])),
        )


def _ids_digest(ids: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


_REQUIRED: Any = object()


def _typed(value: Mapping[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    """The value of a key, of the expected type. An absent or null one is the default."""
    item = value.get(key)
    if item is None:
        if default is _REQUIRED:
            raise ValueError(f"no {key!r}")
        return default
    if not isinstance(item, kind) or (isinstance(item, bool) and kind is int):
        raise TypeError(f"{key!r} is {json.dumps(item, default=str):.80}")
    return item


def _metric(value: Mapping[str, Any]) -> Metric:
    metric = Metric(**{**value, "units": tuple(map(str, _typed(value, "units", list, [])))})
    _typed(value, "name", str)
    _typed(value, "weight", str, None)
    _typed(value, "total", bool, False)
    _typed(value, "group", str, None)
    _typed(value, "higher_is_better", bool, True)
    _number(metric.scale)
    return metric


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.80} is not a whole number")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.80} is not a finite number")
    return value


def _box_space(value: Mapping[str, Any]) -> BoxSpace | None:
    item = value.get("box_space")
    if item is not None and not is_box_space(item):
        raise ValueError(f"'box_space' is {item!r:.80}, no space of boxes")
    return item
