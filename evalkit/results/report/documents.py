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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from math import exp
from pathlib import Path
from typing import Any

from evalkit.cell_results import MetricResult
from evalkit.columns import SCORE, Columns
from evalkit.lab.stored import load_studies
from evalkit.results.breakdown import DERIVED, in_order, values_of
from evalkit.results.cells import arm, data_digest, data_kind, labels, model_labels, partial_text
from evalkit.results.report.parts import CellView, Part
from evalkit.safe_text import mask
from evalkit.units import unit_of

SCHEMA_VERSION = 4
CHUNK = 500
"""Samples in a document of texts."""
MOST_OWN_CLASSES = 12
"""Different numbers of a field that are told apart as classes; more are a scale."""
LARGEST = 1e300
"""Larger numbers of metadata, and infinite ones, are classes by their names: browsers have none."""
MOST_CLASSES = 200
"""A metadata field with more values than this is searched as text, not offered as a filter."""


def overview(
    parts: Sequence[Part],
    sweeps: Sequence[Mapping[str, Any]],
    faults: Sequence[str],
    live: bool,
    studies: str = "",
) -> dict[str, Any]:
    """The page's first document: everything but samples and studies; of these their ``stamp``."""
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
        "studies": studies,
    }


def studies_document(output: Path) -> dict[str, Any]:
    """What studies of the lab came to."""
    found, faults = load_studies(output)
    return {
        "schema_version": SCHEMA_VERSION,
        "studies": list(map(asdict, found)),
        "faults": list(map(mask, faults)),
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
    return Counter(map(error_kind, filter(None, cell.columns["error"])))


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
    values = {v for c in part.cells for v in c.columns.score(name) if v is not None}
    inside = all(0 <= v <= 1 for v in values)
    low, high = (0.0, 1.0) if inside else (min(values), max(values))
    return (low, high) if part.metric.higher_is_better else (high, low)


@lru_cache(maxsize=4096)
def error_kind(error: str) -> str:
    """An error's first words, by which errors are counted: up to a colon that names its class."""
    masked = mask(error)
    head, colon, _ = masked.partition(": ")
    first = head if colon and " " not in head.strip() else masked.split("\n")[0]
    return first if len(first) <= 60 else first[:59] + "…"


def part_index(part: Part) -> dict[str, Any]:
    """Columns of a part's samples, by place: ids, clusters, and metadata to filter by."""
    known, metric = part.known, part.metric
    metadata, targets = known["metadata"], known["target"]
    keys = dict.fromkeys(key for m in metadata for key in m)
    numbers = {key: scale for key in keys if (scale := _numbers([m.get(key) for m in metadata]))}
    named = dict.fromkeys((*(key for key in keys if key not in numbers), *DERIVED))
    fields = {key: _classes(values_of(known, key)) for key in named}
    if classes := _classes([t if isinstance(t, str) else None for t in targets], 30):
        fields["target"] = classes
    units = metric.units if metric else ()
    return {
        "schema_version": SCHEMA_VERSION,
        "ids": known["id"],
        "clusters": _codes(known["cluster"]),
        "range": _range(part),
        "fields": {key: column for key, column in fields.items() if column},
        "numbers": numbers,
        "group": _whose(metadata, metric.group) if metric and metric.group else None,
        "units": {key: _numbered(unit_of(m, key) for m in metadata) for key in units},
    }


def _codes(values: Iterable[Any]) -> list[int]:
    """Equal numbers for equal values."""
    seen: dict[Any, int] = {}
    return [seen.setdefault(v, len(seen)) for v in values]


def _whose(metadata: Iterable[Mapping[str, Any]], key: str) -> list[int]:
    """Equal numbers for equal values of a metadata field; -1 where a sample has none."""
    return _numbered(str(m[key]) if key in m else None for m in metadata)


def _numbered(names: Iterable[str | None]) -> list[int]:
    """Equal numbers for equal names; -1 for None."""
    seen: dict[str, int] = {}
    return [-1 if name is None else seen.setdefault(name, len(seen)) for name in names]


def _numbers(values: list[Any]) -> list[float | None] | None:
    """The values of a metadata field, if they are numbers; None when there is anything else, or so
    few different ones that each is a class of its own.
    """
    there = [v for v in values if v is not None]
    if not {int, float}.issuperset(map(type, there)) or not all(
        -LARGEST < v < LARGEST for v in there
    ):
        return None
    return values if len(set(there)) > MOST_OWN_CLASSES else None


def cell_index(part: Part, cell: CellView) -> dict[str, Any]:
    """Columns of a cell's answers, by the samples' places in its part; null where it has none."""
    rows, columns = part.rows[cell.folder.path], cell.columns
    errors, parsed, texts = columns["error"], columns["parsed"], columns["text"]

    def by_place(column: list[Any]) -> list[Any]:
        return column if rows == range(len(column)) else _chosen(column, rows)

    confidence = None
    if any(columns["logprobs"]):
        confidence = by_place(list(map(_confidence, columns["logprobs"])))

    def classes(column: list[str | None]) -> dict[str, Any] | None:
        return _classes(by_place(column), 0)

    return {
        "schema_version": SCHEMA_VERSION,
        "scores": {name: by_place(columns.score(name)) for name in columns.metrics},
        "unparsed": by_place(list(map(int, columns["unparsed"]))),
        "error": classes([None if e is None else error_kind(e) for e in errors]),
        "failed in": classes(columns["failed_in"]),
        "finish": classes(columns["finish_reason"]),
        "tokens": by_place(columns["tokens_out"]),
        "visual": by_place(columns["tokens_vision_in"]),
        "seconds": by_place(columns["seconds"]),
        # Equal numbers: equal readings, to find what all models say against the label.
        "reading": by_place(list(map(_reading, errors, parsed, texts))),
        "confidence": confidence,
    }


def _chosen(column: list[Any], rows: Iterable[int | None]) -> list[Any]:
    return [None if row is None else column[row] for row in rows]


def _reading(error: str | None, parsed: Any, text: str | None) -> int | None:
    """A checksum of what the task read."""
    return None if error else zlib.crc32(repr(text if parsed is None else parsed).encode())


def _confidence(logprobs: Sequence[float]) -> float | None:
    """The probability of the choice that was taken among all choices."""
    if not logprobs:
        return None
    top = max(logprobs)
    return round(1 / sum(exp(p - top) for p in logprobs), 4)


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
    known, first = part.known, number * CHUNK
    names = ("id", "cluster", "target", "choices", "metadata", "question")
    rows = zip(*(known[name][first : first + CHUNK] for name in names))
    samples = [dict(zip(names, row)) for row in rows]
    for sample in samples:
        sample["media"] = None if shown is None else list(shown.get(sample["id"], ()))
    return {"schema_version": SCHEMA_VERSION, "samples": samples}


def answer_chunk(part: Part, cell: CellView, number: int) -> dict[str, Any]:
    """Texts of a cell's answers, by place; null where it has none."""
    rows = part.rows[cell.folder.path][number * CHUNK : (number + 1) * CHUNK]
    told = iter(_answers(cell.columns, [row for row in rows if row is not None]))
    answers = [None if row is None else next(told) for row in rows]
    return {"schema_version": SCHEMA_VERSION, "answers": answers}


def _answers(columns: Columns, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Answers in these rows; what has nothing to say is left out."""

    def told(name: str) -> list[Any]:
        column = columns[name]
        return [column[row] for row in rows]

    scores = {name: told(f"{SCORE}{name}") for name in columns.metrics}
    fields = {
        "text": told("text"),
        "scores": [_said(scores, values) for values in zip(*scores.values())],
        "parsed": told("parsed"),
        "unparsed": [unparsed or None for unparsed in told("unparsed")],
        "error": [error and mask(error) for error in told("error")],
        "failed_in": told("failed_in"),
        "finish": told("finish_reason"),
        "tokens": list(zip(*(told(f"tokens_{name}") for name in ("text_in", "vision_in", "out")))),
        "seconds": told("seconds"),
        "logprobs": [logprobs or None for logprobs in told("logprobs")],
        "frames": [frames or None for frames in told("frames")],
        "prompt": [prompt or None for prompt in told("prompt")],
    }
    some = {name: values for name, values in fields.items() if values.count(None) < len(values)}
    return [_said(some, values) or {} for values in zip(*some.values())]


def _said(names: Iterable[str], values: tuple[Any, ...]) -> dict[str, Any] | None:
    """The values that there are, by their names; None for none."""
    said = dict(zip(names, values))
    if None in values:
        said = {name: value for name, value in said.items() if value is not None}
    return said or None


def chunks(part: Part) -> range:
    """Numbers of a part's documents of texts."""
    return range((part.known.rows + CHUNK - 1) // CHUNK)
