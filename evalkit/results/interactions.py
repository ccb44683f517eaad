"""Interactions: whether two settings together do what each does alone, added up.

Of four cells (neither setting, one, the other, both) the contrast is (both - one) - (the other -
neither), in points, on the samples that all four scored: 0 where the effects add up. The four
scores of a sample are paired, and resampled over images and videos as differences are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evalkit.errors import DataError
from evalkit.results.pairs import counted_together
from evalkit.stats import compare
from evalkit.store import CellFolder

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Interaction:
    """What two settings together add to the sum of what each does alone, on one task's headline
    metric (scale applied).
    """

    task: str
    first: str
    """One setting in words."""
    second: str
    """The other."""
    against: str
    """What both are compared with, in words."""
    metric: str
    difference: float
    """(both - first) - (second - neither); 0: the effects add up."""
    ci_low: float | None
    """Lower end of its 95 % interval over clusters."""
    ci_high: float | None
    """Upper end of it."""
    p_value: float | None
    """Of a two-sided sign-flip test over clusters."""
    n: int
    """Samples that all four cells scored, or units of samples where the metric counts these."""
    p_holm: float | None = None
    """The p-value by Holm's correction over the sweep; None where there is nothing to test."""


@dataclass(frozen=True)
class Quartet:
    """Four cells of a task that differ in two settings: neither, one, the other, both."""

    task: str
    first: str
    second: str
    against: str
    cells: tuple[CellFolder, CellFolder, CellFolder, CellFolder]


def quartets(
    task: str, cells: Sequence[tuple[Settings, CellFolder]], baseline: Settings
) -> list[Quartet]:
    """All pairs of settings of a task for which the four cells were planned. What a cell that is
    the baseline's own says is no change (``position=mrope`` where that is how it was trained).
    """
    base = next((cell for settings, cell in cells if settings == baseline), None)
    if base is None:
        return []
    neutral = {
        (k, str(v)) for settings, c in cells if c.path == base.path for k, v in settings.items()
    }

    def key(settings: Settings) -> frozenset[tuple[str, str]]:
        return frozenset((k, str(v)) for k, v in settings.items()) - neutral

    by_change = {key(settings): cell for settings, cell in reversed(cells)}
    singles = [c for c in dict.fromkeys(key(s) for s, _ in cells) if len(c) == 1]
    out = []
    for a, b in combinations(singles, 2):
        both = by_change.get(a | b)
        if both and len({k for k, _ in a | b}) == 2:
            words = ["{}={}".format(*next(iter(c))) for c in (a, b)]
            against = " ".join(f"{k}={v}" for k, v in baseline.items()) or "as trained"
            four = (base, by_change[a], by_change[b], both)
            out.append(Quartet(task, words[0], words[1], against, four))
    return out


def interaction(quartet: Quartet) -> Interaction | None:
    """The contrast of four cells; None where one was not run, or they have no sample in common, and
    for a weighted mean: a ratio, of which samples have no share that could be added up.
    """
    try:
        if not all(cell.exists and cell.results.metrics for cell in quartet.cells):
            return None
        metric = quartet.cells[0].results.metrics[0].definition
        sides = counted_together([cell.columns() for cell in quartet.cells], metric)
    except DataError:
        return None
    counted = sides[0]
    if metric.weight or not counted.values:
        return None
    neither, first, second, both = (side.values for side in sides)
    together = [a + b for a, b in zip(both, neither)]
    apart = [a + b for a, b in zip(first, second)]
    paired = compare(together, apart, counted.clusters, counted.groups)
    difference = paired.difference.times(metric.scale * counted.added)
    return Interaction(
        quartet.task,
        quartet.first,
        quartet.second,
        quartet.against,
        metric.name,
        difference.value,
        difference.low,
        difference.high,
        None if together == apart else paired.p_value,
        paired.n,
    )
