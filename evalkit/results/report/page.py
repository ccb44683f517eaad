"""The page: what it holds as JSON, and its text from the template. Everything that models, data and
users wrote goes in as JSON whose ``<`` is escaped, or through ``html.escape``; the script puts it
on the page as text, never as markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.files import remove_parts, replace
from evalkit.journal import uncollected
from evalkit.results import plots
from evalkit.results.breakdown import metric_of
from evalkit.results.cells import (
    MINI_NOTE,
    Output,
    arm,
    data_digest,
    data_kind,
    labels,
    model_labels,
    partial_text,
    some_cells,
)
from evalkit.results.leaderboard import LONG
from evalkit.results.report.media import Gallery, Shown, beside, embed, none, questions
from evalkit.results.sweep_tables import PAGE_COLUMNS, load_findings, page_row, sentences
from evalkit.results.sweep_values import Findings
from evalkit.results.tables import interval_text, value_text
from evalkit.safe_text import mask
from evalkit.store import CellFolder, MetricResult, Record

SCHEMA_VERSION = 2
EMBEDDED_SAMPLES = 2000
"""With more samples than this, pictures lie in a folder beside the page unless told otherwise."""
HERE = Path(__file__).parent
Place = Literal["auto", "embed", "folder", "none"]


@dataclass(frozen=True)
class Part:
    """The cells of one task over the same data: they share their samples."""

    name: str
    """The task, with its data where another part of the page has the same task over others."""
    cells: tuple[tuple[CellFolder, Mapping[str, Record]], ...]

    @property
    def metric(self) -> MetricResult | None:
        """The headline metric."""
        return next((c.results.metrics[0] for c, _ in self.cells if c.results.metrics), None)


@uncollected()
def write_report(
    output: Output, file: Path, place: Place = "auto", data: Mapping[str, Path] | None = None
) -> list[str]:
    """Writes the page on all cells and sweeps under ``output``; returns what could not be shown, in
    words.

    ``place``: pictures inside the file, in the folder ``<file's stem>_media`` beside it, or none.
    ``data`` maps ``task:subset`` to a local copy, where it is not that of the run. Raises
    UsageError when there are no results, EvalkitError when the file can't be written.
    """
    there = some_cells(output)
    parts, faults = _parts(there.cells)
    faults = [f"left out: {why}" for why in there.damaged] + faults
    if place == "auto":
        samples = sum(len({id for _, records in part.cells for id in records}) for part in parts)
        place = "embed" if samples <= EMBEDDED_SAMPLES else "folder"
    try:
        keep = {"embed": embed, "none": none}.get(place) or beside(
            file.with_name(f"{file.stem}_media")
        )
        holds, missing = contents(parts, Gallery(keep), data or {})
        sweeps, damaged = load_findings(there.output)
        drawn, undrawn = _pictures(parts)
        faults += missing + damaged + undrawn
        holds["faults"] = faults
        remove_parts(file.parent)
        replace(file, render(holds, _overview(parts) + _sweeps(sweeps) + drawn), durable=False)
    except OSError as e:
        raise EvalkitError(f"{file}: can't be written ({e.strerror})") from e
    return faults


def _parts(cells: Sequence[CellFolder]) -> tuple[list[Part], list[str]]:
    """The cells by task and data, each with its records; and why some can't be read."""
    groups: dict[tuple[str, str], list[tuple[CellFolder, Mapping[str, Record]]]] = {}
    faults = []
    for cell in sorted(cells, key=lambda c: (c.task, bool(c.results.switches), c.model)):
        try:
            journal = cell.contents()
        except DataError as e:
            faults.append(f"left out: {e}")
            continue
        if journal.faults:
            faults.append(f"{cell.journal_path}: {len(journal.faults)} damaged lines")
        groups.setdefault((cell.task, data_digest(cell)), []).append((cell, journal.records))
    several = [task for task, _ in groups]
    parts = []
    for (task, digest), mine in groups.items():
        where = f" ({data_kind(mine[0][0])} data {digest[:6]})" if several.count(task) > 1 else ""
        parts.append(Part(f"{task}{where}", tuple(mine)))
    return parts, faults


def contents(
    parts: Sequence[Part], gallery: Gallery, data: Mapping[str, Path]
) -> tuple[dict[str, Any], list[str]]:
    """What the sample browser reads: each part's samples once, then each cell's answers by the
    sample's place in its part; and what is missing, in words.
    """
    named = labels([c for part in parts for c, _ in part.cells])
    tasks: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    faults = []
    for part in parts:
        known: dict[str, Record] = {}
        for _, records in part.cells:
            for id, record in records.items():
                if id not in known or known[id].failed_in == "row":
                    known[id] = record
        asked = {id for id, r in known.items() if r.failed_in != "row"}
        first = part.cells[0][0]
        shown, fault = questions(first, asked, gallery, data.get(first.task))
        faults += [fault] if fault else []
        places = {id: i for i, id in enumerate(known)}
        boxes = any("iou" in r.scores for _, records in part.cells for r in records.values())
        samples = [_sample(r, shown.get(id)) for id, r in known.items()]
        tasks.append({"name": part.name, "boxes": boxes, "samples": samples})
        worst, best = _range(part)
        for cell, records in part.cells:
            cells.append(
                {
                    "task": len(tasks) - 1,
                    "label": named[cell.path],
                    "metric": part.metric.metric if part.metric else None,
                    "best": best,
                    "worst": worst,
                    "answers": [
                        _answer(places[id], r, part.metric, boxes) for id, r in records.items()
                    ],
                }
            )
    return {
        "schema_version": SCHEMA_VERSION,
        "tasks": tasks,
        "pictures": [asdict(p) for p in gallery.pictures],
        "cells": cells,
    }, faults


def _sample(record: Record, shown: Shown | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "target": record.target,
        "choices": list(record.choices),
        "cluster": record.cluster,
        "metadata": dict(record.metadata),
        "question": shown.question if shown else record.question or None,
        "media": list(shown.media) if shown else [],
    }


def _answer(place: int, record: Record, metric: MetricResult | None, boxes: bool) -> dict[str, Any]:
    """Fields of an answer; those that have nothing to say are left out, to keep the page small."""
    fields = {
        "text": record.text,
        "score": record.scores.get(metric.metric) if metric else None,
        "scores": dict(record.scores) if len(record.scores) > 1 else None,
        "box": record.parsed if boxes else None,
        "unparsed": record.unparsed or None,
        "error": record.error and mask(record.error),
    }
    return {"sample": place} | {k: v for k, v in fields.items() if v is not None}


def _range(part: Part) -> tuple[float, float]:
    """(worst, best) value of a part's headline metric: 0 and 1, or the lowest and highest that
    there are where a value lies outside of these; the other way round where less is better.
    """
    if part.metric is None:
        return 0.0, 1.0
    name = part.metric.metric
    values = [
        r.scores[name] for _, records in part.cells for r in records.values() if name in r.scores
    ]
    inside = all(0 <= v <= 1 for v in values)
    low, high = (0.0, 1.0) if inside else (min(values), max(values))
    return (low, high) if part.metric.higher_is_better else (high, low)


def render(holds: Mapping[str, Any], body: str) -> str:
    """The page's text: template, style, script and contents in one. A browser runs the script of
    this hash and no other, whatever else the page should hold.
    """
    packed = json.dumps(holds, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = (
        packed.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    script = f"\n{(HERE / 'page.js').read_text(encoding='utf-8')}\n"
    texts = {
        "STYLE": (HERE / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": script,
        "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "MADE": f"evalkit {version('evalkit')}, {now}, schema {SCHEMA_VERSION}",
        "BODY": body,
        "CONTENTS": packed,
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    # In one pass: what goes in may itself look like a placeholder.
    return re.sub("@@([A-Z]+)@@", lambda m: texts[m[1]], template)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(tag: str, values: Sequence[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values) + "</tr>"

    body = line("th", columns) + "".join(line("td", r) for r in rows)
    return f"<div class=wide><table>{body}</table></div>"


SCORES = tuple(column for column in LONG if column != "version")
"""Columns of the table of scores."""


def _overview(parts: Sequence[Part]) -> str:
    cells = [cell for part in parts for cell, _ in part.cells]
    models = model_labels(cells)
    rows = [
        (
            cell.task,
            models[cell.path],
            cell.adapter,
            data_kind(cell),
            cell.settings,
            m.metric,
            value_text(m.value),
            interval_text(m.ci_low, m.ci_high),
            f"{m.n}{partial_text(cell)}",
            cell.results.errors,
            cell.results.unparsed,
            arm(cell),
        )
        for cell in cells
        for m in cell.results.metrics[:1]
    ]
    mini = any(data_kind(c) == "mini" for c in cells)
    note = f"<p>{html.escape(MINI_NOTE)}</p>" if mini else ""
    return f"<section><h2>Scores</h2>{_table(SCORES, rows)}{note}</section>"


def _sweeps(sweeps: Sequence[Findings]) -> str:
    """The sweeps whose tables lie under the output folder, with their pictures drawn anew."""
    out = []
    for findings in sweeps:
        found = "".join(f"<li>{html.escape(s)}</li>" for s in sentences(findings))
        drawn = ""
        try:
            figures = (plots.differences(findings.rows), plots.score_by_tokens(findings.rows))
            drawn = "".join(f"<figure>{plots.svg(f)}</figure>" for f in figures if f)
        except UsageError:
            pass  # no matplotlib: said once, by _pictures
        table = _table(PAGE_COLUMNS, [page_row(f) for f in findings.rows])
        out.append(
            f"<section><h2>Sweep: {html.escape(findings.name)}</h2>"
            f"<p>{html.escape(findings.question)}</p><ul>{found}</ul>{table}"
            f"<div class=figures>{drawn}</div></section>"
        )
    return "".join(out)


def _pictures(parts: Sequence[Part]) -> tuple[str, list[str]]:
    """Scores by group, overlap and length of all cells; and why there are none, if so."""
    out = []
    for part in parts:
        if part.metric is None:
            continue
        named = labels([c for c, _ in part.cells])
        shown = {
            named[c.path]: [r for r in records.values() if r.scored] for c, records in part.cells
        }
        try:
            figures = [plots.svg(f) for _, f in plots.of_task(shown, metric_of(part.metric))]
        except UsageError as e:
            return "", [str(e)]
        if figures:
            drawn = "".join(f"<figure>{f}</figure>" for f in figures)
            more = ""
            if len(shown) > plots.MOST:
                more = f" (the first {plots.MOST} of {len(shown)} cells)"
            head = html.escape(f"{part.name}{more}")
            out.append(f"<h3>{head}</h3><div class=figures>{drawn}</div>")
    title = "<section><h2>By group, overlap and length</h2>"
    return f"{title}{''.join(out)}</section>" if out else "", []
