"""Measured scores beside published ones: a difference only where model, rows, metric and settings
are the same, else the reason why there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.files import replace
from evalkit.protocols import DEFAULT
from evalkit.results.cells import Output, data_kind, model_labels, partial_text, some_cells
from evalkit.results.tables import aligned, markdown_table, value_text, write_csv
from evalkit.store import CellFolder
from evalkit.task import Task, task_class

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
COLUMNS = (
    "task model adapter data metric measured n settings published published_n difference source "
    "why_not"
).split()
NOISE_NOTE = (
    "A difference below one point says nothing: the one known repetition of a published score at "
    "this prompt and these pixel bounds (DocVQA val, 2B) gave 89.26 where 88.34 is published."
)
HUB_CACHE = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/[0-9a-f]{40}$")
"""Where the hub's own cache keeps a model: the folder's name is then the hub's, not the user's."""


@dataclass(frozen=True)
class Published:
    """A score in per cent as its source gives it."""

    task: str
    """``name:subset``."""
    model: str
    """The model's hub id."""
    metric: str
    value: float
    n: int
    """Questions of the split that the score is over."""
    source: str
    budget: Mapping[str, int]
    """The pixel bounds behind it."""
    protocol: str = "qwen2-vl"
    """Whose prompt it was measured with."""
    unlike: str = ""
    """Why no run of evalkit can be set against it; empty when one can."""


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """The scores of published.json: the paper's tables (arXiv 2409.12191v2) and what its authors
    published since.
    """
    data = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return tuple(Published(**row) for row in data["scores"])


def beside_published(cells: Sequence[CellFolder]) -> pd.DataFrame:
    """One row per cell and headline metric, several where several scores are published; columns
    COLUMNS.

    ``difference`` is measured minus published, in points, and is there only where the two are
    comparable; ``why_not`` says why not, or what a reader should know of a comparable one.
    """
    import pandas as pd

    models, rows = model_labels(cells), list[dict[str, Any]]()
    for cell in cells:
        for score in cell.results.metrics[:1]:
            base: dict[str, Any] = {
                "task": cell.task,
                "model": models[cell.path],
                "adapter": cell.adapter,
                "data": data_kind(cell),
                "metric": score.metric,
                "measured": score.value,
                "n": score.n,
                "settings": cell.settings,
            }
            there = [
                p
                for p in published()
                if (p.task, p.metric) == (cell.task, score.metric)
                and p.model.rsplit("/", 1)[-1] == _last_part(cell)
            ]
            if not there:
                rows.append(base | {"why_not": f"not comparable: {_nothing_published(cell)}"})
            for p in there:
                reason = why_unlike(p, cell, score.n)
                row = base | {"published": p.value, "published_n": p.n, "source": p.source}
                if reason:
                    row["why_not"] = f"not comparable: {reason}"
                else:
                    row["difference"] = score.value - p.value
                    row["why_not"] = remark(cell)
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def why_unlike(p: Published, cell: CellFolder, n: int) -> str:
    """Why a cell's score over ``n`` questions can't be set against a published one of its task and
    model's name; empty when it can.
    """
    if p.unlike:
        return p.unlike
    if cell.results.partial:
        return f"only a part of the samples was scored{partial_text(cell)}"
    if hub_id(cell) != p.model:
        return (
            f"the model is a folder that is called so; give {p.model} itself, or its folder in the "
            "hub's cache"
        )
    if cell.results.switches or cell.run.identity.fingerprint.get("trained_with"):
        return "ablation switches are set"
    identity = cell.run.identity
    control = [f"control={identity.control}"] if identity.control else []
    if changed := [*control, *identity.asking]:
        return f"asked with {', '.join(changed)}, the published score without"
    if not _asked_alike(p, identity.protocol_name):
        return f"{cell.asked or 'the default protocol'}, the published score has {p.protocol}"
    if n != p.n:
        return f"over {n} questions, the published one over {p.n}"
    if cell.results.errors:
        return f"samples without a score: {cell.results.errors}"
    for key, value in p.budget.items():
        if (bound := getattr(identity.budget, key)) != value:
            return f"{key} is {bound}, the published score has {value}"
    return ""


def _asked_alike(p: Published, protocol: str) -> bool:
    """Whether a protocol asks as the published score's does; the default one may be the same by
    another name.
    """
    if protocol:
        return protocol == p.protocol
    name, _, subset = p.task.partition(":")
    known = task_class(name).subsets[subset].protocols
    return p.protocol in known and known[DEFAULT].settings() == known[p.protocol].settings()


def comparable(task: Task) -> list[Published]:
    """The published scores that a whole run of a task under its protocol can be set beside."""
    protocol = "" if task.protocol_name == DEFAULT else task.protocol_name
    return [
        p
        for p in published()
        if (p.task, p.metric) == (task.full_name, task.metrics[0].name)
        and not p.unlike
        and _asked_alike(p, protocol)
        and all(getattr(task.budget, k) == v for k, v in p.budget.items())
    ]


def remark(cell: CellFolder) -> str:
    """What to know of a comparable score: local rows are as many as the official ones, no more is
    known of them.
    """
    return "local data: not known to be the official rows" if data_kind(cell) == "local" else ""


def hub_id(cell: CellFolder) -> str | None:
    """The hub id of the model that a cell ran, when the hub says so: it was given by id, or as its
    folder in the hub's cache. A folder of the user's can be called anything.
    """
    path = cell.run.model_path.rstrip("/")
    if cached := HUB_CACHE.search(path):
        return f"{cached['owner']}/{cached['name']}"
    return None if path else cell.model.split("@")[0]


def _last_part(cell: CellFolder) -> str:
    return (hub_id(cell) or cell.model).rsplit("/", 1)[-1].split("@")[0]


def _nothing_published(cell: CellFolder) -> str:
    if cell.task not in {p.task for p in published()}:
        return "no score of this split is published" + (
            " (it is drawn by evalkit)" if data_kind(cell) == "mini" else ""
        )
    known = sorted({p.model for p in published()})
    return f"{cell.model} is not among the published models ({', '.join(known)})"


def write_paper_table(output: Output) -> tuple[Path, Path]:
    """Writes ``paper.csv`` and ``paper.md`` into ``output``; returns both paths. Raises UsageError
    when there are no results, EvalkitError when they can't be written.
    """
    there = some_cells(output)
    frame = beside_published(there.cells)
    csv = write_csv(there.output / "paper.csv", frame.assign(schema_version=SCHEMA_VERSION))
    head = f"<!-- schema_version: {SCHEMA_VERSION}; made by `evalkit leaderboard --paper` -->"
    markdown = there.output / "paper.md"
    replace(
        markdown,
        f"{head}\n\n{markdown_table(HEADS, _rows(frame))}\n\n{NOISE_NOTE}\n",
        durable=False,
    )
    return csv, markdown


def paper_text(frame: pd.DataFrame) -> str:
    """``beside_published``'s frame for a terminal."""
    return f"{aligned(HEADS, _rows(frame))}\n\n{NOISE_NOTE}"


HEADS = [c.replace("_", " ") for c in COLUMNS[:-1]] + [""]


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return [[_text(k, v) for k, v in r.items()] for r in frame.to_dict("records")]


def _text(column: str, value: Any) -> str:
    if value is None or value != value:
        return "–"
    if column == "published_n":
        return str(int(value))
    return value_text(value, signed=column == "difference") if isinstance(value, float) else value
