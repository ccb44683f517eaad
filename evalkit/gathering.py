"""What comes out of a cell, from one look at each of its records as it is read or written: none is
held, so the end of a run takes little more memory than its last answer did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evalkit.cell_results import Tally
from evalkit.columns import Writer
from evalkit.records import Record
from evalkit.types import Metric

SHOWN = 5
"""Failed samples that are named one by one."""


class Gathering:
    """Counts, metrics and columns of records that come one by one. ``folder`` is where columns wait
    to be written; ``partial`` has the ids kept.
    """

    def __init__(self, metrics: Sequence[Metric], folder: Path, partial: bool = False) -> None:
        self.metrics, self.folder, self.partial = metrics, folder, partial
        self.running = RunningScore(metrics)
        self._begin()

    def _begin(self) -> None:
        self.tally, self.columns = Tally(self.metrics), Writer(self.folder)
        self.lost = True
        """Whether no sample was even asked."""
        self.failures: list[Record] = []
        """The first few that have no score."""
        self.ids: list[str] = []
        """Of those that count, when they are a part."""

    def add(self, record: Record) -> None:
        """Takes one more record."""
        self.running.count(record)
        self._look(record)
        self._count(record)

    def again(self, records: Iterable[Record], counts: Callable[[str], bool]) -> None:
        """Looks at these instead of those before; the ones whose ids count are counted."""
        self.close()
        self._begin()
        for record in records:
            self._look(record)
            if counts(record.id):
                self._count(record)

    def _look(self, record: Record) -> None:
        self.columns.add(record)
        self.lost = self.lost and record.failed_in == "row"

    def _count(self, record: Record) -> None:
        self.tally.add(record)
        if self.partial:
            self.ids.append(record.id)
        if not record.scored and len(self.failures) < SHOWN:
            self.failures.append(record)

    def close(self) -> None:
        """Lets go of what waits in files."""
        self.columns.close()


class RunningScore:
    """The first score that is made of single samples, over what was counted so far. One thread may
    count while another reads.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        plain = (m for m in metrics if not m.units and not m.weight)
        self.metric = next(plain, metrics[0])
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
        if not (sums := list(self.sums.values())):
            return ""
        mean = sum(total / n for total, n in sums) / len(sums)
        return f"{self.metric.name} {mean * self.metric.scale:.1f}"
