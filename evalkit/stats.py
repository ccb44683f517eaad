"""Intervals and paired tests for scores whose samples come in clusters (questions that share an
image or a video).

Resampling is over clusters, not samples: ten questions on one page are not ten independent pages
(Miller, "Adding Error Bars to Evals", 2024, section 2.2, argues the same for clustered standard
errors). Intervals are at 95 %. Every function gives the same numbers for the same samples, whatever
their order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]
"""A number for each sample: of its cluster, or of its group."""
CONFIDENCE = 0.95
TAILS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
LEVEL, POWER = 0.05, 0.8
"""Of the minimum detectable effect: the level of the test, and how often it is to find the
effect."""
SEED = 0
RESAMPLES = 2000
FLIPS = 9999
BCA_CLUSTERS = 1000
"""Above this many clusters the plain percentile interval is used: BCa's correction is negligible
there."""
NORMAL_CLUSTERS = 3000
"""Above this many clusters nothing is resampled: the normal approximation, with the clusters'
standard error, agrees with resampling to three digits."""
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(TAILS[1])
"""Standard errors from the mean to an end of its interval."""
FEW_CLUSTERS = 256
"""Up to this many, draws are kept as the numbers that they are multiplied as."""
BLOCK = 2_000_000
"""How many drawn numbers are held at a time."""
MANY = 1 << 17
"""Above so many samples, clusters are summed a part at a time."""
WIDEST = 64
"""Bytes of names that are compared in an array of texts as wide as the widest."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; low and high are None where there is none (a single
    cluster).
    """

    value: float
    low: float | None
    high: float | None

    def times(self, scale: float) -> Interval:
        """In another unit, in which one of this is ``scale``."""
        low, high = (None if end is None else scale * end for end in (self.low, self.high))
        return Interval(scale * self.value, low, high)


def excludes_0(low: float | None, high: float | None) -> bool:
    """Whether there is an interval, and 0 lies outside of it."""
    return low is not None and high is not None and not low <= 0 <= high


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
    weights: ArrayLike | None = None,
) -> Interval:
    """The mean of values and its interval under resampling of clusters (bias-corrected and
    accelerated, Efron 1987; percentile above ``BCA_CLUSTERS`` clusters, normal above
    ``NORMAL_CLUSTERS``).

    With ``groups`` the mean of the groups' means (a macro average), clusters being resampled inside
    each group, or as wholes where one has samples in several groups. With ``weights`` (and no
    groups) the weighted mean; a negative weight takes a sample out of both sums. Where all values
    are equal, resampling has nothing to say: for 0 and 1 Wilson's interval over the number of
    clusters is given, for others none. Raises ValueError for no values, or no weight.
    """
    if weights is not None:
        return _weighted_interval(values, weights, clusters)
    if groups is None:
        return clustered_mean(values, _numbers(clusters))[0]
    x, mine, group = _sorted(values, clusters, groups)
    if not len(x):
        raise ValueError("no values")
    return _interval(x, mine, group)


def clustered_mean(values: ArrayLike, clusters: Codes) -> tuple[Interval, int]:
    """``mean_interval`` of samples whose clusters are whole numbers, and how many clusters there
    are. NaN is no value. Up to ``NORMAL_CLUSTERS`` clusters are 0, 1, 2 ... in the order of their
    names; more may be any numbers, which need not be the same the next time. Of many samples it
    holds little beside what it is given.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x) - int(np.count_nonzero(np.isnan(x)))
    if not n:
        raise ValueError("no values")
    parts = (x[i : i + MANY] for i in range(0, len(x), MANY))
    value = math.fsum(chain.from_iterable(part[part == part].tolist() for part in parts)) / n
    count, few = 0, list[tuple[Floats, Floats]]()

    def squares() -> Iterator[float]:
        nonlocal count
        for sums, sizes in _of_clusters(x, clusters):
            count += len(sums)
            if count <= NORMAL_CLUSTERS:
                few.append((sums, sizes))
            yield from ((sums - sizes * value) ** 2).tolist()

    spread = math.fsum(squares())
    if count < 2:
        return Interval(value, None, None), count
    if np.fmin.reduce(x) == np.fmax.reduce(x):  # which pass over NaN
        return _degenerate(value, count), count
    if count > NORMAL_CLUSTERS:
        reach = Z * math.sqrt(spread * count / (count - 1)) / n
        return Interval(value, value - reach, value + reach), count
    sums, sizes = map(np.concatenate, zip(*few))
    if clusters.max() >= NORMAL_CLUSTERS:  # of many clusters few have values: by these
        order = np.lexsort((sums, sizes))
        sums, sizes = sums[order], sizes[order]
    return Interval(value, *_bootstrap(sums, sizes)), count


def _of_clusters(x: Floats, clusters: Codes) -> Iterator[tuple[Floats, Floats]]:
    """Sum of values and number of samples of each cluster that has a value, in the order of their
    numbers: of many samples, a sixteenth of the numbers at a time.
    """
    parts, first, last = 16 if len(x) > MANY else 1, int(clusters.min()), int(clusters.max())
    for k in range(parts):
        low, end = (first + (last + 1 - first) * i // parts for i in (k, k + 1))
        mine = np.flatnonzero((clusters >= low) & (clusters <= end - 1) & (x == x))
        order = np.lexsort((x[mine], clusters[mine]))
        mine = mine[order]  # sums follow this order, not that in which samples came
        at = np.cumsum(np.diff(clusters[mine], prepend=clusters[mine[:1]]) != 0)
        yield (
            np.bincount(at, weights=x[mine]).astype(np.float64),
            np.bincount(at).astype(np.float64),
        )


def _weighted_interval(
    values: ArrayLike, weights: ArrayLike, clusters: Sequence[Hashable]
) -> Interval:
    x, w = (np.asarray(v, dtype=np.float64) for v in (values, weights))
    if not w.sum() > 0:
        raise ValueError("no values that count")
    sums, sizes = _weighted_sums(x, w, clusters)
    told = (sizes != 0) | (sums != 0)  # the others say nothing
    sums, sizes = sums[told], sizes[told]
    value, counted = float(sums.sum() / sizes.sum()), x[w != 0]
    if len(sums) < 2:
        return Interval(value, None, None)
    if np.ptp(counted) == 0:
        return _degenerate(float(counted[0]), len(sums))
    if len(sums) > NORMAL_CLUSTERS:
        reach = Z * _standard_error(sums, sizes)
        return Interval(value, value - reach, value + reach)
    return Interval(value, *_bootstrap(sums, sizes))


def _weighted_sums(x: Floats, w: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """The weighted sum of each cluster, and its weight; clusters in an order of their own."""
    codes = _codes(clusters)
    sums, sizes = np.bincount(codes, weights=x * w), np.bincount(codes, weights=w)
    return sums.astype(np.float64), sizes.astype(np.float64)


def _interval(x: Floats, clusters: Codes, groups: Codes | None) -> Interval:
    """``mean_interval`` of samples that are in order."""
    if groups is not None:
        return _macro_interval(x, clusters, groups)
    return clustered_mean(x, clusters)[0]


def _bootstrap(sums: Floats, sizes: Floats) -> tuple[float, float] | tuple[None, None]:
    """The ends of the interval of the mean, by resampling clusters: BCa (Efron and Tibshirani,
    1993, equations 14.14 and 14.15, with half of the ties counted as below the mean), or the plain
    percentiles for many clusters, and where BCa is undefined.
    """
    drawn = _drawn_counts(len(sums)) @ np.stack([sums, sizes], axis=1)  # [resamples, 2]
    if (drawn[:, 1] <= 0).any():  # all of it is taken out by negative weights
        return None, None
    means = drawn[:, 0] / drawn[:, 1]
    tails = np.array(TAILS)
    if len(sums) <= BCA_CLUSTERS:
        corrected = _bca_tails(tails, means, sums, sizes)
        tails = corrected if np.isfinite(corrected).all() else tails
    low, high = _quantiles(means, tails)
    return (float(low), float(high)) if np.isfinite([low, high]).all() else (None, None)


def _bca_tails(tails: Floats, means: Floats, sums: Floats, sizes: Floats) -> Floats:
    """At which shares of the resampled means BCa cuts, for the shares at which the plain percentile
    interval does; not finite where it is undefined.
    """
    mean = sums.sum() / sizes.sum()
    slack = 1e-12 * abs(mean)  # sums of the same numbers in another order are the same sum
    below = ((means < mean - slack).sum() + (means <= mean + slack).sum()) / (2 * len(means))
    if not 0 < below < 1:
        return np.full(len(tails), np.nan)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)  # the jackknife: one cluster left out
    rest = without.mean() - without
    bias = NORMAL.inv_cdf(below)
    with np.errstate(all="ignore"):
        acceleration = (rest**3).sum() / (6 * (rest**2).sum() ** 1.5)
        z = bias + np.array(list(map(NORMAL.inv_cdf, tails)))
        return np.array(list(map(NORMAL.cdf, bias + z / (1 - acceleration * z))))


def _quantiles(x: Floats, shares: Floats) -> Floats:
    """``np.quantile`` of numbers without NaN, which has many more cases to look at: between the two
    numbers next to each share's place, linearly.
    """
    places = shares * (len(x) - 1)
    before = np.clip(np.floor(places).astype(np.intp), 0, len(x) - 2)
    ordered = np.partition(x, np.concatenate([before, before + 1]))
    low, high = ordered[before], ordered[before + 1]
    return np.asarray(low + (high - low) * (places - before), dtype=np.float64)


@lru_cache(maxsize=16)
def _drawn_counts(n: int) -> NDArray[np.uint8] | Floats:
    """How often each of n clusters is drawn in each resample [RESAMPLES, n]: the same for all sets
    of so many, of which a table has hundreds. A cluster is drawn once on average; that one is drawn
    256 times of more than 255 does not happen.
    """
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, n), dtype=np.uint8)
    for start in range(0, RESAMPLES, rows := max(1, BLOCK // n)):
        part = counts[start : start + rows]
        picks = rng.integers(0, n, part.shape)
        picks += np.arange(len(part))[:, None] * n
        part[:] = np.bincount(picks.ravel(), minlength=part.size).reshape(part.shape)
    return counts if n > FEW_CLUSTERS else counts.astype(np.float64)


def mean(
    values: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
) -> float:
    """The mean, the mean of the groups' means, or the weighted mean."""
    x = np.asarray(values, dtype=np.float64)
    if weights is not None:
        w = np.asarray(weights, dtype=np.float64)
        return math.fsum(x * w) / math.fsum(w)
    return math.fsum(x * _weights(len(x), groups))


def compare(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
) -> Comparison:
    """The paired difference a - b, macro-averaged over ``groups`` if given.

    The p-value is that of a two-sided sign-flip permutation test: under the null hypothesis each
    cluster's contribution to the difference is as likely to be negative as positive.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    d, mine, group = _sorted(differences, clusters, groups)
    if not d.any() and len(np.unique(mine)) != 1:
        return Comparison(Interval(0.0, 0.0, 0.0), 1.0, len(d))
    interval = _interval(d, mine, group)
    names = None if group is None else group.tolist()
    shares, _ = cluster_sums(d * _weights(len(d), names), mine)
    if len(shares) < 2:
        return Comparison(interval, None, len(d))
    return Comparison(interval, sign_flip_p(shares), len(d))


@dataclass(frozen=True)
class Weighted:
    """Values with a weight each, which may differ between the two sides of a comparison."""

    values: ArrayLike
    weights: ArrayLike


def compare_weighted(
    a: Weighted,
    b: Weighted,
    clusters: Sequence[Hashable],
) -> tuple[Comparison, float | None]:
    """The difference a - b of two weighted means over the same samples, and its minimum detectable
    effect (as ``detectable`` says).

    Of ratios, so both sides are linearised: a cluster's share of the difference is what it adds to
    each mean about their common one. The shares make p-value, effect, and the interval where there
    are many clusters; else clusters are resampled with both ratios.
    """
    x, y = (np.asarray(side.values, dtype=np.float64) for side in (a, b))
    u, v = (np.asarray(side.weights, dtype=np.float64) for side in (a, b))
    (xs, xn), (ys, yn) = _weighted_sums(x, u, clusters), _weighted_sums(y, v, clusters)
    value = float(xs.sum() / xn.sum() - ys.sum() / yn.sum())
    pooled = (xs.sum() + ys.sum()) / (xn.sum() + yn.sum())
    shares = (xs - pooled * xn) / xn.sum() - (ys - pooled * yn) / yn.sum()
    n = len(shares)
    if n < 2:
        return Comparison(Interval(value, None, None), None, len(x)), None
    if not shares.any():
        return Comparison(Interval(value, value, value), 1.0, len(x)), 0.0
    error = float(np.sqrt(((shares - shares.mean()) ** 2).sum() * n / (n - 1)))
    reach = Z * error
    low, high = value - reach, value + reach
    if n <= NORMAL_CLUSTERS:
        with np.errstate(all="ignore"):
            sums = _drawn_counts(n) @ np.stack([xs, xn, ys, yn], axis=1)
            drawn = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, TAILS)
    interval = Interval(value, float(low), float(high))
    return Comparison(interval, sign_flip_p(shares), len(x)), _needed(LEVEL) * error


def sign_flip_p(shares: Floats) -> float:
    """Two-sided p-value of the sum of ``shares`` (one a cluster) when their signs are flipped at
    random: over all sign patterns where there are few clusters, over FLIPS drawn ones where there
    are more (the observed one counted among them: Phipson and Smyth, 2010).
    """
    n, observed = len(shares), abs(shares.sum())
    if n > NORMAL_CLUSTERS:
        return math.erfc(observed / math.sqrt(2 * float((shares**2).sum())))
    least = observed * (1 - 1e-12)  # sums of the same numbers in another order are the same sum
    if 2**n <= FLIPS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ shares) >= least))
    rng, extreme = np.random.default_rng(SEED), 1
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
) -> float | None:
    """The minimum detectable effect: the smallest true mean difference that a two-sided test at
    ``LEVEL`` finds with ``POWER``.

    From the spread of these paired differences between clusters (normal approximation), inside each
    group where the mean is one over ``groups``; None where a group has fewer than two clusters.
    """
    d, of_cluster, of_group = _sorted(differences, clusters, groups)
    if of_group is not None and _crossed(of_cluster, of_group):
        joint = _joint_error(d, of_cluster, of_group)
        return None if joint is None else _needed(LEVEL) * joint
    errors = []
    for mine in [slice(None)] if of_group is None else _runs(of_group):
        sums, sizes = cluster_sums(d[mine], of_cluster[mine])
        if len(sums) < 2:
            return None
        errors.append(_standard_error(sums, sizes))
    error = math.hypot(*errors) / len(errors)
    return _needed(LEVEL) * error


def corrected(tests: int) -> float:
    """How many times larger the minimum detectable effect is when ``LEVEL`` is shared by ``tests``
    tests (Bonferroni: that of the smallest p-value, which Holm's correction asks most of).
    """
    return _needed(LEVEL / tests) / _needed(LEVEL)


def _needed(level: float) -> float:
    """Standard errors that an effect must have to be found at ``level`` with ``POWER``."""
    return NORMAL.inv_cdf(1 - level / 2) + NORMAL.inv_cdf(POWER)


def _standard_error(sums: Floats, sizes: Floats) -> float:
    """Of the mean of all samples, from the spread between clusters (linearised ratio of sums)."""
    rest = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt((rest**2).sum() * len(sums) / (len(sums) - 1))) / float(sizes.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm, 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    out = np.empty_like(adjusted)
    out[order] = adjusted
    return [float(v) for v in out]


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Floats]:
    """Sum of values and number of samples of each cluster, in order of first appearance."""
    _, first, at = np.unique(np.asarray(clusters), return_index=True, return_inverse=True)
    place = np.empty_like(first)
    place[np.argsort(first)] = np.arange(len(first))
    x = np.asarray(values, dtype=np.float64)
    sums = np.bincount(place[at], weights=x, minlength=len(first)).astype(np.float64)
    return sums, np.bincount(place[at], minlength=len(first)).astype(np.float64)


def _sorted(
    values: ArrayLike, clusters: Sequence[Hashable], groups: Sequence[Hashable] | None
) -> tuple[Floats, Codes, Codes | None]:
    """The samples in an order that is their own, not that in which they came: sums and draws follow
    it. By group, then by cluster, then by value; the samples of a group lie together.
    """
    x = np.asarray(values, dtype=np.float64)
    of_cluster, of_group = _codes(clusters), _codes(groups or clusters)
    order = np.lexsort((x, of_cluster, of_group))
    return x[order], of_cluster[order], None if groups is None else of_group[order]


def _codes(names: Sequence[Hashable]) -> NDArray[np.intp]:
    """For each name its place among all different ones, in the order of how they are written."""
    width = max((len(repr(name).encode()) for name in names), default=1)
    if width <= WIDEST:  # a fifth of the memory that a dictionary takes
        written = np.fromiter((repr(n).encode() for n in names), f"S{width}", len(names))
        return np.unique(written, return_inverse=True)[1]
    places = {name: i for i, name in enumerate(sorted(dict.fromkeys(names), key=repr))}
    return np.fromiter(map(places.__getitem__, names), np.intp, len(names))


def _numbers(names: Sequence[Hashable]) -> Codes:
    """For each name a number, as ``clustered_mean`` takes them."""
    places: dict[Hashable, int] = {}
    for name in names:
        places.setdefault(name, len(places))
    if len(places) <= NORMAL_CLUSTERS:
        places = {name: i for i, name in enumerate(sorted(places, key=repr))}
    return np.fromiter(map(places.__getitem__, names), np.intp, len(names))


def _runs(codes: Codes) -> Iterator[slice]:
    """Where each run of equal numbers lies."""
    ends = [*(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return map(slice, [0, *ends], ends)


def _weights(n: int, groups: Sequence[Hashable] | None) -> Floats:
    """What each sample weighs in the mean, or in the mean of the groups' means."""
    if groups is None:
        return np.full(n, 1 / n)
    sizes = Counter(groups)
    return np.array([1 / (len(sizes) * sizes[g]) for g in groups])


def _macro_interval(x: Floats, clusters: Codes, groups: Codes) -> Interval:
    if _crossed(clusters, groups):
        return _joint_interval(x, clusters, groups)
    rng = np.random.default_rng(SEED)
    runs = list(_runs(groups))
    means, errors, drawn = [], [], np.zeros(RESAMPLES)
    count = len(np.unique(clusters))
    many = count > NORMAL_CLUSTERS
    for mine in runs:
        sums, sizes = cluster_sums(x[mine], clusters[mine])
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
        drawn += (sums[pick].sum(1) / sizes[pick].sum(1) - centre) * spread / len(runs)
    value = float(np.mean(means))
    if np.ptp(x) == 0:
        return _degenerate(value, count)
    if len(errors) < len(runs):  # a group with one cluster
        return Interval(value, None, None)
    if many:
        reach = Z * math.hypot(*errors) / len(runs)
        return Interval(value, value - reach, value + reach)
    low, high = np.quantile(drawn, TAILS)
    return Interval(
        value, max(float(x.min()), value + float(low)), min(float(x.max()), value + float(high))
    )


def _crossed(clusters: Codes, groups: Codes) -> bool:
    """Whether a cluster has samples in more than one group."""
    pairs = np.unique(clusters * (groups.max(initial=0) + 1) + groups)
    return len(pairs) > len(np.unique(clusters))


def _joint_sums(x: Floats, clusters: Codes, groups: Codes) -> tuple[Floats, Floats]:
    """Sum of values and number of samples [clusters, groups]."""
    _, c = np.unique(clusters, return_inverse=True)
    _, g = np.unique(groups, return_inverse=True)
    shape = (int(c.max()) + 1, int(g.max()) + 1)
    sums, sizes = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (c, g), x)
    np.add.at(sizes, (c, g), 1)
    return sums, sizes


def _joint_error(x: Floats, clusters: Codes, groups: Codes) -> float | None:
    """Standard error of the mean of the groups' means where clusters cross groups (linearised);
    None with a single cluster.
    """
    sums, sizes = _joint_sums(x, clusters, groups)
    if (n := len(sums)) < 2:
        return None
    means = sums.sum(0) / sizes.sum(0)
    shares = ((sums - sizes * means) / sizes.sum(0)).mean(1)
    return float(np.sqrt((shares**2).sum() * n / (n - 1)))


def _joint_interval(x: Floats, clusters: Codes, groups: Codes) -> Interval:
    """Of the mean of the groups' means, whole clusters being resampled over all groups."""
    sums, sizes = _joint_sums(x, clusters, groups)
    value, n = float((sums.sum(0) / sizes.sum(0)).mean()), len(sums)
    if np.ptp(x) == 0:
        return _degenerate(value, n)
    error = _joint_error(x, clusters, groups)
    if error is None:
        return Interval(value, None, None)
    reach = Z * error
    if n > NORMAL_CLUSTERS:
        return Interval(value, value - reach, value + reach)
    counts = _drawn_counts(n)
    with np.errstate(all="ignore"):
        drawn = ((counts @ sums) / (counts @ sizes)).mean(1)
    drawn = drawn[np.isfinite(drawn)]  # a resample may miss a group
    if not len(drawn):
        return Interval(value, None, None)
    drawn = value + (drawn - value) * math.sqrt(n / (n - 1))  # as in _macro_interval
    low, high = np.quantile(drawn, TAILS)
    return Interval(value, max(float(x.min()), float(low)), min(float(x.max()), float(high)))


def _degenerate(value: float, n: int) -> Interval:
    if n < 2 or abs(value) not in (0.0, 1.0):
        return Interval(value, None, None)
    # Wilson's interval (1927) of a share of all: its near end is the share itself
    low, high = (n / (n + Z**2), 1.0) if abs(value) == 1 else (0.0, Z**2 / (n + Z**2))
    return Interval(value, low, high) if value >= 0 else Interval(value, -high, -low)
