"""The leaderboard: models down, tasks across, and below it every cell with its headline score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.adapter import digest
from evalkit.cell_results import MetricResult
from evalkit.files import locked, remove_parts, replace
from evalkit.records import SCHEMA_VERSION
from evalkit.results.cells import (
    IMPORTED,
    MINI_NOTE,
    Output,
    arm,
    data_digest,
    data_kind,
    model_labels,
    partial_text,
    protocol_text,
    take_inventory,
)
from evalkit.results.controlled import COLUMNS as CONTROL_COLUMNS
from evalkit.results.controlled import ControlledScore, controlled_scores
from evalkit.results.frames import result_rows
from evalkit.results.repeats import repeated
from evalkit.results.tables import (
    aligned,
    bold,
    escaped,
    interval_note,
    interval_text,
    lower_note,
    markdown_table,
    value_text,
    write_csv_rows,
)
from evalkit.store import CellFolder

LONG = (
    "task",
    "model",
    "adapter",
    "data",
    "settings",
    "protocol",
    "metric",
    "value",
    "95 % interval",
    "n",
    "errors",
    "unparsed",
    "version",
    "",
)
"""Columns of the table of all cells."""


RowKey = tuple[str, str, str, str]
ColumnKey = tuple[str, str, str]


@dataclass(frozen=True)
class Overview:
    """Models down, tasks across, as text."""

    columns: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    """(row, column) of the best score of each task; a score of a part of the samples, or under a
    control, is never the best."""


@dataclass(frozen=True)
class Entry:
    """One cell's headline score."""

    cell: CellFolder
    model: str
    """The model as tables name it."""
    score: MetricResult

    @property
    def row(self) -> RowKey:
        """What a row of the overview stands for: model, adapter, settings with what the weights
        were trained with, and a digest of all that can change an answer.
        """
        settings = ", ".join(filter(None, (self.settings, self.arm)))
        return self.model, self.cell.adapter, settings, digest(self.cell.run.identity.fingerprint)

    @property
    def column(self) -> ColumnKey:
        """What a column of the overview stands for: task, metric, how it was asked, and the data it
        is over. Local copies of different bytes have columns of their own: their scores are of
        different rows.
        """
        kind, protocol = data_kind(self.cell), self.cell.run.identity.protocol_name
        named = f"{kind} data {data_digest(self.cell)[:6]}"
        data = named if kind in ("local", IMPORTED) else ""
        where = ", ".join(filter(None, (f"protocol={protocol}" if protocol else "", data)))
        return self.cell.task, self.score.metric, where

    @property
    def settings(self) -> str:
        """The model's settings, and the control that pictures were under."""
        control = self.cell.run.identity.control
        parts = (self.cell.model_settings, f"control={control}" if control else "")
        return " ".join(filter(None, parts))

    @property
    def competes(self) -> bool:
        """Whether the score is of all samples, with their pictures as they are."""
        return not (self.cell.results.partial or self.cell.run.identity.control)

    @property
    def text(self) -> str:
        """The score with its interval, an asterisk where it is of a part of the samples."""
        mark = "*" if self.cell.results.partial else ""
        return f"{value_text(self.score.value)}{mark} " + interval_text(
            self.score.ci_low, self.score.ci_high
        )

    @property
    def arm(self) -> str:
        return arm(self.cell)

    @property
    def goodness(self) -> float:
        """The value, turned round where less is better."""
        return self.score.value if self.score.higher_is_better else -self.score.value


@dataclass(frozen=True)
class Leaderboard:
    """The headline scores of all cells, and what is missing from them."""

    entries: tuple[Entry, ...]
    columns: list[str]
    """Those of ``load_results``."""
    rows: list[dict[str, Any]]
    """``load_results`` of the same cells: every metric."""
    controls: tuple[ControlledScore, ...]
    """Cells under a control beside the same ones without it."""
    no_score: tuple[CellFolder, ...]
    """Cells without any scored sample."""
    damaged: tuple[str, ...]
    """Why cells that can't be read are left out."""

    @classmethod
    def of(cls, output: Output) -> Leaderboard:
        """Reads all cells under an output folder. Raises UsageError when there is no such
        folder.
        """
        there = take_inventory(output)
        models = model_labels(there.cells)
        entries = tuple(
            Entry(c, models[c.path], c.results.metrics[0]) for c in there.cells if c.results.metrics
        )
        empty = tuple(c for c in there.cells if not c.results.metrics)
        controls = tuple(controlled_scores(there.cells))
        return cls(entries, *result_rows(there.cells), controls, empty, there.damaged)

    def overview(self) -> Overview:
        """Models down and tasks across."""
        tasks = sorted({e.column for e in self.entries})
        steps = {e.row: e.cell.run.identity.fingerprint.get("step") or 0 for e in self.entries}
        rows = sorted(steps, key=lambda row: (row[:2], steps[row], row))
        names = _row_names(rows)
        places: dict[tuple[RowKey, ColumnKey], Entry] = {}
        for entry in self.entries:
            before = places.get((entry.row, entry.column))
            if before is None or _preferred(entry, before):
                places[entry.row, entry.column] = entry
        best: dict[ColumnKey, float] = {}
        for (_, task), entry in places.items():
            if entry.competes:
                best[task] = max(entry.goodness, best.get(task, entry.goodness))
        body, marked = [], set()
        for i, row in enumerate(rows):
            line = [*names[row]]
            for task in tasks:
                one = places.get((row, task))
                line.append(one.text if one else "")
                if one and one.competes and one.goodness == best[task]:
                    marked.add((i, len(line) - 1))
            body.append(line)
        heads = [f"{task} {metric}{f', {where}' if where else ''}" for task, metric, where in tasks]
        width = len(names[rows[0]]) if rows else 1
        return Overview([*("model", "adapter", "settings")[:width], *heads], body, marked)

    def long(self) -> list[tuple[Any, ...]]:
        """One row per cell, tasks together, the best first, and one for each number that is over
        its repetitions; columns LONG.
        """
        drawn = [Entry(e.cell, e.model, m) for e in self.entries for m in repeated(e.cell)]
        ordered = sorted(self.entries, key=lambda e: (e.cell.task, -e.goodness))
        ordered = sorted([*ordered, *drawn], key=lambda e: e.cell.task)
        return [
            (
                e.cell.task,
                e.model,
                e.cell.adapter,
                data_kind(e.cell),
                e.settings,
                protocol_text(e.cell),
                e.score.metric,
                value_text(e.score.value),
                interval_text(e.score.ci_low, e.score.ci_high),
                f"{e.score.n}{partial_text(e.cell)}",
                e.cell.results.errors,
                e.cell.results.unparsed,
                e.cell.run.identity.task_version,
                e.arm,
            )
            for e in ordered
        ]

    def control_rows(self) -> list[tuple[str, ...]]:
        """One row per cell under a control."""
        names = {e.cell.path: e.model for e in self.entries}
        return [c.row(names[c.cell.path]) for c in self.controls]

    def notes(self) -> list[str]:
        """What a reader has to know beside the numbers."""
        out = []
        if any(e.cell.results.partial for e in self.entries):
            out.append("* a part of the samples: do not quote")
        scores = [e.score for e in self.entries]
        out += lower_note((s.metric, s.higher_is_better) for s in scores)
        out += interval_note((s.ci_low, s.ci_high) for s in scores)
        if any(data_kind(e.cell) == "mini" for e in self.entries):
            out.append(MINI_NOTE)
        if any(data_kind(e.cell) == "local" for e in self.entries):
            out.append(
                "local data: rows from a folder; nothing says that they are the official ones."
            )
        if any(data_kind(e.cell) == IMPORTED for e in self.entries):
            out.append(
                "imported: another harness asked, under its own prompts and settings; evalkit read "
                "and scored the answers."
            )
        out += self._without_baseline()
        out += [f"{c.task}, {c.model}: no score ({c.path})" for c in self.no_score]
        return out + [f"left out: {why}" for why in self.damaged]

    def _without_baseline(self) -> list[str]:
        """How to run the no-vision baselines that are missing: under a control, or by the settings
        with which an adapter says that its model sees nothing.
        """
        missing: dict[tuple[str, str, tuple[tuple[str, Any], ...]], list[str]] = {}
        baselines = {(e.cell.task, e.model) for e in self.entries if _sees_nothing(e.cell)}
        for e in self.entries:
            if e.cell.run.blind and (e.cell.task, e.model) not in baselines:
                key = (e.model, e.cell.adapter, tuple(e.cell.run.blind.items()))
                missing.setdefault(key, [])
                if e.cell.task not in missing[key]:
                    missing[key].append(e.cell.task)
        return [
            f"no vision baseline of {model} ({adapter}) on {', '.join(sorted(tasks))}: run with "
            f"--control blind (or {' '.join(f'--switch {k}={v}' for k, v in blind)})"
            for (model, adapter, blind), tasks in missing.items()
        ]

    def text(self) -> str:
        """For a terminal."""
        view = self.overview()
        shown = [
            [
                f"{v} <" if (i, j) in view.best and len(view.rows) > 1 else v
                for j, v in enumerate(row)
            ]
            for i, row in enumerate(view.rows)
        ]
        best = ["< best of its column"] if len(view.rows) > 1 and view.best else []
        return "\n\n".join(
            [
                aligned(view.columns, shown),
                aligned(LONG, self.long()),
                *([aligned(CONTROL_COLUMNS, self.control_rows())] if self.controls else []),
                "\n".join(best + self.notes()),
            ]
        )

    def markdown(self) -> str:
        view = self.overview()
        shown = [
            [bold(v) if (i, j) in view.best else v for j, v in enumerate(row)]
            for i, row in enumerate(view.rows)
        ]
        notes = "\n".join(f"- {escaped(note)}" for note in self.notes())
        head = f"<!-- schema_version: {SCHEMA_VERSION}; made by `evalkit leaderboard` -->"
        controls = ""
        if self.controls:
            table = markdown_table(CONTROL_COLUMNS, self.control_rows())
            controls = f"## How much needs the picture\n\n{table}\n\n"
        return (
            f"{head}\n\n{markdown_table(view.columns, shown)}\n\nBest in bold; in brackets 95 % "
            f"intervals over images and videos.\n\n## All cells\n\n"
            f"{markdown_table(LONG, self.long())}\n\n{controls}{notes}\n"
        )

    def write(self, output: Path) -> tuple[Path, Path]:
        """Writes what was read, under the same lock (``files.locked``) of the folder."""
        named = [row | {"cell": Path(row["cell"]).name} for row in self.rows]
        remove_parts(output)
        csv = write_csv_rows(output / "leaderboard.csv", self.columns, named)
        markdown = output / "leaderboard.md"
        replace(markdown, self.markdown(), durable=False)
        return csv, markdown


def _row_names(rows: Sequence[RowKey]) -> dict[RowKey, list[str]]:
    """The first columns of each row: the model; adapter and settings where they differ; the digest
    where all else is alike.
    """
    alike = [row[:3] for row in rows]
    several = len({row[1:] for row in rows}) > 1
    names = {}
    for row in rows:
        model, adapter, settings, identity = row
        if alike.count(row[:3]) > 1:
            settings = ", ".join(filter(None, (settings, identity[:6])))
        names[row] = [model, adapter, settings] if several else [model]
    return names


def _preferred(one: Entry, other: Entry) -> bool:
    """Of two cells that share a place in the overview (of other task versions or code): a whole one
    before a part, then the later one.
    """
    return (not one.cell.results.partial, one.cell.results.created) > (
        not other.cell.results.partial,
        other.cell.results.created,
    )


def _sees_nothing(cell: CellFolder) -> bool:
    if cell.run.identity.control in ("blind", "text-only"):
        return True
    blind, switches = cell.run.blind, cell.results.switches
    return bool(blind) and all(k in switches and switches[k] == v for k, v in blind.items())


def write_leaderboard(output: Path = Path("results")) -> tuple[Path, Path]:
    """Writes ``leaderboard.csv`` (every metric) and ``leaderboard.md`` (headline scores) into
    ``output``; returns both paths. Raises UsageError when there is no such folder, EvalkitError
    when they can't be written.
    """
    with locked(output):  # of runs that end at once, the last has read what all others wrote
        return Leaderboard.of(output).write(output)
