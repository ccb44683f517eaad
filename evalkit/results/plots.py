"""Pictures of results, readable in print and by the colour-blind (Okabe and Ito's colours, a mark
for each). Functions return a matplotlib figure, or None where the data have nothing to show;
``save`` and ``svg`` write one. Nothing global of matplotlib is changed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from evalkit.cell_results import MetricResult
from evalkit.errors import UsageError
from evalkit.files import replace
from evalkit.names import slug
from evalkit.palette import COLOURS, NO_PICTURES
from evalkit.records import Record
from evalkit.results.breakdown import in_order, metric_inside, value_of
from evalkit.results.cells import data_digest, labels
from evalkit.results.sweep_values import Finding, Kind
from evalkit.store import CellFolder
from evalkit.task import Metric

MARKS = "os^Dv*"
GREY = "#888888"
KINDS = {
    Kind.TRAINED: ("s", COLOURS[0], "squares: trained arms"),
    Kind.PROBE: ("o", COLOURS[1], "circles: inference probes"),
    Kind.SAME: ("^", COLOURS[2], "triangles: the same weights"),
    Kind.BASELINE: ("D", "black", "diamonds: baselines"),
}
"""Mark and colour of each kind of cell in a sweep, and what the picture says of them."""
OVERLAID = len(COLOURS)
"""Cells that share one panel; more get a panel each."""
GROUPS = ("lang", "type", "question_types", "duration", "object_size", "tier")
"""Fields by which scores are drawn, where samples have them."""
MOST = 24
"""Cells that one picture shows; a page says how many more there are."""
BINS = 5
"""Bins of equal counts in a curve over lengths."""
Scored = Sequence[Record]
P = ParamSpec("P")
R = TypeVar("R")


def _drawing(draw: Callable[P, R]) -> Callable[P, R]:
    """Draws with dollar signs as they stand (names of settings may hold them). Raises UsageError
    that says what to install where matplotlib is missing.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            from matplotlib import rc_context
        except ImportError:
            raise UsageError(NO_PICTURES) from None
        with rc_context({"text.parse_math": False}):
            return draw(*args, **kwargs)

    return drawn


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> Any:
    """(figure, axes [rows * columns]) with a light grid; ``share`` as of ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return figure, list(axes.flat)


def _styles() -> Iterator[tuple[str, str]]:
    return cycle(zip(COLOURS, MARKS))


@_drawing
def differences(findings: Sequence[Finding]) -> Any | None:
    """A forest plot of a sweep's differences to its baselines, a panel for each task."""
    shown = [f for f in findings if f.kind is not Kind.BASELINE and f.scores is not None]
    if not shown:
        return None
    names = list(dict.fromkeys((f.settings, f.against) for f in shown))
    one_baseline = len({against for _, against in names}) == 1
    tasks = list(dict.fromkeys(f.task for f in shown))
    figure, axes = _figure(
        3.0 + 2.2 * len(tasks), 1.2 + 0.3 * len(names), 1, len(tasks), sharey=True
    )
    for axis, task in zip(axes, tasks):
        mine = [f for f in shown if f.task == task]
        for f in mine:
            assert f.scores is not None
            y = -names.index((f.settings, f.against))
            mark, colour, _ = KINDS[f.kind]
            if f.scores.ci_low is not None and f.scores.ci_high is not None:
                axis.plot([f.scores.ci_low, f.scores.ci_high], [y, y], color=colour, lw=1.6)
            axis.plot(f.scores.difference, y, mark, color=colour, mfc="white", ms=5)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_title(f"{task}, {_range([f.scores.n for f in mine if f.scores])}", fontsize=9)
    axes[0].set_yticks(
        [-y for y in range(len(names))],
        [name if one_baseline else f"{name}\nagainst {against}" for name, against in names],
    )
    axes[0].set_ylim(0.6 - len(names), 0.6)
    marks = "; ".join(
        text for kind, (_, _, text) in KINDS.items() if kind in {f.kind for f in shown}
    )
    figure.supxlabel(f"points against the baseline, 95 % interval ({marks})", fontsize=8)
    return figure


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


@_drawing
def score_by_tokens(findings: Sequence[Finding]) -> Any | None:
    """A sweep's headline scores against the mean visual tokens a sample, where these differ: a
    panel for each task, a labelled point with its 95 % interval for each cell.
    """
    shown = [f for f in findings if f.visual_tokens is not None]
    tasks = [
        task
        for task in dict.fromkeys(f.task for f in shown)
        if len({f.visual_tokens for f in shown if f.task == task}) > 1
    ]
    if not tasks:
        return None
    figure, axes = _figure(1 + 4.2 * len(tasks), 4, 1, len(tasks))
    for axis, task in zip(axes, tasks):
        mine = [f for f in shown if f.task == task]
        usual = mine[0].visual_tokens
        for f in mine:
            mark, colour, _ = KINDS[f.kind]
            # of the cells with as many tokens as the baseline, only that one has a label
            plain = f.visual_tokens == usual and f is not mine[0]
            colour = GREY if plain else colour
            if f.ci_low is not None and f.ci_high is not None:
                axis.plot(
                    [f.visual_tokens] * 2, [f.ci_low, f.ci_high], color=colour, lw=0.8, alpha=0.6
                )
            axis.plot(f.visual_tokens, f.value, mark, color=colour, mfc="white", ms=5)
            if not plain:
                axis.annotate(
                    f.settings,
                    (f.visual_tokens, f.value),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=6,
                )
        axis.set_title(f"{task}, {_range([f.n for f in mine])}", fontsize=9)
        grey = sum(f.visual_tokens == usual for f in mine) > 1
        note = "\n(grey: cells with as many as the baseline)" if grey else ""
        axis.set_xlabel(f"visual tokens a sample (mean){note}", fontsize=8)
        interval = ", 95 % interval" if any(f.ci_low is not None for f in mine) else ""
        axis.set_ylabel(f"{mine[0].metric}{interval}", fontsize=8)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.margins(x=0.25)
        _logarithmic(axis)
    return figure


@_drawing
def by_group(cells: Mapping[str, Scored], field: str, metric: Metric) -> Any | None:
    """Scores by a metadata field (language, question type) with 95 % intervals over clusters: a
    panel for each value, a row for each cell.
    """
    groups: dict[str, dict[str, list[Record]]] = {label: {} for label in cells}
    for label, records in cells.items():
        for r in records:
            if (value := value_of(r, field)) is not None:
                groups[label].setdefault(value, []).append(r)
    values = in_order({value for there in groups.values() for value in there})
    if len(values) < 2:
        return None
    figure, axes = _figure(
        2.4 + 1.35 * len(values), 1.1 + 0.24 * len(cells), 1, len(values), sharey=True, sharex=True
    )
    for axis, value in zip(axes, values):
        counts = []
        for y, (there, (colour, mark)) in enumerate(zip(groups.values(), _styles())):
            result = MetricResult.of(there.get(value, []), metric_inside(metric, field))
            if result is None:
                continue
            counts.append(result.n)
            if result.ci_low is not None and result.ci_high is not None:
                axis.plot([result.ci_low, result.ci_high], [-y, -y], color=colour, lw=1.4)
            axis.plot(result.value, -y, mark, color=colour, mfc="white", ms=5)
        axis.set_title(f"{value}\n{_range(counts)}" if counts else value, fontsize=8)
    axes[0].set_yticks([-y for y in range(len(cells))], list(cells))
    axes[0].set_ylim(0.5 - len(cells), 0.5)
    _from_nought(axes[0], "x", metric.scale)
    figure.supxlabel(f"{metric.name} by {field}, 95 % interval", fontsize=8)
    return figure


def _from_nought(axis: Any, which: str, scale: float) -> None:
    """Scores from 0 to their scale, or as far as they go when a metric goes beyond it."""
    low, high = getattr(axis, f"get_{which}lim")()
    if low >= -0.1 * scale and high <= 1.1 * scale:
        getattr(axis, f"set_{which}lim")(-0.03 * scale, 1.03 * scale)


@_drawing
def iou_histogram(cells: Mapping[str, Scored]) -> Any | None:
    """The distribution of the IoU of predicted boxes, a line for each cell."""
    overlaps = {
        label: [r.scores["iou"] for r in records if "iou" in r.scores]
        for label, records in cells.items()
    }
    overlaps = {label: values for label, values in overlaps.items() if values}
    if not overlaps:
        return None
    edges = np.linspace(0, 1, 21)

    def line(axis: Any, label: str, style: tuple[str, str], behind: bool) -> None:
        counts, _ = np.histogram(overlaps[label], edges)
        share = 100 * counts / len(overlaps[label])
        look: dict[str, Any] = {"ls": ":", "lw": 1} if behind else {"lw": 1.4}
        axis.stairs(share, edges, color=GREY if behind else style[0], label=label, **look)

    figure, axes = _curves({k: len(v) for k, v in overlaps.items()}, line)
    for axis in axes:
        axis.axvline(0.5, color="black", lw=0.8, ls=":")
        axis.set_xlim(0, 1)
    figure.supxlabel("IoU of the predicted box (dotted: the threshold of 0.5)", fontsize=8)
    figure.supylabel("% of expressions", fontsize=8)
    return figure


@_drawing
def length_curve(cells: Mapping[str, Scored], metric: Metric) -> Any | None:
    """Score against the visual tokens of a sample, in bins of equal counts, with 95 % intervals
    over clusters.
    """
    every = np.array([r.tokens.vision_in for records in cells.values() for r in records])
    if not len(every):
        return None
    edges = np.unique(np.quantile(every, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:
        return None

    def line(axis: Any, label: str, style: tuple[str, str], behind: bool) -> None:
        points = []
        for low, high in zip(edges, [*edges[1:-1], edges[-1] + 1]):
            mine = [r for r in cells[label] if low <= r.tokens.vision_in < high]
            if result := MetricResult.of(mine, metric):
                points.append((float(np.mean([r.tokens.vision_in for r in mine])), result))
        colour, mark = (GREY, "") if behind else style
        axis.plot(
            [x for x, _ in points],
            [result.value for _, result in points],
            mark + (":" if behind else "-"),
            color=colour,
            label=label,
            lw=1,
            ms=4,
        )
        for x, result in () if behind else points:
            if result.ci_low is not None and result.ci_high is not None:
                axis.plot([x, x], [result.ci_low, result.ci_high], color=colour, lw=0.9)

    figure, axes = _curves({k: len(v) for k, v in cells.items()}, line)
    for axis in axes:
        _logarithmic(axis)
    _from_nought(axes[0], "y", metric.scale)
    figure.supxlabel("visual tokens of the sample", fontsize=8)
    figure.supylabel(f"{metric.name}, 95 % interval", fontsize=8)
    return figure


def _curves(
    cells: Mapping[str, int], line: Callable[[Any, str, tuple[str, str], bool], None]
) -> tuple[Any, list[Any]]:
    """Lines of a few cells in one panel with a legend; of many, a panel each, with the first cell's
    line dotted behind it. ``cells``: samples of each, by label.
    """
    if len(cells) <= OVERLAID:
        figure, axes = _figure(6, 3.2 + 0.2 * len(cells))
        for label, style in zip(cells, _styles()):
            line(axes[0], label, style, False)
        names = [f"{label} (n = {n})" for label, n in cells.items()]
        if len(cells) > 1:
            legend = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "frameon": False}
            handles, _ = axes[0].get_legend_handles_labels()
            axes[0].legend(handles, names, **legend, borderaxespad=0, fontsize=7)
        else:
            axes[0].set_title(names[0], fontsize=8)
        return figure, axes
    columns = min(4, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure, axes = _figure(2.6 * columns, 0.6 + 1.9 * rows, rows, columns, sharex=True, sharey=True)
    first = next(iter(cells))
    for axis, (label, n) in zip(axes, cells.items()):
        if label != first:
            line(axis, first, (GREY, ""), True)
        line(axis, label, (COLOURS[0], MARKS[0]), False)
        axis.set_title(f"{label} (n = {n})", fontsize=7)
    for axis in axes[len(cells) :]:
        axis.set_visible(False)
    return figure, axes[: len(cells)]


def of_task(cells: Mapping[str, Scored], metric: Metric) -> Iterator[tuple[str, Any]]:
    """(name, figure) of all pictures that the samples of one task have something to show for; a
    cell without a sample that has the metric is left out, and so are all after the first MOST.
    """
    kept = {
        label: mine
        for label, records in list(cells.items())[:MOST]
        if (mine := [r for r in records if metric.name in r.scores])
    }
    for field in GROUPS:
        if figure := by_group(kept, field, metric):
            yield f"by-{field}", figure
    if figure := iou_histogram(kept):
        yield "iou", figure
    if figure := length_curve(kept, metric):
        yield "length", figure


def _logarithmic(axis: Any) -> None:
    """A logarithmic horizontal axis with plain numbers, at 1, 2 and 5."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def write_figures(cells: Sequence[CellFolder], folder: Path, form: str) -> Iterator[Path]:
    """The figures of each task among the cells, as files ``task-subset-by-tier.pdf``; the cells of
    a task that are over other data make figures of their own. Raises UsageError without matplotlib,
    and when there is nothing to draw.
    """
    groups: dict[tuple[str, str], list[CellFolder]] = {}
    for cell in cells:
        groups.setdefault((cell.task, data_digest(cell)), []).append(cell)
    tasks, named, drawn = [task for task, _ in groups], labels(cells), 0
    for (task, digest), mine in groups.items():
        metrics = [c.results.metrics[0] for c in mine if c.results.metrics]
        if not metrics:
            continue
        where = f"-{digest[:6]}" if tasks.count(task) > 1 else ""
        shown = {named[c.path]: list(c.scored().values()) for c in mine}
        for name, figure in of_task(shown, metrics[0].definition):
            drawn += 1
            yield save(figure, folder / f"{slug(task)}{where}-{name}.{form}")
    if not drawn:
        raise UsageError("nothing to draw: no scored sample has a property to group by")


def save(figure: Any, path: Path) -> Path:
    """Writes a picture in the form that its suffix names, its texts as texts where the form has
    such. Raises EvalkitError when it can't be written.
    """
    picture, form = io.BytesIO(), path.suffix.removeprefix(".")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    figure.savefig(picture, format=form, dpi=130, metadata=undated)
    replace(path, picture.getvalue(), durable=False)
    return path
