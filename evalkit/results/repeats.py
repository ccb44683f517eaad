"""Several drawn answers of each sample, taken together: pass@k, and the answer that most agree on.

pass@k is the unbiased estimate of Chen et al., "Evaluating Large Language Models Trained on Code"
(2021), section 2.1: of n answers with c right ones, the chance that k of them hold a right one. The
majority's score is that of the answer read most often; where several are, their mean, which is
what a random choice among them scores. Intervals are over clusters, so that the repetitions of a
sample count as one observation and not as many.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from evalkit.cell_results import MetricResult
from evalkit.records import Record
from evalkit.stats import mean_interval
from evalkit.store import CellFolder


def repeated(cell: CellFolder) -> list[MetricResult]:
    """Metrics over samples of several answers (``accuracy, pass@4``; ``accuracy, majority@8``):
    pass@k for k = 1, 2, 4, ... where answers are right or wrong, and the majority's score, by
    the cell's first metric that is a mean of samples (F1 and metrics over units are none); nothing
    for a cell without repetitions, or without such a metric. Samples of which an answer is missing
    are left out.
    """
    repeats = int(cell.run.identity.asking.get("repeats", 1))
    of_samples = (m for m in cell.results.metrics if not (m.units or m.weight or m.total))
    if repeats < 2 or (metric := next(of_samples, None)) is None:
        return []
    samples: dict[str, list[Record]] = {}
    for record in cell.scored().values():
        if metric.metric in record.scores and "sample" in record.metadata:
            samples.setdefault(str(record.metadata["sample"]), []).append(record)
    whole = [records for records in samples.values() if len(records) == repeats]
    if not whole:
        return []
    scores = [[r.scores[metric.metric] for r in records] for records in whole]
    out = []
    if all(value in (0.0, 1.0) for own in scores for value in own):
        k = 1
        while k <= repeats:
            values = [pass_at(len(own), round(sum(own)), k) for own in scores]
            out.append(_value(f"pass@{k}", metric, values, whole))
            k *= 2
    values = [majority(records, metric.metric) for records in whole]
    return [*out, _value(f"majority@{repeats}", metric, values, whole)]


def pass_at(n: int, right: int, k: int) -> float:
    """The chance that k of n answers, of which so many are right, hold a right one."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority(records: Sequence[Record], metric: str) -> float:
    """The score of what most of a sample's answers were read as. Answers that could not be read
    have no vote, unless none could.
    """
    votes = [r for r in records if not r.unparsed] or list(records)
    read = [json.dumps(r.parsed, sort_keys=True) for r in votes]
    counts = Counter(read)
    most = max(counts.values())
    # each of those that most agree on has one vote, whatever scores its own answers have
    means = [
        math.fsum(r.scores[metric] for r, own in zip(votes, read) if own == answer) / most
        for answer, count in counts.items()
        if count == most
    ]
    return math.fsum(means) / len(means)


def _value(
    name: str, metric: MetricResult, values: Sequence[float], samples: Sequence[Sequence[Record]]
) -> MetricResult:
    first = [records[0] for records in samples]
    groups = [str(r.metadata.get(metric.group)) for r in first] if metric.group else None
    mean = mean_interval(values, [r.cluster for r in first], groups).times(metric.scale)
    return replace(
        metric,
        metric=f"{metric.metric}, {name}",
        value=mean.value,
        ci_low=mean.low,
        ci_high=mean.high,
        n=len(values),
    )
