"""Pictures of results, readable in print and by the colour-blind (Okabe and Ito's colours, a mark
for each). Functions return a matplotlib figure, or None where the data have nothing to show;
``save`` and ``svg`` write one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit import journal
from evalkit.results.breakdown import in_order, value_of
from evalkit.stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "os^Dv*"
KINDS = {
    "trained arm": ("s", COLOURS[0], "squares: trained arms"),
    "inference probe": ("o", COLOURS[1], "circles: inference probes"),
    "same weights": ("^", COLOURS[2], "triangles: the same weights"),
}
"""Mark and colour of each kind of cell in a sweep's table, and what the picture says of them."""
MOST = len(COLOURS)
"""Cells that one picture shows; the first ones of more."""
Scored = Sequence[journal.Record]
GROUPS = ("lang", "type", "question_types", "duration", "object_size", "tier")
"""Fields that are drawn as bars, where samples have them."""


def _axes(width: float, height: float, panels: int) -> tuple[Any, Any]:
    """A figure of ``panels`` axes side by side, with one scale upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["text.parse_math"] = False
    figure, axes = pyplot.subplots(
        1, panels, sharey=True, squeeze=False, figsize=(width, height), layout="constrained"
    )
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes[0]


def _styles() -> Iterator[tuple[str, str]]:
    return cycle(zip(COLOURS, MARKS))


def differences(frame: pd.DataFrame) -> Any | None:
    """A forest plot of a sweep's differences to its baselines (the table of
    ``evalkit.results.sweep_tables``), a panel for each task.
    """
    found = frame[(frame.kind != "baseline") & frame.difference.notna()]
    if found.empty:
        return None
    names = list(dict.fromkeys(zip(found.settings, found.against)))
    one_baseline = len({against for _, against in names}) == 1
    tasks = list(dict.fromkeys(found.task))
    figure, axes = _axes(3.0 + 2.2 * len(tasks), 1.2 + 0.3 * len(names), len(tasks))
    for axis, task in zip(axes, tasks):
        for r in found[found.task == task].to_dict("records"):
            y = -names.index((r["settings"], r["against"]))
            mark, colour, _ = KINDS[r["kind"]]
            if r["ci_low"] is not None and r["ci_low"] == r["ci_low"]:
                axis.plot([r["ci_low"], r["ci_high"]], [y, y], color=colour, lw=1.6)
            axis.plot(r["difference"], y, mark, color=colour, mfc="white", ms=5)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_title(task, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(
        [-y for y in range(len(names))],
        [name if one_baseline else f"{name}\nagainst {against}" for name, against in names],
    )
    axes[0].set_ylim(0.6 - len(names), 0.6)
    marks = "; ".join(said for kind, (_, _, said) in KINDS.items() if kind in set(found.kind))
    figure.supxlabel(f"points against the baseline, 95 % interval ({marks})", fontsize=8)
    return figure


def score_by_tokens(frame: pd.DataFrame) -> Any | None:
    """A sweep's headline scores against the mean visual tokens a sample, where these differ."""
    if frame.empty or frame.groupby("task").visual_tokens.nunique().max() < 2:
        return None
    figure, (axis,) = _axes(6.5, 4, 1)
    for (task, these), (colour, mark) in zip(frame.groupby("task", sort=False), _styles()):
        these = these.sort_values("visual_tokens")
        line = "-" if these.visual_tokens.is_unique else ""
        axis.plot(these.visual_tokens, these.value, mark + line, color=colour, label=task, lw=1)
    axis.set(xlabel="visual tokens a sample (mean)", ylabel="headline score")
    _logarithmic(axis)
    axis.legend(fontsize=8)
    return figure


def group_bars(cells: Mapping[str, Scored], field: str, metric: str, scale: float) -> Any | None:
    """Scores by a metadata field (language, question type), a bar for each cell, with 95 %
    intervals over clusters.
    """
    shown = list(cells.items())[:MOST]
    there = {g for _, records in shown for r in records if (g := value_of(r, field)) is not None}
    names = in_order(there)
    if len(names) < 2:
        return None
    figure, (axis,) = _axes(min(1.8 + 0.28 * len(names) * (1 + len(shown)), 11), 3.4, 1)
    width = 0.8 / len(shown)
    for i, ((label, records), (colour, _)) in enumerate(zip(shown, _styles())):
        for x, name in enumerate(names):
            mine = [r for r in records if value_of(r, field) == name]
            if not mine:
                continue
            found = mean_interval([r["scores"][metric] for r in mine], [r["cluster"] for r in mine])
            at = x - 0.4 + width * (i + 0.5)
            axis.bar(
                at,
                scale * found.value,
                width,
                color=colour,
                label=label if name == names[0] else None,
            )
            if found.low is not None and found.high is not None:
                axis.plot([at, at], [scale * found.low, scale * found.high], color="black", lw=0.9)
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(ylabel=metric, xlabel=field)
    _legend(axis, len(shown))
    return figure


def iou_histogram(cells: Mapping[str, Scored]) -> Any | None:
    """The distribution of the IoU of predicted boxes, a line for each cell."""
    shown = [
        (label, [r["scores"]["iou"] for r in records if "iou" in r["scores"]])
        for label, records in cells.items()
    ][:MOST]
    if not any(values for _, values in shown):
        return None
    figure, (axis,) = _axes(5.5, 3.4, 1)
    edges = np.linspace(0, 1, 21)
    for (label, values), (colour, _) in zip(shown, _styles()):
        counts, _ = np.histogram(values, edges)
        axis.stairs(100 * counts / max(len(values), 1), edges, color=colour, label=label, lw=1.4)
    axis.axvline(0.5, color="black", lw=0.8, ls=":")
    axis.set(
        xlabel="IoU of the predicted box (dotted: the threshold of 0.5)",
        ylabel="% of expressions",
        xlim=(0, 1),
    )
    _legend(axis, len(shown))
    return figure


def length_curve(
    cells: Mapping[str, Scored], metric: str, scale: float, bins: int = 5
) -> Any | None:
    """Score against the visual tokens of a sample, in bins of equal counts, with 95 % intervals
    over clusters.
    """
    shown = list(cells.items())[:MOST]
    every = np.array([r["tokens"]["vision_in"] for _, records in shown for r in records])
    if not len(every):
        return None
    edges = np.unique(np.quantile(every, np.linspace(0, 1, bins + 1)))
    if len(edges) < 3:
        return None
    figure, (axis,) = _axes(5.5, 3.4, 1)
    for (label, records), (colour, mark) in zip(shown, _styles()):
        points = []
        for low, high in zip(edges, [*edges[1:-1], edges[-1] + 1]):
            mine = [r for r in records if low <= r["tokens"]["vision_in"] < high]
            if mine:
                middle = float(np.mean([r["tokens"]["vision_in"] for r in mine]))
                points.append(
                    (
                        middle,
                        mean_interval(
                            [r["scores"][metric] for r in mine], [r["cluster"] for r in mine]
                        ),
                    )
                )
        axis.plot(
            [x for x, _ in points],
            [scale * f.value for _, f in points],
            mark + "-",
            color=colour,
            label=label,
            lw=1,
            ms=4,
        )
        for x, f in points:
            if f.low is not None and f.high is not None:
                axis.plot([x, x], [scale * f.low, scale * f.high], color=colour, lw=0.9)
    axis.set(xlabel="visual tokens of the sample", ylabel=metric)
    _logarithmic(axis)
    _legend(axis, len(shown))
    return figure


def of_task(cells: Mapping[str, Scored], metric: str, scale: float) -> Iterator[tuple[str, Any]]:
    """(name, figure) of all pictures that the samples of one task have something to show for."""
    kept = {
        label: [r for r in records if metric in r["scores"]] for label, records in cells.items()
    }
    for field in GROUPS:
        if figure := group_bars(kept, field, metric, scale):
            yield f"by-{field}", figure
    if figure := iou_histogram(kept):
        yield "iou", figure
    if figure := length_curve(kept, metric, scale):
        yield "length", figure


def _logarithmic(axis: Any) -> None:
    """A logarithmic horizontal axis with plain numbers, at 1, 2 and 5."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def _legend(axis: Any, cells: int) -> None:
    if cells > 1:
        axis.legend(
            fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False, borderaxespad=0
        )


def save(figure: Any, path: Path) -> Path:
    """Writes a PNG and lets the figure go."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def svg(figure: Any) -> str:
    """The figure as an ``<svg>`` element; lets the figure go."""
    from matplotlib import pyplot, rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "evalkit", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
