"""From runs to effects: paired over seeds, with intervals that hold for seeds and scenes together.

Each seed has its own initialisation and its own scenes, in training and in measuring, which all
arms share. The spread of the paired differences over seeds therefore holds both kinds of noise, and
Student's t over seeds is an interval for both; no resampling of scenes is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Arm, Hypothesis, Study
from evalkit.stats import LEVEL, POWER

LEARNED = 0.8
"""Share of right answers at which a kind of question counts as learned."""
Verdict = Literal["held", "refuted", "undecided", "not run"]


@dataclass(frozen=True)
class Effect:
    """Arm a minus arm b, in nats of NLL an answer; below 0: a is better.

    low, high: the interval at the level asked for. noise: standard deviation of the paired
    differences over seeds. mde: the smallest difference that so many seeds with that noise would
    show in four of five studies, at that level. right: the difference of right answers, in points.
    """

    difference: float
    low: float
    high: float
    noise: float
    mde: float
    right: float
    seeds: int

    @property
    def over_noise(self) -> float:
        """The effect in units of the seed noise; infinite where there is no noise."""
        if self.noise == 0:
            return 0.0 if self.difference == 0 else math.inf
        return abs(self.difference) / self.noise

    @property
    def significant(self) -> bool:
        return not self.low <= 0 <= self.high

    @property
    def possible(self) -> bool:
        """Whether there could have been a difference: false where it is 0 with every seed."""
        return self.noise > 0 or self.difference != 0


def effect(
    runs: Sequence[FinishedRun], a: Arm, b: Arm, condition: str, kind: str, level: float = LEVEL
) -> Effect | None:
    """The paired effect; None with fewer than two common seeds."""
    return _contrast(runs, [(1, a), (-1, b)], condition, kind, level)


def _contrast(
    runs: Sequence[FinishedRun],
    arms: Sequence[tuple[int, Arm]],
    condition: str,
    kind: str,
    level: float,
) -> Effect | None:
    """The sum of arms by their signs, seed by seed; None with fewer than two common seeds."""
    sides = [
        {
            f.run.seed: f.result.conditions[condition][kind]
            for f in runs
            if f.arm == arm and f.run.rate == 1 and kind in f.result.conditions[condition]
        }
        for _, arm in arms
    ]
    seeds = sorted(set.intersection(*(set(side) for side in sides)))
    if len(seeds) < 2:
        return None
    signed = [(sign, side) for (sign, _), side in zip(arms, sides)]
    # NLLs are kept to five digits; what equal ones leave is rounding, and no difference
    deltas = [round(sum(sign * side[s].nll for sign, side in signed), 9) for s in seeds]
    right = [sum(sign * side[s].right for sign, side in signed) for s in seeds]
    n = len(deltas)
    mean = sum(deltas) / n
    noise = math.sqrt(sum((d - mean) ** 2 for d in deltas) / (n - 1))
    reach = float(stats.t.ppf(1 - level / 2, n - 1)) * noise / math.sqrt(n)
    return Effect(
        mean,
        mean - reach,
        mean + reach,
        noise,
        _mde(noise, n, level),
        100 * sum(right) / n,
        n,
    )


def _mde(noise: float, n: int, level: float = LEVEL) -> float:
    """(t at the level + t at the power) standard errors: the usual normal-theory approximation."""
    quantiles = stats.t.ppf(1 - level / 2, n - 1) + stats.t.ppf(POWER, n - 1)
    return float(quantiles) * noise / math.sqrt(n)


@dataclass(frozen=True)
class Interaction:
    """What an arm that differs from the baseline in two factors has beside what the two arms that
    differ in one of them have, added up; ``effect`` below 0: together they are better than that.
    """

    both: Arm
    kind: str
    effect: Effect


def interactions(
    study: Study, runs: Sequence[FinishedRun], condition: str
) -> tuple[list[Interaction], int]:
    """Those of all arms that differ from the baseline in two factors and whose halves are arms too,
    with intervals that hold together (Bonferroni); and over how many, those that could have been
    other than nothing.
    """
    base = study.arm(study.baseline)
    arms = {arm.levels: arm for arm in study.arms()}
    found = []
    for both in arms.values():
        other = [i for i, pair in enumerate(both.levels) if pair != base.levels[i]]
        halves = [
            arms.get((*base.levels[:i], both.levels[i], *base.levels[i + 1 :])) for i in other
        ]
        if len(other) == 2 and halves[0] and halves[1]:
            signs = [(1, both), (-1, halves[0]), (-1, halves[1]), (1, base)]
            found += [(both, kind, signs) for kind in study.kinds]

    def measured(level: float) -> list[Interaction]:
        effects = ((b, k, _contrast(runs, signs, condition, k, level)) for b, k, signs in found)
        return [Interaction(both, kind, e) for both, kind, e in effects if e]

    tests = sum(i.effect.possible for i in measured(LEVEL))
    return measured(LEVEL / max(tests, 1)), tests


def size_factor(study: Study) -> str | None:
    """The factor whose levels are sizes of the model, if the grid has one."""
    return next(
        (f for f in study.grid if any(level.model for level in study.factors[f].values())), None
    )


def effects_by_size(
    study: Study, runs: Sequence[FinishedRun], kind: str
) -> dict[str, list[tuple[int, Effect]]]:
    """Of each arm, but for its size: parameters, smallest first, and its effect against the
    baseline of that size, in the first condition.
    """
    out: dict[str, list[tuple[int, Effect]]] = {}
    factor, base = size_factor(study), study.arm(study.baseline)
    first = study.first_condition
    for arm in study.arms():
        levels = dict(arm.levels)
        of_size = study.arm(dict(base.levels) | {factor: levels[factor]}) if factor else base
        e = effect(runs, arm, of_size, first, kind) if arm != of_size else None
        if e:
            name = ", ".join(v for f, v in arm.levels if f != factor and f in study.grid)
            parameters = next(f.result.parameters for f in runs if f.arm == arm)
            out.setdefault(name, []).append((parameters, e))
    return {name: sorted(effects, key=lambda p: p[0]) for name, effects in out.items()}


@dataclass(frozen=True)
class HypothesisTest:
    """A hypothesis, its effect with an interval at the corrected level, and what came of it."""

    hypothesis: Hypothesis
    effect: Effect | None
    verdict: Verdict


def test_hypotheses(study: Study, runs: Sequence[FinishedRun]) -> list[HypothesisTest]:
    """Every hypothesis of a study; all intervals hold together (Bonferroni, ``number_of_tests``).

    ``below: x`` held when the interval lies under x, is refuted when it lies above it. ``within:
    x`` held when the interval lies between -x and x, is refuted when it lies outside.
    """
    level = LEVEL / max(number_of_tests(study, runs), 1)
    out = []
    for h in study.hypotheses:
        e = _asked(study, runs, h, level)
        out.append(HypothesisTest(h, e, "not run" if e is None else verdict(h, e)))
    return out


def number_of_tests(study: Study, runs: Sequence[FinishedRun]) -> int:
    """How many hypotheses there are, but for those whose arms can't differ."""
    effects = [_asked(study, runs, h, LEVEL) for h in study.hypotheses]
    return sum(e is None or e.possible for e in effects)


def _asked(study: Study, runs: Sequence[FinishedRun], h: Hypothesis, level: float) -> Effect | None:
    return effect(runs, study.arm(h.a), study.arm(h.b), h.condition, h.kind, level)


def verdict(h: Hypothesis, e: Effect) -> Verdict:
    """What an effect's interval says of a hypothesis."""
    if h.below is not None:
        return "held" if e.high < h.below else "refuted" if e.low > h.below else "undecided"
    assert h.within is not None
    if -h.within < e.low and e.high < h.within:
        return "held"
    return "refuted" if e.low > h.within or e.high < -h.within else "undecided"


@dataclass(frozen=True)
class MeanScores:
    """Means over the seeds of an arm: NLL in nats, with its standard deviation (``spread``; NaN for
    one seed), and the shares of a ``Measurement``; ``answers`` in all.
    """

    nll: float
    spread: float
    right: float
    valid: float
    choice: float
    answers: int


def mean_scores(
    runs: Sequence[FinishedRun], arm: Arm, condition: str, kind: str
) -> MeanScores | None:
    """Those of one kind of question in one condition; None where nothing was run."""
    measured = [
        f.result.conditions[condition][kind]
        for f in runs
        if f.arm == arm and f.run.rate == 1 and kind in f.result.conditions[condition]
    ]
    if not measured:
        return None
    n = len(measured)
    mean = sum(m.nll for m in measured) / n
    spread = math.sqrt(sum((m.nll - mean) ** 2 for m in measured) / (n - 1)) if n > 1 else math.nan
    right, valid, choice = (
        sum(getattr(m, name) for m in measured) / n for name in ("right", "valid", "choice")
    )
    return MeanScores(mean, spread, right, valid, choice, sum(m.n for m in measured))


def mean_curve(runs: Sequence[FinishedRun], arm: Arm, kind: str) -> list[tuple[int, float]]:
    """The learning curve of an arm, (step, NLL in nats): the mean over the seeds that were asked
    that kind.
    """
    curves = [f.result.curve for f in runs if f.arm == arm and f.run.rate == 1]
    asked = (
        (points[0].step, [p.nll[kind] for p in points if kind in p.nll])
        for points in zip(*curves)  # the points of all seeds at one step
    )
    return [(step, sum(nll) / len(nll)) for step, nll in asked if nll]


def steps_to(runs: Sequence[FinishedRun], arm: Arm, kind: str) -> float | None:
    """Median over seeds (of an even number the later of the middle two) of the step at which so
    many answers in training are right as ``LEARNED`` says; None: never.
    """
    reached = []
    for f in runs:
        if f.arm == arm and f.run.rate == 1:
            passed = (p.step for p in f.result.curve if p.right.get(kind, 0.0) >= LEARNED)
            reached.append(next(passed, math.inf))
    middle = sorted(reached)[len(reached) // 2] if reached else math.inf
    return None if math.isinf(middle) else middle


def best_rate(study: Study, runs: Sequence[FinishedRun], arm: Arm) -> tuple[float, float]:
    """The learning-rate factor with the lowest NLL summed over kinds (first seed, first condition),
    and by how much it is lower than at factor 1.
    """
    tried = [f for f in runs if f.arm == arm and f.run.seed == 0]
    measured = {f.run.rate: f.result.conditions[study.first_condition] for f in tried}
    sums = {rate: sum(m.nll for m in kinds.values()) for rate, kinds in measured.items()}
    best = min(sums, key=lambda r: sums[r])
    return best, sums.get(1.0, math.nan) - sums[best]
