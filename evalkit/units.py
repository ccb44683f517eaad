"""What a metric counts: each sample by itself, or units of several samples.

Some published scores are over groups: HallusionBench's fAcc takes a figure as right when all of its
questions are, MMBench's circular score a question when every rotation of its options is, MME adds
the share of questions to the share of pictures with both questions right. They are made here from
the samples' own values, which the journal keeps, so that rescoring, intervals and paired comparison
work for them as for a mean of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evalkit.stats import (
    Comparison,
    Interval,
    Weighted,
    compare,
    compare_weighted,
    detectable,
    mean,
    mean_interval,
)
from evalkit.types import Metric

T = TypeVar("T")
SAMPLE = ""
"""Among a metric's units: each sample by itself."""
REPEAT = "repeat"
"""The metadata key that numbers the answers of a sample which is asked several times."""


def unit_of(metadata: Mapping[str, Any], key: str) -> str | None:
    """The name of the unit that a sample belongs to, by a metadata key; each repetition of drawn
    answers has units of its own. None for a sample without the key.
    """
    if key not in metadata:
        return None
    repeat = f"\n{metadata[REPEAT]}" if REPEAT in metadata else ""
    return f"{metadata[key]}{repeat}"


@dataclass(frozen=True)
class Seen:
    """What a metric needs to know of samples, by column: their values here and there, and whose
    they are. A sample that failed has no value, and its units none either.
    """

    values: Sequence[float | None]
    clusters: Sequence[str]
    metadata: Sequence[Mapping[str, Any]] | None = None
    """Absent for a metric without groups and units."""
    weights: Sequence[float] | None = None
    """Absent for a metric without weights."""

    def at(self, places: Sequence[int]) -> Seen:
        """The samples at these places."""

        def chosen(column: Sequence[T]) -> list[T]:
            return [column[i] for i in places]

        return Seen(
            chosen(self.values),
            chosen(self.clusters),
            None if self.metadata is None else chosen(self.metadata),
            None if self.weights is None else chosen(self.weights),
        )

    def groups(self, key: str | None) -> list[str]:
        """Whose mean each sample enters: its value of a metadata key."""
        if key and self.metadata is not None:
            return [str(m.get(key)) for m in self.metadata]
        return [""] * len(self.values)

    def units(self, key: str) -> list[list[int]]:
        """Places of samples that share a value of a metadata key, in the order of the first of
        each; those with a sample without a value are left out: whether they are right is not known.
        """
        if key == SAMPLE:
            return [[i] for i, value in enumerate(self.values) if value is not None]
        units: dict[str, list[int]] = {}
        for i, metadata in enumerate(self.metadata or ()):
            if (name := unit_of(metadata, key)) is not None:
                units.setdefault(name, []).append(i)
        return [unit for unit in units.values() if all(self.values[i] is not None for i in unit)]


@dataclass(frozen=True)
class Counted:
    """Values that a metric averages, with their clusters; of units the least value of their
    samples, in the cluster of the first.
    """

    values: Sequence[float]
    clusters: Sequence[str]
    groups: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    added: int = 1
    """How many groups' means are added up: by so much more than its mean the metric is."""

    @classmethod
    def of(cls, samples: Seen, metric: Metric) -> Counted:
        """Empty where no sample has a value (or, of a weighted mean, a weight)."""
        if metric.units and not metric.weight:
            return cls._of_units(samples, metric)
        mine = [i for i, value in enumerate(samples.values) if value is not None]
        if metric.units:  # with a weight: each sample counts, of whole units
            mine = sorted({i for key in metric.units for unit in samples.units(key) for i in unit})
        if samples.weights is not None and not sum(samples.weights[i] for i in mine) > 0:
            mine = []
        seen = samples if len(mine) == len(samples.values) else samples.at(mine)
        groups = seen.groups(metric.group) if metric.group else None
        return cls(
            [v for v in seen.values if v is not None],
            seen.clusters,
            groups,
            seen.weights,
            _different(groups) if metric.total else 1,
        )

    @classmethod
    def _of_units(cls, seen: Seen, metric: Metric) -> Counted:
        units = [(key, unit) for key in metric.units for unit in seen.units(key)]
        several = len(metric.units) > 1
        of_sample = seen.groups(metric.group)
        groups = [of_sample[unit[0]] for _, unit in units]
        named = [f"{g}\n{key}" for g, (key, _) in zip(groups, units)] if several else groups
        return cls(
            [min(v for i in unit if (v := seen.values[i]) is not None) for _, unit in units],
            [seen.clusters[unit[0]] for _, unit in units],
            named if several or metric.group else None,
            added=_different(groups) if metric.total else 1,
        )

    @property
    def interval(self) -> Interval:
        """The mean with its 95 % interval over clusters. Raises ValueError when it is empty."""
        return mean_interval(self.values, self.clusters, self.groups, weights=self.weights)

    @property
    def mean(self) -> float:
        return mean(self.values, self.groups, self.weights)

    def compared(self, other: Counted) -> tuple[Comparison, float | None]:
        """The difference to the same units of another cell, and its minimum detectable effect."""
        if self.weights is not None and other.weights is not None:
            a, b = (Weighted(side.values, side.weights or ()) for side in (self, other))
            return compare_weighted(a, b, self.clusters)
        paired = compare(self.values, other.values, self.clusters, self.groups)
        differences = [i - j for i, j in zip(self.values, other.values)]
        return paired, detectable(differences, self.clusters, self.groups)


def _different(groups: Sequence[str] | None) -> int:
    """How many groups there are; without any, all samples are one."""
    return 1 if groups is None else len(set(groups))
