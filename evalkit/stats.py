"""Intervals and paired tests for scores whose samples come in clusters (questions that share an
image or a video).

Resampling is over clusters, not samples: ten questions on one page are not ten independent pages
(Miller, "Adding Error Bars to Evals", 2024, section 2.2, argues the same for clustered standard
errors). scipy does the work; every function is deterministic for its seed, whatever the order of
the samples.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
FLIPS = 9999
BCA_CLUSTERS = 1000
"""Above this many clusters the plain percentile interval is used: BCa's correction is negligible
there and its jackknife costs O(n^2)."""
NORMAL_CLUSTERS = 3000
"""Above this many clusters nothing is resampled: the normal approximation, with the clusters'
standard error, agrees with resampling to three digits."""
BLOCK = 2_000_000
"""How many resampled numbers are held at a time; scipy would hold clusters x clusters of them."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; low and high are None where there is none (a single
    cluster).
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The mean of paired differences, its interval, the two-sided p-value of a sign-flip test over
    clusters, and the pairs.
    """

    difference: Interval
    p_value: float | None
    n: int


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of values and its interval under resampling of clusters (bias-corrected and
    accelerated, Efron 1987; with many clusters percentile, with very many normal).

    With ``groups`` the mean of the groups' means (a macro average), clusters being resampled inside
    each group. Where all values are equal, resampling has nothing to say: for 0 and 1 Wilson's
    interval over the number of clusters is given, for others none. Raises ValueError for no values.
    """
    x, clusters, groups = _sorted(values, clusters, groups)
    if not len(x):
        raise ValueError("no values")
    if groups is not None:
        return _macro_interval(x, clusters, groups, confidence, seed)
    sums, sizes = cluster_sums(x, clusters)
    value = float(x.mean())
    if len(sums) < 2:
        return Interval(value, None, None)
    if np.ptp(x) == 0:
        return _degenerate(value, len(sums), confidence)
    if len(sums) > NORMAL_CLUSTERS:
        reach = _quantile((1 + confidence) / 2) * _standard_error(sums, sizes)
        return Interval(value, value - reach, value + reach)
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("BCa", "percentile") if len(sums) <= BCA_CLUSTERS else ("percentile",):
            found = bootstrap(
                (sums, sizes),
                lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
                paired=True,
                vectorized=True,
                n_resamples=RESAMPLES,
                batch=max(1, BLOCK // len(sums)),
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
            if np.isfinite(found.low) and np.isfinite(found.high):
                return Interval(value, float(found.low), float(found.high))
    return Interval(value, None, None)


def mean(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> float:
    """The mean, or the mean of the groups' means."""
    x = np.asarray(values, dtype=np.float64)
    return math.fsum(x * _weights(len(x), groups))


def compare(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """The paired difference a - b, macro-averaged over ``groups`` if given.

    The p-value is that of a two-sided sign-flip permutation test: under the null hypothesis each
    cluster's contribution to the difference is as likely to be negative as positive.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    d, clusters, groups = _sorted(differences, clusters, groups)
    if not d.any():
        return Comparison(Interval(0.0, 0.0, 0.0), 1.0, len(d))
    interval = mean_interval(d, clusters, groups, confidence, seed)
    shares, _ = cluster_sums(d * _weights(len(d), groups), clusters)
    if len(shares) < 2:
        return Comparison(interval, None, len(d))
    return Comparison(interval, sign_flip_p(shares, seed), len(d))


def sign_flip_p(shares: Floats, seed: int = 0) -> float:
    """Two-sided p-value of the sum of ``shares`` (one a cluster) when their signs are flipped at
    random: over all sign patterns where there are few clusters, over FLIPS drawn ones where there
    are more (the observed one counted among them: Phipson and Smyth, 2010).
    """
    n, observed = len(shares), abs(shares.sum())
    if n > NORMAL_CLUSTERS:
        from scipy.stats import norm

        return float(2 * norm.sf(observed / np.sqrt((shares**2).sum())))
    least = observed * (1 - 1e-12)  # sums of the same numbers in another order are the same sum
    if 2**n <= FLIPS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ shares) >= least))
    rng, extreme = np.random.default_rng(seed), 1
    for start in range(0, FLIPS, rows := max(1, BLOCK // n)):
        flipped = rng.integers(0, 2, (min(rows, FLIPS - start), n), dtype=np.int8)
        # a sum with signs is the whole sum less twice that of the flipped ones
        sums = shares.sum() - 2 * (flipped @ shares)
        extreme += int((np.abs(sums) >= least).sum())
    return extreme / (FLIPS + 1)


def detectable(
    differences: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    power: float = 0.8,
    level: float = 0.05,
) -> float | None:
    """The minimum detectable effect: the smallest true mean difference that a two-sided test at
    ``level`` finds with ``power``.

    From the spread of these paired differences between clusters (normal approximation), inside each
    group where the mean is one over ``groups``; None where a group has fewer than two clusters.
    """
    d, clusters, groups = _sorted(differences, clusters, groups)
    errors = []
    for name in dict.fromkeys(groups or [None]):
        mine = [i for i in range(len(d)) if groups is None or groups[i] == name]
        sums, sizes = cluster_sums(d[mine], [clusters[i] for i in mine])
        if len(sums) < 2:
            return None
        errors.append(_standard_error(sums, sizes))
    error = math.hypot(*errors) / len(errors)
    return (_quantile(1 - level / 2) + _quantile(power)) * error


def corrected(level: float, tests: int, power: float = 0.8) -> float:
    """How many times larger the minimum detectable effect is when ``level`` is shared by ``tests``
    tests (Bonferroni: that of the smallest p-value, which Holm's correction asks most of).
    """
    needed = [_quantile(1 - share / 2) + _quantile(power) for share in (level / tests, level)]
    return needed[0] / needed[1]


def _standard_error(sums: Floats, sizes: Floats) -> float:
    """Of the mean of all samples, from the spread between clusters (linearised ratio of sums)."""
    rest = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt((rest**2).sum() * len(sums) / (len(sums) - 1))) / float(sizes.sum())


def _quantile(p: float) -> float:
    """Of the standard normal distribution."""
    from scipy.stats import norm

    return float(norm.ppf(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm, 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    out = np.empty_like(adjusted)
    out[order] = adjusted
    return [float(v) for v in out]


def cluster_sums(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum of values and number of samples of each cluster, in order of first appearance."""
    index = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    at = np.array([index[c] for c in clusters])
    x = np.asarray(values, dtype=np.float64)
    sums = np.bincount(at, weights=x, minlength=len(index)).astype(np.float64)
    return sums, np.bincount(at, minlength=len(index)).astype(np.float64)


def _sorted(
    values: ArrayLike, clusters: Sequence[Hashable], groups: Sequence[Hashable] | None
) -> tuple[Floats, Sequence[Hashable], Sequence[Hashable] | None]:
    """The samples in an order that is their own, not that in which they came: sums and draws follow
    it.
    """
    x = np.asarray(values, dtype=np.float64)
    keys = list(zip(map(repr, groups or clusters), map(repr, clusters), x.tolist()))
    order = sorted(range(len(x)), key=keys.__getitem__)
    return (
        x[order],
        [clusters[i] for i in order],
        None if groups is None else [groups[i] for i in order],
    )


def _weights(n: int, groups: Sequence[Hashable] | None) -> Floats:
    """What each sample weighs in the mean, or in the mean of the groups' means."""
    if groups is None:
        return np.full(n, 1 / n)
    sizes = Counter(groups)
    return np.array([1 / (len(sizes) * sizes[g]) for g in groups])


def _macro_interval(
    x: Floats,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable],
    confidence: float,
    seed: int,
) -> Interval:
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(groups))
    means, errors, drawn = [], [], np.zeros(RESAMPLES)
    many = len(set(clusters)) > NORMAL_CLUSTERS
    for name in names:
        mine = [i for i, g in enumerate(groups) if g == name]
        sums, sizes = cluster_sums(x[mine], [clusters[i] for i in mine])
        centre = float(x[mine].mean())
        means.append(centre)
        if len(sums) < 2:
            continue
        errors.append(_standard_error(sums, sizes))
        if many:
            continue
        pick = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
        # Resampling n clusters gives a mean whose variance is too small by (n - 1) / n: with a few
        # clusters a group, and many groups, intervals would cover 86 to 93 % instead of 95.
        spread = np.sqrt(len(sums) / (len(sums) - 1))
        drawn += (sums[pick].sum(1) / sizes[pick].sum(1) - centre) * spread / len(names)
    value = float(np.mean(means))
    if np.ptp(x) == 0:
        return _degenerate(value, len(set(clusters)), confidence)
    if len(errors) < len(names):  # a group with one cluster
        return Interval(value, None, None)
    if many:
        reach = _quantile((1 + confidence) / 2) * math.hypot(*errors) / len(names)
        return Interval(value, value - reach, value + reach)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        value, max(float(x.min()), value + float(low)), min(float(x.max()), value + float(high))
    )


def _degenerate(value: float, n: int, confidence: float) -> Interval:
    if abs(value) not in (0.0, 1.0):
        return Interval(value, None, None)
    from scipy.stats import binomtest

    wilson = binomtest(round(abs(value) * n), n).proportion_ci(confidence, method="wilson")
    low, high = float(wilson.low), float(wilson.high)
    return Interval(value, low, high) if value >= 0 else Interval(value, -high, -low)
