"""Scores over groups of samples: a figure, a pair, a circular question is right when all of its
samples are.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evalkit.cell_results import MetricResult
from evalkit.columns import Columns
from evalkit.records import Record
from evalkit.results.pairs import PairedScores
from evalkit.run_info import RunInfo
from evalkit.stats import Weighted, compare, compare_weighted, detectable, mean_interval
from evalkit.task import Metric
from tests.runs import run

PLAIN = Metric("right")
FIGURES = Metric("right", units=("figure",))
MME = Metric("right", units=("", "figure"), group="kind", scale=200.0, total=True)


def record(id: str, right: float | None, figure: str, kind: str = "x", weight: float = 1) -> Record:
    scores = {} if right is None else {"right": right, "weight": weight}
    metadata = {"figure": figure, "kind": kind}
    error = "lost" if right is None else None
    return Record(id, figure, metadata, scores=scores, error=error)


RECORDS = [
    record("0", 1, "f0"),
    record("1", 1, "f0"),
    record("2", 1, "f1"),
    record("3", 0, "f1"),
    record("4", 0, "f2", "y"),
    record("5", 0, "f2", "y"),
]


def value(metric: Metric, records: list[Record] = RECORDS) -> float:
    result = MetricResult.of(records, metric)
    assert result is not None
    return result.value


def test_a_unit_is_right_when_all_of_its_samples_are() -> None:
    assert value(PLAIN) == pytest.approx(50)
    assert value(FIGURES) == pytest.approx(100 / 3)


def test_accuracy_and_accuracy_plus_add_up_over_kinds() -> None:
    # kind x: accuracy 3/4 and plus 1/2; kind y: 0 and 0. MME's sum is 75 + 50 + 0 + 0.
    assert value(MME) == pytest.approx(125)
    assert value(MME, RECORDS[:4]) == pytest.approx(125)  # a kind that is absent adds nothing


def test_a_unit_with_a_lost_sample_is_left_out() -> None:
    lost = [replace(RECORDS[0], scores={}, error="lost"), *RECORDS[1:]]
    assert value(FIGURES, lost) == 0.0  # f0 would be right by its other question alone
    assert value(PLAIN, lost) == pytest.approx(40)


def test_the_interval_of_units_is_over_clusters() -> None:
    rng = np.random.default_rng(0)
    records = [record(str(i), float(rng.random() < 0.8), f"f{i // 2}") for i in range(400)]
    result = MetricResult.of(records, FIGURES)
    assert result is not None and result.ci_low is not None and result.ci_high is not None
    p = result.value / 100
    assert result.ci_high - result.ci_low == pytest.approx(
        392 * (p * (1 - p) / 200) ** 0.5, rel=0.1
    )
    assert (result.n, result.clusters) == (400, 200)


def test_clusters_in_several_groups_are_resampled_as_wholes() -> None:
    """Three views of the same pictures are not three independent sets of pictures."""
    rng = np.random.default_rng(1)
    x = (rng.random(300) < 0.6).astype(float)
    clusters = [str(i) for i in range(300)]
    plain = mean_interval(x, clusters)
    thrice = mean_interval([*x] * 3, clusters * 3, ["a"] * 300 + ["b"] * 300 + ["c"] * 300)
    assert thrice.value == pytest.approx(plain.value)
    assert plain.low is not None and plain.high is not None
    assert thrice.low == pytest.approx(plain.low, abs=0.01)
    assert thrice.high == pytest.approx(plain.high, abs=0.01)
    d = rng.normal(0.1, 1, 300)
    alone = detectable(d, clusters)
    joint = detectable([*d] * 3, clusters * 3, ["a"] * 300 + ["b"] * 300 + ["c"] * 300)
    assert joint == pytest.approx(alone, rel=1e-6)


def test_two_cells_are_compared_on_the_units_that_both_have() -> None:
    better = [replace(r, scores={"right": 1.0}) for r in RECORDS]
    a, b = ({r.id: r for r in side} for side in (better, RECORDS))
    result = MetricResult.of(better, FIGURES)
    assert result is not None
    pair = PairedScores.of(Columns.of(a), Columns.of(b), result)
    assert pair is not None
    assert (pair.a, pair.b, pair.n) == (100.0, pytest.approx(100 / 3), 3)
    del b["5"]
    pair = PairedScores.of(Columns.of(a), Columns.of(b), result)
    assert pair is not None
    assert (pair.a, pair.b, pair.n) == (100.0, 50.0, 2)


def test_a_weighted_mean_is_that_of_so_many_equal_samples() -> None:
    weighted = [record("0", 1, "f0", weight=2), record("1", 0, "f1", weight=1)]
    metric = Metric("right", weight="weight")
    assert value(metric, weighted) == pytest.approx(200 / 3)
    nothing = [record("0", 1, "f0", weight=0)]
    assert MetricResult.of(nothing, metric) is None


def test_of_a_weighted_mean_whole_units_count_sample_by_sample() -> None:
    metric = Metric("right", weight="weight", units=("figure",))
    assert value(metric) == pytest.approx(50)
    lost = [replace(RECORDS[0], scores={}, error="lost"), *RECORDS[1:]]
    assert value(metric, lost) == pytest.approx(25)  # f0 goes, f1 and f2 have four samples
    taken_out = [*RECORDS[:2], record("2", 1, "f1"), record("3", 1, "f1", weight=-1)]
    assert value(metric, taken_out) == pytest.approx(100)


def test_weighted_means_are_compared_as_ratios() -> None:
    rng = np.random.default_rng(2)
    clusters = [str(i // 2) for i in range(300)]
    x, y = (rng.random(300) < 0.7).astype(float), (rng.random(300) < 0.5).astype(float)
    ones = np.ones(300)
    ours, effect = compare_weighted(Weighted(x, ones), Weighted(y, ones), clusters)
    plain = compare(x, y, clusters)
    assert ours.difference.value == pytest.approx(plain.difference.value)
    assert ours.p_value == pytest.approx(plain.p_value, abs=0.01)
    assert ours.difference.low == pytest.approx(plain.difference.low, abs=0.02)
    assert effect == pytest.approx(detectable(x - y, clusters), rel=0.05)
    same, _ = compare_weighted(Weighted(x, ones), Weighted(x, ones), clusters)
    assert (same.difference.value, same.p_value) == (0.0, 1.0)


def test_the_interval_of_a_ratio_covers_its_truth() -> None:
    """F1-like ratios over clusters of two: 95 % intervals hold the true value."""
    inside, rng = 0, np.random.default_rng(3)
    for _ in range(60):
        weights = rng.integers(0, 3, 240).astype(float)
        values = (rng.random(240) < 0.6).astype(float)
        interval = mean_interval(values, [str(i // 2) for i in range(240)], weights=weights)
        assert interval.low is not None and interval.high is not None
        inside += interval.low <= 0.6 <= interval.high
    assert inside / 60 >= 0.87


def test_a_result_keeps_its_definition(tmp_path: Path) -> None:
    for metric in (PLAIN, FIGURES, MME, Metric("right", weight="weight")):
        result = MetricResult.of(RECORDS, metric)
        assert result is not None
        assert MetricResult.from_json(json.loads(json.dumps(result.to_json()))).definition == metric


def test_run_info_keeps_units(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    info = replace(outcome.cell.stored.run, metrics=(MME,))
    assert RunInfo.from_json(json.loads(json.dumps(info.to_json()))).metrics == (MME,)
