"""Headline scores by a property of the samples: tier, language, question type, whatever a task put in ``Sample.metadata``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit import journal
from evalkit.errors import UsageError
from evalkit.results import stored_cells
from evalkit.stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd


def load_breakdown(output: str | Path, field: str) -> pd.DataFrame:
    """One row per cell and value of a metadata field, for the headline metric, with a 95 % interval over clusters.

    Columns: task, model, settings, metric, the field, value, ci_low, ci_high, n. Raises UsageError with the fields that there are when no
    sample has this one.
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
            if field in r["metadata"] and metric["metric"] in r["scores"]:
                groups.setdefault(str(r["metadata"][field]), []).append(r)
        for name, records in sorted(groups.items()):
            found = mean_interval([r["scores"][metric["metric"]] for r in records], [r["cluster"] for r in records])
            scale = metric["scale"]
            low, high = (None if v is None else v * scale for v in (found.low, found.high))
            where = {"task": cell.task, "model": cell.run["model"], "settings": cell.settings, "metric": metric["metric"]}
            rows.append({**where, field: name, "value": found.value * scale, "ci_low": low, "ci_high": high, "n": len(records)})
    if not rows:
        there = f"; there are: {', '.join(sorted(known))}" if known else ""
        raise UsageError(f"no sample under {Path(output) / 'runs'} has {field!r}{there}")
    return pd.DataFrame(rows)
