"""Files of data in common formats, row by row: JSON lines, JSON, CSV, TSV, parquet, xlsx.

Rows come as they are written: texts in CSV and TSV, lists and numbers where a format has them. A
row that can't be read costs that row: a DataError stands in its place.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.bounds import bounds, over
from evalkit.errors import DataError
from evalkit.sources.tables import Columns, once, parquet_rows

Line = Columns | DataError
NO_UTF8 = "is not UTF-8: save the file as UTF-8"


def _json_lines(path: Path) -> Iterator[Line]:
    for number, text in enumerate(_text(path), 1):
        if text.strip():
            yield _object(text, f"{path.name}, line {number}")


def _object(text: str, where: str) -> Line:
    if not _is_unicode(text):
        return DataError(f"{where}: {NO_UTF8}")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as e:
        return DataError(f"{where}: no JSON ({e})")
    if not isinstance(value, dict):
        return DataError(f"{where}: {text.strip():.60} is not an object with columns")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{', '.join(map(repr, twice))} stands there twice")
    return dict(pairs)


def _json_file(path: Path) -> Iterator[Line]:
    """A list of objects, or an object that holds one; or an object a line, as ``datasets`` writes
    it under this name.
    """
    if path.stat().st_size > bounds().json_bytes:
        raise DataError(f"{path}: {over('json_bytes')}")
    try:
        value = json.loads("".join(_text(path)), object_pairs_hook=_once)
    except (ValueError, RecursionError) as e:
        if isinstance(e, json.JSONDecodeError) and e.msg == "Extra data":
            yield from _json_lines(path)
            return
        raise DataError(f"{path}: no JSON ({e})") from e
    lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else []
    if len(lists) == 1:
        value = lists[0]
    if not isinstance(value, list):
        raise DataError(f"{path}: neither a list of objects nor an object that holds one")
    for number, item in enumerate(value):
        is_row = isinstance(item, dict)
        yield item if is_row else DataError(f"{path.name}, item {number} is not an object")


def _delimited(path: Path) -> Iterator[Line]:
    """CSV or TSV with a header; in CSV a semicolon counts as the separator where the header has no
    comma, as spreadsheets write it in many countries, then a tab. A line ``sep=;`` before the
    header, which is Excel's, decides. Where the header has blanks behind its separators, so have
    cells.
    """
    csv.field_size_limit(min(bounds().json_bytes, sys.maxsize >> 1))
    lines = _text(path, newline="")
    head = next(lines, "")
    told = re.fullmatch(r"sep=(.)\s*", head)
    found = "\t" if path.suffix.lower() == ".tsv" else next((s for s in ",;\t" if s in head), ",")

    taken: list[str] = []
    """The lines of the row that is read."""

    def every() -> Iterator[str]:
        yield "\n" if told else head
        for line in lines:
            taken.append(line)
            yield line

    mark = told[1] if told else found
    reader = csv.reader(every(), delimiter=mark, skipinitialspace=f"{mark} " in head, strict=True)
    names: list[str] = []
    while True:
        begun = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader, None)
        except csv.Error as e:
            where = f"line {begun}" + (f" to {n}" if (n := reader.line_num) > begun else "")
            if "unexpected end" in str(e):
                raise DataError(f"{path}, {where}: a quote opens a cell and never closes it") from e
            if not names:
                raise DataError(f"{path}, {where}: {e}") from e
            yield DataError(f"{path.name}, {where}: {e}: a quote within a cell is written twice")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if not names:
            names = _header(path, cells)
            continue
        where = f"{path.name}, line {reader.line_num}"
        apart = all(line.count(mark) == len(names) - 1 for line in taken)
        if mark == "\t" and len(taken) > 1 and apart:
            yield DataError(
                f"{path.name}, line {begun} to {reader.line_num}: one row by its quotes, and "
                f"{len(taken)} by its tabs: a cell that begins with a quote is written in quotes, "
                "and its own twice"
            )
        elif len(cells) != len(names):
            yield DataError(f"{where}: {len(cells)} cells, where the header has {len(names)}")
        elif not all(map(_is_unicode, cells)):
            yield DataError(f"{where}: {NO_UTF8}")
        else:
            yield {n: cell or None for n, cell in zip(names, cells)}


def _header(path: Path, cells: Iterable[Any]) -> list[str]:
    """The names of columns; an unnamed one is the row's number, as pandas writes it. Raises
    DataError for two of one name.
    """
    names = ["" if c is None else str(c).strip() for c in cells]
    if not all(map(_is_unicode, names)):
        raise DataError(f"{path}: its header {NO_UTF8}")
    once(names, str(path))
    return names


def _parquet(path: Path) -> Iterator[Line]:
    yield from parquet_rows(path)


def _spreadsheet(path: Path) -> Iterator[Line]:
    """The first sheet, its cells as they are; texts stay texts ("NA" is one)."""
    if find_spec("openpyxl") is None:
        raise DataError(
            f"{path}: reading .xlsx takes openpyxl: pip install 'evalkit[import]', or save as .csv"
        )
    import pandas as pd

    try:
        frame = pd.read_excel(
            path, header=None, keep_default_na=False, na_values=[""], dtype=object
        )
    except Exception as e:  # a damaged archive may raise anything
        raise DataError(f"{path}: can't be read ({type(e).__name__}: {e})") from e
    rows = ([c if c == c else None for c in cells] for cells in frame.itertuples(index=False))
    lines = (cells for cells in rows if any(c is not None for c in cells))
    names = _header(path, next(lines, ()))
    for cells in lines:
        yield dict(zip(names, cells))


READERS: Mapping[str, Callable[[Path], Iterator[Line]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": _parquet,
    ".xlsx": _spreadsheet,
}


def _text(path: Path, newline: str | None = None) -> Iterator[str]:
    """Lines of a text file: UTF-8, or UTF-16 with its mark (a spreadsheet's "Unicode text"). Bytes
    that are neither stay in a line as lone surrogates: ``_is_unicode`` tells.
    """
    most = bounds().json_bytes
    try:
        with path.open("rb") as raw:
            wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raw.seek(0)
            encoding = "utf-16" if wide else "utf-8-sig"
            number = 0
            with io.TextIOWrapper(raw, encoding, "surrogateescape", newline) as lines:
                while line := lines.readline(most + 1):
                    number += 1
                    if len(line) > most:
                        raise DataError(f"{path}, line {number}: {over('json_bytes')}")
                    yield line
    except UnicodeError as e:
        raise DataError(f"{path}: can't be read ({e})") from e
    except OSError as e:
        raise DataError(f"{path}: can't be read ({e.strerror})") from e


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def spelled(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or mapping that a cell of text spells as JSON, numpy or Python would; None for other
    texts.
    """
    if not (text := text.strip()).startswith(("[", "{")) or len(text) > bounds().json_bytes:
        return None
    for read in (json.loads, _array, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(value, list | dict):
            return value
    return None


def _array(text: str) -> list[Any]:
    """The elements of ``['a' 'b']``, a numpy array as text: Python would join them to one. Raises
    ValueError for anything else.
    """
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.string.strip()]
    plain = all(t.type in (tokenize.STRING, tokenize.NUMBER) for t in tokens[1:-1])
    if not plain or tokens[0].string != "[":
        raise ValueError("no array")
    return [ast.literal_eval(t.string) for t in tokens[1:-1]]
