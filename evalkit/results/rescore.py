"""Recorded answers scored anew, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from evalkit.cell_results import Ending
from evalkit.code import code_of
from evalkit.errors import EvalkitError, ScoringError
from evalkit.provenance import now
from evalkit.records import Record
from evalkit.results.cells import IMPORTED, data_kind, task_of
from evalkit.store import CellFolder
from evalkit.task import Task, checked_score


def rescore(
    cell: CellFolder,
    loaded: dict[str, Task] | None = None,
    code: Callable[[Task], str] = code_of,
) -> tuple[CellFolder, int]:
    """Scores a journal's answers with the task as it is now: no model, no media. Returns the cell
    and how many scores changed. ``loaded`` as for ``task_of``; ``code`` may know a task's already.

    New scores are appended to the journal, where the last record of a sample counts and the old
    ones stay readable. A task of another version (a task file with other contents) has another
    cell, where a run of it will look: the scores go there, and the old cell stays. What that cell
    already has is kept. A part of the samples stays one: all that its journal holds is counted.

    Raises EvalkitError when the task can't be loaded or the journal can't be written.
    """
    identity = cell.run.identity
    if data_kind(cell) == IMPORTED:
        raise EvalkitError("imported: repeat `evalkit import` with the file to score it anew")
    task = task_of(cell, loaded)
    identity_now = replace(
        identity,
        task_version=task.version,
        code={k: v for k, v in {**identity.code, "task": code(task)}.items() if v},
        protocol=task.describe_protocol(),
    )
    target = cell if identity_now == identity else cell.sibling(identity_now)
    seen = cell.records()
    anew = {id: other for id, r in seen.items() if (other := _rescored(task, r)) is not r}
    if target is cell and not anew and _says_the_same(cell, task, seen):
        return cell, 0
    elsewhere = None if target is cell else cell.contents()
    with target.open_journal(cell.task) as journal:
        before = elsewhere or journal.contents
        old = dict(before.records)  # the journal's own change as it is written
        new = {
            id: anew.get(id, record) if record == seen.get(id) else _rescored(task, record)
            for id, record in old.items()
        }
        there = journal.contents.records
        for id, record in new.items():
            # In another cell, a record that is there already comes from a run of the task as it
            # is now; in the same cell, only what changed is worth a line.
            if (record is not old[id]) if target is cell else (id not in there):
                journal.append(record)
        journal.flush()
        changed = sum(_score(new[id]) != _score(old[id]) for id in old if new[id] is not old[id])
        again = changed or target is not cell
        results = replace(cell.results, rescored=now() if again else cell.results.rescored)
        # a part of the samples stays one: those of the run count, or all where it does not say
        ending = before.ending if target is cell else None
        kept = ending.records(there) if ending else list(there.values())
        results = results.of_records(kept, task.metrics)
        if target is not cell:
            run = replace(cell.run, identity=identity_now, metrics=task.metrics)
            journal.begin(run)
            target.write_run(run)
        if again or results != cell.results:
            journal.end(Ending.of(results, [r.id for r in kept]))
        if again or results != cell.results or not target.intact:
            target.write_results(results)
            target.write_columns(journal)
    return target, changed


def _says_the_same(cell: CellFolder, task: Task, records: Mapping[str, Record]) -> bool:
    """Whether the files of a whole cell say what its records do: then nothing is to be written,
    and the journal not to be opened.
    """
    results = cell.results
    if results.selection.partial or not cell.intact:
        return False
    return results == results.of_records(list(records.values()), task.metrics)


def _rescored(task: Task, record: Record) -> Record:
    """A record with the score that its answer has now; the same one where nothing changes, or
    there is no answer.
    """
    if not record.answered:
        return record
    try:
        score = checked_score(task, record.sample(), record.completion())
    except ScoringError as e:
        new = record.rescored(str(e))
        return record if new == record else new
    said = score.values, score.parsed, score.unparsed
    if record.scored and said == (record.scores, record.parsed, record.unparsed):
        return record
    return record.rescored(score)


def _score(record: Record) -> tuple[Mapping[str, float], str | None]:
    return record.scores, record.error
