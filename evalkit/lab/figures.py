"""A study's figures: effects as a forest plot, shares right as a heat map, learning curves, and
effects against size where arms differ in it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.files import replace
from evalkit.lab.analysis import effect, effects_by_size, mean_curve, mean_scores, size_factor
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Study
from evalkit.palette import BLUE

NOTHING = 0.12
"""Nats on either side of 0 that a forest plot shows at least, so that nothing looks like it."""


def write_figures(study: Study, runs: Sequence[FinishedRun], folder: Path) -> list[Path]:
    """Writes ``forest.png``, ``heat.png``, ``curves.png`` and, of a study of sizes,
    ``sizes.png``; returns their paths.
    """
    from matplotlib.figure import Figure

    out = []
    draws = [("forest", _forest), ("heat", _heat), ("curves", _curves)]
    if size_factor(study):
        draws.append(("sizes", _sizes))
    for name, draw in draws:
        figure = Figure(figsize=(10, 4 + 0.07 * len(study.arms())), layout="constrained")
        draw(figure, study, runs)
        path = folder / f"{name}.png"
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        replace(path, picture.getvalue())
        out.append(path)
    return out


def _name(text: str) -> str:
    """An arm's name for an axis: long ones on several lines."""
    return textwrap.fill(text, 26)


def _forest(figure: Any, study: Study, runs: Sequence[FinishedRun]) -> None:
    base, condition = study.arm(study.baseline), study.first_condition
    axes = figure.subplots(1, len(study.kinds), sharey=True, squeeze=False)[0]
    arms = [a for a in study.arms() if a != base]
    figure.set_size_inches(10, 0.4 * len(arms) + 1.2)
    for ax, kind in zip(axes, study.kinds):
        for y, arm in enumerate(reversed(arms)):
            e = effect(runs, arm, base, condition, kind)
            if e:
                ax.plot((e.low, e.high), (y, y), color=BLUE, lw=2)
                ax.plot(e.difference, y, "o", color=BLUE, ms=4)
        ax.axvline(0, color="0.4", lw=0.8)
        ax.set_title(kind, fontsize=10)
        ax.set_yticks(range(len(arms)), [_name(a.name) for a in reversed(arms)], fontsize=8)
        ax.set_ylim(-0.6, len(arms) - 0.4)
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, -NOTHING), max(high, NOTHING))
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(axis="x", labelsize=8)
    figure.suptitle(
        f"NLL minus that of {base.name}, {condition} (below 0: better; 95 %)", fontsize=10
    )


def _heat(figure: Any, study: Study, runs: Sequence[FinishedRun]) -> None:
    columns: list[tuple[str, str]] = [
        (n, k) for n, c in study.conditions.items() if c.view == "whole" for k in study.kinds
    ]
    arms = study.arms()
    values = [
        [m.right if (m := mean_scores(runs, a, n, k)) else float("nan") for n, k in columns]
        for a in arms
    ]
    figure.set_size_inches(12, 0.4 * len(arms) + 1.8)
    ax = figure.subplots()
    image = ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    ax.set_yticks(range(len(arms)), [_name(a.name) for a in arms], fontsize=8)
    ax.set_xticks(range(len(columns)), [k for _, k in columns], fontsize=7, rotation=90)
    for i, (name, kind) in enumerate(columns):
        if kind == study.kinds[0]:
            ax.text(i - 0.4, -0.6, name, fontsize=7, rotation=30)
            ax.axvline(i - 0.5, color="white", lw=1)
    figure.colorbar(image, ax=ax, label="share right", shrink=0.8)


def _curves(figure: Any, study: Study, runs: Sequence[FinishedRun]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots(1, len(study.kinds), sharey=True, squeeze=False)[0]
    for ax, kind in zip(axes, study.kinds):
        for i, arm in enumerate(study.arms()):
            if curve := mean_curve(runs, arm, kind):
                style = "-" if i % 2 == 0 else "--"
                ax.plot(*zip(*curve), style, lw=1.2, color=f"C{i // 2 % 10}", label=arm.name)
        ax.set_title(kind, fontsize=10)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("training NLL, nats", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
    )


def _sizes(figure: Any, study: Study, runs: Sequence[FinishedRun]) -> None:
    from matplotlib.ticker import NullLocator

    axes = figure.subplots(1, len(study.kinds), sharey=True, squeeze=False)[0]
    for ax, kind in zip(axes, study.kinds):
        by_arm = effects_by_size(study, runs, kind)
        for i, (name, effects) in enumerate(by_arm.items()):
            sizes = [parameters / 1e6 * 1.05**i for parameters, _ in effects]  # side by side
            means = [e.difference for _, e in effects]
            reach = [[m - e.low for m, (_, e) in zip(means, effects)]]
            reach.append([e.high - m for m, (_, e) in zip(means, effects)])
            ax.errorbar(sizes, means, yerr=reach, fmt="o-", ms=4, lw=1.2, capsize=3, label=name)
        ax.axhline(0, color="0.4", lw=0.8)
        ax.set_xscale("log")
        shown = sorted({round(f.result.parameters / 1e6, 1) for f in runs})
        ax.set_xticks(shown, [f"{size:g}" for size in shown])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(kind, fontsize=10)
        ax.set_xlabel("million parameters", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("NLL minus the baseline's of that size, nats", fontsize=8)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=7)
