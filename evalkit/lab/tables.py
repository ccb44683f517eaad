"""The tables of a study's page, in markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from evalkit.lab import analysis, phases
from evalkit.lab.analysis import Effect, HypothesisTest, MeanScores, mean_scores
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Arm, Hypothesis, Study
from evalkit.probes.oracle import KNOWLEDGE, SCENES, Ceiling, ceilings
from evalkit.probes.scene import Knowledge
from evalkit.stats import LEVEL

VERDICTS = {
    "held": "**held**",
    "refuted": "**refuted**",
    "undecided": "undecided",
    "not run": "not run",
}
KNOWN: Mapping[Knowledge, str] = {
    "whole": "knows everything",
    "shuffled": "sees the marks elsewhere (shuffled)",
    "blind": "sees the grid's size alone (blind)",
    "first_second": "sees the first second alone",
    "index": "knows indices and the number of tokens (all that 1D tells)",
}
"""Ideal observers, as the tables name them."""
NEAR = 0.02
"""A ceiling is met by who comes so close to it, as a share right."""


def interval(e: Effect) -> str:
    """A difference with its interval, in nats."""
    return f"{e.difference:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"


def finding(h: Hypothesis, e: Effect) -> str:
    """What the interval of a hypothesis says, a sentence: whether there is an effect at all, and
    whether it is as large as was asked for.
    """
    if h.below is not None:
        thing, bound, least, most = "effect", -h.below, -e.high, -e.low
    else:
        ends = sorted((abs(e.low), abs(e.high)))
        thing, bound, most = "difference", h.within or 0.0, ends[1]
        least = ends[0] if e.significant else 0.0
    a = f"An {thing}" if thing == "effect" else f"A {thing}"
    if most < 0:
        said = "The other way round"
    elif least > bound:
        said = f"{a} of more than {bound:g}"
    elif most < bound:
        said = (
            f"{a}, but smaller than {bound:g}" if least > 0 else f"No {thing} as large as {bound:g}"
        )
    elif least > 0:
        said = f"{a}; whether it is as large as {bound:g} is open"
    else:
        said = f"There may be none, or one of more than {bound:g}"
    return f"{said}: {interval(e)} nats."


def hypotheses_table(study: Study, tested: Sequence[HypothesisTest]) -> list[str]:
    """A hypothesis a row: its claim, the difference with its interval, and the verdict."""
    lines = [
        "| | claim | asked | difference | interval | bound | would show | effect / seed noise | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for t in tested:
        h, e = t.hypothesis, t.effect
        bound = f"below {h.below:g}" if h.below is not None else f"within ±{h.within:g}"
        difference = between = mde = noise = "–"
        if e:
            noise = "no noise" if e.noise == 0 else f"{e.over_noise:.1f}"
            difference, _, between = interval(e).partition(" ")
            mde = f"{e.mde:.2g}"
        pair = f"{study.arm(h.a).name} − {study.arm(h.b).name}: {h.kind}, {h.condition}"
        lines.append(
            f"| {h.name} | {h.claim} | {pair} | {difference} | {between} | {bound} | {mde} | "
            f"{noise} | {VERDICTS[t.verdict]} |"
        )
    return lines


def scores_table(study: Study, runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """The scores of every arm in one condition, above what ideal observers reach in it."""
    lines = [
        "NLL in nats, mean over seeds ± their standard deviation (share right). Below: what an "
        "ideal observer reaches with less than everything.",
        "",
        *_heads("arm", study.kinds),
    ]
    for arm in study.arms():
        cells = [score(mean_scores(runs, arm, condition, k)) for k in study.kinds]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    tops = _tops(study, condition)
    return lines + [_ideal(study, tops, known, KNOWN[known]) for known in _views(study)]


def _ideal(
    study: Study, tops: Mapping[Knowledge, Mapping[str, Ceiling]], known: Knowledge, name: str
) -> str:
    """The row of an ideal observer."""
    given = (tops[known].get(k) for k in study.kinds)
    cells = [f"{t.nll:.2f} ({t.right:.2f})" if t else "–" for t in given]
    return f"| *{name}* | {' | '.join(cells)} |"


def _heads(first: str, rest: Sequence[str]) -> list[str]:
    return [f"| {first} | {' | '.join(rest)} |", "|---" * (len(rest) + 1) + "|"]


def score(scores: MeanScores | None) -> str:
    """``0.31 ± 0.02 (0.88)``: NLL in nats, its spread over seeds, and the share right."""
    return "–" if scores is None else f"{scores.nll:.2f} ± {scores.spread:.2f} ({scores.right:.2f})"


def _tops(study: Study, condition: str) -> Mapping[Knowledge, Mapping[str, Ceiling]]:
    """The ceilings of a condition's scenes."""
    given = study.conditions[condition]
    probe = study.run(study.arms()[0], 0).asks(given)
    return ceilings(probe, given.cells or study.grids)


def ceilings_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """A view a row: of each kind of question the ceiling, and the arm that came nearest to it."""
    lines = _heads("who", study.kinds)
    for known in _views(study):
        best = nearest(study, runs, known)
        tops = _tops(study, _shown(study, known) or study.first_condition)[known]
        cells = []
        for kind in study.kinds:
            if kind not in tops:
                cells.append("–")
            elif kind not in best:
                nobody = "no arm has these" if known == "index" else "no arm was shown this"
                cells.append(f"{tops[kind].right:.2f}: {nobody}")
            else:
                arm, scores = best[kind]
                met = "met" if _meets(scores.right, tops[kind].right) else "NOT met"
                best_is = f"{arm.name} {scores.right:.2f}"
                cells.append(f"{tops[kind].right:.2f}: {met}, {best_is}")
        lines.append(f"| {KNOWN[known]} | {' | '.join(cells)} |")
    return lines


def nearest(
    study: Study, runs: Sequence[FinishedRun], known: Knowledge
) -> dict[str, tuple[Arm, MeanScores]]:
    """Of each kind of question the arm that is right most often, and its scores, where a condition
    shows the arms as much as this; of ``index``, of those with 1D positions.
    """
    if not (condition := _shown(study, known)):
        return {}
    arms = [
        arm
        for arm in study.arms()
        if known != "index" or study.run(arm, 0).switches.get("position") == "rope1d"
    ]
    best: dict[str, tuple[Arm, MeanScores]] = {}
    for kind in study.kinds:
        for arm in arms:
            scores = mean_scores(runs, arm, condition, kind)
            if scores and (kind not in best or scores.right > best[kind][1].right):
                best[kind] = (arm, scores)
    return best


def _meets(right: float, top: float) -> bool:
    """Whether a share right comes close to a ceiling, as both are printed."""
    return round(right, 2) >= round(top - NEAR, 2)


def _views(study: Study) -> list[Knowledge]:
    """What observers know: on pages the first second is everything."""
    pages = study.grids.high[0] == 1
    return [known for known in KNOWLEDGE if not (pages and known == "first_second")]


def _shown(study: Study, known: Knowledge) -> str | None:
    """The condition that shows the arms what one knows."""
    if known in ("whole", "index"):
        return study.first_condition
    return next((name for name, c in study.conditions.items() if c.view == known), None)


def at_chance(study: Study, runs: Sequence[FinishedRun], h: Hypothesis) -> float | None:
    """The share right by chance, where neither arm of a hypothesis is above it; else None."""
    top = _tops(study, h.condition)["blind"].get(h.kind)
    sides = [mean_scores(runs, study.arm(side), h.condition, h.kind) for side in (h.a, h.b)]
    if top is None or any(s is None or _meets(s.right, top.right + 3 * NEAR) for s in sides):
        return None
    return top.right


def above_ceilings(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Who is right more often than what they are shown allows, in the views that hide something:
    beyond the noise of the scenes of both, at 95 % over all of them together.
    """
    asked: list[tuple[float, str]] = []
    for name, condition in study.conditions.items():
        if condition.view == "whole":
            continue
        tops = _tops(study, name)[condition.view]
        for arm in study.arms():
            for kind, top in tops.items():
                scores = mean_scores(runs, arm, name, kind)
                if scores and top.right < 1:
                    spread = math.sqrt(
                        top.right * (1 - top.right) * (1 / scores.answers + 1 / SCENES)
                    )
                    p = float(stats.norm.sf((scores.right - top.right) / spread))
                    said = f"{arm.name}, {kind}, {name}: {scores.right:.2f} against {top.right:.2f}"
                    asked.append((p, said))
    return [said for p, said in asked if p < LEVEL / len(asked)]


def control_sentences(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Whether views that hide places leave arms at chance, and where the whole view's ceiling is
    met: what decides whether a result is one about positions.
    """
    shuffled = next((n for n, c in study.conditions.items() if c.view == "shuffled"), None)
    kinds = " and ".join(", ".join(study.places).rsplit(", ", 1))
    if over := above_ceilings(study, runs):
        lines = [f"- Controls FAIL, right more often than the view allows: {'; '.join(over)}."]
    elif not study.places:
        lines = ["- Controls: no question here needs a position."]
    elif shuffled:
        lines = [
            "- Controls: with the squares elsewhere no arm is right more often than chance, beyond "
            f"the noise of the scenes: what is known of {kinds} beyond chance is known by "
            "positions."
        ]
    else:
        lines = [
            "- Controls: no condition shuffles the squares, so that what is about positions "
            "is not known."
        ]
    best = nearest(study, runs, "whole")
    short = [
        f"{k} ({best[k][1].right:.2f}, {best[k][0].name})"
        for k in study.kinds
        if k in best and not _meets(best[k][1].right, 1)
    ]
    met = [k for k in study.kinds if k in best and _meets(best[k][1].right, 1)]
    if best:
        parts = [f"some arm knows {', '.join(met)}"] if met else []
        parts += [f"no arm reaches it on {', '.join(short)}"] if short else []
        lines.append(f"- Ceiling, everything shown, all right: {'; '.join(parts)}.")
    return lines


def answers_table(study: Study, runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """Greedy answers: right, another option, none of the options; and right when made to choose."""
    lines = [
        "Greedy answers in per cent, right / another option / no option at all; in brackets: right "
        "when made to choose among the options (chance: "
        + ", ".join(
            f"{k} {100 * _tops(study, condition)['blind'][k].right:.0f}" for k in study.kinds
        )
        + " for one who sees the grid alone).",
        "",
        *_heads("arm", study.kinds),
    ]
    for arm in study.arms():
        cells = []
        for kind in study.kinds:
            m = mean_scores(runs, arm, condition, kind)
            if m is None:
                cells.append("–")
                continue
            shares = (m.right, m.valid - m.right, 1 - m.valid)
            three = " / ".join(f"{100 * share:.0f}" for share in shares)
            cells.append(f"{three} ({100 * m.choice:.0f})")
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return lines


def phase_table(study: Study) -> list[str]:
    """How far each axis rotates the frequencies, an arm a row; one row for arms whose switches and
    pictures are the same, since text jitter moves nothing within a scene.
    """
    lines = _heads("arm", phases.AXES)
    shown: list[Any] = []
    for arm in study.arms():
        run = study.run(arm, 0)
        if (alike := (run.switches, run.shows)) in shown:
            continue
        shown.append(alike)
        cells = [
            f"{t.slowest:.2g} … {t.fastest:.2g} ({t.frequencies})" if t.frequencies else "none"
            for t in phases.turns(study, arm).values()
        ]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "In brackets: how many frequencies the axis moves. A step is one in a scene of 2 x 2 cells "
        "a second (under 1D positions larger scenes take larger ones). An arm that is not there is "
        "as one above it.",
    ]


def beyond_table(study: Study, runs: Sequence[FinishedRun], names: Sequence[str]) -> list[str]:
    """The scores of every arm in these conditions, each above what is right by chance there."""
    lines = [
        "| condition | arm | " + " | ".join(study.kinds) + " |",
        "|---" * (len(study.kinds) + 2) + "|",
    ]
    for name in names:
        for arm in study.arms():
            cells = [score(mean_scores(runs, arm, name, k)) for k in study.kinds]
            lines.append(f"| {name} | {arm.name} | {' | '.join(cells)} |")
        lines.append(f"| {name} {_ideal(study, _tops(study, name), 'blind', KNOWN['blind'])}")
    return lines


def interactions_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Two choices together against the sum of both; nothing where no arm has two halves."""
    found, tests = analysis.interactions(study, runs, study.first_condition)
    if not found:
        return []
    lines = [
        "NLL of two choices together against the baseline, less what each has alone, in nats; "
        "below 0: together they are better than that. The intervals hold together at 95 % "
        f"(Bonferroni over {tests}: those that could differ).",
        "",
        "| both | kind | interaction | |",
        "|---|---|---|---|",
    ]
    for i in found:
        e = i.effect
        said = "better than added up" if e.difference < 0 else "worse than added up"
        if not e.significant:
            said = f"none found; {e.mde:.2g} would show" if e.possible else "none possible"
        lines.append(f"| {i.both.name} | {i.kind} | {interval(e)} | {said} |")
    return lines


def size_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Effects against the baseline of the same size, an arm and kind a row."""
    lines = ["| arm | kind | effect (million parameters) | same sign |", "|---" * 4 + "|"]
    for kind in study.kinds:
        by_arm = analysis.effects_by_size(study, runs, kind)
        for name, effects in by_arm.items():
            said = "; ".join(
                f"{e.difference:+.2f} [{e.low:+.2f}, {e.high:+.2f}] ({parameters / 1e6:.1f})"
                for parameters, e in effects
            )
            signs = {e.difference > 0 for _, e in effects}
            clear = len(effects) > 2 and len(signs) == 1 and all(e.significant for _, e in effects)
            lines.append(f"| {name} | {kind} | {said} | {'yes' if clear else 'no'} |")
    return lines


def learning_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Steps to 80 % of right training answers by kind, and the best of the learning rates tried."""
    rates = {f.arm.name for f in runs if f.run.rate != 1}
    heads = [f"{k}: steps to 80 %" for k in study.kinds]
    lines = _heads("arm", heads + ["best rate (gain, nats)"] * bool(rates))
    for arm in study.arms():
        cells = [
            f"{s:.0f}" if (s := analysis.steps_to(runs, arm, k)) else "never" for k in study.kinds
        ]
        if arm.name in rates:
            best, gain = analysis.best_rate(study, runs, arm)
            cells.append(f"×{best:g} ({gain:.2f})")
        elif rates:
            cells.append("–")
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    if rates:
        lines += [
            "",
            "Best rate: which factor on both learning rates has the lowest NLL over all questions "
            "at the trained sizes, on the first seed alone, and how much lower it is than at the "
            "study's rates.",
            *rate_sentences(study, runs),
        ]
    return lines


def rate_sentences(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Of each hypothesis, what the first seed says of it at the study's rates and with each of its
    arms at its best.
    """
    lines = []
    for h in study.hypotheses:
        arms, sides = (study.arm(h.a), study.arm(h.b)), []
        if not all(any(f.arm == arm and f.run.seed == 0 for f in runs) for arm in arms):
            continue
        for arm in arms:
            best, _ = analysis.best_rate(study, runs, arm)
            nll = {
                f.run.rate: f.result.conditions[h.condition][h.kind].nll
                for f in runs
                if f.arm == arm and f.run.seed == 0
            }
            sides.append((nll.get(1.0, math.nan), nll[best]))
        (a, best_a), (b, best_b) = sides
        lines.append(
            f"- {h.name}: {a - b:+.2f} nats; with each arm at its best rate {best_a - best_b:+.2f}."
        )
    return ["", "So on the first seed:", "", *lines] if lines else []
