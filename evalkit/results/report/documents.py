"""What the page reads, as JSON documents with names: the overview, and for every part (a task over
the same data) and cell an index in columns and chunks of texts.

The index holds what filters, sorts and counts: numbers and short classes, small enough for a
hundred thousand samples to be loaded whole. Questions and answers lie in chunks of ``CHUNK``
samples that the page asks for when they come into view, so a large result costs the browser little.
``evalkit report`` writes all documents to files; ``evalkit view`` makes them when they are asked
for, from journals that may still grow.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from math import exp, isfinite
from typing import Any

from evalkit.errors import DataError
from evalkit.media import Times
from evalkit.results.breakdown import DERIVED, in_order, value_of
from evalkit.results.cells import (
    Inventory,
    arm,
    data_digest,
    data_kind,
    labels,
    model_labels,
    partial_text,
)
from evalkit.safe_text import mask
from evalkit.store import CellFolder, MetricResult, Record

SCHEMA_VERSION = 4
CHUNK = 500
"""Samples in a document of texts."""
MOST_OWN_CLASSES = 12
"""Different numbers of a field that are told apart as classes; more are a scale."""
MOST_CLASSES = 200
"""A metadata field with more values than this is searched as text, not offered as a filter."""


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
    def records(self) -> Mapping[str, Record]:
        return self.folder.records()

    @classmethod
    def of(cls, folder: CellFolder, records: Mapping[str, Record], ended: bool) -> CellView:
        """With a journal that was read."""
        view = cls(folder, ended=ended)
        view.records = records
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
    def known(self) -> dict[str, Record]:
        """One record of each sample, in the order of their places: the page knows samples by these.
        New samples come after those of ``places``.
        """
        found: dict[str, Record] = {}
        for cell in self.cells:
            for id, record in cell.records.items():
                if id not in found or found[id].failed_in == "row":
                    found[id] = record
        return {id: found[id] for id in self.places if id in found} | found

    @property
    def count(self) -> int:
        """Samples, as far as is known without reading a journal."""
        if "known" in vars(self) or all("records" in vars(c) for c in self.cells):
            return len(self.known)
        return max(c.folder.results.n_total for c in self.cells)

    @property
    def metric(self) -> MetricResult | None:
        """The headline; None where no cell has a score."""
        return next((m[0] for c in self.cells if (m := c.folder.results.metrics)), None)

    def frames(self, id: str) -> tuple[Times, ...]:
        """When the frames of a sample's clips stood that the first model with such was shown."""
        found = (c.records[id].frames for c in self.cells if id in c.records)
        return next(filter(None, found), ())


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
        views.append(CellView.of(folder, columns.records(), columns.ended))
    parts = parts_of(views)
    for i, part in enumerate(parts):
        part.doc = f"p{i}"
    for i, cell in enumerate(cell for part in parts for cell in part.cells):
        cell.doc = f"c{i}"
    return parts, faults


def overview(
    parts: Sequence[Part], sweeps: Sequence[Mapping[str, Any]], faults: Sequence[str], live: bool
) -> dict[str, Any]:
    """The page's first document: everything but samples."""
    folders = [c.folder for part in parts for c in part.cells]
    names, models = labels(folders), model_labels(folders)
    return {
        "schema_version": SCHEMA_VERSION,
        "made": f"evalkit {version('evalkit')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "live": live,
        "chunk": CHUNK,
        "faults": [mask(f) for f in faults],
        "parts": [
            {
                "doc": part.doc,
                "name": part.name,
                "task": part.cells[0].folder.task,
                "data": data_digest(part.cells[0].folder),
                "count": part.count,
                "total": part.total,
                "metric": _metric(part.metric),
            }
            for part in parts
        ],
        "cells": [
            _cell(cell, part, names[cell.folder.path], models[cell.folder.path], live)
            for part in parts
            for cell in part.cells
        ],
        "sweeps": list(sweeps),
    }


def _cell(cell: CellView, part: Part, label: str, model: str, live: bool) -> dict[str, Any]:
    folder, run = cell.folder, cell.folder.run
    results = folder.results
    return {
        "doc": cell.doc,
        "part": part.doc,
        "key": f"{folder.path.parent.name}/{folder.name}",
        "label": label,
        "model": model,
        "adapter": folder.adapter,
        "settings": folder.settings,
        "switches": {k: str(v) for k, v in results.switches.items()},
        "data": data_kind(folder),
        "arm": arm(folder),
        "partial": partial_text(folder).strip(" ()").removeprefix("partial: "),
        "metrics": [_metric(m) for m in results.metrics],
        "n": results.n,
        "asked": results.n_total,
        "errors": results.errors,
        "unparsed": results.unparsed,
        "tokens": [results.tokens.text_in, results.tokens.vision_in, results.tokens.out],
        "wall": round(results.seconds, 1),
        "created": run.created,
        "command": run.command,
        "running": live and not cell.ended,
        **({} if cell.ended else {"error_kinds": _error_kinds(cell)}),
        "written": cell.written,
    }


def _error_kinds(cell: CellView) -> Counter[str]:
    return Counter(error_kind(r.error) for r in cell.records.values() if r.error is not None)


def _metric(metric: MetricResult | None) -> dict[str, Any] | None:
    if metric is None:
        return None
    return {
        "name": metric.metric,
        "value": metric.value,
        "low": metric.ci_low,
        "high": metric.ci_high,
        "n": metric.n,
        "group": metric.group,
        "higher": metric.higher_is_better,
        "scale": metric.scale,
        "units": list(metric.units),
        "weight": metric.weight,
        "total": metric.total,
    }


def _range(part: Part) -> tuple[float, float]:
    """(worst, best) value of a part's headline metric: 0 and 1, or the lowest and highest that
    there are where a value lies outside of these; the other way round where less is better.
    """
    if part.metric is None:
        return 0.0, 1.0
    name = part.metric.metric
    values = [r.scores[name] for c in part.cells for r in c.records.values() if name in r.scores]
    inside = all(0 <= v <= 1 for v in values)
    low, high = (0.0, 1.0) if inside else (min(values), max(values))
    return (low, high) if part.metric.higher_is_better else (high, low)


def error_kind(error: str) -> str:
    """An error's first words, by which errors are counted: up to a colon that names its class."""
    head, colon, _ = mask(error).partition(": ")
    return (head if colon and " " not in head.strip() else error.split("\n")[0])[:60]


def part_index(part: Part) -> dict[str, Any]:
    """Columns of a part's samples, by place: ids, clusters, and metadata to filter by."""
    records = list(part.known.values())
    keys = dict.fromkeys(k for r in records for k in r.metadata)
    numbers = {key: scale for key in keys if (scale := _numbers(records, key))}
    others = [key for key in keys if key not in numbers]
    fields = {key: _classes([value_of(r, key) for r in records]) for key in others}
    fields |= {
        key: column
        for key in DERIVED
        if key not in fields and (column := _classes([value_of(r, key) for r in records]))
    }
    if targets := _classes([r.target if isinstance(r.target, str) else None for r in records], 30):
        fields["target"] = targets
    clusters: dict[str, int] = {}
    return {
        "schema_version": SCHEMA_VERSION,
        "ids": [r.id for r in records],
        "clusters": [clusters.setdefault(r.cluster, len(clusters)) for r in records],
        "range": _range(part),
        "fields": {k: column for k, column in fields.items() if column},
        "numbers": numbers,
        "group": _codes(records, part.metric.group) if part.metric and part.metric.group else None,
        "units": {key: _codes(records, key) for key in (part.metric.units if part.metric else ())},
    }


def _codes(records: Sequence[Record], key: str) -> list[int]:
    """A metadata field as numbers, equal ones for equal values; -1 where a sample has none."""
    seen: dict[str, int] = {}
    return [
        seen.setdefault(str(r.metadata[key]), len(seen)) if key in r.metadata else -1
        for r in records
    ]


def _numbers(records: Sequence[Record], key: str) -> list[float | None] | None:
    """A metadata field as a column of numbers; None when it holds anything else, or so few that
    each is a class of its own.
    """
    values = [r.metadata.get(key) for r in records]
    there = [v for v in values if v is not None]
    if not all(type(v) in (int, float) and isfinite(v) for v in there):
        return None
    return values if len(set(there)) > MOST_OWN_CLASSES else None


def cell_index(part: Part, cell: CellView) -> dict[str, Any]:
    """Columns of a cell's answers, by the samples' places in its part; null where it has none."""
    records = [cell.records.get(id) for id in part.known]
    names = dict.fromkeys(name for r in cell.records.values() for name in r.scores)

    def column(value: Callable[[Record], Any]) -> list[Any]:
        return [None if r is None else value(r) for r in records]

    return {
        "schema_version": SCHEMA_VERSION,
        "scores": {name: column(lambda r, n=name: r.scores.get(n)) for name in names},  # type: ignore[misc]
        "unparsed": column(lambda r: int(r.unparsed)),
        "error": _classes(column(lambda r: None if r.error is None else error_kind(r.error)), 0),
        "failed in": _classes(column(lambda r: r.failed_in), 0),
        "finish": _classes(column(lambda r: r.finish_reason), 0),
        "tokens": column(lambda r: r.tokens.out),
        "visual": column(lambda r: r.tokens.vision_in),
        "seconds": column(lambda r: r.seconds),
        # Equal numbers: equal readings, to find what all models say against the label.
        "reading": column(lambda r: None if r.error else zlib.crc32(repr(_reading(r)).encode())),
        "confidence": column(_confidence) if any(r and r.logprobs for r in records) else None,
    }


def _reading(record: Record) -> Any:
    return record.text if record.parsed is None else record.parsed


def _confidence(record: Record) -> float | None:
    """The probability of the choice that was taken among all choices."""
    if not record.logprobs:
        return None
    top = max(record.logprobs)
    return round(1 / sum(exp(p - top) for p in record.logprobs), 4)


def _classes(values: Sequence[str | None], most: int = MOST_CLASSES) -> dict[str, Any] | None:
    """A column of short texts as codes; None when there is none, or too many different ones to
    choose from (0: however many).
    """
    there = {v for v in values if v is not None}
    if not there or (most and len(there) > most):
        return None
    names = in_order(there)
    codes = {name: i for i, name in enumerate(names)}
    return {"names": names, "codes": [-1 if v is None else codes[v] for v in values]}


def sample_chunk(
    part: Part, number: int, shown: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, Any]:
    """Texts of a part's samples. ``shown``: the pictures of each id; None leaves them to a server
    that is asked for each."""
    records = list(part.known.values())[number * CHUNK : (number + 1) * CHUNK]
    return {
        "schema_version": SCHEMA_VERSION,
        "samples": [
            {
                "id": r.id,
                "cluster": r.cluster,
                "target": r.target,
                "choices": list(r.choices),
                "metadata": dict(r.metadata),
                "question": r.question,
                "media": None if shown is None else list(shown.get(r.id, ())),
            }
            for r in records
        ],
    }


def answer_chunk(part: Part, cell: CellView, number: int) -> dict[str, Any]:
    """Texts of a cell's answers, by place; null where it has none."""
    ids = list(part.known)[number * CHUNK : (number + 1) * CHUNK]
    return {
        "schema_version": SCHEMA_VERSION,
        "answers": [_answer(cell.records.get(i)) for i in ids],
    }


def _answer(record: Record | None) -> dict[str, Any] | None:
    """An answer; what has nothing to say is left out."""
    if record is None:
        return None
    fields = {
        "text": record.text,
        "scores": dict(record.scores) or None,
        "parsed": record.parsed,
        "unparsed": record.unparsed or None,
        "error": record.error and mask(record.error),
        "failed_in": record.failed_in,
        "finish": record.finish_reason,
        "tokens": [record.tokens.text_in, record.tokens.vision_in, record.tokens.out],
        "seconds": record.seconds,
        "logprobs": list(record.logprobs) or None,
        "frames": list(map(list, record.frames)) or None,
        "prompt": record.prompt or None,
    }
    return {k: v for k, v in fields.items() if v is not None}


def chunks(part: Part) -> range:
    """Numbers of a part's documents of texts."""
    return range((len(part.known) + CHUNK - 1) // CHUNK)
