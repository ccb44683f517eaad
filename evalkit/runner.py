"""Running one task with one adapter: plan, skip what the journal has, stream, score, journal,
summarise.

The same command finds the same cell and goes on where the last one stopped. Rows become samples
only when the adapter is ready for them, and leave memory when they are scored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from evalkit.adapter import ModelAdapter, recordable
from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.errors import DataError, UsageError, reason
from evalkit.gathering import SHOWN, Gathering
from evalkit.journal import Journal
from evalkit.names import model_path, shown_path
from evalkit.patience import completions
from evalkit.plugin import file_of
from evalkit.progress import Progress
from evalkit.provenance import command as command_line
from evalkit.provenance import git_state, now, versions
from evalkit.records import Record
from evalkit.run_info import RunInfo, Selection
from evalkit.store import CellFolder
from evalkit.stream import Stream

if TYPE_CHECKING:
    from evalkit.executor import Executor
    from evalkit.selection import Shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run of one cell left behind."""

    cell: Cell
    """The cell that was run."""
    results: CellResults
    """Its results over what was selected."""
    reused: int
    """Samples that had their score before."""
    made: int
    """Samples that were asked, or failed, in this run."""
    stopped: str | None = None
    """Why the run ended early; None when it did not."""
    failures: tuple[Record, ...] = ()
    """The first few samples without a score."""


def run_cell(
    cell: Cell,
    selection: Selection = Selection(),
    *,
    fresh: bool = False,
    progress: bool = True,
    command: str = "",
    executor: Executor | None = None,
    shard: Shard | None = None,
) -> Outcome:
    """Runs what is missing of a cell and writes its results. What goes wrong with a sample is
    journaled with it, and the rest goes on. A cell in which nothing was answered is not left
    behind.

    ``fresh`` asks everything again: the old journal is set aside under a dated name. ``command``
    repeats the run and is kept with it. ``executor`` has workers answer in the adapter's place,
    which can't change an answer. ``shard`` asks a part of the selection, beside other runs that
    ask the other parts; what all have answered so far is what comes out. Raises UsageError for a
    selection of ids that are not there, EvalkitError when the journal can't be written; an adapter
    or a source that breaks ends the cell, and the outcome says so.
    """
    folder = cell.stored
    if fresh:
        folder.set_aside()
    if folder.intact and _has_all(folder, folder.results, selection, cell):
        return Outcome(cell, folder.results, folder.results.n, 0)  # nothing to write
    with ExitStack() as stack:

        def gathering() -> Gathering:
            made = Gathering(cell.task.metrics, folder.path, selection.partial)
            return stack.enter_context(closing(made))

        told = gathering()
        if shard:
            journal = stack.enter_context(folder.open_shard(cell.name, str(shard), told.add))
        else:
            journal = stack.enter_context(folder.open_journal(cell.name, told.add))
        _warn_of_damage(journal)
        folder.mend(journal)
        before = folder.finished(None if shard else journal.contents)
        if before and _has_all(folder, before, selection, cell):
            return Outcome(cell, before, before.n, 0)
        # The results of a part never take the place of those of everything.
        keep = selection.partial and before is not None and not before.selection.partial
        answering = executor or cell.adapter
        stream = Stream(cell, selection, journal, told, before, shard)

        def begin(anything: bool) -> None:
            if journal.read_only and anything:
                raise journal.read_only
            if not keep and (anything or not _readable(folder)):
                run = run_info(cell, selection, folder, command)
                journal.begin(run)
                folder.write_run(run)

        started = time.perf_counter()
        stopped, interrupted = _answered(cell, stream, answering, begin, progress)
        stopped = stopped or stream.why_incomplete()
        seconds = time.perf_counter() - started
        if shard:
            told = gathering()
            journal = stack.enter_context(folder.gathered(cell.name, journal, told.add))
            stream.end_in(journal, told)
        stats = answering.stats if stream.made else {}
        end = stream.summary(seconds, stopped is None, recordable(cell.adapter, stats))
        results = end.results
        if end.lost and not results.missing_shards:
            folder.remove()
        elif journal.read_only is None:
            if not keep and (stream.made or results != before):
                journal.end(end.ending)
            if keep:
                folder.mend(journal)
            elif not folder.intact or results != before:
                folder.write_results(results)
            folder.write_columns(journal, told.columns)
        if interrupted:
            try:
                raise interrupted
            finally:
                del interrupted  # its traceback holds this frame
        return Outcome(cell, results, stream.reused, stream.made, stopped, end.failures)


def _answered(
    cell: Cell,
    stream: Stream,
    answering: ModelAdapter | Executor,
    begin: Callable[[bool], None],
    progress: bool,
) -> tuple[str | None, KeyboardInterrupt | None]:
    """Has what is left of a cell answered, and scored by its stream. ``begin`` is called before
    anything is asked, and told whether there is anything to record. Returns why it ended early, and
    the interrupt that ended it; None and None where nothing did. Raises UsageError.
    """
    with Progress(cell.name, progress) as bar:
        try:
            requests = stream.requests()
            serve = answering.rank if cell.task.rank else answering.generate
            # An adapter that has nothing to do shall not load its model.
            first = next(requests, None)
            begin(first is not None or bool(stream.made))
            if first is not None:
                asked = chain([first], requests)
                for completion in completions(serve, asked, cell.adapter.timeout):
                    stream.finish(completion)
                    stream.show(bar)
                next(requests, None)
            if stream.broken:
                raise stream.broken
        except UsageError:
            raise
        except KeyboardInterrupt as e:
            return "interrupted", e
        except BaseException as e:  # whatever ends a run early, its results say so
            return reason(e), None
    return None, None


def run_info(cell: Cell, selection: Selection, folder: CellFolder, command: str = "") -> RunInfo:
    """What run.json says of a run that begins now. ``earlier`` has the sessions of the runs that it
    goes on from, oldest first.
    """
    earlier = (*folder.run.earlier, folder.run.session()) if _readable(folder) else ()
    return RunInfo(
        model=cell.title,
        model_path=model_path(cell.model),
        identity=cell.identity,
        metrics=cell.task.metrics,
        task_file=str(cell.task.file or file_of(cell.task) or ""),
        reading=dict(cell.task.reading),
        data_path=shown_path(cell.data) if cell.data else "",
        box_space=cell.adapter.box_space,
        blind=dict(cell.adapter.blind or {}),
        prompt_digest=cell.task.prompt_digest,
        created=now(),
        selection=selection,
        details=recordable(cell.adapter, cell.adapter.details),
        versions=versions(),
        git=git_state(),
        command=command or command_line(),
        earlier=earlier,
    )


def _has_all(folder: CellFolder, results: CellResults, selection: Selection, cell: Cell) -> bool:
    """Whether results of the journal have all that is asked for, without a look at the data or the
    model.

    That takes data that are known by their contents, media included (evalkit 0.1 took no digests of
    those): others may have changed since. Rescored results don't count either, since their prompts
    may have changed.
    """
    if not _readable(folder):
        return False
    data = cell.identity.data
    media = data.get("media") == folder.run.identity.data.get("media")
    by_contents = media and bool(data.get("sha256") or data.get("revision"))
    whole = results.complete and not results.errors and not results.rescored
    return by_contents and whole and results.n > 0 and results.selection == selection


def _readable(folder: CellFolder) -> bool:
    try:
        return bool(folder.run)
    except DataError:
        return False


def _warn_of_damage(journal: Journal) -> None:
    faults = journal.contents.faults
    for damage in faults[:SHOWN]:
        logger.warning("%s", damage)
    if (more := len(faults) - SHOWN) > 0:
        logger.warning("%s: %d more lines like that", journal.path, more)
