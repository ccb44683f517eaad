"""What a journal holds, read from its lines. docs/formats.md describes them.

The first line is a header with the schema's version, the cell and its folder. Later lines are one
record per finished sample (``records.Record``), keyed by ``id``; the last record of an id is the
one that counts, so a sample that failed can be tried again, and one can be scored anew.
``{"id": ..., "withdrawn": true}`` takes an id out (a row that failed and now has samples with ids
of their own). ``{"run": ...}`` says what is run from here on, ``{"results": ..., ...}`` what had
come out when a run ended: run.json and results.json can be made again from them. A damaged line is
left in place, reported by number, and its sample runs again. A journal of schema 1 is read as it
is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from evalkit.cell_results import Ending
from evalkit.errors import DataError
from evalkit.files import regular
from evalkit.malloc import uncollected
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.run_info import RunInfo
from evalkit.safe_text import masked

HEADER_BYTES = 1 << 16
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
SCALARS = {str, int, float, bool, type(None)}
SHORT = 4300
"""Bytes of a line that can't hold a whole number of more digits than are read."""


@dataclass(frozen=True)
class Withdrawal:
    """Takes an id out of a journal."""

    id: str


@dataclass(frozen=True)
class Header:
    """A journal's first line: whose it is."""

    cell: str = ""
    """``task:subset``."""
    folder: str = ""
    """Name of the cell's folder."""
    schema_version: int = SCHEMA_VERSION


CUT = "cut short by a crash; removed"
"""What is said of a last line without its end."""
Line = Header | RunInfo | Ending | Withdrawal | Record
"""What a line of a journal says."""


@dataclass
class Contents:
    """What a journal holds: the last record of each id in order of first appearance, what its last
    run was and how one ended, and what was wrong with it.
    """

    header: Header | None = None
    run: RunInfo | None = None
    """What the last run was; None in a journal of evalkit 0.1."""
    ending: Ending | None = None
    """How the last run ended, or an earlier run of everything; None where none did."""
    records: Mapping[str, Record] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    good_bytes: int = 0
    """Bytes of whole lines."""
    lines: int = 0
    """Whole lines."""

    @property
    def scored(self) -> dict[str, Record]:
        return {id: r for id, r in self.records.items() if r.scored}

    def take(self, line: Line) -> None:
        """What the journal says once this line, which begins at ``good_bytes``, is a part of it."""
        if isinstance(line, Record | Withdrawal):
            self.keep(line)
        elif isinstance(line, Ending):
            self.ending = line
        elif isinstance(line, Header):
            self.header = line
        else:
            if self.run:
                earlier = (*self.run.earlier, self.run.session())
                line = replace(line, earlier=earlier)
            self.run = line
            if self.ending and self.ending.results.selection.partial:
                self.ending = None  # of fewer samples than are asked for now

    def keep(self, line: Record | Withdrawal) -> None:
        """``take`` of a line about a sample."""
        assert isinstance(self.records, dict)
        if isinstance(line, Record):
            self.records[line.id] = line
        else:
            self.records.pop(line.id, None)

    def join(self, other: Contents) -> None:
        """Adds what another journal of the cell holds, but for its records."""
        self.header = self.header or other.header
        self.faults += other.faults
        for run in other.runs:
            self.take(run)
        if other.ending:
            self.take(other.ending)

    @property
    def runs(self) -> list[RunInfo]:
        """What each run said that it was, oldest first, without those before it."""
        if (run := self.run) is None:
            return []
        return [replace(run, **vars(s), earlier=()) for s in (*run.earlier, run.session())]


def read_header(path: Path) -> Header | None:
    """A journal's first line; None where there is no file, or no whole header. Raises DataError for
    a file that can't be read.
    """
    try:
        with regular(path) as file:
            line = parsed(file.readline(HEADER_BYTES))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise unreadable(path, e) from e
    return line if isinstance(line, Header) else None


C = TypeVar("C", bound=Contents)


def read(path: Path, earlier: Contents | None = None) -> Contents:
    """Reads a journal without locking it. A missing file is an empty journal; damage is reported in
    ``faults``.

    ``earlier`` is what the same file held before it grew: only what came since is read, and added
    to it. Raises DataError for a journal of a newer schema, and for a file that can't be read.
    """
    return read_into(earlier or Contents(), path)


@uncollected()
def read_into(out: C, path: Path) -> C:
    """``read``, one line at a time, into contents of any kind, which are given back."""
    if out.faults and out.faults[-1].endswith(CUT):
        out.faults.pop()  # what was half a line then may be whole by now
    try:
        with regular(path) as file:
            file.seek(out.good_bytes)
            for text in file:
                whole = text.endswith(b"\n")
                line = parsed(text) if whole else None
                if line is None:
                    why = "damaged; its sample will run again" if whole else CUT
                    out.faults.append(f"{path}, line {out.lines + 1}: {why}")
                elif isinstance(line, Header) and line.schema_version > SCHEMA_VERSION:
                    raise DataError(
                        f"{path}: written by a newer evalkit (schema {line.schema_version}); "
                        "update evalkit to read it"
                    )
                else:
                    out.take(line)
                if whole:
                    out.good_bytes += len(text)
                    out.lines += 1
    except FileNotFoundError:
        return out
    except OSError as e:
        raise unreadable(path, e) from e
    return out


def merged(parts: Iterable[Contents]) -> Contents:
    """Several journals of one cell as one: of an id's records the last, but none without a score
    in the place of one that has it.
    """
    out = Contents()
    for part in parts:
        out.join(part)
        for record in part.records.values():
            if record.scored or not ((known := out.records.get(record.id)) and known.scored):
                out.take(record)
    return out


def unreadable(path: Path, e: OSError) -> DataError:
    """The error of a journal that the system does not let be read."""
    return DataError(f"{path}: can't be read ({e.strerror})")


def check_owner(path: Path, header: Header | None, folder: str) -> None:
    """Raises DataError for the journal of another cell's folder."""
    if header and header.folder and folder and header.folder != folder:
        raise DataError(
            f"{path}: is the journal of {header.folder}; put it back there, or remove {path.parent}"
        )


def parsed(text: bytes) -> Line | None:
    """What a line of a journal says; None for damage."""
    try:
        value = from_json(text, allow_inf_nan=False, cache_strings="keys")
        if not isinstance(value, dict):
            return None
        if "id" in value:
            if value.get("withdrawn") is True and isinstance(value["id"], str):
                return Withdrawal(value["id"])
            return Record.from_json(value)
        if isinstance(version := value.get("schema_version"), int):
            return Header(str(value.get("cell", "")), str(value.get("folder", "")), version)
        if "run" in value:
            return RunInfo.from_json(value["run"])
        return Ending.from_json(value)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None


def written(line: Line) -> bytes:
    """A line as a journal has it. Raises TypeError or ValueError for what JSON can't hold, or what
    could not be read again.
    """
    if isinstance(line, Record) and all(map(_is_flat, (line.metadata, line.target, line.parsed))):
        with suppress(ValueError):  # half a character
            told = to_json(vars(line))  # in a third of the time, and of more than can be read
            if len(told) <= SHORT and b"NaN" not in told and b"Infinity" not in told:
                return told + b"\n"
    try:
        told = ENCODER.encode(_json(line)).encode("utf-8", "replace")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    from_json(told)
    return told + b"\n"


def _is_flat(value: object) -> bool:
    """Whether JSON has a value as it is: one, or some in a list or by name."""
    if isinstance(value, dict):
        return {str}.issuperset(map(type, value)) and _is_flat([*value.values()])
    return SCALARS.issuperset(map(type, value if isinstance(value, list | tuple) else [value]))


def _json(line: Line) -> Mapping[str, Any]:
    if isinstance(line, Record):
        return line.to_json()
    if isinstance(line, Withdrawal):
        return {"id": line.id, "withdrawn": True}
    if isinstance(line, Header):
        head = {"schema_version": line.schema_version, "cell": line.cell, "folder": line.folder}
        return {k: v for k, v in head.items() if v}
    return masked({"run": line.to_json()} if isinstance(line, RunInfo) else line.to_json())
