"""Running one task with one adapter: plan, skip what the journal has, stream, score, journal,
summarise.

The same command finds the same cell and goes on where the last one stopped. Rows become samples
only when the adapter is ready for them, and leave memory when they are scored.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from evalkit.cell import Cell
from evalkit.errors import DataError, EvalkitError, ScoringError, UsageError, reason
from evalkit.journal import Journal
from evalkit.plugin import file_of
from evalkit.progress import Progress, Say
from evalkit.provenance import command as command_line
from evalkit.provenance import git_state, versions
from evalkit.store import CellFolder, CellResults, Record, RunInfo, Selection
from evalkit.task import RowError, checked_score, read_samples
from evalkit.types import Completion, Image, Request, Sample, Score, Text, TokenCounts, Video

FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Outcome:
    """What a run of one cell left behind: its results (as in results.json), what it reused and
    made, and why it stopped early if it did.
    """

    cell: Cell
    results: CellResults
    reused: int
    made: int
    stopped: str | None = None


def run_cell(
    cell: Cell,
    selection: Selection = Selection(),
    say: Say = print,
    progress: bool = True,
    command: str = "",
) -> Outcome:
    """Runs what is missing of a cell and writes its results. What goes wrong with a sample is
    journaled with it, and the rest goes on. ``command`` repeats the run; it is kept with it.

    Raises EvalkitError when the journal can't be written; an adapter that breaks ends the cell, and
    the outcome says so.
    """
    folder = cell.stored
    with folder.open_journal(cell.name) as journal:
        for damage in journal.contents.faults[:FAULTS_SHOWN]:
            say(damage)
        if (more := len(journal.contents.faults) - FAULTS_SHOWN) > 0:
            say(f"{journal.path}: {more} more lines like that")
        begun = len(journal.contents.scored)
        before = folder.finished()
        if before and finished(before, selection, journal.contents.scored):
            return Outcome(cell, before, begun, 0)
        keep = selection.partial and before is not None and not before.selection.partial
        if not keep:
            folder.write_run(run_info(cell, selection, folder, command))
        stream = _Stream(cell, selection, journal)
        stopped: str | None = None
        interrupted: KeyboardInterrupt | None = None
        started = time.perf_counter()
        with Progress(cell.name, progress, say) as bar:
            try:
                requests = stream.requests()
                serve = cell.adapter.rank if cell.task.rank else cell.adapter.generate
                if (
                    first := next(requests, None)
                ) is not None:  # an adapter that has nothing to do shall not load its model
                    for completion in serve(chain([first], requests)):
                        stream.finish(completion)
                        bar.update(stream.made, stream.score)
                    next(requests, None)
                if stream.broken:
                    raise stream.broken
            except UsageError:
                raise
            except KeyboardInterrupt as e:
                stopped, interrupted = "interrupted", e
            except Exception as e:
                stopped = reason(e)
        if stopped is None and stream.pending:
            stopped = f"the adapter left {len(stream.pending)} requests unanswered, the first {next(iter(stream.pending))!r}"
        results = stream.results(time.perf_counter() - started, complete=stopped is None)
        if not keep:
            folder.write_results(results)
        if interrupted:
            try:
                raise interrupted
            finally:
                del interrupted  # its traceback holds this frame
        return Outcome(cell, results, stream.reused, stream.made, stopped)


def stored_json(path: Path) -> Mapping[str, Any]:
    """The file's object; an empty one where there is no file, or no whole one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finished(results: CellResults, selection: Selection, scored: Mapping[str, Record]) -> bool:
    """Whether stored results already have all that is asked for, told without a look at the data or
    the model. Rescored ones don't count: their prompts may have changed, and a run looks."""
    whole = results.complete and not results.errors and len(scored) >= results.n > 0
    return results.selection == selection and whole and not results.rescored


def run_info(cell: Cell, selection: Selection, folder: CellFolder, command: str) -> RunInfo:
    """What run.json says of a run that begins now. ``earlier`` has the sessions of the runs that it
    goes on from, oldest first."""
    try:
        before = folder.run
        earlier = (*before.earlier, before.session())
    except DataError:
        earlier = ()
    return RunInfo(
        model=cell.title,
        identity=cell.identity,
        metrics=cell.task.metrics,
        task_file=str(file_of(cell.task) or ""),
        box_space=cell.adapter.box_space,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        selection=selection,
        details=dict(cell.adapter.details),
        versions=versions(),
        git=git_state(),
        command=command or command_line(),
        earlier=earlier,
    )


class _Stream:
    """Samples out as requests, completions in as records."""

    def __init__(self, cell: Cell, selection: Selection, journal: Journal) -> None:
        self.cell, self.selection, self.journal = cell, selection, journal
        self.pending: dict[str, tuple[Sample, str]] = {}
        self.chosen: dict[str, None] = {}
        self.reused = self.made = 0
        self.running: dict[str, tuple[float, int]] = {}
        self.broken: Exception | None = None
        self.metrics = cell.task.metrics
        self.headline = self.metrics[0]

    def requests(self) -> Iterator[Request]:
        """What is left to ask. Ends early where the data do, which ``broken`` then says: what was
        asked before is still answered.
        """
        try:
            yield from self._requests()
        except Exception as e:
            self.broken = e

    def _requests(self) -> Iterator[Request]:
        identity, done = self.cell.identity, self.journal.contents.scored
        for sample in self._selected():
            self.chosen[id := sample.id] = None
            if isinstance(sample, RowError):
                self._append(Record.of_row(id, sample.reason))
                continue
            prompt = prompt_hash(sample)
            if id in done and done[id].prompt == prompt:
                self.reused += 1
                self._count(done[id])
            else:
                self.pending[id] = _without_media(sample), prompt
                yield Request(
                    id,
                    sample.messages,
                    identity.max_new_tokens,
                    self.cell.task.subset.budget,
                    sample.choices,
                )

    def finish(self, completion: Completion) -> None:
        if not isinstance(completion, Completion) or not isinstance(completion.tokens, TokenCounts):
            raise EvalkitError(
                f"the adapter gave {completion!r:.200}: expected a Completion with TokenCounts"
            )
        if completion.id not in self.pending:
            raise EvalkitError(
                f"the adapter answered {completion.id!r}, which was not asked or was "
                "answered before"
            )
        sample, prompt = self.pending.pop(completion.id)
        score: Score | str | None = None
        if completion.error is None:
            try:
                score = checked_score(self.cell.task, sample, completion)
            except ScoringError as e:
                score = str(e)
        self._append(Record.of(sample, prompt, completion, score))

    def results(self, seconds: float, complete: bool) -> CellResults:
        """results.json. A whole run counts all that the journal has, once rows that failed before
        and now have samples are withdrawn.
        """
        self.journal.flush()
        selection, kept = self.selection, self.journal.contents.records
        if complete and not selection.partial:
            for id in [id for id in kept if id not in self.chosen]:
                self.journal.withdraw(id)
        records = [kept[id] for id in kept if not selection.partial or id in self.chosen]
        fingerprint = self.cell.identity.fingerprint
        return CellResults.of(
            records,
            self.metrics,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            selection=selection,
            complete=complete,
            inference_probe=bool(fingerprint.get("inference_probe")),
            switches=dict(fingerprint.get("switches", {})),
            seconds=round(seconds, 3),
            stats=dict(self.cell.adapter.stats) if self.made else {},
        )

    @property
    def score(self) -> str:
        """The running headline score, as people read it."""
        if not self.running:
            return ""
        mean = sum(total / n for total, n in self.running.values()) / len(self.running)
        return f"{self.headline.name} {mean * self.headline.scale:.1f}"

    def _selected(self) -> Iterator[Sample | RowError]:
        """What is selected of the samples, and of the errors where a row can't be used."""
        chosen = self.selection
        if chosen.ids:
            wanted = set(chosen.ids)
            for sample in self._all():
                if sample.id in wanted:
                    wanted.discard(sample.id)
                    yield sample
            if wanted:
                raise UsageError(
                    f"{self.cell.name} has no sample with id {', '.join(map(repr, sorted(wanted)))}"
                )
        elif chosen.drawn is not None:
            total = sum(1 for _ in self._all())
            keep = chosen.draw(total)
            yield from (sample for i, sample in enumerate(self._all()) if i in keep)
        else:
            start, stop = chosen.first or (0, None)
            for i, sample in enumerate(self._all()):
                if stop is not None and i >= stop:
                    return
                if i >= start:
                    yield sample

    def _all(self) -> Iterator[Sample | RowError]:
        return read_samples(self.cell.task, self.cell.data)

    def _append(self, record: Record) -> None:
        try:
            self.journal.append(record)
        except (TypeError, ValueError) as e:
            why = f"can't be recorded as JSON ({e}): something that the task or the adapter gave is neither text nor a finite number"
            record = Record.of_row(record.id, why)
            self.journal.append(record)
        self.made += 1
        self._count(record)

    def _count(self, record: Record) -> None:
        value = record.scores.get(self.headline.name)
        if value is not None:
            group = str(record.metadata.get(self.headline.group)) if self.headline.group else ""
            total, n = self.running.get(group, (0.0, 0))
            self.running[group] = total + value, n + 1


def _without_media(sample: Sample) -> Sample:
    """The sample with the text of its messages alone: what scoring and its record need, so that
    media leave memory.
    """
    texts = [
        replace(m, content=tuple(p for p in m.content if isinstance(p, Text)))
        for m in sample.messages
    ]
    return replace(sample, messages=tuple(texts))


def prompt_hash(sample: Sample) -> str:
    """The first 12 hex digits of SHA-256 over roles, texts, and the kind, name and size of media
    (tables of images are hashed whole).
    """
    parts = [
        [m.role, *(p.text if isinstance(p, Text) else _media_name(p) for p in m.content)]
        for m in sample.messages
    ]
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _media_name(part: Image | Video) -> str:
    kind = type(part).__name__
    if isinstance(part.source, bytes):
        return f"<{kind} of {len(part.source)} bytes>"
    size = part.source.stat().st_size if part.source.is_file() else 0
    return f"<{kind} {part.source.name} of {size} bytes>"
