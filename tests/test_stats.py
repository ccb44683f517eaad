"""Intervals cover, tests keep their level, and degenerate cases stay honest."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from evalkit.stats import (
    BCA_CLUSTERS,
    NORMAL_CLUSTERS,
    RESAMPLES,
    Interval,
    cluster_sums,
    clustered_mean,
    compare,
    corrected,
    detectable,
    holm,
    mean,
    mean_interval,
    sign_flip_p,
)


def clustered(
    rng: np.random.Generator, clusters: int, mean: float
) -> tuple[list[float], list[int]]:
    """Right and wrong answers, 1 to 5 a cluster, alike inside clusters, around a true mean."""
    sizes = rng.integers(1, 6, clusters)
    p = rng.beta(2 * mean, 2 * (1 - mean), clusters).repeat(sizes)
    return (rng.random(len(p)) < p).astype(float).tolist(), np.arange(clusters).repeat(
        sizes
    ).tolist()


def coverage(trials: int, groups: int, clusters: int) -> float:
    """The share of 95 % intervals that hold the true macro average over ``groups`` groups of
    different means, ``clusters`` clusters each.
    """
    rng = np.random.default_rng(0)
    true = rng.uniform(0.2, 0.9, groups)
    hits = 0
    for _ in range(trials):
        values, names, of = [], [], []
        for g in range(groups):
            x, c = clustered(rng, clusters, true[g])
            values += x
            names += [(g, i) for i in c]
            of += [g] * len(x)
        found = mean_interval(values, names, of if groups > 1 else None)
        assert found.low is not None and found.high is not None
        hits += found.low <= true.mean() <= found.high
    return hits / trials


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 120 sets of 60 clusters; an interval over samples, not clusters, would not."""
    assert 0.90 <= coverage(120, 1, 60) <= 0.99
    rng = np.random.default_rng(0)
    naive = 0
    for _ in range(120):
        values = clustered(rng, 60, 0.6)[0]
        naive += abs(np.mean(values) - 0.6) <= 1.96 * np.std(values) / np.sqrt(len(values))
    assert naive / 120 < 0.9


def test_a_macro_average_over_small_groups_covers_too() -> None:
    assert 0.91 <= coverage(100, 11, 4) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "clusters"), [(1, 60), (3, 10), (8, 25), (11, 4), (11, 20)])
def test_intervals_cover_over_many_repetitions(groups: int, clusters: int) -> None:
    assert 0.92 <= coverage(1000, groups, clusters) <= 0.98


def test_a_difference_of_nothing_is_found_as_rarely_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    shares = (rng.random((150, 20, 4)) - rng.random((150, 20, 4))).sum(axis=2)
    assert np.mean([sign_flip_p(s) < 0.05 for s in shares]) < 0.1


def test_a_family_of_nothing_finds_something_as_rarely_as_the_level_says() -> None:
    """80 families of 3 arms on 16 clusters, none of them different, after Holm's correction."""
    rng = np.random.default_rng(5)
    shares = (rng.random((80, 3, 16, 3)) - rng.random((80, 3, 16, 3))).sum(axis=3)
    false = [min(holm([sign_flip_p(s) for s in family])) < 0.05 for family in shares]
    assert np.mean(false) <= 0.1


def test_the_minimum_detectable_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    clusters = list(np.arange(120) // 2)

    def noise() -> np.ndarray:  # type: ignore[type-arg]
        return np.asarray(rng.normal(0, 1, 60).repeat(2) + rng.normal(0, 1, 120))

    effect = detectable(noise(), clusters)
    assert effect is not None
    sums = [cluster_sums(noise() + effect, clusters)[0] for _ in range(60)]
    assert 0.68 <= np.mean([sign_flip_p(s) < 0.05 for s in sums]) <= 0.92


def test_an_effect_beyond_the_corrected_mde_is_significant_after_the_correction() -> None:
    """At the level of ten tests the effect must be larger, by the normal quantiles."""
    assert corrected(1) == 1.0
    assert corrected(10) == pytest.approx((2.807 + 0.842) / (1.960 + 0.842), abs=1e-3)


def test_the_mde_of_a_macro_average_weighs_groups_alike() -> None:
    """One noisy group of few samples rules a macro average, not a mean over samples."""
    rng = np.random.default_rng(4)
    d = np.concatenate([rng.normal(0, 0.01, 200), rng.normal(0, 1, 20)])
    groups = ["a"] * 200 + ["b"] * 20
    macro, plain = detectable(d, range(220), groups), detectable(d, range(220))
    assert macro is not None and plain is not None and macro > 3 * plain


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
def test_holm_lies_between_the_p_value_and_bonferroni_s(p: list[float]) -> None:
    for a, b in zip(holm(p), p, strict=True):
        assert b - 1e-12 <= a <= min(1.0, len(p) * b) + 1e-12


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


@pytest.mark.parametrize(
    ("clusters", "method"), [(7, "BCa"), (60, "BCa"), (BCA_CLUSTERS + 50, "percentile")]
)
def test_the_interval_is_that_of_scipy_for_the_same_draws(clusters: int, method: str) -> None:
    x, of = clustered(np.random.default_rng(clusters), clusters, 0.7)
    names = [f"{i:05}" for i in of]
    sums, sizes = cluster_sums(x, names)
    theirs = bootstrap(
        (sums, sizes),
        lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        n_resamples=RESAMPLES,
        batch=200,
        method=method,
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = mean_interval(x, names)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("value", "n"), [(0.0, 2), (1.0, 9), (1.0, 200)])
def test_equal_values_have_wilsons_interval(value: float, n: int) -> None:
    theirs = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    ours = mean_interval([value] * n, range(n))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_rounding_breaks_no_ties() -> None:
    """Tenths are rounded, whole numbers are not: both have the same interval."""
    whole, clusters = [4, 9, 9, 8, 4, 8, 0], list("cbacdda")
    exact = mean_interval(whole, clusters)
    tenths = mean_interval([v / 10 for v in whole], clusters)
    assert exact.low is not None and exact.high is not None
    assert (tenths.low, tenths.high) == pytest.approx((exact.low / 10, exact.high / 10))


def test_clusters_without_weight_say_nothing() -> None:
    """Three answers of yes, all right, among a thousand questions: Wilson's interval of three."""
    n = 1000
    weights = np.arange(n) < 3
    few = mean_interval(weights.astype(float), range(n), weights=weights)
    assert few == mean_interval([1.0] * 3, range(3))
    # so rare that a draw of clusters may miss all of them
    hits = np.arange(n) < 2
    rare = mean_interval(hits.astype(float), range(n), weights=weights)
    assert rare == mean_interval([1.0, 1.0, 0.0], range(3))


def test_a_macro_average_over_few_shared_clusters_is_as_wide_as_over_separate_ones() -> None:
    """Resampling n clusters alone would be narrower by the root of (n - 1) / n."""
    n, each = 8, np.random.default_rng(0).normal(size=8)
    groups = np.repeat(range(40), n).tolist()
    shared = mean_interval(np.tile(each, 40), np.tile(range(n), 40).tolist(), groups)
    assert shared.low is not None and shared.high is not None
    error = np.std(each, ddof=1) / np.sqrt(n)
    assert (shared.high - shared.low) / error == pytest.approx(2 * 1.96, rel=0.03)


def test_equal_values_between_0_and_1_tell_no_interval() -> None:
    assert mean_interval([0.5] * 9, list(range(9))) == Interval(0.5, None, None)


def test_a_sign_turned_round_turns_the_comparison_round() -> None:
    ones, noughts = [1.0] * 30, [0.0] * 30
    up, down = compare(ones, noughts, list(range(30))), compare(noughts, ones, list(range(30)))
    a, b = up.difference, down.difference
    assert a.low is not None and a.high is not None
    assert (b.low, b.high) == (-a.high, -a.low)
    assert up.p_value == down.p_value


def test_above_some_number_of_clusters_nothing_is_resampled_and_nothing_jumps() -> None:
    rng = np.random.default_rng(6)
    x = rng.random(NORMAL_CLUSTERS + 1)
    fewer, more = (mean_interval(x[:n], range(n)) for n in (NORMAL_CLUSTERS, NORMAL_CLUSTERS + 1))
    assert fewer.low == pytest.approx(more.low, abs=3e-4)
    assert fewer.high == pytest.approx(more.high, abs=3e-4)
    flipped = [sign_flip_p(x[:n] - 0.498) for n in (NORMAL_CLUSTERS, NORMAL_CLUSTERS + 1)]
    assert flipped[0] == pytest.approx(flipped[1], abs=0.02)


def test_thousands_of_clusters_need_little_memory() -> None:
    tracemalloc.start()
    mean_interval(np.arange(3_000) % 3 / 2, list(range(3_000)))
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("n", "clusters"), [(600, 90), (9_000, 4_000), (150_000, 500), (150_000, 10**9)]
)
def test_clusters_by_number_tell_what_clusters_by_name_tell(n: int, clusters: int) -> None:
    """Also in another order, with other numbers where there are many, and among missing values."""
    rng = np.random.default_rng(n)
    x, of = rng.random(n).round(2), rng.integers(0, clusters, n)
    named = mean_interval(x, [f"page {c:010}" for c in of])
    assert clustered_mean(x, of) == (named, len(set(of.tolist())))
    shuffled = rng.permutation(n)
    other = of[shuffled] if clusters < NORMAL_CLUSTERS else 7 - 5 * of[shuffled]
    gaps = np.insert(x[shuffled], [0, n // 2, n], np.nan), np.insert(other, [0, n // 2, n], 1)
    assert clustered_mean(*gaps)[0] == named


def test_few_values_of_many_clusters_tell_the_same_whatever_numbers_these_have() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, NORMAL_CLUSTERS + 5) / 7
    x[:10] = np.nan
    told = {clustered_mean(x, rng.integers(-(2**62), 2**62, len(x))) for _ in range(3)}
    assert len(told) == 1


def test_the_interval_of_a_million_clusters_holds_little_beside_its_samples() -> None:
    x, of = np.arange(1_000_000) % 7 / 4, np.arange(1_000_000)
    tracemalloc.start()
    clustered_mean(x, of)
    assert tracemalloc.get_traced_memory()[1] < 15e6
    tracemalloc.stop()


def test_the_interval_of_no_values_is_an_error() -> None:
    for x in ([], [np.nan]):
        with pytest.raises(ValueError, match="no values"):
            clustered_mean(np.array(x), np.zeros(len(x), int))
    with pytest.raises(ValueError, match="no values"):
        mean_interval([], [])


def test_one_cluster_tells_nothing_of_the_spread_between_them() -> None:
    """Also where all of its values are equal, and in groups."""
    for groups in (None, ["g"] * 3):
        assert mean_interval([1, 1, 1], ["page"] * 3, groups) == Interval(1.0, None, None)
        for b in ([1, 0, 1], [0, 0, 0]):
            paired = compare([1, 0, 1], b, ["page"] * 3, groups)
            assert (paired.difference.low, paired.difference.high) == (None, None)
            assert paired.p_value is None


def test_a_negative_weight_takes_a_sample_out_of_both_sums() -> None:
    """(after - before) / (1 - before) of pairs is a weighted mean, and covered as one."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        before, after = (rng.random((2, 120)) < [[0.4], [0.6]]).astype(float)
        values, weights = np.concatenate([after, before]), np.concatenate([np.ones(120), -before])
        found = mean_interval(values, [*range(120)] * 2, weights=weights)
        assert found.value == pytest.approx((after.mean() - before.mean()) / (1 - before.mean()))
        assert found.low is not None and found.high is not None
        covered += found.low <= (0.6 - 0.4) / 0.6 <= found.high
    assert 180 <= covered <= 199


def test_where_resampling_may_leave_no_weight_there_is_no_interval() -> None:
    """Of twelve pairs ten were right before: some draws have these alone."""
    before, after = [1.0] * 10 + [0.0] * 2, [1.0, 0.0, 1.0] * 4
    weights = [1.0] * 12 + [-b for b in before]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean_interval(after + before, [*range(12)] * 2, weights=weights)
    assert found == Interval(pytest.approx(-1.0), None, None)  # type: ignore[arg-type]
