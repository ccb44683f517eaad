"""The page: what it holds as JSON, and its text from the template. Everything that models, data and
users wrote goes in as JSON whose ``<`` is escaped, or through ``html.escape``; the script puts it
on the page as text, never as markup."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from evalkit import journal
from evalkit.errors import EvalkitError
from evalkit.results import plots
from evalkit.results.cells import StoredCell, some_cells
from evalkit.results.leaderboard import MINI_NOTE
from evalkit.results.report.media import Gallery, beside, embed, none, questions
from evalkit.results.tables import interval_text

SCHEMA_VERSION = 1
EMBEDDED_SAMPLES = 2000
"""With more samples than this, pictures lie in a folder beside the page unless told otherwise."""
HERE = Path(__file__).parent
Place = Literal["auto", "embed", "folder", "none"]


def write_report(
    output: Path, file: Path, place: Place = "auto", data: Mapping[str, Path] | None = None
) -> list[str]:
    """Writes the page on all cells and sweeps under ``output``; returns what could not be shown, in
    words.

    ``place``: pictures inside the file, in the folder ``<file's stem>_media`` beside it, or none.
    ``data`` maps ``task:subset`` to the local copy that a run was given. Raises UsageError when
    there are no results, EvalkitError when the file can't be written.
    """
    cells = sorted(
        some_cells(output), key=lambda c: (c.task, bool(c.results["switches"]), c.run["model"])
    )
    records = [journal.read(c.folder / "journal.jsonl").records for c in cells]
    if place == "auto":
        place = (
            "embed"
            if len({(c.task, id) for c, r in zip(cells, records) for id in r}) <= EMBEDDED_SAMPLES
            else "folder"
        )
    try:
        keep = {"embed": embed, "none": none}.get(place) or beside(
            file.with_name(f"{file.stem}_media")
        )
        holds, faults = contents(cells, records, Gallery(keep), data or {})
        page = render(holds, _overview(cells) + _sweeps(output) + _pictures(cells, records))
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(page, encoding="utf-8", errors="replace")
        part.replace(file)
    except OSError as e:
        raise EvalkitError(f"{file}: can't be written ({e.strerror})") from e
    return faults


def contents(
    cells: Sequence[StoredCell],
    records: Sequence[Mapping[str, journal.Record]],
    gallery: Gallery,
    data: Mapping[str, Path],
) -> tuple[dict[str, Any], list[str]]:
    """What the sample browser reads: each task's samples once, then each cell's answers by the
    sample's place in its task.
    """
    tasks: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    faults = []
    for name in dict.fromkeys(c.task for c in cells):
        mine = [(c, r) for c, r in zip(cells, records) if c.task == name]
        known: dict[str, journal.Record] = {}
        for _, r in mine:
            for id, record in r.items():
                if id not in known or known[id].failed_in == "row":
                    known[id] = record
        shown, fault = questions(mine[0][0], set(known), gallery, data.get(name))
        faults += [fault] if fault else []
        place = {id: i for i, id in enumerate(known)}
        samples = []
        for id, one in known.items():
            about = {k: one.get(k) for k in ("target", "choices", "cluster", "metadata")}
            samples.append({"id": id, **about, **shown.get(id, {"question": None, "media": []})})
        tasks.append({"name": name, "samples": samples})
        answers += [_answers(c, r, len(tasks) - 1, place) for c, r in mine]
    return {
        "schema_version": SCHEMA_VERSION,
        "tasks": tasks,
        "pictures": gallery.pictures,
        "cells": answers,
        "faults": faults,
    }, faults


def _answers(
    cell: StoredCell, records: Mapping[str, journal.Record], task: int, place: Mapping[str, int]
) -> dict[str, Any]:
    metric = cell.results["metrics"][0] if cell.results["metrics"] else None
    rows: list[list[Any]] = []
    for id, r in records.items():
        score = r.get("scores", {}).get(metric["metric"]) if metric else None
        iou = "iou" in r.get("scores", {})
        rows.append(
            [
                place[id],
                r.get("text"),
                score,
                r.get("parsed") if iou else None,
                bool(r.get("unparsed")),
                r.get("error"),
            ]
        )
    return {
        "task": task,
        "label": f"{cell.run['model']}, {cell.settings}",
        "metric": metric["metric"] if metric else None,
        "higher_is_better": metric["higher_is_better"] if metric else True,
        "answers": rows,
    }


def render(holds: Mapping[str, Any], body: str) -> str:
    """The page's text: template, style, script and contents in one."""
    packed = json.dumps(holds, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = (
        packed.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )
    made = f"evalkit {version('evalkit')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, schema {SCHEMA_VERSION}"
    parts = {"STYLE": "page.css", "SCRIPT": "page.js"}
    texts = {k: (HERE / v).read_text(encoding="utf-8") for k, v in parts.items()}
    out = (HERE / "page.html").read_text(encoding="utf-8")
    for key, text in (*texts.items(), ("MADE", made), ("BODY", body), ("CONTENTS", packed)):
        out = out.replace(f"@@{key}@@", text, 1)
    return out


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(tag: str, values: Sequence[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values) + "</tr>"

    return f"<div class=wide><table>{line('th', columns)}{''.join(line('td', r) for r in rows)}</table></div>"


def _overview(cells: Sequence[StoredCell]) -> str:
    rows = []
    for cell in cells:
        for m in cell.results["metrics"][:1]:
            partial = (
                ""
                if cell.results["complete"] and not cell.results["selection"]
                else " (partial: do not quote)"
            )
            ci = interval_text(m["ci_low"], m["ci_high"])
            probe = "inference probe" if cell.results["inference_probe"] else ""
            counts = (f"{m['n']}{partial}", cell.results["errors"], cell.results["unparsed"])
            rows.append(
                (
                    cell.task,
                    cell.run["model"],
                    m["metric"],
                    f"{m['value']:.1f}",
                    ci,
                    *counts,
                    cell.settings,
                    probe,
                )
            )
    columns = (
        "task",
        "model",
        "metric",
        "value",
        "95 % interval",
        "n",
        "errors",
        "unparsed",
        "settings",
        "",
    )
    note = (
        f"<p>{html.escape(MINI_NOTE)}</p>" if any(c.task.endswith(":mini") for c in cells) else ""
    )
    return f"<section><h2>Scores</h2>{_table(columns, rows)}{note}</section>"


def _sweeps(output: Path) -> str:
    """The tables that ``evalkit sweep`` left under the output folder, with their findings and
    pictures drawn anew.
    """
    import pandas as pd

    from evalkit.results.sweep_tables import words

    out = []
    for path in sorted(output.glob("*/table.csv")):
        frame = pd.read_csv(path, comment="#", keep_default_na=True)
        frame["settings"] = frame["settings"].fillna("")
        columns = [
            "task",
            "settings",
            "kind",
            "metric",
            "value",
            "difference",
            "ci_low",
            "ci_high",
            "p_holm",
            "n",
            "visual_tokens",
        ]
        shown = [[_short(v) for v in row] for row in frame[columns].itertuples(index=False)]
        findings = "".join(f"<li>{html.escape(w)}</li>" for w in words(frame))
        figures = [plots.differences(frame), plots.score_by_tokens(frame)]
        drawn = "".join(f"<figure>{plots.svg(f)}</figure>" for f in figures if f)
        head = html.escape(path.parent.name)
        out.append(
            f"<section><h2>Sweep: {head}</h2><ul>{findings}</ul>{_table(columns, shown)}<div "
            f"class=figures>{drawn}</div></section>"
        )
    return "".join(out)


def _short(value: Any) -> str:
    return "" if value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def _pictures(cells: Sequence[StoredCell], records: Sequence[Mapping[str, journal.Record]]) -> str:
    out = []
    for name in dict.fromkeys(c.task for c in cells):
        mine = [(c, r) for c, r in zip(cells, records) if c.task == name and c.results["metrics"]]
        if not mine:
            continue
        metric = mine[0][0].results["metrics"][0]
        labelled = {
            f"{c.run['model']}, {c.settings}": [x for x in r.values() if x.scored] for c, r in mine
        }
        drawn = [
            f"<figure>{plots.svg(f)}</figure>"
            for _, f in plots.of_task(labelled, metric["metric"], metric["scale"])
        ]
        if drawn:
            more = (
                f" (the first {plots.MOST} of {len(mine)} cells)" if len(mine) > plots.MOST else ""
            )
            out.append(
                f"<h3>{html.escape(name)}{more}</h3><div class=figures>{''.join(drawn)}</div>"
            )
    return f"<section><h2>By group, overlap and length</h2>{''.join(out)}</section>" if out else ""
