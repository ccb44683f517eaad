"""The cells of a page: by task and data, with what their journals hold, sample beside sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.cell_results import MetricResult
from evalkit.columns import Columns
from evalkit.errors import DataError
from evalkit.media import Times
from evalkit.results.cells import Inventory, data_digest, data_kind
from evalkit.store import CellFolder


@dataclass
class CellView:
    """A cell, and what its journal holds: read when it is first asked for, since an overview of
    finished cells needs none.
    """

    folder: CellFolder
    doc: str = ""
    """Name of its documents."""
    ended: bool = True
    """Whether its last run came to an end."""
    written: float = 0.0
    """When its journal was last written, in seconds since 1970."""

    @cached_property
    def columns(self) -> Columns:
        return self.folder.columns()

    @classmethod
    def of(cls, folder: CellFolder, columns: Columns) -> CellView:
        """With a journal that was read."""
        view = cls(folder, ended=columns.ended)
        view.columns = columns
        return view


@dataclass
class Part:
    """The cells of one task over the same data: they share their samples."""

    name: str
    """The task, with its data where another part has the same task over others."""
    cells: list[CellView]
    doc: str = ""
    total: int | None = None
    """Rows of the data, where that is known without reading them."""
    places: Sequence[str] = ()
    """Ids of samples whose places are known already."""

    @cached_property
    def known(self) -> Columns:
        """One record of each sample, in the order of their places: the page knows samples by these.
        New samples come after those of ``places``.
        """
        all_columns = [c.columns for c in self.cells]
        first, *others = all_columns
        if (
            all(c["id"] == first["id"] for c in others)
            and "row" not in first["failed_in"]
            and list(self.places) == first["id"][: len(self.places)]
        ):
            return first
        found: dict[str, tuple[int, int]] = {}
        for k, columns in enumerate(all_columns):
            for row, (id, failed_in) in enumerate(zip(columns["id"], columns["failed_in"])):
                if id not in found or (failed_in != "row" and self._lost(found[id])):
                    found[id] = k, row
        placed = {id: found[id] for id in self.places if id in found} | found
        return Gathered(all_columns, list(placed.values()))

    def _lost(self, at: tuple[int, int]) -> bool:
        """Whether a record (of a cell, at a row) says no more of its sample than that it failed."""
        cell, row = at
        return bool(self.cells[cell].columns["failed_in"][row] == "row")

    @cached_property
    def rows(self) -> Mapping[Path, Sequence[int | None]]:
        """By the cell's folder, and then by place: in which row of its columns a sample is; None
        where it was not asked.
        """
        return {c.folder.path: self._rows(c.columns["id"]) for c in self.cells}

    def _rows(self, ids: list[str]) -> Sequence[int | None]:
        if ids == self.known["id"]:
            return range(len(ids))
        row_of = {id: row for row, id in enumerate(ids)}
        return [row_of.get(id) for id in self.known["id"]]

    @property
    def count(self) -> int:
        """Samples, as far as is known without reading a journal."""
        if "known" in vars(self) or all("columns" in vars(c) for c in self.cells):
            return self.known.rows
        return max(c.folder.results.n_total for c in self.cells)

    @property
    def metric(self) -> MetricResult | None:
        """The headline; None where no cell has a score."""
        return next((m[0] for c in self.cells if (m := c.folder.results.metrics)), None)

    def frames(self, place: int) -> tuple[Times, ...]:
        """When the frames of a sample's clips stood that the first model with such was shown."""
        rows = ((c.columns["frames"], self.rows[c.folder.path][place]) for c in self.cells)
        found = (frames[row] for frames, row in rows if row is not None)
        return tuple(map(tuple, next(filter(None, found), ())))


class Gathered(Columns):
    """Records of several cells: row by row from one of them."""

    def __init__(self, cells: Sequence[Columns], rows: Sequence[tuple[int, int]]) -> None:
        super().__init__(len(rows), {})
        self._cells, self._rows = cells, rows

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._columns:
            self._columns[name] = self._gathered([c[name] for c in self._cells])
        return super().__getitem__(name)

    def score(self, metric: str) -> list[float | None]:
        return self._gathered([c.score(metric) for c in self._cells])

    def _gathered(self, columns: Sequence[list[Any]]) -> list[Any]:
        return [columns[cell][row] for cell, row in self._rows]


def parts_of(cells: Iterable[CellView]) -> list[Part]:
    """The cells by task and data."""
    groups: dict[tuple[str, str], list[CellView]] = {}
    ordered = sorted(cells, key=lambda c: (c.folder.task, _is_switched(c), c.folder.model))
    for cell in ordered:
        groups.setdefault((cell.folder.task, data_digest(cell.folder)), []).append(cell)
    tasks = Counter(task for task, _ in groups)
    parts = []
    for (task, digest), mine in groups.items():
        kind = data_kind(mine[0].folder)
        where = f" ({kind} data {digest[:6]})" if tasks[task] > 1 else ""
        parts.append(Part(f"{task}{where}", mine))
    return parts


def _is_switched(cell: CellView) -> bool:
    return bool(cell.folder.results.switches)


def read_all(inventory: Inventory) -> tuple[list[Part], list[str]]:
    """The parts of an output folder, each with a name for its documents; and what could not be
    read, in words.
    """
    views, faults = [], [f"left out: {why}" for why in inventory.damaged]
    for folder in inventory.cells:
        try:
            columns = folder.columns()
        except DataError as e:
            faults.append(f"left out: {e}")
            continue
        if columns.faults:
            faults.append(f"{folder.journal_path}: {columns.faults} damaged lines")
        views.append(CellView.of(folder, columns))
    parts = parts_of(views)
    for i, part in enumerate(parts):
        part.doc = f"p{i}"
    for i, cell in enumerate(cell for part in parts for cell in part.cells):
        cell.doc = f"c{i}"
    return parts, faults
