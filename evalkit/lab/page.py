"""A study's page: the question, which hypotheses held, tables and figures, and how it was made.

Written so that a reader of the first screen takes the right thing home.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from evalkit.files import remove_parts, replace
from evalkit.lab import analysis, phases
from evalkit.lab.analysis import Tested, effect, mean_nll
from evalkit.lab.schedule import Finished
from evalkit.lab.study import Study
from evalkit.lab.voxels import KINDS, Kind, ceilings

VERDICTS = {
    "held": "**held**",
    "refuted": "**refuted**",
    "undecided": "undecided",
    "not run": "not run",
}
CHANCE_MARGIN = 0.03
"""How far above chance, as a share right, the shuffled view may be."""


def write(study: Study, runs: Sequence[Finished], folder: Path, command: str) -> Path:
    """Writes ``README.md``, ``effects.csv``, ``scores.csv`` and figures; returns the page."""
    tested = analysis.test(study, runs)
    remove_parts(folder)
    pictures = figures(study, runs, tested, folder)
    replace(folder / "effects.csv", effects_csv(study, runs))
    replace(folder / "scores.csv", scores_csv(study, runs))
    page = folder / "README.md"
    replace(page, text(study, runs, tested, pictures, command))
    return page


def text(
    study: Study,
    runs: Sequence[Finished],
    tested: Sequence[Tested],
    pictures: Sequence[Path],
    command: str,
) -> str:
    arms = study.arms()
    parameters = runs[0].result.parameters if runs else 0
    seconds = sum(f.result.seconds for f in runs)
    shown = {p.stem: f"\n![{p.stem}]({p.name})\n" for p in pictures}
    lines = [
        f"<!-- schema_version: 1; made by: {command} -->",
        f"# {study.name}",
        "",
        study.question.strip(),
        "",
        "## Hypotheses, fixed before the run",
        "",
        *hypotheses_table(study, tested),
        "",
        "Differences are of NLL in nats an answer, first arm minus second, paired over seeds; the "
        f"intervals hold together at 95 % (Bonferroni over {len(study.hypotheses)}). An "
        "effect *held* when "
        "its interval lies beyond the smallest effect of interest.",
        shown.get("forest", ""),
        "## Within the trained sizes",
        "",
        *scores_table(study, runs, first_condition(study)),
        "",
        *control_sentences(study, runs),
        shown.get("heat", ""),
        "## How far positions turn",
        "",
        "Turns of the slowest and the fastest rotary frequency over the trained span of an "
        "axis. Far "
        "below a hundredth of a turn neighbours look alike; above one turn they come round again.",
        "",
        *phase_table(study),
        "",
        "## Beyond the trained sizes",
        "",
        "Every condition twice: with text where the scheme puts it (*released*), and with text no "
        "further away than in training (*clamped*). Where only the first is bad, the model "
        "fails on the "
        "text's positions, not on those of the scene.",
        "",
        *beyond_table(study, runs),
        shown.get("curves", ""),
        "## Learning",
        "",
        *learning_table(study, runs),
        "",
        "## How it was made",
        "",
        f"{len(arms)} arms, {study.seeds} seeds each, {study.steps} steps of {study.batch} scenes, "
        f"{parameters / 1e6:.2f} million parameters; initialisation and scenes are those of "
        "the seed, the "
        f"same in all arms. {len(runs)} runs, {seconds / 60:.0f} minutes of processor time, torch "
        f"{torch.__version__}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "What it doesn't say: these are models of half a million parameters, trained from "
        "nothing, whose "
        "tower sees one cell at a time. Sign and mechanism can be taken from here, "
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


def summary(study: Study, runs: Sequence[Finished]) -> str:
    """One line a hypothesis, for a terminal."""
    lines = []
    for t in analysis.test(study, runs):
        e = t.effect
        size = f"{e.difference:+.2f} [{e.low:+.2f}, {e.high:+.2f}] nats" if e else "no two seeds"
        lines.append(f"{t.hypothesis.name} {t.verdict}: {t.hypothesis.claim} {size}")
    return "\n".join(lines)


def first_condition(study: Study) -> str:
    return next(iter(study.conditions))


def hypotheses_table(study: Study, tested: Sequence[Tested]) -> list[str]:
    lines = [
        "| | claim | asked | difference | interval | bound | effect / seed noise | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for t in tested:
        h, e = t.hypothesis, t.effect
        bound = f"below {h.below:g}" if h.below is not None else f"within ±{h.within:g}"
        figures_ = ("–", "–", "–")
        if e:
            noise = "no noise" if e.noise == 0 else f"{e.over_noise:.1f}"
            figures_ = (f"{e.difference:+.2f}", f"[{e.low:+.2f}, {e.high:+.2f}]", noise)
        pair = f"{study.arm(h.a).name} − {study.arm(h.b).name}: {h.kind}, {h.condition}"
        lines.append(
            f"| {h.name} | {h.claim} | {pair} | {figures_[0]} | {figures_[1]} | {bound} | "
            f"{figures_[2]} | "
            f"{VERDICTS[t.verdict]} |"
        )
    return lines


def scores_table(study: Study, runs: Sequence[Finished], condition: str) -> list[str]:
    lines = [
        "NLL in nats, mean over seeds ± their standard deviation (share right). Below: what "
        "an ideal "
        "observer reaches with less than everything.",
        "",
        "| arm | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for arm in study.arms():
        cells = [_cell(mean_nll(runs, arm, condition, k)) for k in KINDS]
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


def _cell(found: tuple[float, float, float] | None) -> str:
    return "–" if found is None else f"{found[0]:.2f} ± {found[1]:.2f} ({found[2]:.2f})"


def control_sentences(study: Study, runs: Sequence[Finished]) -> list[str]:
    """Whether views that hide places are at chance, and the whole view reaches its ceiling."""
    lines = []
    for name, condition in study.conditions.items():
        if condition.view not in ("shuffled", "blind"):
            continue
        top = ceilings(condition.cells, study.trained.high)["blind"]
        over = []
        for arm in study.arms():
            for kind in KINDS[:3]:
                found = mean_nll(runs, arm, name, kind)
                if found and found[2] > top[kind].right + CHANCE_MARGIN:
                    over.append(f"{arm.name}, {kind}: {found[2]:.2f} against {top[kind].right:.2f}")
        lines.append(
            f"- *{name}*: "
            + (
                "at or below what the grid's size alone tells, in every arm, so the results "
                "are about positions."
                if not over
                else "ABOVE what the grid's size alone tells: " + "; ".join(over) + "."
            )
        )
    reached = [
        f"{arm.name} ({kind})"
        for arm in study.arms()
        for kind in KINDS[:3]
        if (found := mean_nll(runs, arm, first_condition(study), kind)) and found[2] >= 0.98
    ]
    everyone = (
        f"- The ceiling of the whole view (all right) is met to 2 % by: {', '.join(reached)}."
    )
    lines.append(everyone if reached else "- No arm reaches the ceiling of the whole view.")
    return lines


def phase_table(study: Study) -> list[str]:
    lines = ["| arm | " + " | ".join(phases.AXES) + " |", "|---" * 4 + "|"]
    for arm in study.arms():
        if dict(arm.levels).get("text", "fixed") != next(
            iter(study.factors.get("text", {"fixed": None}))
        ):
            continue  # jitter moves nothing within a scene
        found = phases.turns(study, arm)
        cells = [
            f"{t.slowest:.2g} … {t.fastest:.2g} ({t.frequencies})" if t.frequencies else "none"
            for t in found.values()
        ]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return [*lines, "", "In brackets: how many frequencies the axis moves."]


def beyond_table(study: Study, runs: Sequence[Finished]) -> list[str]:
    names = [
        n for n, c in study.conditions.items() if c.view == "whole" and n != first_condition(study)
    ]
    lines = [
        "| condition | arm | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 2) + "|",
    ]
    for name in names:
        for arm in study.arms():
            cells = [_cell(mean_nll(runs, arm, name, k)) for k in KINDS]
            lines.append(f"| {name} | {arm.name} | {' | '.join(cells)} |")
    return lines


def learning_table(study: Study, runs: Sequence[Finished]) -> list[str]:
    rates = bool(study.rate_check)
    header = "| arm | " + " | ".join(f"{k}: steps to 80 %" for k in KINDS)
    lines = [header + (" | best rate (gain, nats) |" if rates else " |")]
    lines.append("|---" * (len(KINDS) + 1 + rates) + "|")
    for arm in study.arms():
        cells = [f"{s:.0f}" if (s := analysis.steps_to(runs, arm, k)) else "never" for k in KINDS]
        if rates and any(f.arm == arm and f.run.rate != 1 for f in runs):
            best, gain = analysis.best_rate(study, runs, arm, first_condition(study))
            cells.append(f"×{best:g} ({gain:.2f})")
        elif rates:
            cells.append("–")
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    if rates:
        lines += [
            "",
            "Best rate: which factor on both learning rates has the lowest NLL over all "
            "questions at the "
            "trained sizes, on the first seed alone, and how much lower it is than at the "
            "study's rates.",
        ]
    return lines


def scores_csv(study: Study, runs: Sequence[Finished]) -> str:
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


def effects_csv(study: Study, runs: Sequence[Finished]) -> str:
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


def figures(
    study: Study, runs: Sequence[Finished], tested: Sequence[Tested], folder: Path
) -> list[Path]:
    """Forest plot of the hypotheses' arms, heat map of shares right, learning curves."""
    from matplotlib.figure import Figure

    out = []
    for name, draw in (("forest", _forest), ("heat", _heat), ("curves", _curves)):
        figure = Figure(figsize=(9, 5), layout="constrained")
        draw(figure, study, runs)
        path = folder / f"{name}.png"
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        replace(path, picture.getvalue())
        out.append(path)
    return out


def _forest(figure: Any, study: Study, runs: Sequence[Finished]) -> None:
    base, condition = study.arm(study.baseline), first_condition(study)
    axes = figure.subplots(1, len(KINDS), sharey=True)
    arms = [a for a in study.arms() if a != base]
    for ax, kind in zip(axes, KINDS):
        for y, arm in enumerate(reversed(arms)):
            e = effect(runs, arm, base, condition, kind)
            if e:
                ax.plot((e.low, e.high), (y, y), color="#0072B2", lw=2)
                ax.plot(e.difference, y, "o", color="#0072B2", ms=4)
        ax.axvline(0, color="0.4", lw=0.8)
        ax.set_title(kind, fontsize=10)
        ax.set_yticks(range(len(arms)), [a.name for a in reversed(arms)], fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
    figure.suptitle(
        f"NLL minus that of {base.name}, {condition} (below 0: better; 95 %)", fontsize=10
    )


def _heat(figure: Any, study: Study, runs: Sequence[Finished]) -> None:
    columns: list[tuple[str, Kind]] = [
        (n, k) for n, c in study.conditions.items() if c.view == "whole" for k in KINDS
    ]
    arms = study.arms()
    values = [
        [found[2] if (found := mean_nll(runs, a, n, k)) else float("nan") for n, k in columns]
        for a in arms
    ]
    figure.set_size_inches(12, 0.32 * len(arms) + 2.6)
    ax = figure.subplots()
    image = ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    ax.set_yticks(range(len(arms)), [a.name for a in arms], fontsize=8)
    ax.set_xticks(range(len(columns)), [k for _, k in columns], fontsize=6, rotation=90)
    for i, (name, kind) in enumerate(columns):
        if kind == KINDS[0]:
            ax.text(i - 0.5, -0.7, name, fontsize=7, rotation=20)
            ax.axvline(i - 0.5, color="white", lw=1)
    figure.colorbar(image, ax=ax, label="share right", shrink=0.8)


def _curves(figure: Any, study: Study, runs: Sequence[Finished]) -> None:
    axes = figure.subplots(1, len(KINDS), sharey=True)
    for ax, kind in zip(axes, KINDS):
        for i, arm in enumerate(study.arms()):
            found = [f.result.curve for f in runs if f.arm == arm and f.run.rate == 1]
            if found:
                steps = [p.step for p in found[0]]
                means = [
                    sum(c[i_].nll.get(kind, 0.0) for c in found) / len(found)
                    for i_ in range(len(steps))
                ]
                style = "-" if i % 2 == 0 else "--"
                ax.plot(steps, means, style, lw=1.2, color=f"C{i // 2 % 10}", label=arm.name)
        ax.set_title(kind, fontsize=10)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("training NLL, nats", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
    )
