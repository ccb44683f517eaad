"""Headline scores by a property of the samples: tier, language, question type, whatever a task put
in ``Sample.metadata``, and what follows from a record: object size, image area, aspect, visual
tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit import journal
from evalkit.errors import UsageError
from evalkit.results.cells import stored_cells
from evalkit.stats import mean_interval

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


def value_of(record: journal.Record, field: str) -> str | None:
    """A record's value of a metadata field in words, or of a derived one (DERIVED); None when it
    has none.
    """
    if field in DERIVED:
        return DERIVED[field](record)
    value = record["metadata"].get(field)
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else None
        if value is None
        else str(value)
    )


def _class(value: float, classes: Classes) -> str:
    return next(name for bound, name in classes if value < bound)


def _sides(record: journal.Record) -> tuple[float, float] | None:
    found = tuple(record["metadata"].get(k) for k in ("width", "height"))
    return found if all(isinstance(v, int | float) and v > 0 for v in found) else None


def _object_size(record: journal.Record) -> str | None:
    sides, box = _sides(record), record["target"]
    if "iou" not in record["scores"] or sides is None or not isinstance(box, list) or len(box) != 4:
        return None
    return _class((box[2] - box[0]) * (box[3] - box[1]) / (sides[0] * sides[1]), OBJECT_SIZES)


def _image_area(record: journal.Record) -> str | None:
    sides = _sides(record)
    return _class(sides[0] * sides[1], IMAGE_AREAS) if sides else None


def _aspect(record: journal.Record) -> str | None:
    sides = _sides(record)
    return _class(sides[0] / sides[1], ASPECTS) if sides else None


def _visual_tokens(record: journal.Record) -> str | None:
    return _class(record["tokens"]["vision_in"], VISUAL_TOKENS)


DERIVED: Mapping[str, Callable[[journal.Record], str | None]] = {
    "object_size": _object_size,
    "image_area": _image_area,
    "aspect": _aspect,
    "visual_tokens": _visual_tokens,
}
"""Fields that follow from a record: the target box's share of the image, the image's area and width
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


def load_breakdown(output: str | Path, field: str) -> pd.DataFrame:
    """One row per cell and value of a metadata field, for the headline metric, with a 95 % interval
    over clusters.

    Columns: task, model, settings, metric, the field, value, ci_low, ci_high, n. Raises UsageError
    with the fields that there are when no sample has this one.
    """
    import pandas as pd

    rows, known = [], set()
    for cell in stored_cells(Path(output)):
        if not cell.results["metrics"]:
            continue
        metric = cell.results["metrics"][0]
        groups: dict[str, list[journal.Record]] = {}
        for r in journal.read(cell.folder / "journal.jsonl").scored.values():
            known |= r["metadata"].keys()
            if metric["metric"] in r["scores"] and (value := value_of(r, field)) is not None:
                groups.setdefault(value, []).append(r)
        for name in in_order(groups):
            records = groups[name]
            found = mean_interval(
                [r["scores"][metric["metric"]] for r in records], [r["cluster"] for r in records]
            )
            scale = metric["scale"]
            low, high = (None if v is None else v * scale for v in (found.low, found.high))
            where = {
                "task": cell.task,
                "model": cell.run["model"],
                "settings": cell.settings,
                "metric": metric["metric"],
            }
            rows.append(
                {
                    **where,
                    field: name,
                    "value": found.value * scale,
                    "ci_low": low,
                    "ci_high": high,
                    "n": len(records),
                }
            )
    if not rows:
        there = f"; there are: {', '.join(sorted(known | DERIVED.keys()))}" if known else ""
        raise UsageError(f"no sample under {Path(output) / 'runs'} has {field!r}{there}")
    return pd.DataFrame(rows)
