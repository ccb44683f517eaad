"""How samples are asked beyond what their task says: a system prompt, examples before the question,
drawn answers, several of them, thoughts before them.

Each is another cell, since each changes answers. Examples come from a named subset of the same
task, never from the rows that are scored, and none shows a picture or clip of the question that it
stands before. Drawn answers depend on the seed, the sample and the number of the repetition, not
on what runs beside them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.safe_text import without_keys
from evalkit.task import Task, read_samples
from evalkit.types import Completion, Media, Message, Sample, Text, thought_apart

AT_MOST = 32
"""Examples before a question."""
DRAWN_FROM = 256
"""The first samples of a subset, among which examples are drawn: a training split may have
hundreds of thousands.
"""


MOST_REPEATS = 10_000
"""Answers of one sample."""
MOST_THINKING = 1_000_000
"""Tokens of a thought: beyond every model's context."""


@dataclass(frozen=True)
class Asking:
    """system: a system prompt, in place of the task's. shots: examples before each question, drawn
    by ``seed`` from the subset ``shots_from``. temperature: 0 for the likeliest tokens; above it
    answers are drawn, by ``seed``; at most 2. repeats: answers of each sample. thinking: tokens
    that a model may think before its answer, beside those of the task. Raises UsageError for
    settings that don't fit.
    """

    system: str = ""
    shots: int = 0
    shots_from: str = ""
    temperature: float = 0.0
    seed: int = 0
    repeats: int = 1
    thinking: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.shots, int) and 0 <= self.shots <= AT_MOST):
            raise UsageError(f"num_fewshot={self.shots!r}: expected 0 to {AT_MOST}")
        if bool(self.shots) != bool(self.shots_from):
            raise UsageError(
                "num_fewshot and fewshot_from go together: examples come from a named subset of "
                "the task, never from the rows that are scored"
            )
        if not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature={self.temperature!r}: expected 0 to 2")
        if not (isinstance(self.repeats, int) and 1 <= self.repeats <= MOST_REPEATS):
            raise UsageError(f"repeats={self.repeats!r}: expected 1 to {MOST_REPEATS:,}")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}: expected a whole number of at least 0")
        if not (isinstance(self.thinking, int) and 0 <= self.thinking <= MOST_THINKING):
            raise UsageError(f"thinking={self.thinking!r}: expected 0 to {MOST_THINKING:,} tokens")
        if self.repeats > 1 and not self.temperature:
            raise UsageError("repeats: greedy answers repeat themselves; set a temperature")

    @property
    def draws(self) -> bool:
        """Whether the seed matters."""
        return bool(self.shots or self.temperature)

    def describe(self, examples_of: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JSON of what is set, as a part of a cell's identity; nothing for what tasks say alone.
        ``examples_of`` describes the data of the examples.
        """
        out: dict[str, Any] = {}
        if self.system:
            out["system"] = without_keys(self.system)
        if self.shots:
            out |= {"num_fewshot": self.shots, "fewshot_from": self.shots_from}
            out["fewshot_data"] = dict(examples_of or {})
        if self.temperature:
            out["temperature"] = float(self.temperature)  # 1 and 1.0 are one setting
        if self.repeats > 1:
            out["repeats"] = self.repeats
        if self.thinking:
            out["thinking"] = self.thinking
        return out | ({"seed": self.seed} if self.draws else {})

    def examples(self, task: Task, data: Path | None) -> Examples:
        """The examples for a task's questions; ``data`` is a local copy of their subset. Raises
        UsageError where they would be those that are scored, or too few can be told an answer of.
        """
        if not self.shots:
            return Examples()
        if self.shots_from == task.subset_name:
            others = ", ".join(name for name in task.subsets if name != self.shots_from)
            raise UsageError(
                f"fewshot_from={self.shots_from}: these are the rows that are scored; name another "
                f"subset of {task.name}: {others or 'it has none'}"
            )
        other = type(task)(self.shots_from, task.protocol_name)
        first = islice(read_samples(other, data), DRAWN_FROM)
        usable = [s for s in first if isinstance(s, Sample)]
        random.Random(self.seed).shuffle(usable)  # noqa: S311 - no secret
        # As many more as questions may share their pictures with.
        turns = tuple(_Turn.of(other, s) for s in usable[: 2 * self.shots + 2])
        if len(turns) < self.shots:
            raise UsageError(
                f"{other.full_name} has {len(turns)} samples that can be examples, of {self.shots}"
            )
        return Examples(turns, self.shots, other.describe_data(data))

    def ask(self, sample: Sample, examples: Examples) -> Iterator[Sample]:
        """The sample as it is asked, once for each repetition: ``ID#0``, ``ID#1``, ..., with its
        own id as cluster where it has none.
        """
        own = [m for m in sample.messages if m.role != "system"]
        told = [m for m in sample.messages if m.role == "system"]
        if self.system:
            told = [Message("system", (Text(self.system),))]
        messages = (*told, *examples.before(sample), *own)
        asked = sample if messages == sample.messages else replace(sample, messages=messages)
        if self.repeats == 1:
            yield asked
            return
        for k, id in enumerate(repetitions(sample.id, self.repeats)):
            yield replace(
                asked,
                id=id,
                cluster=sample.cluster or sample.id,
                metadata={**sample.metadata, "sample": sample.id, "repeat": k},
            )

    def answer(self, completion: Completion) -> Completion:
        """What a model said, its thought apart from its answer where it may think. What reached the
        limit of tokens without an end of its thought has no answer: the chat template may have
        begun one.
        """
        if not self.thinking or completion.error is not None or completion.thought:
            return completion
        thought, text = thought_apart(completion.text)
        if text == completion.text and completion.finish_reason == "length":
            thought, text = text, ""
        return replace(completion, text=text, thought=thought)

    def seed_of(self, id: str) -> int:
        """What decides the tokens of one answer: 31 bits, which every server takes."""
        digest = hashlib.sha256(f"{self.seed}:{id}".encode()).digest()
        return int.from_bytes(digest[:4]) >> 1


def repetitions(id: str, repeats: int) -> list[str]:
    """The ids of a sample's answers."""
    return [id] if repeats == 1 else [f"{id}#{k}" for k in range(repeats)]


@dataclass(frozen=True)
class _Turn:
    """An example: its question and the right answer, and the digests of its media."""

    messages: tuple[Message, ...]
    media: frozenset[str]

    @classmethod
    def of(cls, task: Task, sample: Sample) -> _Turn:
        question = tuple(m for m in sample.messages if m.role != "system")
        answer = Text(task.protocol.written(task.right_answer(sample)))
        return cls((*question, Message("assistant", (answer,))), _media(sample))


@dataclass(frozen=True)
class Examples:
    """Turns that may stand before a question, how many do, and what their data are."""

    turns: tuple[_Turn, ...] = ()
    shots: int = 0
    data: Mapping[str, Any] | None = None

    def before(self, sample: Sample) -> Sequence[Message]:
        """The examples of a question: the first ones that show none of its media and do not ask it.
        Raises DataError where too few are left.
        """
        if not self.shots:
            return ()
        shown = _media(sample)
        asked = tuple(m for m in sample.messages if m.role != "system")
        fit = [t for t in self.turns if not t.media & shown and t.messages[:-1] != asked]
        if len(fit) < self.shots:
            raise DataError(f"only {len(fit)} examples show other media than the question")
        return [m for turn in fit[: self.shots] for m in turn.messages]


def _media(sample: Sample) -> frozenset[str]:
    try:
        return frozenset(
            p.digest for m in sample.messages for p in m.content if isinstance(p, Media)
        )
    except OSError as e:
        raise DataError(f"unreadable media: {e}") from e
