"""A study's page: the question, which hypotheses held, tables and figures, and how it was made.

Written so that a reader of the first screen takes the right thing home.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from evalkit.files import remove_parts, replace, replace_json
from evalkit.lab import analysis, phases
from evalkit.lab.analysis import HypothesisTest, MeanScores, effect, mean_scores
from evalkit.lab.figures import write_figures
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Study
from evalkit.lab.voxels import KINDS, ceilings

VERDICTS = {
    "held": "**held**",
    "refuted": "**refuted**",
    "undecided": "undecided",
    "not run": "not run",
}
PAGE, HYPOTHESES = "README.md", "hypotheses.json"
CHANCE_MARGIN = 0.03
"""How far above chance, as a share right, the shuffled view may be."""
PLACES = tuple(kind for kind in KINDS if kind != "colour")
"""The questions that only positions answer."""


def is_current(study: Study, folder: Path) -> bool:
    """Whether the folder's page is that of this study, as its file says it now."""
    page = folder / PAGE
    return page.is_file() and _digest(study) in page.read_text(encoding="utf-8")


def state_hypotheses(study: Study, folder: Path) -> None:
    """Writes down the hypotheses before the first run, where none were stated before."""
    path = folder / HYPOTHESES
    if not path.is_file():
        stated = [h.model_dump(mode="json") for h in study.hypotheses]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        replace_json(path, {"schema_version": 1, "stated": now, "hypotheses": stated})


def hypotheses_as_stated(study: Study, folder: Path) -> bool:
    """Whether the hypotheses are those that were stated before the first run."""
    path = folder / HYPOTHESES
    if not path.is_file():
        return True
    stated = json.loads(path.read_text(encoding="utf-8"))["hypotheses"]
    return bool(stated == [h.model_dump(mode="json") for h in study.hypotheses])


def _digest(study: Study) -> str:
    return hashlib.sha256(study.model_dump_json().encode()).hexdigest()[:12]


def write(study: Study, runs: Sequence[FinishedRun], folder: Path, command: str) -> Path:
    """Writes ``README.md``, ``effects.csv``, ``scores.csv`` and figures; returns the page."""
    tested = analysis.test_hypotheses(study, runs)
    remove_parts(folder)
    pictures = write_figures(study, runs, folder)
    replace(folder / "effects.csv", effects_csv(study, runs))
    replace(folder / "scores.csv", scores_csv(study, runs))
    page = folder / PAGE
    replace(page, text(study, runs, tested, pictures, command, hypotheses_as_stated(study, folder)))
    return page


def text(
    study: Study,
    runs: Sequence[FinishedRun],
    tested: Sequence[HypothesisTest],
    pictures: Sequence[Path],
    command: str,
    as_stated: bool = True,
) -> str:
    """The page as markdown; ``pictures`` lie beside it, and ``command`` makes it again.
    ``as_stated``: whether the hypotheses are those from before the run.
    """
    arms = study.arms()
    parameters = runs[0].result.parameters if runs else 0
    seconds = sum(f.result.seconds for f in runs)
    shown = {p.stem: f"\n![{p.stem}]({p.name})\n" for p in pictures}
    lines = [
        f"<!-- schema_version: 1; made by: {command}; study {_digest(study)} -->",
        f"# {study.name}",
        "",
        study.question.strip(),
        "",
        "## Hypotheses, stated before the run"
        if as_stated
        else "## Hypotheses, CHANGED after the run",
        "",
        *([] if as_stated else [f"What was stated before the first run is in `{HYPOTHESES}`.", ""]),
        *hypotheses_table(study, tested),
        "",
        "Differences are of NLL in nats an answer, first arm minus second, paired over seeds; the "
        f"intervals hold together at 95 % (Bonferroni over {len(study.hypotheses)}). An effect "
        "*held* when its interval lies beyond the smallest effect of interest.",
        shown.get("forest", ""),
        "## Within the trained sizes",
        "",
        *scores_table(study, runs, study.first_condition),
        "",
        *control_sentences(study, runs),
        shown.get("heat", ""),
        "## How far positions turn",
        "",
        "Turns of the slowest and the fastest rotary frequency over the trained span of an axis. "
        "Far below a hundredth of a turn neighbours look alike; above one turn they come round "
        "again.",
        "",
        *phase_table(study),
        "",
        "## Beyond the trained sizes",
        "",
        "Every condition twice: with text where the scheme puts it (*released*), and with text no "
        "further away than in training (*clamped*). Where only the first is bad, the model fails "
        "on the text's positions, not on those of the scene.",
        "",
        *beyond_table(study, runs),
        shown.get("curves", ""),
        "## Learning",
        "",
        *learning_table(study, runs),
        "",
        "## How it was made",
        "",
        f"{len(arms)} arms, {study.seeds} seeds each, {study.steps} steps of {study.batch} "
        f"scenes, {parameters / 1e6:.2f} million parameters; initialisation and scenes are those "
        f"of the seed, the same in all arms. {len(runs)} runs, {seconds / 60:.0f} minutes of "
        f"processor time, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "What it doesn't say: these are models of half a million parameters, trained from "
        "nothing, whose tower sees one cell at a time. Sign and mechanism can be taken from here, "
        "magnitudes can't.",
        "",
        "```yaml",
        yaml.safe_dump(
            study.model_dump(mode="json", exclude_defaults=True), sort_keys=False
        ).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def summary(study: Study, runs: Sequence[FinishedRun]) -> str:
    """One line a hypothesis, for a terminal."""
    lines = []
    for t in analysis.test_hypotheses(study, runs):
        e = t.effect
        size = f"{e.difference:+.2f} [{e.low:+.2f}, {e.high:+.2f}] nats" if e else "no two seeds"
        lines.append(f"{t.hypothesis.name} {t.verdict}: {t.hypothesis.claim} {size}")
    return "\n".join(lines)


def hypotheses_table(study: Study, tested: Sequence[HypothesisTest]) -> list[str]:
    """A hypothesis a row: its claim, the difference with its interval, and the verdict."""
    lines = [
        "| | claim | asked | difference | interval | bound | effect / seed noise | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for t in tested:
        h, e = t.hypothesis, t.effect
        bound = f"below {h.below:g}" if h.below is not None else f"within ±{h.within:g}"
        difference = interval = noise = "–"
        if e:
            noise = "no noise" if e.noise == 0 else f"{e.over_noise:.1f}"
            difference, interval = f"{e.difference:+.2f}", f"[{e.low:+.2f}, {e.high:+.2f}]"
        pair = f"{study.arm(h.a).name} − {study.arm(h.b).name}: {h.kind}, {h.condition}"
        lines.append(
            f"| {h.name} | {h.claim} | {pair} | {difference} | {interval} | {bound} | {noise} | "
            f"{VERDICTS[t.verdict]} |"
        )
    return lines


def scores_table(study: Study, runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """The scores of every arm in one condition, above what ideal observers reach in it."""
    lines = [
        "NLL in nats, mean over seeds ± their standard deviation (share right). Below: what an "
        "ideal observer reaches with less than everything.",
        "",
        "| arm | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for arm in study.arms():
        cells = [_cell(mean_scores(runs, arm, condition, k)) for k in KINDS]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    labels = {
        "blind": "*grid size only (blind, shuffled)*",
        "index": "*index and number of tokens (all that 1D tells)*",
        "first_second": "*first second only*",
    }
    tops = ceilings(study.conditions[condition].cells, study.trained.high)
    for view, label in labels.items():
        cells = [f"{tops[view][k].nll:.2f} ({tops[view][k].right:.2f})" for k in KINDS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _cell(scores: MeanScores | None) -> str:
    return "–" if scores is None else f"{scores.nll:.2f} ± {scores.spread:.2f} ({scores.right:.2f})"


def control_sentences(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Whether views that hide places are at chance, and the whole view reaches its ceiling."""
    lines = []
    for name, condition in study.conditions.items():
        if condition.view not in ("shuffled", "blind"):
            continue
        top = ceilings(condition.cells, study.trained.high)["blind"]
        over = []
        for arm in study.arms():
            for kind in PLACES:
                scores, ceiling = mean_scores(runs, arm, name, kind), top[kind].right
                if scores and scores.right > ceiling + CHANCE_MARGIN:
                    over.append(f"{arm.name}, {kind}: {scores.right:.2f} against {ceiling:.2f}")
        lines.append(
            f"- *{name}*: "
            + (
                "no arm is right more often than the grid's size alone allows, so what the whole "
                "view adds is about positions."
                if not over
                else "ABOVE what the grid's size alone tells: " + "; ".join(over) + "."
            )
        )
    reached = [
        f"{arm.name} ({kind})"
        for arm in study.arms()
        for kind in PLACES
        if (scores := mean_scores(runs, arm, study.first_condition, kind)) and scores.right >= 0.98
    ]
    everyone = (
        f"- The ceiling of the whole view (all right) is met to 2 % by: {', '.join(reached)}."
    )
    lines.append(everyone if reached else "- No arm reaches the ceiling of the whole view.")
    return lines


def phase_table(study: Study) -> list[str]:
    """How far each axis rotates the frequencies, an arm a row; one row for arms whose switches are
    the same, since text jitter moves nothing within a scene.
    """
    lines = ["| arm | " + " | ".join(phases.AXES) + " |", "|---" * 4 + "|"]
    shown: list[dict[str, Any]] = []
    for arm in study.arms():
        if (switches := study.run(arm, 0).switches) in shown:
            continue
        shown.append(switches)
        cells = [
            f"{t.slowest:.2g} … {t.fastest:.2g} ({t.frequencies})" if t.frequencies else "none"
            for t in phases.turns(study, arm).values()
        ]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return [*lines, "", "In brackets: how many frequencies the axis moves."]


def beyond_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """The scores of every arm in every whole-view condition but the first."""
    names = [
        n for n, c in study.conditions.items() if c.view == "whole" and n != study.first_condition
    ]
    lines = [
        "| condition | arm | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 2) + "|",
    ]
    for name in names:
        for arm in study.arms():
            cells = [_cell(mean_scores(runs, arm, name, k)) for k in KINDS]
            lines.append(f"| {name} | {arm.name} | {' | '.join(cells)} |")
    return lines


def learning_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Steps to 80 % of right training answers by kind, and the best of the learning rates tried."""
    rates = bool(study.rate_check)
    header = "| arm | " + " | ".join(f"{k}: steps to 80 %" for k in KINDS)
    lines = [header + (" | best rate (gain, nats) |" if rates else " |")]
    lines.append("|---" * (len(KINDS) + 1 + rates) + "|")
    for arm in study.arms():
        cells = [f"{s:.0f}" if (s := analysis.steps_to(runs, arm, k)) else "never" for k in KINDS]
        if rates and any(f.arm == arm and f.run.rate != 1 for f in runs):
            best, gain = analysis.best_rate(study, runs, arm, study.first_condition)
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
        ]
    return lines


def scores_csv(study: Study, runs: Sequence[FinishedRun]) -> str:
    """One row a run, condition and kind."""
    lines = ["schema_version,arm,seed,rate,condition,kind,nll,right,valid,n"]
    for f in runs:
        for condition, kinds in f.result.conditions.items():
            for kind, m in kinds.items():
                lines.append(
                    f'1,"{f.arm.name}",{f.run.seed},{f.run.rate:g},"{condition}",{kind},'
                    f"{m.nll},{m.right},{m.valid},{m.n}"
                )
    return "\n".join([*lines, ""])


def effects_csv(study: Study, runs: Sequence[FinishedRun]) -> str:
    """Every arm against the baseline, every condition and kind, intervals at 95 % each."""
    base = study.arm(study.baseline)
    lines = [
        "schema_version,arm,baseline,condition,kind,difference,ci_low,ci_high,noise,"
        "effect_over_noise,mde,right_points,seeds"
    ]
    for arm in study.arms():
        for condition in study.conditions:
            for kind in KINDS:
                e = effect(runs, arm, base, condition, kind) if arm != base else None
                if e:
                    values = (e.difference, e.low, e.high, e.noise, e.over_noise, e.mde, e.right)
                    numbers = ",".join(f"{v:.4f}" for v in values)
                    lines.append(
                        f'1,"{arm.name}","{base.name}","{condition}",{kind},{numbers},{e.seeds}'
                    )
    return "\n".join([*lines, ""])
