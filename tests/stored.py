"""Cells on disk as a run would have left them, for tests that only read; no model, no data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.cell_results import CellResults, Ending
from evalkit.records import Record
from evalkit.run_info import Identity, RunInfo
from evalkit.store import CellFolder
from evalkit.task import Metric
from evalkit.types import MediaBudget, TokenCounts

ACCURACY = Metric("accuracy")


def record(id: object, score: float, **changes: Any) -> Record:
    """A scored record; ``metric`` names its score, ``tokens`` counts its visual tokens."""
    metric = changes.pop("metric", "accuracy")
    tokens = TokenCounts(text_in=5, vision_in=changes.pop("tokens", 64), out=2)
    values: dict[str, Any] = {"cluster": str(id), "text": "x", "prompt": "0" * 16}
    scores = changes.pop("scores", {metric: score})
    return Record(str(id), **values | {"scores": scores, "tokens": tokens} | changes)


def cell(
    output: Path,
    records: Iterable[Record],
    *,
    task: str = "quiz:all",
    model: str = "model",
    metrics: tuple[Metric, ...] = (ACCURACY,),
    data: Mapping[str, Any] | None = None,
    budget: MediaBudget = MediaBudget(),
    fingerprint: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    **results: Any,
) -> CellFolder:
    """Writes a finished cell. ``run`` and ``results`` are further fields of its two files."""
    name, _, subset = task.partition(":")
    identity = Identity(
        task=name,
        subset=subset,
        task_version=1,
        data=data or {"kind": "hub", "repository": name},
        budget=budget,
        max_new_tokens=8,
        rank=False,
        fingerprint={"adapter": "fake", "weights": "w"} | dict(fingerprint or {}),
    )
    folder = CellFolder.of(output, model, identity)
    about: dict[str, Any] = {"model": model, "identity": identity, "metrics": metrics}
    info = RunInfo(**about | dict(run or {}))
    kept = list(records)
    fields: dict[str, Any] = {"complete": True, "created": "2026-01-01T00:00:00+00:00"}
    came_out = CellResults.of(kept, metrics, **fields | results)
    with folder.open_journal(task) as journal:
        journal.begin(info)
        folder.write_run(info)
        for r in kept:
            journal.append(r)
        journal.end(Ending.of(came_out, [r.id for r in kept]))
        folder.write_results(came_out)
    return CellFolder(folder.path)


def moved(old: CellFolder, **identity: Any) -> CellFolder:
    """A cell under another identity, in the place of the old one."""
    run = replace(old.run, identity=replace(old.run.identity, **identity))
    new, records = old.sibling(run.identity), old.records()
    with new.open_journal(old.task) as journal:
        journal.begin(run)
        new.write_run(run)
        for r in records.values():
            journal.append(r)
        journal.end(Ending.of(old.results, records))
        new.write_results(old.results)
    old.remove()
    return CellFolder(new.path)
