"""Cells compared on the samples that both scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from evalkit.cell_results import MetricResult
from evalkit.columns import Columns
from evalkit.errors import UsageError
from evalkit.results.cells import data_digest, data_kind, labels, model_labels, partial_text
from evalkit.results.tables import (
    aligned,
    interval_note,
    interval_text,
    lower_note,
    p_text,
    value_text,
)
from evalkit.stats import LEVEL, corrected, excludes_0, holm
from evalkit.store import CellFolder
from evalkit.types import Metric
from evalkit.units import Counted, Seen

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
TEXT_COLUMNS = (
    "task",
    "cell a",
    "cell b",
    "metric",
    "a",
    "b",
    "a - b",
    "95 % interval",
    "p",
    "p (Holm)",
    "MDE",
    "n",
    "verdict",
    "",
)


class Verdict(StrEnum):
    """What can be said of one comparison, as the beginning of a sentence."""

    HIGHER = "higher on"
    LOWER = "lower on"
    SAME = "every score the same on"
    ALONE = "significant alone, not after correction, on"
    """Interval and test each find it by themselves, the test corrected for its number does not."""
    OPEN = "not significant on"
    UNTESTED = "too few samples to test on"
    NONE = "no sample in common on"


@dataclass(frozen=True)
class PairedScores:
    """One metric of two cells on their common samples, as people read it (scale applied)."""

    metric: str
    a: float
    """Mean of the first cell's scores on the common samples (of the groups' means, where the
    metric has a group)."""
    b: float
    """The same of the second cell."""
    difference: float
    """a - b."""
    ci_low: float | None
    """Lower end of the difference's 95 % interval over clusters."""
    ci_high: float | None
    """Upper end of it."""
    p_value: float | None
    """Of a two-sided sign-flip test over clusters; None with a single cluster."""
    mde: float | None
    """The minimum detectable effect: the true difference that so many clusters of this spread
    would show as significant at 0.05 (uncorrected) in four of five repetitions."""
    n: int
    """Common samples, or units of samples where the metric counts these."""
    clusters: int
    """Clusters that they fall into."""

    @classmethod
    def of(cls, a: Columns, b: Columns, metric: MetricResult) -> PairedScores | None:
        """None when no sample has the metric in both."""
        mine, theirs = counted_together([a, b], metric.definition)
        if not mine.values or not theirs.values:
            return None
        scale = metric.scale * mine.added
        comparison, mde = mine.compared(theirs)
        difference = comparison.difference.times(scale)
        return cls(
            metric=metric.metric,
            a=scale * mine.mean,
            b=scale * theirs.mean,
            difference=difference.value,
            ci_low=difference.low,
            ci_high=difference.high,
            p_value=comparison.p_value,
            mde=None if mde is None else scale * mde,
            n=comparison.n,
            clusters=len(set(mine.clusters)),
        )

    @property
    def same(self) -> bool:
        """Whether every sample has the same score in both: there is nothing to test."""
        return self.difference == 0 and not self.mde

    @property
    def shows(self) -> float | None:
        """``mde``; None where all differences are one: of their spread nothing is known."""
        return self.mde or None

    def verdict(self, p_holm: float | None) -> Verdict:
        """By the corrected test and by the interval: a difference is found where both find it."""
        if self.same:
            return Verdict.SAME
        if p_holm is None:
            return Verdict.UNTESTED
        if not excludes_0(self.ci_low, self.ci_high):
            return Verdict.OPEN
        if p_holm >= LEVEL:
            alone = self.p_value is not None and self.p_value < LEVEL
            return Verdict.ALONE if alone else Verdict.OPEN
        return Verdict.LOWER if self.difference < 0 else Verdict.HIGHER


def mde_of(scores: PairedScores, tests: int) -> float | None:
    """The minimum detectable effect at LEVEL corrected for ``tests`` tests, from that of one."""
    return None if scores.shows is None else scores.shows * corrected(max(tests, 1))


def counted_together(sides: Sequence[Columns], metric: Metric) -> list[Counted]:
    """What all sides count, in one order. A sample that one of them lacks is one without a value,
    so that a unit which it belongs to is left out of all.
    """
    seen = [side.seen(metric) for side in sides]
    clusters, metadata = seen[0].clusters, seen[0].metadata
    if any(side["id"] != sides[0]["id"] for side in sides):
        ids = dict.fromkeys(id for side in sides for id in side["id"])
        seen = [_spread(one, side["id"], ids) for one, side in zip(seen, sides)]
        clusters = [next(filter(None, names), "") for names in zip(*(s.clusters for s in seen))]
        told = zip(*(s.metadata or () for s in seen))
        metadata = [next(filter(None, mappings), {}) for mappings in told] or None
    common = [None not in values for values in zip(*(s.values for s in seen))]
    return [
        Counted.of(
            replace(
                one,
                values=[v if all_ else None for v, all_ in zip(one.values, common)],
                clusters=clusters,
                metadata=metadata,
            ),
            metric,
        )
        for one in seen
    ]


def _spread(seen: Seen, own: Sequence[str], ids: Iterable[str]) -> Seen:
    """Samples at the places of these ids; where it has none, one that says nothing."""
    where = {id: i for i, id in enumerate(own)}
    places = [where.get(id) for id in ids]

    def spread(column: Sequence[T], nothing: T) -> list[T]:
        return [nothing if i is None else column[i] for i in places]

    return Seen(
        spread(seen.values, None),
        spread(seen.clusters, ""),
        None if seen.metadata is None else spread(seen.metadata, {}),
        None if seen.weights is None else spread(seen.weights, 0.0),
    )


@dataclass(frozen=True)
class Pair:
    """Two cells of one task, compared by one metric."""

    a: CellFolder
    b: CellFolder
    scores: PairedScores
    p_holm: float | None
    """p_value by Holm's correction for all differences that were tested together."""
    mde: float | None
    """The minimum detectable effect at 0.05 corrected for their number."""
    remarks: tuple[str, ...]
    """What else differs between the two, or is missing from them."""

    @property
    def is_headline(self) -> bool:
        """Whether the metric is the first of both sides."""
        return all(c.results.metrics[0].metric == self.scores.metric for c in (self.a, self.b))

    @property
    def verdict(self) -> str:
        """What the numbers come to, in words; it names the better one."""
        found = self.scores.verdict(self.p_holm)
        if found not in (Verdict.HIGHER, Verdict.LOWER):
            hides = found in (Verdict.OPEN, Verdict.ALONE) and self.mde is not None
            may = f"; a true difference below {self.mde:.1f} may not show" if hides else ""
            return f"{found.value.removesuffix(' on').rstrip(',')}{may}"
        metrics = {m.metric: m for m in self.a.results.metrics}
        more = metrics[self.scores.metric].higher_is_better
        better = "a" if more == (found is Verdict.HIGHER) else "b"
        return f"{better} is {'higher' if more else 'lower'}"


def compare_cells(a: Sequence[CellFolder], b: Sequence[CellFolder]) -> list[Pair]:
    """Pairs of a cell of ``a`` and one of ``b``, one entry per metric that both have.

    Like is compared with like: of each task, cells of equal settings and data, each pair once, of
    equal steps of training where there are some. A task of which either side has a single cell is
    compared whatever its settings, and the pair's remarks say what differs. Raises UsageError when
    the two are the same cell, when no task is in common, or when it can't be told which of several
    cells are meant.
    """
    chosen = _pairs(a, b)
    rows = [row for one, other in chosen for row in _compared(one, other)]
    if not rows:
        other = sorted({name for pair in chosen for name in _other_scales(*pair)})
        why = f": {', '.join(other)} is of another scale in each" if other else ""
        raise UsageError(f"the two have no scored samples of one task in common{why}")
    tested = [i for i, r in enumerate(rows) if r.scores.p_value is not None and not r.scores.same]
    adjusted = holm([rows[i].scores.p_value or 0.0 for i in tested])
    for i, p in zip(tested, adjusted):
        rows[i] = replace(rows[i], p_holm=p, mde=mde_of(rows[i].scores, len(tested)))
    return rows


def worse(pairs: Sequence[Pair], by: float = 0.0) -> list[Pair]:
    """The pairs whose first side is worse on its task's headline metric by more than ``by`` points,
    and not by chance, as the verdict has it. A difference that can't be tested counts as it is.
    """
    out = []
    for pair in pairs:
        headline = pair.a.results.metrics[0]
        loss = -pair.scores.difference if headline.higher_is_better else pair.scores.difference
        found = pair.scores.verdict(pair.p_holm)
        by_chance = found in (Verdict.OPEN, Verdict.ALONE)
        if pair.is_headline and loss > by and not by_chance:
            out.append(pair)
    return out


def comparison_frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row per pair and metric, with the columns of ``evalkit.compare``."""
    import pandas as pd

    models = model_labels([cell for p in pairs for cell in (p.a, p.b)])
    rows = [
        {
            "task": p.a.task,
            "metric": p.scores.metric,
            "model_a": models[p.a.path],
            "model_b": models[p.b.path],
            "adapter_a": p.a.adapter,
            "adapter_b": p.b.adapter,
            "settings_a": p.a.settings,
            "settings_b": p.b.settings,
            "a": p.scores.a,
            "b": p.scores.b,
            "difference": p.scores.difference,
            "ci_low": p.scores.ci_low,
            "ci_high": p.scores.ci_high,
            "p_value": p.scores.p_value,
            "p_holm": p.p_holm,
            "mde": p.scores.shows,
            "n": p.scores.n,
            "clusters": p.scores.clusters,
            "verdict": p.verdict,
            "remarks": "; ".join(p.remarks),
            "cell_a": str(p.a.path),
            "cell_b": str(p.b.path),
        }
        for p in pairs
    ]
    return pd.DataFrame(rows)


def comparison_text(pairs: Sequence[Pair]) -> str:
    """For a terminal: one row per pair and metric, and what the numbers mean."""
    models = model_labels([cell for p in pairs for cell in (p.a, p.b)])

    def name(cell: CellFolder) -> str:
        data = "local data" if data_kind(cell) == "local" else ""
        return ", ".join(filter(None, (models[cell.path], cell.adapter, cell.settings, data)))

    rows = [
        (
            p.a.task,
            name(p.a),
            name(p.b),
            p.scores.metric,
            value_text(p.scores.a),
            value_text(p.scores.b),
            value_text(p.scores.difference, signed=True),
            interval_text(p.scores.ci_low, p.scores.ci_high),
            p_text(None if p.scores.same else p.scores.p_value),
            p_text(p.p_holm),
            value_text(p.scores.shows),
            p.scores.n,
            p.verdict,
            "; ".join(p.remarks),
        )
        for p in pairs
    ]
    directions = [(m.metric, m.higher_is_better) for p in pairs for m in p.a.results.metrics]
    shown = {p.scores.metric for p in pairs}
    return "\n".join(
        [
            aligned(TEXT_COLUMNS, rows),
            "paired on common samples, intervals by resampling images and videos, p by sign flips "
            "of these; MDE: the true difference that so many samples would show at p < 0.05 "
            "(uncorrected) four times in five; verdicts go by p (Holm) and the interval, and what "
            "may not show is the MDE, corrected too",
            *lower_note((name, higher) for name, higher in directions if name in shown),
            *interval_note((p.scores.ci_low, p.scores.ci_high) for p in pairs),
        ]
    )


def _pairs(a: Sequence[CellFolder], b: Sequence[CellFolder]) -> list[tuple[CellFolder, CellFolder]]:
    out: list[tuple[CellFolder, CellFolder]] = []
    unclear: list[CellFolder] = []
    for task in dict.fromkeys(c.task for c in a):
        ours, theirs = ([c for c in side if c.task == task] for side in (a, b))
        if not theirs:
            continue
        candidates: dict[frozenset[str], tuple[CellFolder, CellFolder]] = {}
        for one, other in product(ours, theirs):
            key = frozenset((str(one.path.resolve()), str(other.path.resolve())))
            if len(key) == 2:
                candidates.setdefault(key, (one, other))
        same_step, any_step = (
            [p for p in candidates.values() if _likeness(p[0], step) == _likeness(p[1], step)]
            for step in (True, False)
        )
        if alike := same_step or any_step:
            out += alike
        elif len(candidates) == 1:
            out += candidates.values()
        elif candidates:
            unclear += [c for c in (*ours, *theirs) if c not in unclear]
    if unclear and not out:
        names = labels(unclear)
        listed = "\n".join(f"  {c.task}: {names[c.path]}: {c.path}" for c in unclear)
        raise UsageError(
            f"no two of these cells have equal settings and data; name two folders:\n{listed}"
        )
    if not out and (same := {c.path.resolve() for c in a} & {c.path.resolve() for c in b}):
        raise UsageError(f"the same cell twice: {', '.join(map(str, sorted(same)))}")
    return out


def _likeness(cell: CellFolder, step: bool) -> tuple[list[str], str, int]:
    """What two cells must share to be compared as like with like; with or without the ``step`` of a
    training run.
    """
    settings = [s for s in cell.settings.split() if step or not s.startswith("step=")]
    return settings, data_digest(cell), cell.run.identity.task_version


def _compared(a: CellFolder, b: CellFolder) -> list[Pair]:
    columns = a.columns(), b.columns()
    remarks = [
        f"{side}{text}" for side, cell in (("a", a), ("b", b)) if (text := partial_text(cell))
    ]
    for side, mine in zip("ab", columns):
        if mine.faults:
            remarks.append(f"{side}: {mine.faults} damaged lines in its journal")
    if data_digest(a) != data_digest(b):
        remarks.append("other data")
    if a.run.identity.task_version != b.run.identity.task_version:
        remarks.append("other versions of the task")
    missing = len(set(columns[0]["id"]) ^ set(columns[1]["id"]))
    if missing and not any("partial" in r for r in remarks):
        remarks.append(f"{missing} samples are in one of the two only")
    theirs = {m.metric for m in b.results.metrics}
    if other := _other_scales(a, b):
        remarks.append(f"not compared, of another scale: {', '.join(other)}")
    rows = []
    for metric in a.results.metrics:
        if metric.metric in theirs and metric.metric not in other:
            scores = PairedScores.of(*columns, metric)
            if scores:
                rows.append(Pair(a, b, scores, None, None, tuple(remarks)))
    return rows


def _other_scales(a: CellFolder, b: CellFolder) -> list[str]:
    """Metrics that are per cent in one and points in the other, as imported ones can be."""
    scales = {m.metric: m.scale for m in b.results.metrics}
    return [m.metric for m in a.results.metrics if scales.get(m.metric, m.scale) != m.scale]
