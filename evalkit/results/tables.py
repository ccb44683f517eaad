"""Tables as text: aligned for a terminal, markdown, LaTeX, CSV; and numbers as people read them."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.files import replace
from evalkit.safe_text import harmless, printable

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
"""Stands for a number that is not there."""


def value_text(value: float | None, signed: bool = False) -> str:
    """``41.2`` or, signed, ``+41.2``; a dash for None or NaN."""
    if value is None or value != value:
        return NONE
    return f"{value:+.1f}" if signed else f"{value:.1f}"


def interval_text(low: float | None, high: float | None) -> str:
    """``[41.2, 55.0]``, or a dash when there is none."""
    return NONE if low is None or high is None or low != low else f"[{low:.1f}, {high:.1f}]"


def interval_note(intervals: Iterable[tuple[float | None, float | None]]) -> list[str]:
    """What the dash in the place of an interval means, where there is one."""
    if NONE not in (interval_text(*ends) for ends in intervals):
        return []
    return [
        f"{NONE} for an interval: fewer than two images or clips, in all or in one of the groups "
        "that the mean is over; or all scores the same"
    ]


def lower_note(metrics: Iterable[tuple[str, bool]]) -> list[str]:
    """Of metrics, each with whether higher is better, those of which the least is the best."""
    lower = [name for name, higher in dict(metrics).items() if not higher]
    return [f"{', '.join(lower)}: lower is better"] if lower else []


def p_text(p: float | None) -> str:
    """Four decimals of a p-value; a dash for None or NaN."""
    if p is None or p != p:
        return NONE
    return "<0.0001" if 0 <= p < 0.0001 else f"{p:.4f}"


def aligned(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table for a terminal: columns padded to their widest cell, numbers to the right. Control
    characters that models and users wrote are shown escaped.
    """
    texts = [[printable(str(v)) for v in row] for row in (columns, *rows)]
    widths = [max(_width(row[i]) for row in texts) for i in range(len(columns))]
    numeric = [
        bool(rows) and all(NUMBER.match(row[i]) for row in texts[1:]) for i in range(len(columns))
    ]
    lines = [
        "  ".join(
            " " * (w - _width(c)) + c if right else c + " " * (w - _width(c))
            for c, w, right in zip(row, widths, numeric)
        ).rstrip()
        for row in texts
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What a formula begins with, also in the wide forms that a Japanese spreadsheet takes."""
NUMBER = re.compile(r"[<+-]?\d[\d.,]*$|–$|$")


def _width(text: str) -> int:
    """Columns that a text takes on a terminal: East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; what models and users wrote is escaped, ``Markdown`` goes in as it is."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows])


class Markdown(str):
    """Text that is markdown already, made by evalkit."""


def bold(text: str) -> Markdown:
    """A cell of a markdown table in bold; the text is taken as markdown."""
    return Markdown(f"**{text}**")


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, Markdown) else escaped(str(value))


def escaped(text: str) -> str:
    """Text that markdown shows as it stands: no markup, no links, no line breaks."""
    text = html.escape(printable(text.replace("\n", " ")), quote=False)
    text = re.sub(r"\\(?=[!-/:-@\[-`{-~])|[|`]", lambda m: f"&#{ord(m[0])};", text)
    # a pair of brackets is a link only before another or a colon: intervals stay readable
    return re.sub(r"[\[\]]", r"\\\g<0>", text) if re.search(r"\][(\[:]", text) else text


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table: names in the first column, numbers to the right of it. What users named is
    escaped.
    """
    lines = [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(_latex, columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    NONE: "--",
}


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in printable(text))


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Writes a frame that ``pandas.read_csv`` reads back. A text that a spreadsheet would take for
    a formula gets an apostrophe before it, control characters are shown escaped. Raises
    EvalkitError when it can't be written.
    """
    texts = frame.select_dtypes(include=["object", "string"]).columns
    safe = frame.assign(**{c: [_cell_text(v) for v in frame[c]] for c in texts})
    replace(path, safe.to_csv(index=False), durable=False)
    return path


def write_csv_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """``write_csv`` of rows by column: without pandas, which takes a third of the time of a short
    command.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell_text(row[c]) for c in columns] for row in rows)
    replace(path, text.getvalue(), durable=False)
    return path


def _cell_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    mark = "'" if value.startswith(FORMULA) else ""
    return mark + harmless(value)  # pandas takes a carriage return for the end of a row
