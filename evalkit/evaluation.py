"""What came of the cells that were run together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.safe_text import harmless

if TYPE_CHECKING:
    import pandas as pd

    from evalkit.runner import Outcome
    from evalkit.store import CellFolder

logger = logging.getLogger("evalkit")


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` came to. Iterating gives the rows of ``frame``; a notebook shows a table.

    outcomes: one for each task that could be begun, in the order of the tasks.
    errors: what went wrong, a line each; empty when every sample has a score.
    missing: the tasks that could not be begun.
    """

    outcomes: tuple[Outcome, ...]
    errors: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[CellFolder, ...]:
        """The folders that hold the results; none for a task in which nothing was answered."""
        stored = [(o.cell.stored, o.results) for o in self.outcomes]
        return tuple(cell.showing(results) for cell, results in stored if cell.exists)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per task and metric, with the columns of ``load_results``."""
        from evalkit.results.frames import results_frame

        return results_frame(self.cells)

    @property
    def samples(self) -> pd.DataFrame:
        """One row per sample that the cells hold, with the columns of ``load_samples``."""
        from evalkit.results.frames import samples_frame

        return samples_frame(self.cells)

    @property
    def scores(self) -> dict[str, float]:
        """The headline score of every task: ``{"docvqa:mini": 98.3}``."""
        return {o.cell.name: o.results.metrics[0].value for o in self.outcomes if o.results.metrics}

    def failed(self, tolerated: float = 0.0) -> bool:
        """Whether a task could not be run to its end, has no score at all, or has lost more than
        the ``tolerated`` share of its samples.
        """
        return bool(self.missing) or any(
            o.stopped
            or (not o.results.n and not o.results.missing_shards)
            or o.results.errors > tolerated * o.results.n_total
            for o in self.outcomes
        )

    def __iter__(self) -> Iterator[Any]:
        """Named tuples: ``row.task``, ``row.metric``, ``row.value``, ``row.ci_low``, ..."""
        return iter(self.frame.itertuples(index=False, name="Row"))

    def __len__(self) -> int:
        return sum(len(o.results.metrics) for o in self.outcomes)

    def __getitem__(self, column: str) -> pd.Series:
        """A column of ``frame``."""
        return self.frame[column]

    def __repr__(self) -> str:
        rows = [str(self._short().to_string(index=False)), *self.errors]
        return harmless("\n".join(rows))

    def _repr_html_(self) -> str:
        from html import escape

        errors = "".join(f"<p>{escape(e)}</p>" for e in self.errors)
        return str(self._short().to_html(index=False, notebook=True)) + errors

    def _short(self) -> pd.DataFrame:
        columns = "task model metric value ci_low ci_high n errors unparsed".split()
        return self.frame[columns].round(1)
