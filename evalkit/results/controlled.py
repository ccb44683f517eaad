"""Cells under a control beside the same cells without it: how much of a score needs the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evalkit.results.cells import partial_text
from evalkit.results.pairs import PairedScores
from evalkit.results.tables import interval_text, p_text, value_text
from evalkit.store import CellFolder

COLUMNS = (
    "task",
    "model",
    "metric",
    "score",
    "control",
    "under it",
    "needs the picture",
    "95 % interval",
    "p",
    "n",
    "",
)


@dataclass(frozen=True)
class ControlledScore:
    """The headline of a cell and of the same one under a control, on their common samples."""

    cell: CellFolder
    """Under the control."""
    whole: CellFolder
    scores: PairedScores
    """a: without the control, b: under it."""

    def row(self, model: str) -> tuple[str, ...]:
        """By COLUMNS."""
        s = self.scores
        remarks = filter(None, (partial_text(self.cell).strip(), partial_text(self.whole).strip()))
        return (
            self.cell.task,
            model,
            s.metric,
            value_text(s.a),
            self.cell.run.identity.control,
            value_text(s.b),
            value_text(s.difference, signed=True),
            interval_text(s.ci_low, s.ci_high),
            p_text(None if s.same else s.p_value),
            str(s.n),
            "; ".join(dict.fromkeys(remarks)),
        )


def controlled_scores(cells: Sequence[CellFolder]) -> list[ControlledScore]:
    """Every cell under a control whose uncontrolled one is among the cells, paired."""
    there = {c.path: c for c in cells}
    out = []
    for cell in cells:
        identity = cell.run.identity
        if not identity.control:
            continue
        code = {k: v for k, v in identity.code.items() if k != "control"}
        whole = there.get(cell.sibling(replace(identity, control="", code=code)).path)
        if whole is None or not whole.results.metrics:
            continue
        scores = PairedScores.of(whole.columns(), cell.columns(), whole.results.metrics[0])
        if scores:
            out.append(ControlledScore(cell, whole, scores))
    return out
