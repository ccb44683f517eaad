"""Task plugins: rows of a dataset in, samples and scores out.

A task is a small class with the dataset sources of its subsets, a ``samples(row)`` that builds the
questions of one row, and a ``score(sample, completion)``. Tasks are found by entry point (group
``evalkit.tasks``), or given as a file (``./my_task.py``).
"""

from __future__ import annotations

import hashlib
import json
import math
import string
import typing
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

from evalkit.errors import DataError, ScoringError, UsageError, reason
from evalkit.index import Index
from evalkit.plugin import class_in, installed, load, unknown
from evalkit.protocols import DEFAULT, Protocol
from evalkit.submission import Submission
from evalkit.types import (
    Completion,
    Media,
    MediaBudget,
    Message,
    Metric,
    Role,
    Sample,
    Score,
    Text,
)

__all__ = [
    "Metric",
    "Row",
    "RowError",
    "Source",
    "Subset",
    "Task",
    "checked_score",
    "load_task",
    "read_samples",
    "registered",
    "task_class",
    "why_invalid",
]


ROLES = get_args(Role)
YAML = (".yaml", ".yml")
"""Suffixes of a task of lmms-eval that only names local data."""


class Row(dict[str, Any]):
    """One row of a dataset: its columns by name, and its ``number`` in the stored order, from 0.

    A column that the row does not have raises DataError with those that it has. ``upright`` is
    that of the row's subset; ``evalkit.rows.image`` hands it on to the picture.
    """

    def __init__(
        self, columns: Mapping[str, Any], number: int = 0, *, upright: bool = False
    ) -> None:
        if isinstance(columns, DataError):  # a source's word on a row that it can't read
            raise columns
        if not isinstance(columns, Mapping):
            raise DataError(f"the source gave {columns!r:.80}, not columns by their names")
        super().__init__(columns)
        self.number, self.upright = number, upright

    def __missing__(self, column: str) -> Any:
        raise DataError(f"no column {column!r}; it has: {', '.join(map(str, self))}")


class Source(typing.Protocol):
    """Where the rows of one subset come from. ``describe()`` goes into the results, so that a
    number names its data.

    A source may also offer ``count(override) -> int | None``, the number of its rows where it is
    known without reading them: progress then shows a total.
    """

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        """The rows, in a stable order; media stay encoded. ``override`` is a local copy in the
        official schema.
        """
        ...

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """JSON: kind, repository, configuration, split, revision or content hash. Equal
        descriptions mean equal rows and media: hash what the rows are read from.
        """
        ...


@dataclass(frozen=True)
class Subset:
    """One dataset of a task: its source, its own metrics (the task's when empty) and generation
    settings. ``upright``: its pictures and clips are turned as their orientation tags say before
    anything sees them; its boxes are then in the turned frame. ``version`` takes the place of the
    task's where a change concerns this subset alone. ``protocols`` by their names: the first
    column of ``evalkit.protocols``'s table, or ones of the task's own. ``default`` need not be
    among them where the task builds its messages itself. ``hidden``: the right answers are with
    the benchmark's server; the task's ``submission`` is the file for it. ``size``: rows of the
    official data set, where they are known.
    """

    source: Source
    metrics: tuple[Metric, ...] = ()
    budget: MediaBudget = MediaBudget()
    max_new_tokens: int | None = None
    upright: bool = False
    version: int | None = None
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    hidden: bool = False
    size: int | None = None

    @property
    def all_protocols(self) -> Mapping[str, Protocol]:
        """Those that it has, the default first."""
        return {DEFAULT: Protocol(origin="the task file"), **self.protocols}


class Task(ABC):
    """Base class of task plugins; one instance serves one subset under one protocol.

    Class attributes: ``name``; ``version`` (raise it when prompts, parsing or metrics change a
    score); ``subsets`` (the first declared is the default one); ``metrics`` (the first is the
    headline); ``max_new_tokens``; ``rank`` (True: choices are ranked by log-likelihood, not
    generated). Of an instance, ``version``, ``metrics``, ``budget`` and ``max_new_tokens`` are
    those of its protocol, or else its subset. Raises UsageError for an unknown subset or protocol.
    """

    name: ClassVar[str]
    version: int = 1
    description: ClassVar[str] = ""
    subsets: ClassVar[Mapping[str, Subset]]
    default_subset: ClassVar[str]
    metrics: tuple[Metric, ...]
    max_new_tokens: int = 128
    rank: ClassVar[bool] = False
    file: ClassVar[Path | None] = None
    """The data file that the task was made of, for one without code."""
    reading: ClassVar[Mapping[str, Any]] = {}
    """How that file is read (``evalkit.own.Reading``)."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "subsets" in vars(cls) and "default_subset" not in vars(cls):
            cls.default_subset = next(iter(cls.subsets), "")

    def __init__(self, subset: str = "", protocol: str = "") -> None:
        if lacking := [a for a in ("name", "subsets") if not hasattr(self, a)]:
            raise UsageError(f"{type(self).__name__} lacks {', '.join(lacking)}")
        self.subset_name, self.protocol_name = subset or self.default_subset, protocol or DEFAULT
        if self.subset_name not in self.subsets:
            raise UsageError(
                f"task {self.name!r} has no subset {self.subset_name!r}; "
                f"it has: {', '.join(self.subsets) or 'none'}"
            )
        self.subset = self.subsets[self.subset_name]
        if not isinstance(self.subset, Subset) or not hasattr(self.subset.source, "rows"):
            raise UsageError(
                f"{self.full_name}: expected a Subset of a source, such as "
                f"Subset(JsonLines(file)), not {self.subset!r:.120}"
            )
        known = self.subset.all_protocols
        if self.protocol_name not in known:
            raise UsageError(
                f"task {self.full_name!r} has no protocol {self.protocol_name!r}; "
                f"it has: {', '.join(known)}"
            )
        self.protocol = known[self.protocol_name]
        self.version = self.subset.version or self.version
        own = getattr(self, "metrics", ())
        self.metrics = self.protocol.metrics or self.subset.metrics or own
        if not isinstance(self.metrics, Sequence) or not all(
            isinstance(m, Metric) for m in self.metrics or [None]
        ):
            raise UsageError(
                f"{self.full_name}: expected metrics such as (Metric('accuracy'),), a tuple of "
                f"Metric, not {self.metrics!r:.120}"
            )
        self.budget = self.protocol.budget or self.subset.budget
        self.max_new_tokens = (
            self.protocol.max_new_tokens or self.subset.max_new_tokens or self.max_new_tokens
        )

    @property
    def full_name(self) -> str:
        """Name and subset, ``docvqa:val``."""
        return f"{self.name}:{self.subset_name}"

    @property
    def source(self) -> Source:
        return self.subset.source

    def describe_data(self, data: Path | None = None) -> dict[str, Any]:
        """What identifies the pixels and texts of the subset: its source, and how pictures are
        turned where that is not as they are stored.
        """
        turned = {"orientation": "upright"} if self.subset.upright else {}
        return {**self.source.describe(data), **turned}

    def describe_protocol(self) -> dict[str, Any]:
        """Name and settings of a protocol other than the default one, as a part of a cell's
        identity; nothing for the default one, which changes with the task's version.
        """
        if self.protocol_name == DEFAULT:
            return {}
        return {"name": self.protocol_name, **self.protocol.settings()}

    @property
    def prompt_digest(self) -> str:
        """8 hex digits that tell one prompt with its settings from another; empty for a task that
        names no protocols, and words its prompts itself.
        """
        if self.protocol_name not in self.subset.protocols:
            return ""
        text = json.dumps(self.protocol.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def ask(
        self,
        media: Media | Sequence[Media],
        *,
        options: Sequence[str] = (),
        hint: str = "",
        **fields: Any,
    ) -> tuple[Message, ...]:
        """The conversation by the protocol; ``fields`` are those of its prompt (``question``),
        ``options`` texts without letters. Raises DataError for a mark without a picture.
        """
        shown = [media] if isinstance(media, Media) else list(media)
        return self.protocol.messages(shown, self.protocol.text(options, hint, **fields))

    def right_answer(self, sample: Sample) -> str:
        """A right answer of a sample, as a model would write it: what an example before a question
        has as its answer. By default the target where it is a text, the most frequent of several
        texts, or the letter of an option. Raises UsageError for a task that doesn't say it.
        """
        target = sample.target
        if isinstance(target, str):
            return target
        if type(target) is int and 0 <= target < len(sample.choices):
            return string.ascii_uppercase[target]
        if isinstance(target, list | tuple) and target and all(isinstance(t, str) for t in target):
            return Counter(target).most_common(1)[0][0]
        raise UsageError(
            f"{self.full_name} doesn't say how a right answer is written, so its samples can't be "
            f"examples: give {type(self).__name__} a method right_answer(sample)"
        )

    @abstractmethod
    def samples(self, row: Row) -> Iterable[Sample | DataError]:
        """The questions of one row. Raises DataError (or KeyError, ValueError) when the row can't
        be used; yields a DataError for one question that can't while others of the row can. Either
        is counted, and the run goes on.
        """

    @abstractmethod
    def score(self, sample: Sample, completion: Completion) -> Score:
        """Scores one answer; pure. ``sample`` carries no media when a journal is rescored."""

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        """The file that a benchmark's server takes, of samples without media and what was read of
        their answers (``Score.parsed``); for a subset that is ``hidden``. Raises UsageError where
        no file is known.
        """
        raise UsageError(f"{self.full_name}: no server is known that takes its answers")


@dataclass(frozen=True)
class RowError:
    """What stands in place of a sample where a row, or one question of it, can't be used."""

    id: str
    reason: str


def registered() -> dict[str, str]:
    """Names of the installed tasks and where each lives (``module:Class``), without importing
    any.
    """
    return {e.name: e.value for e in installed("evalkit.tasks")}


def load_task(text: str, protocol: str = "", reading: Mapping[str, Any] | None = None) -> Task:
    """The task that a text names: ``docvqa``, ``docvqa:val``, ``./my_task.py``,
    ``./my_task.py:dev``, or a file or folder of data, ``my.jsonl`` (``reading`` says how it is
    read: columns, metric, prompt); under a protocol. Raises UsageError with the known names when
    there is none.
    """
    name, _, subset = (text, "", "") if is_there(text) else text.partition(":")
    if is_data(name):
        from evalkit.own import Reading, own_task  # it imports metrics
        from evalkit.own_yaml import yaml_task

        made = yaml_task if Path(name).suffix in YAML else own_task
        return made(Path(name), Reading(**reading or {}))(subset, protocol)
    if not name.endswith(".py"):
        if name not in registered():
            check_no_path(name)
        return task_class(name)(subset, protocol)
    return class_in(Path(name), Task)(subset, protocol)


def check_no_path(name: str) -> None:
    """Raises UsageError for what can only be meant as a file or folder, and is no data."""
    from evalkit.sources.own_formats import READERS

    with suppress(OSError):  # a name that is too long is no file's
        if Path(name).is_file():
            readable = ", ".join(READERS)
            raise UsageError(f"{name}: questions are read from a folder or from {readable}")
    if "/" in name:
        raise UsageError(f"{name}: no such file or folder, and no task is called so")


def is_data(name: str) -> bool:
    """Whether a task is named by the file or folder of its data."""
    from evalkit.sources.own import is_readable

    path = Path(name)
    return bool(name) and (path.suffix in YAML or is_readable(path)) and name not in registered()


def is_there(text: str) -> bool:
    """Whether a text as a whole, colons, commas and all, is the path of data that are there."""
    return is_data(text) and Path(text).expanduser().exists()


FOREIGN = "evalkit.foreign_tasks"
"""Entry points of tasks that stand for all those of another harness (``lmms:docvqa_val``): they are
not listed, and ``all`` does not mean them."""


def task_class(name: str) -> type[Task]:
    """An installed task. Raises UsageError with the known names, and the nearest of them."""
    for entry in (*installed("evalkit.tasks"), *installed(FOREIGN)):
        if entry.name == name:
            return load(entry, Task)
    raise unknown("task", name, registered(), "./my_task.py, my.jsonl")


def read_samples(
    task: Task, data: Path | None = None, on_row: Callable[[int], None] | None = None
) -> Iterator[Sample | RowError]:
    """All samples of the task's subset, in the order of the rows, each with an id of its own;
    what can't be used is a RowError in its place. ``data`` is a local copy of the rows.

    A sample without an id is numbered by its row: ``"17"``, or ``"17-0"``, ``"17-1"`` where the
    row has several. ``on_row`` is told the number of each row that is read. Raises what the
    source raises.
    """
    owners = Index("I")  # row of each id, to name both rows when one comes twice
    for number, columns in enumerate(task.source.rows(data)):
        items: list[object] = []
        if on_row:
            on_row(number)
        try:
            items.extend(task.samples(Row(columns, number, upright=task.subset.upright)))
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # an exit, a panic of a native library: this row's alone
            # samples that were yielded before the error stand: `extend` has kept them
            items.append(e)
        for k, item in enumerate(items):
            place = f"{number}" if len(items) == 1 else f"{number}-{k}"
            if isinstance(item, Sample) and not item.id:
                item = replace(item, id=place)
            if isinstance(item, BaseException):
                why: str | None = reason(item)
            elif why := why_invalid(item):
                why = f"{type(task).__name__}.samples: {why}"
            elif isinstance(item, Sample) and (owner := owners.add(item.id, number)) is not None:
                why = f"the id {item.id!r} is that of a sample of row {owner} already"
            if why or not isinstance(item, Sample):
                yield RowError(f"row-{place}", f"row {number}: {why}")
                continue
            yield item


def checked_score(task: Task, sample: Sample, completion: Completion) -> Score:
    """``task.score`` with its values as finite floats. Raises ScoringError when it raises, or
    gives something else than a Score of the task's metrics.
    """
    try:
        score = task.score(sample, completion)
        if not isinstance(score, Score) or not isinstance(score.unparsed, bool):
            raise TypeError(f"{score!r:.200} is not a Score with unparsed True or False")
        values = {k: float(v) for k, v in score.values.items()}
        if bad := [k for k, v in values.items() if not math.isfinite(v)]:
            raise ValueError(f"{', '.join(bad)} is not a finite number")
        declared = [name for m in task.metrics for name in (m.name, m.weight) if name]
        if unknown := [k for k in values if k not in declared]:
            raise ValueError(
                f"no metric {', '.join(map(repr, unknown))}; declared: {', '.join(declared)}"
            )
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # an exit, a panic of a native library: this answer's alone
        raise ScoringError(f"scoring failed: {reason(e)}") from e
    return Score(values, score.parsed, score.unparsed)


def why_invalid(sample: object) -> str | None:
    """Why a sample is malformed, so that it can't be asked and journaled; None if it is not."""
    if not isinstance(sample, Sample):
        return f"{type(sample).__name__} is not a Sample"
    item: Any = sample
    where = f"sample {item.id!r}"
    if not isinstance(item.id, str):
        return f"{where}: id must be a string, or left out for one by the row's number"
    if not isinstance(item.cluster, str) or not isinstance(item.metadata, Mapping):
        return f"{where}: cluster must be a string and metadata a mapping"
    if not isinstance(item.choices, tuple | list) or not all(map(_is_string, item.choices)):
        return f"{where}: choices must be strings"
    if not item.messages:
        return f"{where}: no messages"
    for message in item.messages:
        if not isinstance(message, Message) or message.role not in ROLES:
            return f"{where}: {message!r:.200} is not a Message with role system, user or assistant"
        for part in message.content:
            if not isinstance(part, Media) and not (
                isinstance(part, Text) and _is_string(part.text)
            ):
                return f"{where}: {part!r:.200} is not a Text with a string, an Image or a Video"
    texts = [p.text for m in item.messages for p in m.content if isinstance(p, Text)]
    right = item.target if isinstance(item.target, list | tuple) else [item.target]
    for text in (item.id, item.cluster, *item.choices, *texts, *filter(_is_string, right)):
        if not _can_be_written(text):
            return f"{where}: {text!r:.80} holds half of a character (a lone surrogate)"
    return None


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _can_be_written(text: str) -> bool:
    """Not so a lone surrogate, which would make two ids one."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
