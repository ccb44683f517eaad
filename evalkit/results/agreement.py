"""Whether two back ends answer alike: the share of equal answers, where unequal ones part, and what
that makes of the scores. "Is this deployment the model that it claims to be?"

Greedy answers of one model are equal text for text when two implementations agree; half precision
lets a few differ where two tokens are all but equal (the reference against itself shows how
many). A score difference alone would hide flips that cancel.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.errors import UsageError
from evalkit.records import Record
from evalkit.results.pairs import PairedScores
from evalkit.results.tables import aligned, interval_text, p_text, value_text
from evalkit.safe_text import printable
from evalkit.stats import mean_interval
from evalkit.store import CellFolder

Pieces = Callable[[str], Sequence[str]]
"""An answer as the tokens that are counted."""
SHOWN = 5
"""Unequal answers that are shown of each task."""
COLUMNS = "task|n|equal|95 % interval|first difference|of tokens|a|b|a - b|95 % interval|p".split(
    "|"
)


@dataclass(frozen=True)
class Difference:
    """A sample whose answers differ: in which token first (from 0), and how each goes on there."""

    id: str
    at: int
    a: str
    b: str


@dataclass(frozen=True)
class Agreement:
    """Two cells of a task on the samples that both answered.

    equal, low, high: share of equal answers and its 95 % interval over clusters.
    first, of: the median first token that differs, from 0, among ``of`` tokens of those answers
        (median); None where all are equal.
    scores: the headline metric of both, None for hidden answers.
    differences: of the answers that differ, in the order of the samples.
    """

    task: str
    n: int
    equal: float
    low: float | None
    high: float | None
    first: float | None
    of: float | None
    scores: PairedScores | None
    differences: tuple[Difference, ...]

    @classmethod
    def of_cells(cls, a: CellFolder, b: CellFolder, pieces: Pieces) -> Agreement:
        """Raises UsageError when no sample was answered by both."""
        mine, theirs = ({k: r for k, r in c.records().items() if r.answered} for c in (a, b))
        common = [id for id in mine if id in theirs]
        if not common:
            raise UsageError(f"{a.task}: no sample was answered by both")
        same = [mine[id].text == theirs[id].text for id in common]
        share = mean_interval([float(s) for s in same], [mine[id].cluster for id in common])
        differing = [id for id, equal in zip(common, same) if not equal]
        told = [_difference(mine[id], theirs[id], pieces) for id in differing]
        longest = [max(len(pieces(r.text or "")) for r in (mine[i], theirs[i])) for i in differing]
        metrics = a.results.metrics
        return cls(
            task=a.task,
            n=len(common),
            equal=share.value,
            low=share.low,
            high=share.high,
            first=statistics.median(d.at for d in told) if told else None,
            of=statistics.median(longest) if told else None,
            scores=PairedScores.of(a.columns(), b.columns(), metrics[0]) if metrics else None,
            differences=tuple(told),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _difference(a: Record, b: Record, pieces: Pieces) -> Difference:
    x, y = pieces(a.text or ""), pieces(b.text or "")
    both = min(len(x), len(y))
    at = next((i for i in range(both) if x[i] != y[i]), both)
    return Difference(a.id, at, _from(x, at), _from(y, at))


def _from(pieces: Sequence[str], at: int) -> str:
    """A few tokens from a place on; empty where the answer has ended."""
    return "".join(pieces[at : at + 8])


def agreement_text(found: Sequence[Agreement], a: str, b: str) -> str:
    """For a terminal: a row a task, what the numbers mean, and some of the unequal answers."""
    rows = [_row(x) for x in found]
    lines = [
        aligned(COLUMNS, rows),
        f"a: {a}; b: {b}. n: samples that both have answered, also in earlier runs into this "
        "folder; equal: share of answers that are the same text, in per cent; first difference: "
        "median token at which unequal ones part",
    ]
    for x in found:
        for d in x.differences[:SHOWN]:
            shown = " / ".join(
                json.dumps(t, ensure_ascii=False) if t else "(end)" for t in (d.a, d.b)
            )
            lines.append(printable(f"{x.task} {d.id}: token {d.at}: {shown}"))
        if (more := len(x.differences) - SHOWN) > 0:
            lines.append(f"{x.task}: {more} more")
    return "\n".join(lines)


def _row(x: Agreement) -> tuple[Any, ...]:
    low, high = (None if v is None else 100 * v for v in (x.low, x.high))
    row = [x.task, x.n, value_text(100 * x.equal), interval_text(low, high)]
    row += [value_text(x.first), value_text(x.of)]
    if (s := x.scores) is None:
        return (*row, *[value_text(None)] * 5)
    p = p_text(None if s.same else s.p_value)
    difference = value_text(s.difference, signed=True)
    return (
        *row,
        value_text(s.a),
        value_text(s.b),
        difference,
        interval_text(s.ci_low, s.ci_high),
        p,
    )
