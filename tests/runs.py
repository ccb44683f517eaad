"""Quick runs of the sums, a task without media, by an adapter that adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalkit.cell import Cell
from evalkit.run_info import Selection
from evalkit.runner import Outcome, run_cell
from evalkit.task import Task, load_task
from tests.plugins.adder import Adder

SUMS = str(Path(__file__).parent / "plugins" / "sums.py")


def cell_of(output: Path, task: Task | None = None, **arguments: Any) -> Cell:
    return Cell.make(task or load_task(SUMS), Adder("adder", **arguments), "adder", output)


def run(
    output: Path,
    selection: Selection = Selection(),
    task: Task | None = None,
    fresh: bool = False,
    **arguments: Any,
) -> Outcome:
    return run_cell(cell_of(output, task, **arguments), selection, fresh=fresh, progress=False)
