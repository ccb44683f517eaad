"""The way of samples through a run: out as requests where the journal has no answer, back in as
scored records.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from evalkit.adapter import with_subtitles
from evalkit.asking import repetitions
from evalkit.cell import Cell
from evalkit.cell_results import CellResults, Ending, ids_digest, sum_digest
from evalkit.controls import controlled, swapped
from evalkit.errors import DataError, EvalkitError, ScoringError, UsageError, reason
from evalkit.gathering import Gathering
from evalkit.index import Index
from evalkit.journal import Journal
from evalkit.progress import Progress
from evalkit.prompt_hash import asked_before, prompt_hash
from evalkit.provenance import now
from evalkit.records import Record
from evalkit.run_info import Selection
from evalkit.selection import beyond, unknown_ids
from evalkit.task import RowError, checked_score, read_samples
from evalkit.types import (
    Completion,
    FinishReason,
    Message,
    Request,
    Sample,
    Score,
    Text,
    TokenCounts,
    is_box_space,
)

if TYPE_CHECKING:
    from evalkit.selection import Shard

logger = logging.getLogger(__name__)
FINISH_REASONS = get_args(FinishReason)


@dataclass(frozen=True)
class Summary:
    """What came out of a cell, in one look at each of its records."""

    results: CellResults
    ending: Ending
    failures: tuple[Record, ...]
    """The first few that have no score."""
    lost: bool
    """Whether no sample was even asked."""


class Stream:
    """Samples out as requests, completions in as records."""

    def __init__(
        self,
        cell: Cell,
        selection: Selection,
        journal: Journal,
        gathering: Gathering,
        before: CellResults | None,
        shard: Shard | None = None,
    ) -> None:
        self.cell, self.selection, self.journal, self.before = cell, selection, journal, before
        self.gathering, self.shard = gathering, shard
        self.places = journal.records
        self.places.begin()
        self.elsewhere = Index("I")  # records of other shards, and which
        self.pending: dict[str, tuple[Sample, str]] = {}
        self.chosen = bytearray(self.places.early)  # of those that are there already
        self.selected = self.reused = self.asked = self.made = 0
        self.broken: BaseException | None = None
        self.seen = 0  # samples of the data so far
        self.rows_read = self.in_rows = 0  # rows that were read to their end, and their samples
        whole = before is not None and before.complete and not before.selection.partial
        self.known = before.n_total if before and whole else None
        count = getattr(cell.task.source, "count", None)
        self.rows: int | None = count(cell.data) if count else None

    def end_in(self, journal: Journal, gathering: Gathering) -> None:
        """Goes on with another journal, which has in it what was appended to a shard's."""
        self.journal, self.gathering = journal, gathering
        journal.records.begin()

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
        for sample in self._own():
            if isinstance(sample, RowError):
                self._choose(sample.id)
                self._append(Record.of_row(sample.id, sample.reason))
                continue
            yield from self._asked(sample)

    def _choose(self, id: str) -> int:
        """Notes that an id is selected; ``records.asked`` of its record from before this run, 0
        where there is none with a score.
        """
        self.selected += 1
        place = self.places.place(id)
        if place is None or place >= self.places.early:
            return 0
        self.chosen[place] = 1
        return self.places.asked(place)

    def _own(self) -> Iterator[Sample | RowError]:
        """What is selected, without what other shards ask."""
        if not self.shard:
            yield from self._selected()
            return
        for owner, sample in self.shard.owners(self._selected()):
            if owner == self.shard.number:
                yield sample
            else:
                for id in repetitions(sample.id, self.cell.asking.repeats):
                    self.elsewhere[id] = owner

    def _missing_shards(self) -> tuple[str, ...]:
        """Those of which a sample has no record yet."""
        if not self.shard or not len(self.elsewhere):
            return ()
        there = bytearray(len(self.elsewhere))
        for id in self.journal.records:
            # a sample that could not be asked has a record of its own, not one a repetition
            for name in (id, *(f"{id}#{k}" for k in range(self.cell.asking.repeats))):
                if (place := self.elsewhere.place(name)) is not None:
                    there[place] = 1
        owners = {owner for owner, known in zip(self.elsewhere.numbers, there) if not known}
        return tuple(f"{owner}/{self.shard.of}" for owner in sorted(owners))

    def _asked(self, sample: Sample) -> Iterator[Request]:
        """The requests of a sample, one a repetition, but for those that have their answers."""
        cell = self.cell
        try:
            repetitions = list(cell.asking.ask(sample, cell.examples))
        except DataError as e:
            self._choose(sample.id)
            self._append(Record.of_row(sample.id, str(e)))
            return
        for sample in repetitions:
            id = sample.id
            known, prompt = self._choose(id), prompt_hash(sample)
            if known and asked_before(known, sample, prompt):
                self.reused += 1
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
                    cell.identity.max_new_tokens + cell.asking.thinking,
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
        completion = self.cell.asking.answer(completion)
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
        if not self.selected and not len(self.elsewhere):
            if self.selection.first and self.seen:
                return beyond(self.selection.first, self.seen)
            return f"{cell.task.full_name} has no rows: nothing was asked"
        if not self.asked and not self.reused and not len(self.elsewhere):
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

    def _is_selected(self, id: str) -> bool:
        place = self.places.place(id)
        if place is not None and (place >= self.places.early or self.chosen[place]):
            return True  # what came since is what was selected
        # a sample that could not be asked has a record of its own, not one a repetition
        return id in self.elsewhere or f"{id}#0" in self.elsewhere

    def _unselected(self) -> list[str]:
        """The ids of records that are not of the samples that there are now."""
        if self.shard:
            return [id for id in self.journal.records if not self._is_selected(id)]
        places = (place for place, chosen in enumerate(self.chosen) if not chosen)
        return [record.id for place in places if (record := self.places.at(place))]

    def summary(self, seconds: float, complete: bool, stats: Mapping[str, Any]) -> Summary:
        """What came out, by the records that count: all that the journal has, or those that were
        selected; ``stats`` are those of who answered. A whole run counts all that the journal has,
        once rows that failed before and now have samples are withdrawn.
        """
        self.journal.flush()
        kept, partial = self.journal.records, self.selection.partial
        missing = self._missing_shards()
        complete = complete and not missing
        if complete and not partial:
            for id in self._unselected():
                self.journal.withdraw(id)
        told = self.gathering
        if not kept.once or (partial and kept.early):
            told.again(kept.values(), self._is_selected if partial else lambda _: True)
        fingerprint, before = self.cell.identity.fingerprint, self.before
        results = CellResults(
            **told.tally.counts(),
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
        chosen = ids_digest(told.ids) if partial else sum_digest(kept.id_total)
        ending = Ending(results, chosen, tuple(told.ids))
        return Summary(results, ending, tuple(told.failures), told.lost)

    def show(self, bar: Progress) -> None:
        if bar.due:
            done, score = self.made + self.reused, self.gathering.running.text
            bar.update(done, self.reused, self._total(), score)

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
                raise UsageError(unknown_ids(self.cell, wanted))
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
        except (TypeError, ValueError, RecursionError) as e:
            why = (
                f"can't be recorded as JSON ({e}): something that the task or the adapter gave "
                "is neither text nor a finite number"
            )
            record = Record.of_row(record.id, why)
            self.journal.append(record)
        self.made += 1


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
        "thought": isinstance(c.thought, str),
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
