"""Intervals cover, tests keep their level, and degenerate cases stay honest."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.stats import Interval, compare, detectable, holm, mean, mean_interval


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 sets of 60 clusters of 1 to 5 correlated right or wrong answers around a true 0.6; and
    naive ones would not.
    """
    rng = np.random.default_rng(0)
    hits = naive = 0
    trials = 300
    for _ in range(trials):
        values, clusters = [], []
        for c in range(60):
            p = rng.beta(1.2, 0.8)
            n = rng.integers(1, 6)
            values += (rng.random(n) < p).astype(float).tolist()
            clusters += [c] * int(n)
        found = mean_interval(values, clusters, seed=1)
        hits += found.low <= 0.6 <= found.high  # type: ignore[operator]
        half = 1.96 * np.std(values) / np.sqrt(len(values))
        naive += abs(np.mean(values) - 0.6) <= half
    assert 0.90 <= hits / trials <= 0.98
    assert naive < hits


def test_a_difference_of_nothing_is_found_as_rarely_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    p = [
        compare(rng.random(80), rng.random(80), list(np.arange(80) // 4), seed=2).p_value
        for _ in range(150)
    ]
    assert sum(v < 0.05 for v in p) / len(p) < 0.12  # type: ignore[operator]


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(2)
    b = rng.random(100)
    found = compare(b + 0.1 + 0.05 * rng.random(100), b, list(range(100)))
    assert found.p_value < 0.001  # type: ignore[operator]
    assert 0.1 < found.difference.low < found.difference.high < 0.15  # type: ignore[operator]


def test_all_right_is_not_certainty() -> None:
    found = mean_interval([1.0] * 200, list(range(200)))
    assert found.value == found.high == 1.0
    assert 0.97 < found.low < 0.99  # type: ignore[operator]


def test_one_cluster_tells_nothing() -> None:
    assert mean_interval([0.0, 1.0, 1.0], ["a"] * 3).low is None


def test_a_macro_average_weighs_groups_alike() -> None:
    values, groups = [1.0] * 30 + [0.0] * 5 + [1.0] * 5, ["a"] * 30 + ["b"] * 10
    found = mean_interval(values, list(range(40)), groups)
    assert found.value == pytest.approx(0.75)
    assert found.low < 0.75 < found.high  # type: ignore[operator]


def test_equal_sides_have_no_difference() -> None:
    found = compare([0.2, 0.4], [0.2, 0.4], [1, 2])
    assert (found.difference.value, found.p_value) == (0.0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value(p: list[float]) -> None:
    assert all(a >= b - 1e-12 for a, b in zip(holm(p), p))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_interval_is_finite_and_repeats(pairs: list[tuple[float, int]]) -> None:
    values, clusters = [v for v, _ in pairs], [c for _, c in pairs]
    found = mean_interval(values, clusters)
    assert found == mean_interval(values, clusters)
    assert found.low is None or np.isfinite([found.low, found.high]).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_of_the_samples_changes_nothing(grouped: bool) -> None:
    rng = np.random.default_rng(5)
    a, b, clusters = rng.random(300), rng.random(300), rng.integers(0, 60, 300)
    shuffled = rng.permutation(300)
    groups = (clusters % 4).tolist() if grouped else None
    told = [
        (
            mean_interval(a[i], clusters[i].tolist(), g),
            compare(a[i], b[i], clusters[i].tolist(), g),
            mean(a[i], g),
            detectable(a[i] - b[i], clusters[i].tolist()),
        )
        for i in (np.arange(300), shuffled)
        for g in ([groups[j] for j in i] if groups else None,)
    ]
    assert told[0] == told[1]


def test_equal_values_between_0_and_1_tell_no_interval() -> None:
    assert mean_interval([0.5] * 9, list(range(9))) == Interval(0.5, None, None)


def test_a_sign_turned_round_turns_the_comparison_round() -> None:
    ones, noughts = [1.0] * 30, [0.0] * 30
    up, down = compare(ones, noughts, list(range(30))), compare(noughts, ones, list(range(30)))
    assert (up.difference.low, up.difference.high) == (-down.difference.high, -down.difference.low)  # type: ignore[operator]
    assert up.p_value == down.p_value


def test_thousands_of_clusters_need_little_memory() -> None:
    tracemalloc.start()
    mean_interval(np.arange(20_000) % 3 / 2, list(range(20_000)))
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
