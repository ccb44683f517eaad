"""The file of answers that a benchmark's server scores, made from a cell's journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.errors import UsageError
from evalkit.files import replace
from evalkit.results.cells import task_of
from evalkit.store import CellFolder


def one_hidden(cells: Sequence[CellFolder]) -> CellFolder:
    """The one of several cells whose answers are hidden, which is one without a score. Raises
    UsageError when none is, or more.
    """
    found = [c for c in cells if not c.results.metrics] if len(cells) > 1 else list(cells)
    if len(found) == 1:
        return found[0]
    listed = "".join(f"\n  {c.task}: {c.path}" for c in found or cells)
    raise UsageError(f"name one cell whose answers a server scores:{listed}")


def write_submission(
    cell: CellFolder, to: Path | None = None, incomplete: bool = False
) -> tuple[Path, str, int, int]:
    """Writes the file; returns its path, the server's address, and how many answers are in it and
    missing from it. Raises UsageError for a task whose answers are public, for several answers of
    a sample, and where answers are missing unless ``incomplete``.
    """
    task = task_of(cell)
    if not task.subset.hidden:
        raise UsageError(f"{cell.task}: its answers are public, and are scored here")
    if cell.run.identity.asking.get("repeats", 1) > 1:
        raise UsageError(f"{cell.path}: has several answers of each sample, and a server takes one")
    records = list(cell.records().values())
    answered = [r for r in records if r.scored]
    missing = len(records) - len(answered)
    if (missing or cell.results.partial) and not incomplete:
        raise UsageError(
            f"{cell.path}: {missing} of {len(records)} samples have no answer"
            + (", and a part of the samples was run" if cell.results.partial else "")
            + ": repeat the run, or write what there is with --incomplete"
        )
    made = task.submission((r.sample(), r.parsed) for r in answered)
    path = to or cell.path / made.name
    replace(path, made.content)
    return path, made.site, len(answered), missing
