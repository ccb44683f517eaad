"""Headline scores with and without the samples that people flagged: how much hangs on labels that
may be wrong. Both are always shown; a flag never changes a score by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.cell_results import MetricResult
from evalkit.errors import UsageError
from evalkit.results.cells import Output, data_digest, model_labels, some_cells
from evalkit.results.report.notes import load_notes
from evalkit.results.tables import aligned, interval_text, value_text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "task model settings metric value ci_low ci_high n "
    "value_without ci_low_without ci_high_without flagged"
).split()


def load_flagged(output: Output) -> pd.DataFrame:
    """One row for each cell that has flagged samples: its headline metric over all scored samples
    and over those without a note, and how many have one. Raises UsageError when no sample has.
    """
    import pandas as pd

    there = some_cells(output)
    notes: dict[tuple[str, str], set[str]] = {}
    for note in load_notes(there.output):
        notes.setdefault((note.task, note.data), set()).add(note.id)
    models, rows = model_labels(there.cells), list[dict[str, Any]]()
    for cell in there.cells:
        ids = notes.get((cell.task, data_digest(cell)), set())
        scored = cell.scored() if ids else {}
        flagged = ids & scored.keys()
        if not flagged or not cell.results.metrics:
            continue
        whole = cell.results.metrics[0]
        rest = MetricResult.of(
            [r for id, r in scored.items() if id not in flagged], whole.definition
        )
        rows.append(
            {
                "task": cell.task,
                "model": models[cell.path],
                "settings": cell.settings,
                "metric": whole.metric,
                **{k: getattr(whole, k) for k in ("value", "ci_low", "ci_high", "n")},
                **{
                    f"{k}_without": getattr(rest, k) if rest else None
                    for k in ("value", "ci_low", "ci_high")
                },
                "flagged": len(flagged),
            }
        )
    if not rows:
        raise UsageError(
            f"no scored sample under {there.output / 'runs'} has a note; `evalkit view` adds them"
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def flagged_text(frame: pd.DataFrame) -> str:
    """``load_flagged``'s frame for a terminal."""
    columns = ("task", "model", "settings", "metric", "all", "95 % interval", "n")
    more = ("without flagged", "95 % interval", "flagged")
    rows = [
        (
            *(r[c] for c in COLUMNS[:4]),
            value_text(r["value"]),
            interval_text(r["ci_low"], r["ci_high"]),
            r["n"],
            value_text(r["value_without"]),
            interval_text(r["ci_low_without"], r["ci_high_without"]),
            r["flagged"],
        )
        for r in frame.to_dict("records")
    ]
    return aligned((*columns, *more), rows)
