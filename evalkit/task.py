"""Task plugins: rows of a dataset in, samples and scores out.

A task is a small class with the dataset sources of its subsets, a ``samples(row)`` that builds the
questions of one row, and a ``score(sample, completion)``. Tasks are found by entry point (group
``evalkit.tasks``), or given as a file (``./my_task.py``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol

from evalkit.errors import UsageError
from evalkit.plugin import classes_in
from evalkit.types import Completion, Media, MediaBudget, Message, Sample, Score, Text

Row = Mapping[str, Any]


class Source(Protocol):
    """Where the rows of one subset come from. ``describe()`` goes into the results, so that a
    number names its data.
    """

    def rows(self, override: Path | None = None) -> Iterator[Row]:
        """The rows, in a stable order; media stay encoded. ``override`` is a local copy in the
        official schema.
        """
        ...

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """JSON: kind, repository, configuration, split, revision or content hash."""
        ...


@dataclass(frozen=True)
class Metric:
    """A named value that ``score`` returns. ``group``: the headline is the mean of the means over
    this metadata key (a macro average). ``scale`` multiplies it where people read it (100 for per
    cent)."""

    name: str
    group: str | None = None
    higher_is_better: bool = True
    scale: float = 100.0


@dataclass(frozen=True)
class Subset:
    """One dataset of a task: its source, its own metrics (the task's when empty) and generation
    settings.
    """

    source: Source
    metrics: tuple[Metric, ...] = ()
    budget: MediaBudget = MediaBudget()
    max_new_tokens: int | None = None


class Task(ABC):
    """Base class of task plugins; one instance serves one subset.

    Class attributes: ``name``; ``version`` (raise it when prompts, parsing or metrics change a
    score); ``subsets``; ``metrics`` (the first is the headline); ``max_new_tokens``; ``rank``
    (True: choices are ranked by log-likelihood, not generated).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    description: ClassVar[str] = ""
    subsets: ClassVar[Mapping[str, Subset]]
    metrics: ClassVar[tuple[Metric, ...]]
    max_new_tokens: ClassVar[int] = 128
    rank: ClassVar[bool] = False

    def __init__(self, subset: str) -> None:
        if subset not in self.subsets:
            raise UsageError(
                f"task {self.name!r} has no subset {subset!r}; it has: {', '.join(self.subsets)}"
            )
        self.subset = subset

    @abstractmethod
    def samples(self, row: Row) -> Iterable[Sample]:
        """The questions of one row. Raises DataError (or KeyError, ValueError) when the row can't
        be used; the run goes on.
        """

    @abstractmethod
    def score(self, sample: Sample, completion: Completion) -> Score:
        """Scores one answer; pure. ``sample`` carries no media when a journal is rescored."""


@dataclass(frozen=True)
class TaskSpec:
    """A parsed ``--tasks`` item: ``docvqa``, ``docvqa:val``, ``./my_task.py``,
    ``./my_task.py:dev``.
    """

    name: str
    subset: str

    @classmethod
    def parse(cls, text: str) -> TaskSpec:
        name, _, subset = text.partition(":")
        return cls(name, subset or "mini")


def registered() -> dict[str, str]:
    """Names of the installed tasks and where each lives (``module:Class``), without importing
    any.
    """
    return {e.name: e.value for e in entry_points(group="evalkit.tasks")}


def load_task(text: str) -> Task:
    """The task of a ``--tasks`` item. Raises UsageError with the known names when there is none."""
    spec = TaskSpec.parse(text)
    if spec.name.endswith(".py"):
        found = classes_in(Path(spec.name), Task)
        if len(found) != 1:
            raise UsageError(
                f"{spec.name}: expected one Task class, found {len(found)}: "
                f"{', '.join(c.name for c in found)}"
            )
        cls = found[0]
        subset = spec.subset if ":" in text else next(iter(cls.subsets))
        return cls(subset)
    return task_class(spec.name)(spec.subset)


def task_class(name: str) -> type[Task]:
    """An installed task. Raises UsageError with the known names, and the nearest of them."""
    for entry in entry_points(group="evalkit.tasks"):
        if entry.name == name:
            found: type[Task] = entry.load()
            return found
    known = sorted(registered())
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"unknown task {name!r}; {hint}known: {', '.join(known)}; or give a file: ./my_task.py"
    )


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """The metrics of a task's subset, the headline first."""
    return task.subsets[task.subset].metrics or task.metrics


def scored(task: Task, sample: Sample, completion: Completion) -> dict[str, Any]:
    """The part of a record that scoring makes: ``scores``, ``parsed`` and ``unparsed``, or an
    ``error`` that says why there are none.
    """
    try:
        score = task.score(sample, completion)
        if not isinstance(score, Score) or not isinstance(score.unparsed, bool):
            raise TypeError(f"{score!r:.200} is not a Score with unparsed True or False")
        values = {k: float(v) for k, v in score.values.items()}
        if bad := [k for k, v in values.items() if not math.isfinite(v)]:
            raise ValueError(f"{', '.join(bad)} is not a finite number")
    except (Exception, SystemExit) as e:
        return {"error": f"scoring failed: {type(e).__name__}: {e}"}
    return {"scores": values, "parsed": score.parsed, "unparsed": score.unparsed}


def fault(sample: object) -> str | None:
    """What keeps a sample, as a task made it, from being asked and journaled."""
    if not isinstance(sample, Sample):
        return f"{type(sample).__name__} is not a Sample"
    given: Any = sample
    if not isinstance(given.cluster, str) or not isinstance(given.metadata, Mapping):
        return f"sample {given.id!r}: cluster must be a string and metadata a mapping"
    if not given.messages:
        return f"sample {given.id!r}: no messages"
    for message in given.messages:
        if not isinstance(message, Message) or message.role not in ("system", "user", "assistant"):
            return f"sample {given.id!r}: {message!r:.200} is not a Message with role system, user or assistant"
        parts: list[Any] = list(message.content)
        for part in parts:
            if not isinstance(part, Media) and not (
                isinstance(part, Text) and isinstance(part.text, str)
            ):
                return f"sample {given.id!r}: {part!r:.200} is not a Text with a string, an Image or a Video"
    return None
