"""Headline scores by a property of the samples: tier, language, question type, whatever a task put
in ``Sample.metadata``, and what follows from a record: object size, image area, aspect, visual
tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evalkit.cell_results import MetricResult
from evalkit.columns import Columns
from evalkit.errors import UsageError
from evalkit.records import Record
from evalkit.results.cells import Output, arm, data_kind, model_labels, partial_text, some_cells
from evalkit.results.tables import (
    aligned,
    interval_note,
    interval_text,
    lower_note,
    value_text,
)
from evalkit.task import Metric

if TYPE_CHECKING:
    import pandas as pd

Classes = tuple[tuple[float, str], ...]
"""(upper bound, name), rising; the last bound is infinite."""
OBJECT_SIZES: Classes = (
    (0.02, "under 2 %"),
    (0.1, "2 to 10 %"),
    (math.inf, "over 10 % of the image"),
)
ASPECTS: Classes = (
    (2 / 3, "tall (under 2:3)"),
    (3 / 2, "2:3 to 3:2"),
    (math.inf, "wide (over 3:2)"),
)
IMAGE_AREAS: Classes = (
    *((10.0**n, f"under 10^{n} pixels") for n in range(4, 8)),
    (math.inf, "10^7 pixels and more"),
)
VISUAL_TOKENS: Classes = (
    *((4.0**n, f"{4 ** (n - 1)} to {4**n - 1}") for n in range(1, 8)),
    (math.inf, "16384 and more"),
)


def value_of(record: Record, field: str) -> str | None:
    """A record's value of a metadata field in words, or of a derived one (DERIVED); None when it
    has none.
    """
    if field not in DERIVED:
        return _words(record.metadata.get(field))
    target = record.target if "iou" in record.scores else None
    return DERIVED[field](record.metadata, target, record.tokens.vision_in)


def values_of(columns: Columns, field: str) -> list[str | None]:
    """``value_of`` each record."""
    if field not in DERIVED:
        return [_words(metadata.get(field)) for metadata in columns["metadata"]]
    scored = zip(columns["target"], columns.score("iou"))
    targets = [None if iou is None else target for target, iou in scored]
    return list(map(DERIVED[field], columns["metadata"], targets, columns["tokens_vision_in"]))


def _words(value: Any) -> str | None:
    if value is None:
        return None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _class(value: float, classes: Classes) -> str:
    for bound, name in classes:
        if value < bound:
            return name
    return classes[-1][1]  # infinite, or no number


def _sides(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = metadata.get("width"), metadata.get("height")
    if not (isinstance(width, int | float) and isinstance(height, int | float)):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _object_size(metadata: Mapping[str, Any], box: Any, visual: int) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or (sides := _sides(metadata)) is None:
        return None
    return _class((box[2] - box[0]) * (box[3] - box[1]) / (sides[0] * sides[1]), OBJECT_SIZES)


def _image_area(metadata: Mapping[str, Any], box: Any, visual: int) -> str | None:
    sides = _sides(metadata)
    return _class(sides[0] * sides[1], IMAGE_AREAS) if sides else None


def _aspect(metadata: Mapping[str, Any], box: Any, visual: int) -> str | None:
    sides = _sides(metadata)
    return _class(sides[0] / sides[1], ASPECTS) if sides else None


def _visual_tokens(metadata: Mapping[str, Any], box: Any, visual: int) -> str | None:
    return _class(visual, VISUAL_TOKENS)


DERIVED: Mapping[str, Callable[[Mapping[str, Any], Any, int], str | None]] = {
    "object_size": _object_size,
    "image_area": _image_area,
    "aspect": _aspect,
    "visual_tokens": _visual_tokens,
}
"""Fields that follow from a record's metadata, its target where that is a box (it has an IoU), and
its visual tokens: the target box's share of the image, the image's area and width
to height, the tokens it took (for clips, which all have one size in a data set, their length)."""
ORDER = {
    name: i
    for classes in (OBJECT_SIZES, IMAGE_AREAS, ASPECTS, VISUAL_TOKENS)
    for i, (_, name) in enumerate(classes)
}
ORDER |= {"easy": 0, "medium": 1, "hard": 2}


def in_order(values: Iterable[str]) -> list[str]:
    """Classes from small to large, tiers from easy to hard, all else by name."""
    return sorted(values, key=lambda v: (ORDER.get(v, 0), v))


def load_breakdown(output: Output, field: str) -> pd.DataFrame:
    """One row per cell and value of a metadata field, for the headline metric, with a 95 % interval
    over clusters. Where the metric is a macro average, each value's is one too.

    Columns: task, model, adapter, data, settings, arm, partial (why not to quote the row; empty for
    a whole cell), metric, higher_is_better, the field, value, ci_low, ci_high, n. Raises UsageError
    with the fields that there are when no sample has this one.
    """
    import pandas as pd

    return pd.DataFrame(breakdown_rows(output, field))


def breakdown_rows(output: Output, field: str) -> list[dict[str, Any]]:
    """The rows of ``load_breakdown``."""
    rows: list[dict[str, Any]] = []
    there = some_cells(output)
    cells = there.cells
    models = model_labels(cells)
    for cell in cells:
        if not cell.results.metrics:
            continue
        metric = cell.results.metrics[0].definition
        columns, inside = cell.columns(), metric_inside(metric, field)
        seen, groups = columns.seen(inside), dict[str, list[int]]()
        for i, (score, value) in enumerate(zip(seen.values, values_of(columns, field))):
            if score is not None and value is not None:
                groups.setdefault(value, []).append(i)
        about = {
            "task": cell.task,
            "model": models[cell.path],
            "adapter": cell.adapter,
            "data": data_kind(cell),
            "settings": cell.settings,
            "arm": arm(cell),
            "partial": partial_text(cell).strip(" ()"),
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
        }
        for name in in_order(groups):
            result = MetricResult.of(seen.at(groups[name]), inside)
            assert result is not None  # every record of a group has the metric
            numbers = {k: getattr(result, k) for k in ("value", "ci_low", "ci_high", "n")}
            rows.append(about | {field: name} | numbers)
    if not rows:
        known = {k for cell in cells for m in cell.columns()["metadata"] for k in m}
        fields = f"; there are: {', '.join(sorted(known | DERIVED.keys()))}" if known else ""
        raise UsageError(f"no sample under {there.output / 'runs'} has {field!r}{fields}")
    return rows


def metric_inside(metric: Metric, field: str) -> Metric:
    """The metric among samples of one value of a field. Where that is the field whose values a
    macro average is over, one group is left, and its mean is a plain one.
    """
    return replace(metric, group=None) if metric.group == field else metric


def breakdown_text(found: Sequence[Mapping[str, Any]], field: str) -> str:
    """``breakdown_rows`` for a terminal."""
    columns = "task model adapter data settings arm metric".split()
    rows = [
        (
            *(r[c] for c in columns),
            r[field],
            value_text(r["value"]),
            interval_text(r["ci_low"], r["ci_high"]),
            r["n"],
            r["partial"],
        )
        for r in found
    ]
    return "\n".join(
        [
            aligned((*columns, field, "value", "95 % interval", "n", ""), rows),
            *lower_note((r["metric"], r["higher_is_better"]) for r in found),
            *interval_note((r["ci_low"], r["ci_high"]) for r in found),
        ]
    )
