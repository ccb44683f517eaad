"""What a metric counts: each sample by itself, or units of several samples.

Some published scores are over groups: HallusionBench's fAcc takes a figure as right when all of its
questions are, MMBench's circular score a question when every rotation of its options is, MME adds
the share of questions to the share of pictures with both questions right. They are made here from
the samples' own values, which the journal keeps, so that rescoring, intervals and paired comparison
work for them as for a mean of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

SAMPLE = ""
"""Among a metric's units: each sample by itself."""


class Seen(NamedTuple):
    """What a metric needs to know of one sample: its value here and there, and whose it is. A
    sample that failed has no value, and its units none either.
    """

    value: float | None
    cluster: str
    metadata: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Counted:
    """Values that a metric averages, with their clusters; of units the least value of their
    samples, in the cluster of the first.
    """

    values: tuple[float, ...]
    clusters: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    added: int = 1
    """How many groups' means are added up: by so much more than its mean the metric is."""

    @classmethod
    def of(cls, samples: Iterable[Seen], metric: Metric) -> Counted:
        """Empty where no sample has a value (or, of a weighted mean, a weight)."""
        given = list(samples)
        if not metric.units:
            mine = [s for s in given if s.value is not None]
            if metric.weight and not any(s.weight for s in mine):
                mine = []
            return cls(
                tuple(s.value for s in mine if s.value is not None),
                tuple(s.cluster for s in mine),
                tuple(_group(s, metric) for s in mine) if metric.group else None,
                tuple(s.weight for s in mine) if metric.weight else None,
                len({_group(s, metric) for s in mine}) if metric.total else 1,
            )
        units = [(key, unit) for key in metric.units for unit in _units(given, key)]
        several = len(metric.units) > 1
        groups = tuple(
            f"{_group(unit[0], metric)}\n{key}" if several else _group(unit[0], metric)
            for key, unit in units
        )
        return cls(
            tuple(min(s.value for s in unit if s.value is not None) for _, unit in units),
            tuple(unit[0].cluster for _, unit in units),
            groups if several or metric.group else None,
            added=len({_group(unit[0], metric) for _, unit in units}) if metric.total else 1,
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


def _group(sample: Seen, metric: Metric) -> str:
    return str(sample.metadata.get(metric.group)) if metric.group else ""


def _units(samples: Sequence[Seen], key: str) -> list[list[Seen]]:
    """Samples that share a value of a metadata key, in the order of the first of each; those with
    a sample without a value are left out: whether they are right is not known.
    """
    if key == SAMPLE:
        return [[s] for s in samples if s.value is not None]
    units: dict[str, list[Seen]] = {}
    for sample in samples:
        if key in sample.metadata:
            units.setdefault(str(sample.metadata[key]), []).append(sample)
    return [unit for unit in units.values() if all(s.value is not None for s in unit)]
