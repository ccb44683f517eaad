"""``evalkit report``: the page as one file, or as a page with a folder of documents beside it.

Everything that models, data and users wrote goes in as JSON whose ``<`` is escaped; the scripts put
it on the page as text, never as markup (Preact escapes by construction). A browser runs the script
of one hash and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image as PILImage
from pydantic_core import to_json

from evalkit.errors import EvalkitError
from evalkit.files import remove_parts, replace
from evalkit.lab.stored import stamp
from evalkit.malloc import uncollected
from evalkit.prompt_hash import is_text_alone
from evalkit.results.cells import Output, inventory_if_any, some_cells
from evalkit.results.report.documents import (
    answer_chunk,
    cell_index,
    chunks,
    overview,
    part_index,
    sample_chunk,
    studies_document,
)
from evalkit.results.report.media import Gallery, beside, data_url, none, pictures_of
from evalkit.results.report.notes import load_notes, notes_document
from evalkit.results.report.parts import Part, read_all
from evalkit.results.sweep_tables import PAGE_COLUMNS, load_findings, page_row, sentences
from evalkit.results.sweep_values import Findings, Kind
from evalkit.safe_text import without_keys

EMBEDDED_SAMPLES = 2000
"""With more samples than this, documents and pictures lie in a folder beside the page unless told
otherwise."""
HERE = Path(__file__).parent
VENDORED = ("preact.umd.js", "hooks.umd.js", "htm.umd.js")
SCRIPTS = (
    "data.js",
    "statistics.js",
    "address.js",
    "parts.js",
    "overview.js",
    "filters.js",
    "share.js",
    "detail.js",
    "samples.js",
    "charts.js",
    "studies.js",
    "page.js",
)
"""In this order they make one script."""
Place = Literal["auto", "embed", "folder", "none"]
Documents = Iterator[tuple[str, Mapping[str, Any]]]
"""(name, contents)."""


@uncollected()
def write_report(
    output: Output, file: Path, place: Place = "auto", data: Mapping[str, Path] | None = None
) -> list[str]:
    """Writes the page on all cells, sweeps and studies under ``output``; returns what could not be
    shown, in words.

    ``place``: everything inside the file (``embed``), documents and pictures in the folder
    ``<file's stem>_files`` beside it (``folder``), or inside the file and without pictures
    (``none``). ``data`` maps ``task:subset`` to a local copy, where it is not that of the run.
    Raises UsageError when there are no results, EvalkitError when the file can't be written.
    """
    there = inventory_if_any(output)
    studies = stamp(there.output)
    if not studies:
        some_cells(there)
    parts, faults = read_all(there)
    sweeps, damaged = load_findings(there.output)
    faults += damaged
    if place == "auto":
        samples = sum(part.known.rows for part in parts)
        place = "embed" if samples <= EMBEDDED_SAMPLES else "folder"
    folder = file.with_name(f"{file.stem}_files")
    inside: list[str] = []

    def keep_inside(name: str, picture: PILImage.Image) -> str:
        inside.append(data_url(picture))
        return f"#{len(inside) - 1}"

    keep = {"embed": keep_inside, "none": none}.get(place) or beside(folder)
    try:
        remove_parts(file.parent)
        if place == "folder":
            shutil.rmtree(folder, ignore_errors=True)
        written: dict[str, Any] = {}
        for name, value in _documents(parts, Gallery(keep), data or {}, faults):
            if place == "folder":
                write_script(folder, name, value)
            else:
                written[name] = value
        if inside:
            written["pictures"] = {"srcs": inside}
        written["notes"] = notes_document(load_notes(there.output))
        if studies:
            written["studies"] = studies_document(there.output)
        shown = list(map(sweep, sweeps))
        written["overview"] = overview(parts, shown, faults, live=False, studies=studies)
        text = render(written, folder.name if place == "folder" else "")
        # As bytes: secrets were masked in the documents, and the script must stay that of its hash.
        replace(file, text.encode("utf-8", "replace"), durable=False)
    except OSError as e:
        raise EvalkitError(f"{file}: can't be written ({e.strerror})") from e
    return faults


def _documents(
    parts: Sequence[Part], gallery: Gallery, data: Mapping[str, Path], faults: list[str]
) -> Documents:
    """All documents but the overview; what is missing goes into ``faults``."""
    for part in parts:
        folders, known = [c.folder for c in part.cells], part.known
        rows = zip(known["id"], known["failed_in"], known["prompt"], known["question"])
        asked = {
            id: part.frames(place)
            for place, (id, failed_in, prompt, question) in enumerate(rows)
            if failed_in != "row" and not is_text_alone(prompt, question)
        }
        pictures, fault = pictures_of(folders, asked, gallery, data.get(folders[0].task))
        faults += [fault] if fault else []
        shown = {id: [p.to_json() for p in found] for id, found in pictures.items()}
        yield part.doc, part_index(part)
        for n in chunks(part):
            yield f"{part.doc}-samples-{n}", sample_chunk(part, n, shown)
        for cell in part.cells:
            yield cell.doc, cell_index(part, cell)
            for n in chunks(part):
                yield f"{cell.doc}-answers-{n}", answer_chunk(part, cell, n)


def write_script(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """A document as a script: a page that was opened from a disk may load scripts, and may not
    read files.
    """
    text = f"evalkitDocument({json.dumps(name)},{packed(value)})"  # without secrets by now
    replace(folder / f"{name}.js", text.encode("utf-8", "replace"), durable=False)


def packed(value: Any) -> str:
    """JSON without secrets that stays what it is inside a script or an HTML page; null for a number
    that JSON has not.
    """
    try:
        text = to_json(value, inf_nan_mode="null").decode()
    except ValueError:  # of a file's name that is no text
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = without_keys(text)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def sweep(findings: Findings) -> dict[str, Any]:
    """A sweep whose tables lie under the output folder."""
    bases = {(f.task, f.settings): f.cell for f in findings.rows if f.kind is Kind.BASELINE}
    return {
        "name": findings.name,
        "question": findings.question,
        "sentences": sentences(findings),
        "columns": list(PAGE_COLUMNS),
        "rows": [list(map(str, page_row(f))) for f in findings.rows],
        "points": [
            {
                "task": f.task,
                "settings": f.settings,
                "difference": f.scores and f.scores.difference,
                "low": f.scores and f.scores.ci_low,
                "high": f.scores and f.scores.ci_high,
                "n": f.scores and f.scores.n,
                "verdict": f"{f.verdict} {f.task}",
                "significant": f.significant,
                "cell": f.cell,
                "base": bases.get((f.task, f.against)),
            }
            for f in findings.compared
        ],
    }


def render(documents: Mapping[str, Any], folder: str = "", live: bool = False) -> str:
    """The page's text. ``documents`` are inside it; others are scripts in ``folder`` or, for a page
    that a server shows (``live``), fetched from it.
    """
    script = "\n".join(
        [
            *(_text(f"vendor/{name}") for name in VENDORED),
            '(() => {\n"use strict";',
            *map(_text, SCRIPTS),
            "})();",
        ]
    )
    texts = {
        "STYLE": _text("page.css"),
        "SCRIPT": script,
        "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "SOURCES": "'self' file:" if folder else "",
        "CONNECT": "'self'" if live else "'none'",
        "PLACE": packed({"folder": folder, "live": live}),
        "DOCUMENTS": "\n".join(
            f'<script type="application/json" id="document-{name}">{packed(value)}</script>'
            for name, value in documents.items()
        ),
    }
    # In one pass: what goes in may itself look like a placeholder.
    return re.sub("@@([A-Z]+)@@", lambda m: texts[m[1]], _text("page.html"))


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
