"""A sample and what became of it, as a value: a line of the journal.

docs/formats.md lists its fields for people, with those of ``run_info`` and ``cell_results``; a test
holds it to the docstrings here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Literal, TypeVar, get_args

from pydantic_core import to_json

from evalkit.types import (
    BoxSpace,
    Completion,
    FinishReason,
    Sample,
    Score,
    Text,
    TokenCounts,
)

SCHEMA_VERSION = 2
"""Of the journal, run.json and results.json; 1 was written by evalkit 0.1 and is read."""
READABLE = (1, 2)

V = TypeVar("V")
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
    thought: str = ""
    """What the model thought before it, where that is told apart; it is not scored."""
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
        told = {
            **_DEFAULTS,
            "id": completion.id,
            "cluster": str.__str__(sample.cluster or completion.id),
            "metadata": dict(sample.metadata),
            "target": sample.target,
            "choices": tuple(sample.choices),
            "prompt": prompt,
            "question": question_of(sample),
            "text": completion.text,
            "thought": completion.thought,
            "finish_reason": completion.finish_reason,
            "tokens": _whole(completion.tokens),
            "seconds": round(completion.seconds, 4),
            "logprobs": tuple(completion.logprobs),
            "box_space": completion.box_space,
            "frames": tuple(map(tuple, completion.frames)),
        }
        if completion.error is None:
            told |= _outcome(score)
        else:
            told |= {"scores": {}, "error": completion.error, "failed_in": "adapter"}
        return made(Record, told)

    @classmethod
    def of_row(cls, id: str, error: str) -> Record:
        """The record of a row, or a sample, that can't be asked."""
        return cls(id, cluster=id, error=error, failed_in="row")

    def rescored(self, score: Score | str | None) -> Record:
        """The same answer with another score, or with the reason why it has none."""
        return made(Record, (dict(zip(_DEFAULTS, _values_in(self))) | _outcome(score)).items())

    @property
    def answered(self) -> bool:
        """Whether there is an answer that can be scored (again)."""
        return self.text is not None and self.failed_in in (None, "scoring")

    def sample(self) -> Sample:
        """The sample, without its messages: what ``Task.score`` may look at."""
        told = {
            "id": self.id,
            "messages": (),
            "target": self.target,
            "choices": tuple(self.choices),
            "cluster": self.cluster,
            "metadata": dict(self.metadata),
        }
        return made(Sample, told)

    def completion(self) -> Completion:
        """The answer as the adapter gave it."""
        told = {
            "id": self.id,
            "text": self.text or "",
            "finish_reason": self.finish_reason or "stop",
            "tokens": self.tokens,
            "seconds": self.seconds,
            "logprobs": tuple(self.logprobs),
            "box_space": self.box_space,
            "error": None,
            "frames": self.frames,
            "token_logprobs": (),
            "thought": self.thought,
        }
        return made(Completion, told)

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
        if "thought" not in value:  # before evalkit 0.3
            value = {"frames": [], **value, "thought": ""}
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
        return made(Record, told.items())


_DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(Record)}
_values_of = itemgetter(*_DEFAULTS)
_values_in = attrgetter(*_DEFAULTS)
_PROVEN: set[tuple[type, ...]] = set()
"""Kinds of values, field by field, that were found to be those of a whole record."""
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("id", "cluster", "prompt", "question", "text", "thought", "error"), str),
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
def _whole(tokens: TokenCounts) -> TokenCounts:
    """Counts as a journal gives them back."""
    return TokenCounts(*map(int, vars(tokens).values()))


@lru_cache(maxsize=4096)
def _token_counts(*names_and_numbers: Any) -> TokenCounts:
    """Names, and then as many numbers. Raises TypeError for a name that is none."""
    half = len(names_and_numbers) // 2
    return TokenCounts(**dict(zip(names_and_numbers[:half], map(int, names_and_numbers[half:]))))


def made(kind: type[V], values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> V:
    """A frozen dataclass of all its fields by name, checked before, without its constructor, which
    sets one after the other: for a record that takes as long as reading its line. Given as pairs,
    in their order, they share the dictionary of their names with all others of the kind: for those
    that many are held of.
    """
    value = object.__new__(kind)
    vars(value).update(values)
    return value


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


def asked(prompt: str, target: Any) -> int | None:
    """What a sample was asked and what counts as right, as a number that is not 0 and means nothing
    to another process; None for a target that a journal can't hold.
    """
    try:
        told = to_json(target)
        if b"{" in told:  # whose keys may come in any order
            told = json.dumps(target, sort_keys=True).encode()
    except (TypeError, ValueError):
        return None
    return hash((prompt, told)) or 1


def question_of(sample: Sample) -> str:
    """The text parts of a sample's conversation, a line break between two parts."""
    return "\n".join(p.text for m in sample.messages for p in m.content if isinstance(p, Text))
