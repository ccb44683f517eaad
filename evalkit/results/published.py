"""Measured scores beside published ones: a difference only where model, split, metric and settings
are the same, else the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.results.cells import StoredCell, stored_cells
from evalkit.results.tables import markdown_table, replace_text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
COLUMNS = "task model metric measured n settings published difference source why_not".split()


@dataclass(frozen=True)
class Published:
    """A score in per cent as its ``source`` gives it. ``budget``: the pixel bounds behind it;
    ``n``: the questions it is over, where known; ``unlike``: why no run of evalkit can be set
    against it."""

    task: str
    model: str
    metric: str
    value: float
    source: str
    budget: Mapping[str, int]
    n: int | None = None
    unlike: str = ""


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """The scores of published.json: the paper's tables (arXiv 2409.12191v2) and what maintainers
    said since.
    """
    data = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return tuple(Published(**row) for row in data["scores"])


def beside_published(cells: Sequence[StoredCell]) -> pd.DataFrame:
    """One row per cell and headline metric, several where several scores are published; columns
    COLUMNS.

    ``difference`` is measured minus published, in points, and is there only where the two are
    comparable; ``why_not`` says why not.
    """
    import pandas as pd

    rows = []
    for cell in cells:
        for m in cell.results["metrics"][:1]:
            base = {
                "task": cell.task,
                "model": cell.run["model"],
                "metric": m["metric"],
                "measured": m["value"],
                "n": m["n"],
            }
            base["settings"] = cell.settings
            found = [
                p
                for p in published()
                if p.task == cell.task and p.model == _name(cell) and p.metric == m["metric"]
            ]
            if not found:
                rows.append(base | {"why_not": f"not comparable: {_nothing(cell)}"})
            for p in found:
                why = unlike(p, cell, m["n"])
                theirs = {
                    "published": p.value,
                    "source": p.source,
                    "why_not": f"not comparable: {why}" if why else "",
                }
                rows.append(base | theirs | ({} if why else {"difference": m["value"] - p.value}))
    return pd.DataFrame(rows, columns=COLUMNS)


def unlike(p: Published, cell: StoredCell, n: int) -> str:
    """Why a cell can't be set against a published score of its task and model; empty when it
    can.
    """
    if p.unlike:
        return p.unlike
    if not cell.results["complete"] or cell.results["selection"]:
        return "only a part of the samples was scored"
    if cell.results["switches"] or cell.fingerprint.get("trained_with"):
        return "ablation switches are set"
    if p.n and n != p.n:
        return f"over {n} questions, the published one over {p.n}"
    seen = cell.run["identity"]["budget"]
    for key, value in p.budget.items():
        if seen.get(key) != value:
            return f"{key} is {seen.get(key)}, the published score has {value}"
    return ""


def _name(cell: StoredCell) -> str:
    return str(cell.run["model"]).rsplit("/", 1)[-1].split("@")[0]


def _nothing(cell: StoredCell) -> str:
    tasks, models = ({getattr(p, k) for p in published()} for k in ("task", "model"))
    if cell.task not in tasks:
        return "no score of this split is published" + (
            " (it is drawn by evalkit)" if cell.task.endswith(":mini") else ""
        )
    return f"{cell.run['model']} is not among the published models ({', '.join(sorted(models))})"


def write_paper_table(output: Path) -> tuple[Path, Path]:
    """Writes ``paper.csv`` and ``paper.md`` into ``output``; returns both paths."""
    frame = beside_published(stored_cells(output))
    csv, markdown = output / "paper.csv", output / "paper.md"
    note = f"schema_version: {SCHEMA_VERSION}; made by `evalkit leaderboard --paper`"
    replace_text(csv, f"# {note}\n" + frame.to_csv(index=False))
    shown = [[_text(k, v) for k, v in r.items()] for r in frame.to_dict("records")]
    columns = [c.replace("_", " ") for c in COLUMNS[:-1]] + [""]
    replace_text(markdown, f"<!-- {note} -->\n\n{markdown_table(columns, shown)}\n")
    return csv, markdown


def _text(column: str, value: Any) -> str:
    if value is None or value != value:
        return "–"
    return (
        f"{value:+.1f}"
        if column == "difference"
        else f"{value:.1f}"
        if isinstance(value, float)
        else str(value)
    )
