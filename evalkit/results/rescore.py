"""Recorded answers scored anew, without a model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from evalkit import journal
from evalkit.adapter import digest
from evalkit.code import code_of
from evalkit.errors import ScoringError
from evalkit.journal import Journal, write_json
from evalkit.records import CellResults
from evalkit.results.cells import StoredCell, _stored
from evalkit.task import checked_score, load_task


def rescore(cell: StoredCell) -> tuple[StoredCell, int]:
    """Scores a journal's answers with the task as it is now: no model, no media. Returns the cell
    and how many scores changed.

    New scores are appended to the journal, where the last record of a sample counts and the old
    ones stay readable. A task of another version (a task file with other contents) has another
    cell, where a run of it will look: the scores go there, and the old cell stays. What that cell
    already has is kept. A part of the samples stays one: all that its journal holds is counted.
    """

    identity = dict(cell.run["identity"])
    task = load_task(f"{cell.run.get('task_file') or identity['task']}:{identity['subset']}")
    identity |= {"task_version": task.version}
    code = {**identity.pop("code", {}), "task": code_of(task)}
    if code := {k: v for k, v in code.items() if v}:
        identity["code"] = code
    folder = cell.folder.with_name(f"{cell.folder.name.rsplit('-', 1)[0]}-{digest(identity)[:8]}")
    same, changed = folder == cell.folder, 0
    with Journal(folder / "journal.jsonl", {"cell": cell.task, "folder": folder.name}) as target:
        for id, record in journal.read(cell.folder / "journal.jsonl").records.items():
            if not same and id in target.contents.records:
                continue
            new = record
            if record.answered:
                try:
                    new = record.rescored(checked_score(task, record.sample(), record.completion()))
                except ScoringError as e:
                    new = record.rescored(str(e))
            changed += (new.scores, new.error) != (record.scores, record.error)
            if new != record or not same:
                target.append(new)
        target.flush()
        records = list(target.contents.records.values())
        if not same:
            write_json(folder / "run.json", {**cell.run, "identity": identity})
        about = CellResults.from_json(cell.results)
        counted = replace(
            CellResults.of(records, task.metrics, complete=about.complete),
            created=about.created,
            rescored=datetime.now(UTC).isoformat(timespec="seconds"),
            selection=about.selection,
            inference_probe=about.inference_probe,
            switches=about.switches,
            seconds=about.seconds,
            stats=about.stats,
        )
        write_json(folder / "results.json", counted.to_json())
    return _stored(folder), changed
