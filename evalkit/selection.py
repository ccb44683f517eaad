"""Which samples of a task are asked: a limit as a user gives it, and what it comes to in words and
in ids before anything is run.

``Limit`` is what was asked for; ``run_info.Selection`` is what a run takes, and what its results
keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.task import RowError, read_samples
from evalkit.types import Sample

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.run_info import Selection

RUN = 64
"""Samples of one picture that follow each other and stay in one shard, at most."""
SMALL = 2000
"""Rows of a data set that is small enough to be read for what a limit leaves out of it."""


@dataclass(frozen=True)
class Limit:
    """Which samples are asked for, before a data set is known; fields as in ``evaluate``."""

    first: tuple[int, int] | None = None
    share: float | None = None
    seed: int | None = None
    ids: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, limit: int | float | str | None, seed: int | None = None, ids: Sequence[str] = ()
    ) -> Limit:
        """Raises UsageError for an invalid limit."""
        if isinstance(ids, str):
            ids = [ids]
        if limit is None:
            if seed is not None:
                raise UsageError("a seed draws a random selection and needs a limit")
            return cls(ids=tuple(dict.fromkeys(ids)))
        if ids:
            raise UsageError("a limit and sample ids exclude each other")
        text = str(limit).strip()
        span = re.fullmatch(r"(\d+)\s*-\s*(\d+)", text)
        if span and int(span[1]) < int(span[2]):
            if seed is not None:
                raise UsageError(f"a seed draws at random and does not go with the range {text}")
            return cls(first=(int(span[1]), int(span[2])))
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = math.nan
        if (
            isinstance(limit, bool)
            or not 0 < number < math.inf
            or (number > 1 and (number != int(number) or text.endswith("%")))
        ):
            raise UsageError(
                f"limit {limit}: expected N, A-B with A below B, or a share such as 10% or 0.1"
            )
        share = text.endswith("%") or number < 1
        return cls(
            first=None if share else (0, int(number)),
            share=number if share else None,
            seed=seed,
        )

    def selection(self, cell: Cell) -> Selection:
        """The samples of a cell; a limit that leaves nothing out is no selection. A share counts
        the task's samples, which reads its rows.
        """
        from evalkit.run_info import Selection

        if self.ids:
            return Selection(ids=self.ids)
        first = self.first
        if self.share is not None:
            first = 0, math.ceil(self.share * sum(1 for _ in read_samples(cell.task, cell.data)))
        if first is None or (first[0] == 0 and _are_all(cell, first[1])):
            return Selection()
        if self.seed is not None:
            return Selection(drawn=first[1], seed=self.seed)
        return Selection(first=first)


@dataclass(frozen=True)
class Shard:
    """One of several runs that share a cell's samples, such as the tasks of a job array."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Of ``2/3``. Raises UsageError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]) <= 100_000:
            raise UsageError(f"shard {text!r}: expected I/N with I from 1 to N, such as 2/3")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def owners(self, samples: Iterable[Sample | RowError]) -> Iterator[tuple[int, Any]]:
        """Each sample with the number of the shard that asks it. They are dealt out in turn;
        neighbours of one picture stay together, since a model may read it once for all of them.
        """
        turn, alike, cluster = -1, 0, None
        for sample in samples:
            own = getattr(sample, "cluster", "")
            alike = alike + 1 if own and own == cluster and alike < RUN else 1
            turn += alike == 1
            cluster = own
            yield turn % self.of + 1, sample


def _are_all(cell: Cell, stop: int) -> bool:
    """Whether the first ``stop`` samples are all that there are, so far as it takes no reading of
    more than ``SMALL`` rows to tell.
    """
    rows = _rows_at_hand(cell)
    if rows is not None and rows > min(stop, SMALL):
        return False
    return bool(samples_at_hand(cell, min(stop, SMALL)))


def describe(cell: Cell, selection: Selection) -> str:
    """How a part of the samples is taken, in words: ``the first 20 of 214 samples, all of tier
    easy``.
    """
    never = "use the scores to try things out, never quote them"
    if selection.ids:
        plural = "" if len(selection.ids) == 1 else "s"
        return f"{len(selection.ids)} sample{plural} by id; {never}"
    rows = _rows_at_hand(cell)
    everything = (samples_at_hand(cell, SMALL) if (rows or 0) <= SMALL else None) or []
    of = f" of {len(everything)}" if everything else ""
    data = f" of {rows:,} rows" if rows and not everything else ""
    if selection.drawn is not None:
        return f"{selection.drawn}{of} samples{data}, drawn at random; {never}"
    start, stop = selection.first or (0, 0)
    stop = min(stop, len(everything)) if len(everything) > start else stop
    which = f"the first {stop}{of} samples" if start == 0 else f"samples {start} to {stop}{of}"
    which += data
    if same := _common_properties(everything, start, stop):
        which += f", all of {same}: a seed draws them at random"
    return f"{which}; {never}"


def _common_properties(samples: Sequence[Sample | RowError], start: int, stop: int) -> str:
    """The properties that all samples of a range share and others don't: ``tier easy``."""
    inside = [s.metadata for s in samples[start:stop] if isinstance(s, Sample)]
    outside = [s.metadata for s in (*samples[:start], *samples[stop:]) if isinstance(s, Sample)]
    if len(inside) < 2:
        return ""
    return ", ".join(
        f"{key} {value}"
        for key, value in inside[0].items()
        if isinstance(value, str)
        and all(m.get(key) == value for m in inside)
        and any(m.get(key) != value for m in outside)
    )


def selected_ids(cell: Cell, selection: Selection, shard: Shard | None = None) -> list[str] | None:
    """The ids of the samples that a run would take, None where data would have to be fetched.
    Raises UsageError for an id that no sample has, DataError for a range beyond the last.
    """
    samples = samples_at_hand(cell)
    if samples is None:
        return list(selection.ids) if selection.ids and not shard else None
    if selection.ids:
        if unknown := set(selection.ids) - {s.id for s in samples}:
            raise UsageError(unknown_ids(cell, unknown))
        samples = [s for s in samples if s.id in selection.ids]
    elif selection.drawn is not None:
        keep = selection.draw(len(samples))
        samples = [s for i, s in enumerate(samples) if i in keep]
    start, stop = selection.first or (0, None)
    taken = samples[start:stop]
    if selection.first and not taken and samples:
        raise DataError(beyond(selection.first, len(samples)))
    if not shard:
        return [s.id for s in taken]
    return [s.id for owner, s in shard.owners(taken) if owner == shard.number]


def unknown_ids(cell: Cell, ids: Collection[str]) -> str:
    """What is said of ids that no sample has, with those that are most like the first of them."""
    named, known = sorted(ids), list(dict.fromkeys(s.id for s in samples_at_hand(cell) or ()))
    close, hint = get_close_matches(named[0], known, 3), ""
    if close:
        hint = f"; did you mean {' or '.join(map(repr, close))}?"
    elif known:
        hint = f"; its {len(known):,} ids are like {', '.join(map(repr, known[:3]))}"
    return f"{cell.name} has no sample with id {', '.join(map(repr, named))}{hint}"


def beyond(first: tuple[int, int], count: int) -> str:
    """What is said of a range that begins behind the last sample."""
    start, stop = first
    return f"nothing was selected: samples {start} to {stop} were asked for, and there are {count}"


def samples_at_hand(cell: Cell, most: int | None = None) -> list[Sample | RowError] | None:
    """All samples of a cell, without their messages; None where the data would have to be fetched,
    are more than ``most``, or fail in a way that no reader foresees.
    """
    if not _is_at_hand(cell):
        return None
    read = islice(read_samples(cell.task, cell.data), most and most + 1)
    try:
        samples = [replace(s, messages=()) if isinstance(s, Sample) else s for s in read]
    except EvalkitError:
        raise
    except Exception:  # of a task's own code, which is told where its rows are asked
        return None
    return samples if most is None or len(samples) <= most else None


def _rows_at_hand(cell: Cell) -> int | None:
    """How many rows a cell has, where that is known without reading them."""
    count = getattr(cell.task.source, "count", None)
    return count(cell.data) if count and _is_at_hand(cell) else None


def _is_at_hand(cell: Cell) -> bool:
    from evalkit.sources import Hub, Joined

    return cell.data is not None or not isinstance(cell.task.source, Hub | Joined)
