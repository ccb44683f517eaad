"""Running one task with one adapter: plan, skip what the journal has, stream, score, journal,
summarise.

The same command finds the same cell and goes on where the last one stopped. Rows become samples
only when the adapter is ready for them, and leave memory when they are scored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from evalkit.adapter import recordable, with_subtitles
from evalkit.asking import repetitions
from evalkit.cell import Cell
from evalkit.controls import controlled, swapped
from evalkit.errors import DataError, EvalkitError, ScoringError, UsageError, reason
from evalkit.journal import Journal
from evalkit.patience import completions
from evalkit.plugin import file_of
from evalkit.progress import Progress
from evalkit.provenance import command as command_line
from evalkit.provenance import git_state, now, versions
from evalkit.store import (
    CellFolder,
    CellResults,
    Ending,
    Record,
    RunInfo,
    Selection,
    model_path,
    shown_path,
)
from evalkit.task import RowError, checked_score, read_samples
from evalkit.types import (
    Completion,
    FinishReason,
    Image,
    Message,
    Request,
    Sample,
    Score,
    Subtitles,
    Text,
    TokenCounts,
    Video,
    is_box_space,
)

if TYPE_CHECKING:
    from evalkit.executor import Executor
    from evalkit.selection import Shard

logger = logging.getLogger(__name__)
FINISH_REASONS = get_args(FinishReason)
FAULTS_SHOWN = 5
"""Damaged lines of a journal, and failed samples of an outcome, that are named one by one."""


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
        opened = folder.open_shard(cell.name, str(shard)) if shard else None
        journal = stack.enter_context(opened or folder.open_journal(cell.name))
        _warn_of_damage(journal)
        folder.mend(journal)
        before = folder.finished()
        if before and _has_all(folder, before, selection, cell):
            return Outcome(cell, before, before.n, 0)
        # The results of a part never take the place of those of everything.
        keep = selection.partial and before is not None and not before.selection.partial
        answering = executor or cell.adapter
        stream = _Stream(cell, selection, journal, before, shard)
        stopped: str | None = None
        interrupted: KeyboardInterrupt | None = None
        started = time.perf_counter()
        with Progress(cell.name, progress) as bar:
            try:
                requests = stream.requests()
                serve = answering.rank if cell.task.rank else answering.generate
                # An adapter that has nothing to do shall not load its model.
                first = next(requests, None)
                if journal.read_only and (first is not None or stream.made):
                    raise journal.read_only
                if not keep and (first is not None or stream.made or not _readable(folder)):
                    run = run_info(cell, selection, folder, command)
                    journal.begin(run)
                    folder.write_run(run)
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
                stopped, interrupted = "interrupted", e
            except BaseException as e:  # whatever ends a run early, its results say so
                stopped = reason(e)
        stopped = stopped or stream.why_incomplete()
        seconds = time.perf_counter() - started
        if shard:
            journal = stack.enter_context(folder.gathered(cell.name, journal))
            stream.journal = journal
        stats = answering.stats if stream.made else {}
        results = stream.results(seconds, stopped is None, recordable(cell.adapter, stats))
        failures = tuple(r for r in stream.records() if not r.scored)[:FAULTS_SHOWN]
        lost = all(r.failed_in == "row" for r in journal.contents.records.values())
        if lost and not results.missing_shards:
            folder.remove()
        elif journal.read_only is None:
            if not keep and (stream.made or results != before):
                journal.end(Ending.of(results, [r.id for r in stream.records()]))
            if keep:
                folder.mend(journal)
            elif not folder.intact or results != before:
                folder.write_results(results)
            folder.write_columns(journal)
        if interrupted:
            try:
                raise interrupted
            finally:
                del interrupted  # its traceback holds this frame
        return Outcome(cell, results, stream.reused, stream.made, stopped, failures)


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


def prompt_hash(sample: Sample) -> str:
    """The first 16 hex digits of SHA-256 over roles, texts and the bytes of media."""

    def part_of(part: Text | Image | Video) -> object:
        if isinstance(part, Subtitles):
            return part
        if isinstance(part, Text):
            return part.text
        try:
            digest = part.digest
        except OSError:
            digest = "unreadable"
        # The class and its other fields: how a clip is cut, how a picture is turned.
        others = {k: v for k, v in vars(part).items() if k not in ("source", "digest") and v}
        return type(part).__name__, digest, sorted(others.items())

    return _prompt_digest([[m.role, *map(part_of, m.content)] for m in sample.messages])


def is_text_alone(record: Record) -> bool:
    """Whether a sample is known to have been asked by its question alone, nothing being shown."""
    return record.prompt == _prompt_digest([["user", record.question]])


def _prompt_digest(parts: list[list[object]]) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:16]


def prompt_hash_of_0_1(sample: Sample) -> str:
    """The 12 digits that evalkit 0.1 recorded: media by kind, name and size."""

    def name(part: Image | Video) -> str:
        kind = type(part).__name__
        if isinstance(part.source, bytes):
            return f"<{kind} of {len(part.source)} bytes>"
        size = part.source.stat().st_size if part.source.is_file() else 0
        return f"<{kind} {part.source.name} of {size} bytes>"

    parts = [
        [m.role, *(p.text if isinstance(p, Text) else name(p) for p in m.content)]
        for m in sample.messages
    ]
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _asked_before(record: Record, sample: Sample, prompt: str) -> bool:
    """Whether a record is of this sample as it is now."""
    if len(record.prompt) == 12:
        prompt = prompt_hash_of_0_1(sample)
    return record.prompt == prompt and _json(record.target) == _json(sample.target)


def _json(target: Any) -> str | None:
    """A target as a journal would give it back; None for what it can't hold."""
    try:
        return json.dumps(target, sort_keys=True)
    except (TypeError, ValueError):
        return None


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
    for damage in faults[:FAULTS_SHOWN]:
        logger.warning("%s", damage)
    if (more := len(faults) - FAULTS_SHOWN) > 0:
        logger.warning("%s: %d more lines like that", journal.path, more)


class _Stream:
    """Samples out as requests, completions in as records."""

    def __init__(
        self,
        cell: Cell,
        selection: Selection,
        journal: Journal,
        before: CellResults | None,
        shard: Shard | None = None,
    ) -> None:
        self.cell, self.selection, self.journal, self.before = cell, selection, journal, before
        self.shard = shard
        self.elsewhere: dict[str, str] = {}  # records of other shards, and which
        self.pending: dict[str, tuple[Sample, str]] = {}
        self.chosen: dict[str, None] = {}
        self.reused = self.asked = self.made = 0
        self.running = _RunningScore(cell)
        self.broken: BaseException | None = None
        self.seen = 0  # samples of the data so far
        self.rows_read = self.in_rows = 0  # rows that were read to their end, and their samples
        whole = before is not None and before.complete and not before.selection.partial
        self.known = before.n_total if before and whole else None
        count = getattr(cell.task.source, "count", None)
        self.rows: int | None = count(cell.data) if count else None

    def requests(self) -> Iterator[Request]:
        """What is left to ask. Ends early where the data do, which ``broken`` then says: what was
        asked before is still answered.
        """
        try:
            yield from self._requests()
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as e:
            self.broken = e

    def _requests(self) -> Iterator[Request]:
        done = self.journal.contents.scored
        for sample in self._own():
            if isinstance(sample, RowError):
                self.chosen[sample.id] = None
                self._append(Record.of_row(sample.id, sample.reason))
                continue
            yield from self._asked(sample, done)

    def _own(self) -> Iterator[Sample | RowError]:
        """What is selected, without what other shards ask."""
        if not self.shard:
            yield from self._selected()
            return
        for owner, sample in self.shard.owners(self._selected()):
            if owner == str(self.shard):
                yield sample
            else:
                for id in repetitions(sample.id, self.cell.asking.repeats):
                    self.elsewhere[id] = owner

    def _missing_shards(self) -> tuple[str, ...]:
        """Those of which a sample has no record yet."""
        there = self.journal.contents.records
        missing = {
            owner
            for id, owner in self.elsewhere.items()
            if id not in there and id.rpartition("#")[0] not in there
        }
        return tuple(sorted(missing, key=lambda owner: int(owner.partition("/")[0])))

    def _asked(self, sample: Sample, done: Mapping[str, Record]) -> Iterator[Request]:
        """The requests of a sample, one a repetition, but for those that have their answers."""
        cell = self.cell
        try:
            repetitions = list(cell.asking.ask(sample, cell.examples))
        except DataError as e:
            self.chosen[sample.id] = None
            self._append(Record.of_row(sample.id, str(e)))
            return
        for sample in repetitions:
            self.chosen[id := sample.id] = None
            prompt = prompt_hash(sample)
            if id in done and _asked_before(done[id], sample, prompt):
                self.reused += 1
                self.running.count(done[id])
            else:
                try:
                    messages = self._messages(sample)
                except DataError as e:
                    self._append(Record.of_row(id, str(e)))
                    continue
                self.asked += 1
                self.pending[id] = _without_media(sample), prompt
                yield Request(
                    id,
                    messages,
                    self.cell.identity.max_new_tokens,
                    self.cell.identity.budget,
                    sample.choices,
                    cell.asking.temperature,
                    cell.asking.seed_of(id) if cell.asking.temperature else 0,
                )

    def _messages(self, sample: Sample) -> tuple[Message, ...]:
        """What is asked of a sample: its messages with the subtitles of the frames that are shown,
        and what the cell's control makes of them. Raises DataError.
        """
        identity = self.cell.identity
        asked = with_subtitles(self.cell.adapter, sample.messages, identity.budget)
        if not identity.control:
            return tuple(asked)
        return controlled(asked, identity.control, sample.id, identity.budget)

    def finish(self, completion: Completion) -> None:
        """Scores and journals an answer. Raises EvalkitError for one that nobody asked for."""
        if not isinstance(completion, Completion):
            raise EvalkitError(f"the adapter gave {completion!r:.200}: expected a Completion")
        if completion.id not in self.pending:
            raise EvalkitError(
                f"the adapter answered {completion.id!r}, which was not asked or was "
                "answered before"
            )
        sample, prompt = self.pending.pop(completion.id)
        if why := why_unusable(completion):
            completion = Completion(completion.id, finish_reason="error", error=why)
        if completion.box_space is None and (space := self.cell.adapter.box_space):
            completion = replace(completion, box_space=space)
        if self.cell.task.protocol.stop:
            completion = replace(completion, text=self.cell.task.protocol.cut(completion.text))
        score: Score | str | None = None
        if completion.error is None:
            try:
                score = checked_score(self.cell.task, sample, completion)
            except ScoringError as e:
                score = str(e)
        self._append(Record.of(sample, prompt, completion, score))

    def why_incomplete(self) -> str | None:
        """What is wrong with a run that ended by itself; None when nothing is."""
        cell = self.cell
        if self.pending:
            first = next(iter(self.pending))
            return f"the adapter left {len(self.pending)} requests unanswered, the first {first!r}"
        if not self.chosen and not self.elsewhere:
            if self.selection.first and self.seen:
                start, stop = self.selection.first
                return (
                    f"nothing was selected: samples {start} to {stop} were asked for, and there "
                    f"are {self.seen}"
                )
            return f"{cell.task.full_name} has no rows: nothing was asked"
        if not self.asked and not self.reused and not self.elsewhere:
            return f"no row could be used: mend {type(cell.task).__name__}.samples or the data"
        return self._why_mixed() if self.made else None

    def _why_mixed(self) -> str | None:
        """What is wrong where the data are no longer those that were read at first."""
        changed = "the data changed while they were read, and answers are of both: repeat the run"
        try:
            same = self.cell.task.describe_data(self.cell.data) == self.cell.identity.data
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            return f"{changed} ({reason(e)})"
        return None if same else changed

    def records(self) -> list[Record]:
        """The records that count: all that the journal has, or those that were selected."""
        kept = self.journal.contents.records
        if not self.selection.partial:
            return list(kept.values())
        return [r for id, r in kept.items() if self._is_selected(id)]

    def _is_selected(self, id: str) -> bool:
        # a sample that could not be asked has a record of its own, not one a repetition
        return id in self.chosen or id in self.elsewhere or f"{id}#0" in self.elsewhere

    def results(self, seconds: float, complete: bool, stats: Mapping[str, Any]) -> CellResults:
        """What is written to results.json; ``stats`` are those of who answered. A whole run
        counts all that the journal has, once rows that failed before and now have samples are
        withdrawn.
        """
        self.journal.flush()
        missing = self._missing_shards()
        complete = complete and not missing
        if complete and not self.selection.partial:
            for id in [id for id in self.journal.contents.records if not self._is_selected(id)]:
                self.journal.withdraw(id)
        fingerprint, before = self.cell.identity.fingerprint, self.before
        return CellResults.of(
            self.records(),
            self.cell.task.metrics,
            created=before.created if before and not self.made else now(),
            rescored=before.rescored if before else None,
            selection=self.selection,
            complete=complete,
            missing_shards=missing,
            inference_probe=bool(fingerprint.get("inference_probe")),
            switches=dict(fingerprint.get("switches", {})),
            seconds=before.seconds if before and not self.made else round(seconds, 3),
            stats=stats if self.made else before.stats if before else {},
        )

    def show(self, bar: Progress) -> None:
        bar.update(self.made + self.reused, self.reused, self._total(), self.running.text)

    def _total(self) -> int | None:
        """How many samples are selected, as far as that can be told: exactly after an earlier run,
        else from the number of rows, with as many samples a row as there were so far.
        """
        samples = self._samples()
        if samples is None:
            return None
        return -(-samples // (self.shard.of if self.shard else 1)) * self.cell.asking.repeats

    def _samples(self) -> int | None:
        chosen = self.selection
        if chosen.ids:
            return len(chosen.ids)
        every = self.known
        if every is None and self.rows is not None and self.rows_read:
            every = round(self.rows * self.in_rows / self.rows_read)
        if chosen.drawn is not None:
            return min(chosen.drawn, every if every is not None else chosen.drawn)
        if chosen.first:
            start, stop = chosen.first
            return max((stop if every is None else min(stop, every)) - start, 0)
        return every

    def _selected(self) -> Iterator[Sample | RowError]:
        """What is selected, a RowError where a row can't be used."""
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
        self.seen = 0
        samples = read_samples(self.cell.task, self.cell.data, self._begin_row)
        if self.cell.identity.control == "image-swapped":
            samples = swapped(samples)
        for sample in samples:
            self.seen += 1
            yield sample

    def _begin_row(self, number: int) -> None:
        self.rows_read, self.in_rows = number, self.seen

    def _append(self, record: Record) -> None:
        try:
            self.journal.append(record)
        except (TypeError, ValueError) as e:
            why = (
                f"can't be recorded as JSON ({e}): something that the task or the adapter gave "
                "is neither text nor a finite number"
            )
            record = Record.of_row(record.id, why)
            self.journal.append(record)
        self.made += 1
        self.running.count(record)


class _RunningScore:
    """The first score that is made of single samples, over what was counted so far."""

    def __init__(self, cell: Cell) -> None:
        plain = (m for m in cell.task.metrics if not m.units and not m.weight)
        self.metric = next(plain, cell.task.metrics[0])
        self.sums: dict[str, tuple[float, int]] = {}

    def count(self, record: Record) -> None:
        value = record.scores.get(self.metric.name)
        if value is not None:
            group = str(record.metadata.get(self.metric.group)) if self.metric.group else ""
            total, n = self.sums.get(group, (0.0, 0))
            self.sums[group] = total + value, n + 1

    @property
    def text(self) -> str:
        """``anls 90.7``; empty before the first score."""
        if not self.sums:
            return ""
        mean = sum(total / n for total, n in self.sums.values()) / len(self.sums)
        return f"{self.metric.name} {mean * self.metric.scale:.1f}"


def _without_media(sample: Sample) -> Sample:
    """The sample with the text of its messages alone: what scoring and its record need, so that
    media leave memory.
    """
    if all(isinstance(p, Text) for m in sample.messages for p in m.content):
        return sample
    texts = [
        replace(m, content=tuple(p for p in m.content if isinstance(p, Text)))
        for m in sample.messages
    ]
    return replace(sample, messages=tuple(texts))


def why_unusable(completion: Completion) -> str | None:
    """What is wrong with a completion as an adapter made it; None when nothing is."""

    def number(value: Any) -> bool:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        return real and math.isfinite(value)

    c: Any = completion
    if c.error is not None:
        return None if isinstance(c.error, str) else f"its error is {c.error!r:.100}, not a text"
    if c.finish_reason == "error":
        return "the adapter gave no answer, and no reason"
    checks = {
        "text": isinstance(c.text, str),
        "finish_reason": c.finish_reason in FINISH_REASONS,
        "tokens": isinstance(c.tokens, TokenCounts) and all(map(number, vars(c.tokens).values())),
        "seconds": number(c.seconds),
        "logprobs": isinstance(c.logprobs, tuple | list) and all(map(number, c.logprobs)),
        "box_space": c.box_space is None or is_box_space(c.box_space),
        "frames": isinstance(c.frames, tuple | list)
        and all(isinstance(clip, tuple | list) and all(map(number, clip)) for clip in c.frames),
    }
    for name, fits in checks.items():
        if not fits:
            value = getattr(c, name)
            return f"the adapter gave a Completion with {name}={value!r:.100}"
    return None
