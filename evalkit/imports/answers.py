"""What is read from another harness's file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One question and what a model said."""

    id: str
    """Name of the question in its data set, or the row's number where the file has none."""
    text: str | None
    """The answer; None when there was none."""
    question: str = ""
    """As it was asked, as far as the file says."""
    target: Any = None
    """What counts as right, as the file says it: a list of texts, or the place of an option."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question."""
    cluster: str = ""
    """What it shares with others; empty: nothing."""
    theirs: Mapping[str, float] = field(default_factory=dict)
    """The harness's own scores of this answer, by metric."""
    read: str | None = None
    """What the harness read from the answer, where the file says it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says, to group by."""


@dataclass(frozen=True)
class Answers:
    """One model's answers to one data set."""

    tool: str
    """The harness: EvalScope, lmms-eval, VLMEvalKit, Inspect."""
    model: str
    """As the file or its folder names it; empty when neither does."""
    task: str
    """The harness's name of the data set."""
    rows: tuple[Answer, ...]
    by_number: bool = False
    """Whether ids are the rows' numbers."""
    highest: Mapping[str, float | None] = field(default_factory=dict)
    """The highest value of a metric, where the harness says it; None for one that has none, or
    whose values stay in a unit of their own (``evalkit.imports.scales``)."""
    lower_is_better: frozenset[str] = frozenset()
    """Metrics of which less is better."""
    remarks: tuple[str, ...] = ()
    """What a reader should know: rows that could not be read, a run that was cut short."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The harness's metrics, the one that most answers have first."""
        counts: dict[str, int] = {}
        for name in (name for row in self.rows for name in row.theirs):
            counts[name] = counts.get(name, 0) + 1
        return tuple(sorted(counts, key=lambda name: -counts[name]))
