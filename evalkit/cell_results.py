"""What came out of a cell, as values: ``CellResults`` is results.json, ``Ending`` the line of the
journal from which it can be made again. Read also from the files of evalkit 0.1 (schema 1).
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from operator import add, attrgetter
from typing import Any

import numpy as np

from evalkit.index import SIZE, digest
from evalkit.json_fields import number, typed
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.run_info import Selection
from evalkit.safe_text import masked
from evalkit.stats import MANY, NORMAL_CLUSTERS, Codes, Interval, clustered_mean
from evalkit.task import Metric
from evalkit.types import TokenCounts
from evalkit.units import REPEAT, Counted, Seen

_tokens_in = attrgetter(*(f.name for f in fields(TokenCounts)))


def seen_of(records: Sequence[Record], metric: Metric) -> Seen:
    """What a metric needs of records."""
    scores = [r.scores for r in records]
    return Seen(
        [s.get(metric.name) for s in scores],
        [r.cluster for r in records],
        [r.metadata for r in records] if metric.group or metric.units else None,
        [s.get(metric.weight, 0.0) for s in scores] if metric.weight else None,
    )


@dataclass(frozen=True)
class MetricResult:
    """One metric of a cell, as people read it: ``scale`` has been applied."""

    metric: str
    """Name of the metric."""
    value: float
    """The mean over scored samples; the mean of the groups' means when there is a group."""
    ci_low: float | None
    """Lower end of the 95 % interval over clusters; null when there is none."""
    ci_high: float | None
    """Upper end of it."""
    n: int
    """Samples that have this metric."""
    clusters: int
    """Clusters that they fall into."""
    group: str | None
    """The metadata key whose groups are averaged (a macro average); null for a plain mean."""
    higher_is_better: bool
    """Whether more is better."""
    scale: float
    """What the samples' values were multiplied by (100 for per cent)."""
    units: tuple[str, ...] = ()
    """Metadata keys by whose values samples are counted together, a unit having the least value of
    its samples; empty where each sample counts."""
    weight: str | None = None
    """The other value of a sample by which the mean is weighted; null where all count alike."""
    total: bool = False
    """Whether the groups' means are added up, each multiplied by ``scale``."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"units": list(self.units)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MetricResult:
        low, high = (None if value[k] is None else number(value[k]) for k in ("ci_low", "ci_high"))
        return cls(
            metric=typed(value, "metric", str),
            value=number(value["value"]),
            ci_low=low,
            ci_high=high,
            n=typed(value, "n", int),
            clusters=typed(value, "clusters", int),
            group=typed(value, "group", str, None),
            higher_is_better=typed(value, "higher_is_better", bool),
            scale=number(value["scale"]),
            units=tuple(map(str, typed(value, "units", list, []))),
            weight=typed(value, "weight", str, None),
            total=typed(value, "total", bool, False),
        )

    @classmethod
    def of(cls, samples: Sequence[Record] | Seen, metric: Metric) -> MetricResult | None:
        """A metric over samples; None when none of them has it (hidden answers). Those without a
        score are left out, with the units that they belong to.
        """
        seen = samples if isinstance(samples, Seen) else seen_of(samples, metric)
        counted = Counted.of(seen, metric)
        if not counted.values:
            return None
        n = len(seen.values) - seen.values.count(None)
        clusters = len(set(counted.clusters))
        return cls._of(metric, counted.interval, n, clusters, counted.added)

    @classmethod
    def of_columns(cls, values: array[float], names: Names, metric: Metric) -> MetricResult | None:
        """A plain mean over samples; NaN is a value that is not there."""
        x = np.frombuffer(values)
        if not (n := len(x) - int(np.count_nonzero(np.isnan(x)))):
            return None
        mean, clusters = clustered_mean(x, names.numbers)
        return cls._of(metric, mean, n, clusters)

    @classmethod
    def _of(
        cls, metric: Metric, mean: Interval, n: int, clusters: int, added: int = 1
    ) -> MetricResult:
        shown = mean.times(metric.scale * added)
        return cls(
            metric=metric.name,
            value=shown.value,
            ci_low=shown.low,
            ci_high=shown.high,
            n=n,
            clusters=clusters,
            group=metric.group,
            higher_is_better=metric.higher_is_better,
            scale=metric.scale,
            units=metric.units,
            weight=metric.weight,
            total=metric.total,
        )

    @property
    def definition(self) -> Metric:
        """The metric that this is the result of."""
        return Metric(
            self.metric,
            self.group,
            self.higher_is_better,
            self.scale,
            self.units,
            self.weight,
            self.total,
        )


@dataclass(frozen=True, kw_only=True)
class CellResults:
    """results.json: what came out of a cell. Derived from its journal, and can be made again."""

    created: str = ""
    """When the last answer was made: ISO 8601, UTC."""
    rescored: str | None = None
    """When the answers were last scored anew without asking the model; null when never (true in
    files of evalkit 0.1, which kept no date)."""
    selection: Selection = Selection()
    """Which samples count here."""
    complete: bool
    """Whether every selected sample was asked; false for a run that was stopped."""
    missing_shards: tuple[str, ...] = ()
    """Shards (2/3) of a run in several that have samples without a record."""
    inference_probe: bool = False
    """Whether the weights ran with settings that they were not trained with."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Switches that differ from what the weights were trained with."""
    seconds: float = 0.0
    """Wall-clock time of the last run."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter measured of itself in the last run."""
    n: int
    """Scored samples."""
    n_total: int
    """Samples that were asked or failed before."""
    errors: int
    """Samples without a score."""
    unparsed: int
    """Scored samples whose answer could not be read; they score lowest."""
    tokens: TokenCounts = TokenCounts()
    """Tokens of all scored samples."""
    metrics: tuple[MetricResult, ...] = ()
    """One entry a metric, the headline first."""

    @classmethod
    def of(cls, records: Iterable[Record], metrics: Sequence[Metric], **about: Any) -> CellResults:
        """Counts and metrics of records. ``about``: the other fields."""
        return cls(**_counts(records, metrics), **about)

    def of_records(
        self, records: Iterable[Record], metrics: Sequence[Metric], **about: Any
    ) -> CellResults:
        """The same run's results with the counts and metrics of these records, and ``about``."""
        return replace(self, **_counts(records, metrics), **about)

    @property
    def partial(self) -> bool:
        """Whether the scores are of a part of the subset, and not to be quoted."""
        return not self.complete or self.selection.partial

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "missing_shards": list(self.missing_shards),
            "selection": self.selection.to_json(),
            "switches": dict(self.switches),
            "stats": dict(self.stats),
            "tokens": asdict(self.tokens),
            "metrics": [m.to_json() for m in self.metrics],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CellResults:
        """Reads schemas 1 and 2. Raises KeyError, ValueError or TypeError for what is none."""
        created = typed(value, "created", str, "")
        if isinstance(value.get("rescored"), bool):  # schema 1
            value = {**value, "rescored": created if value["rescored"] else None}
        return cls(
            created=created,
            rescored=typed(value, "rescored", str, None),
            selection=Selection.from_json(typed(value, "selection", Mapping, {})),
            complete=typed(value, "complete", bool),
            missing_shards=tuple(map(str, typed(value, "missing_shards", list, []))),
            inference_probe=typed(value, "inference_probe", bool, False),
            switches=masked(typed(value, "switches", Mapping, {})),
            seconds=number(value.get("seconds") or 0.0),
            stats=dict(typed(value, "stats", Mapping, {})),
            n=typed(value, "n", int),
            n_total=typed(value, "n_total", int),
            errors=typed(value, "errors", int),
            unparsed=typed(value, "unparsed", int),
            tokens=TokenCounts(**typed(value, "tokens", Mapping, {})),
            metrics=tuple(MetricResult.from_json(m) for m in typed(value, "metrics", list)),
        )


class Names:
    """The cluster of each of many samples, in eight bytes each; names are held while few."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._few: dict[str, int] | None = {}

    def append(self, name: str) -> None:
        number = hash(name)
        if self._few is not None:
            self._few[name] = number
            if len(self._few) > NORMAL_CLUSTERS:
                self._few = None
        self._hashes.append(number)

    @property
    def numbers(self) -> Codes:
        """A number for each sample, as ``stats.clustered_mean`` takes them."""
        hashes = np.frombuffer(self._hashes, np.int64)
        if not self._few:
            return hashes
        names = sorted(self._few, key=repr)
        known = np.array([self._few[name] for name in names])
        place = np.argsort(known)  # of each in ``names``, by its hash
        numbers = np.empty(len(hashes), np.uint16)
        for i in range(0, len(hashes), MANY):
            part = slice(i, i + MANY)
            numbers[part] = place[np.searchsorted(known, hashes[part], sorter=place)]
        return numbers


class Tally:
    """Counts of records, and what metrics need of them: each is looked at once, and goes. Where all
    metrics are plain means of samples, some 16 bytes of a record stay.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.n = self.total = self.unparsed = 0
        self.tokens = [0] * len(fields(TokenCounts))
        # a score that is not there is NaN, which none is
        names = dict.fromkeys(name for m in metrics for name in (m.name, m.weight) if name)
        self.scores = {name: array("d") for name in names}
        plain = all(not (m.group or m.units or m.weight) for m in metrics)
        self.clusters: Names | list[str] = Names() if plain else []
        keys = (k for m in metrics for k in (m.group, *m.units, REPEAT if m.units else None))
        self.keys = tuple(dict.fromkeys(filter(None, keys)))
        self.metadata: list[Mapping[str, str]] = []
        self.kinds: dict[tuple[str | None, ...], Mapping[str, str]] = {}

    def add(self, record: Record) -> None:
        self.total += 1
        if record.error is None:
            self.n += 1
            self.unparsed += record.unparsed
            self.tokens = list(map(add, self.tokens, _tokens_in(record.tokens)))
        for name, values in self.scores.items():
            values.append(record.scores.get(name, math.nan))
        self.clusters.append(record.cluster)
        if self.keys:
            told = record.metadata
            kind = tuple(_told(told[k]) if k in told else None for k in self.keys)
            mine = {k: v for k, v in zip(self.keys, kind) if v is not None}
            self.metadata.append(self.kinds.setdefault(kind, mine))

    def _result(self, metric: Metric) -> MetricResult | None:
        values, clusters = self.scores[metric.name], self.clusters
        if isinstance(clusters, Names):
            return MetricResult.of_columns(values, clusters, metric)
        weights = self.scores[metric.weight] if metric.weight else None
        seen = Seen(
            [None if math.isnan(v) else v for v in values],
            clusters,
            self.metadata if metric.group or metric.units else None,
            None if weights is None else [0.0 if math.isnan(w) else w for w in weights],
        )
        return MetricResult.of(seen, metric)

    def counts(self) -> dict[str, Any]:
        """Of ``CellResults``."""
        results = map(self._result, self.metrics)
        return {
            "n": self.n,
            "n_total": self.total,
            "errors": self.total - self.n,
            "unparsed": self.unparsed,
            "tokens": TokenCounts(*self.tokens),
            "metrics": tuple(m for m in results if m),
        }


def _told(value: Any) -> str:
    """What is said of a sample, as it is once it is read from a journal."""
    return value if type(value) is str else str(json.loads(json.dumps(value)))


def _counts(records: Iterable[Record], metrics: Sequence[Metric]) -> dict[str, Any]:
    tally = Tally(metrics)
    for record in records:
        tally.add(record)
    return tally.counts()


@dataclass(frozen=True)
class Ending:
    """What had come out when a run ended, and of which samples."""

    results: CellResults
    """As results.json has them."""
    digest: str
    """``ids_digest`` of the samples that count; in older journals SHA-256 over the sorted ids."""
    ids: tuple[str, ...] = ()
    """Those ids where a part of the samples was selected; otherwise all of the journal count."""

    @classmethod
    def of(cls, results: CellResults, ids: Iterable[str]) -> Ending:
        chosen = tuple(ids)
        return cls(results, ids_digest(chosen), chosen if results.selection.partial else ())

    def records(self, records: Mapping[str, Record]) -> Collection[Record]:
        """Those of a journal's records that count."""
        if self.results.selection.partial:
            return [records[id] for id in self.ids if id in records]
        return records.values()

    def results_of(self, records: Mapping[str, Record], metrics: Sequence[Metric]) -> CellResults:
        """The results by a journal's records as they are now: complete as long as these are of the
        same samples.
        """
        mine = self.records(records)
        digest_of = ids_digest if len(self.digest) == 2 * SIZE else _sorted_digest
        same = digest_of(r.id for r in mine) == self.digest
        return self.results.of_records(mine, metrics, complete=self.results.complete and same)

    def to_json(self) -> dict[str, Any]:
        ids = {"ids": list(self.ids)} if self.ids else {}
        return {"results": self.results.to_json(), "digest": self.digest, **ids}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ending:
        return cls(
            CellResults.from_json(typed(value, "results", Mapping)),
            typed(value, "digest", str),
            tuple(typed(value, "ids", list, [])),
        )


def ids_digest(ids: Iterable[str]) -> str:
    """Hex digits of the sum of the ids' digests, each id being there once."""
    return sum_digest(sum(int.from_bytes(digest(id)) for id in ids))


def sum_digest(total: int) -> str:
    """``ids_digest`` of ids whose digests have this sum: ``Index.total``."""
    return (total % (1 << 8 * SIZE)).to_bytes(SIZE).hex()


def _sorted_digest(ids: Iterable[str]) -> str:
    return sha256(json.dumps(sorted(ids)).encode()).hexdigest()
