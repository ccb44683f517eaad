"""The records of a cell by column, in a file beside its journal, so that a table of a hundred
thousand samples reads the columns that it needs and parses no line of the journal.

The first line of ``columns.jsonl`` is a header, every other line one column as a JSON list, in the
order of the samples' first appearance: the fields of ``records.Record``, its tokens as
``tokens_<name>`` and its scores as ``score_<metric>`` (null where a sample has none). The file is
derived: it counts while its header has the digest of the journal as it is now and the checksum of
its own lines, and is made again otherwise.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from pydantic_core import from_json, to_json

from evalkit.errors import EvalkitError
from evalkit.files import replace
from evalkit.malloc import uncollected
from evalkit.records import Record, made
from evalkit.types import Metric, TokenCounts
from evalkit.units import Seen

SCHEMA_VERSION = 2
LEAST = 1 << 15
"""Bytes of a journal from which its columns are worth a file of their own."""
FIELDS = tuple(f.name for f in fields(Record))
TOKENS = tuple(f.name for f in fields(TokenCounts))
PLAIN = tuple(name for name in FIELDS if name not in ("tokens", "scores"))
"""The fields that are a column each."""
SCORE = "score_"
PART = 2048
"""Rows that are turned into columns at once."""
HELD = 1 << 16
"""Bytes of a column that wait in memory, and that are read at once."""
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Columns:
    """Records by column. A column is parsed when it is first asked for, and must not be changed."""

    def __init__(
        self,
        rows: int,
        columns: Mapping[str, list[Any] | bytes],
        faults: int = 0,
        ended: bool = True,
    ) -> None:
        self.rows = rows
        """How many records there are."""
        self.faults = faults
        """Damaged lines of the journal."""
        self.ended = ended
        """Whether a run of everything, or the last one, came to its end."""
        self._columns = dict(columns)

    @classmethod
    def of(cls, records: Mapping[str, Record], faults: int = 0, ended: bool = True) -> Columns:
        """The columns of records by id."""
        rows = list(records.values())
        columns: dict[str, Any] = {name: list(map(attrgetter(name), rows)) for name in PLAIN}
        for name in TOKENS:
            columns[f"tokens_{name}"] = list(map(attrgetter(f"tokens.{name}"), rows))
        scores = [r.scores for r in rows]
        metrics = dict.fromkeys(name for s in scores for name in s)
        columns |= {f"{SCORE}{name}": [s.get(name) for s in scores] for name in metrics}
        return cls(len(rows), columns, faults, ended)

    def __getitem__(self, name: str) -> list[Any]:
        """A column by its name. Raises KeyError when there is none."""
        column = self._columns[name]
        if not isinstance(column, list):
            column = self._columns[name] = from_json(column, cache_strings="all")
        return column

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all scores, in the order in which they first appear."""
        return tuple(n.removeprefix(SCORE) for n in self._columns if n.startswith(SCORE))

    def score(self, metric: str) -> list[float | None]:
        """The samples' values of a metric, None where there is none."""
        name = f"{SCORE}{metric}"
        return self[name] if name in self._columns else [None] * self.rows

    def seen(self, metric: Metric) -> Seen:
        """What a metric needs of the samples."""
        return Seen(
            self.score(metric.name),
            self["cluster"],
            self["metadata"] if metric.group or metric.units else None,
            [w or 0.0 for w in self.score(metric.weight)] if metric.weight else None,
        )

    @uncollected()
    def records(self) -> dict[str, Record]:
        """The records by id, in their order."""
        named = self.metrics
        values = {name: self[name] for name in PLAIN}
        for name in ("choices", "logprobs"):
            values[name] = list(map(tuple, values[name]))
        values["frames"] = [tuple(map(tuple, clips)) for clips in values["frames"]]
        values["tokens"] = list(map(_tokens, *(self[f"tokens_{name}"] for name in TOKENS)))
        scores = zip(*map(self.score, named)) if named else [()] * self.rows
        values["scores"] = [{k: v for k, v in zip(named, row) if v is not None} for row in scores]
        rows = zip(*(values[name] for name in FIELDS))
        return {row[0]: made(Record, zip(FIELDS, row)) for row in rows}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns, in their order."""
        return tuple(self._columns)


class Writer:
    """Writes columns that need not fit into memory: their rows come one by one, and wait in a
    temporary file for each column, in ``folder``. Where these can't be written there will be no
    columns: readers then read the journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self.failed = False
        self._next: dict[str, Record] = {}
        self._files: dict[str, SpooledTemporaryFile[bytes]] = {}

    def add(self, record: Record) -> None:
        """Takes one more row."""
        self._next[record.id] = record
        if len(self._next) == PART:
            self._part()

    def write(self, path: Path, journal: str, faults: int, ended: bool) -> None:
        """Writes the file; ``journal`` is the digest of the journal that the columns are of. No
        row can be added any more.
        """
        self._part()
        with suppress(EvalkitError, OSError):
            for file in self._files.values():
                file.write(b"]\n" if file.tell() else b"[]\n")
            header = {
                "schema_version": SCHEMA_VERSION,
                "journal": journal,
                "rows": self.rows,
                "faults": faults,
                "ended": ended,
                "bytes": {name: file.tell() for name, file in self._files.items()},
            }
            checksum = _checksum(header, self._blocks())
            first = _line(header | {"checksum": checksum})
            if not self.failed:
                replace(path, chain([first], self._blocks()), durable=False)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _part(self) -> None:
        """Moves the rows at hand to the files. A score that only other rows have is null in
        these.
        """
        part, self._next = Columns.of(self._next), {}
        try:
            for name in () if self.failed else dict.fromkeys((*self._files, *part.names)):
                if name not in self._files:
                    self._files[name] = SpooledTemporaryFile(HELD, dir=str(self.folder))  # noqa: SIM115 - see close
                    self._append(name, [None] * self.rows)
                self._append(name, part[name] if name in part.names else [None] * part.rows)
        except OSError:
            self.failed = True
        self.rows += part.rows

    def _append(self, name: str, values: list[Any]) -> None:
        file = self._files[name]
        if values:
            file.write((b"," if file.tell() else b"[") + _line(values)[1:-2])

    def _blocks(self) -> Iterator[bytes]:
        for file in self._files.values():
            file.seek(0)
            while block := file.read(HELD):
                yield block


def read(path: Path, journal: str) -> Columns | None:
    """The columns in a file; None where there is none, or it is damaged or of another journal than
    that of this digest.
    """
    try:
        data = path.read_bytes()
        start = data.index(b"\n") + 1
        header = from_json(data[: start - 1])
        known = header["schema_version"] == SCHEMA_VERSION and header["journal"] == journal
        if not known or header.pop("checksum") != _checksum(header, [memoryview(data)[start:]]):
            return None
        columns = {}
        for name, size in header["bytes"].items():
            columns[name] = data[start : start + size]
            start += size
        return Columns(header["rows"], columns, header["faults"], header["ended"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _line(value: object) -> bytes:
    """A value as the journal's JSON says it."""
    with suppress(ValueError):  # half a character
        told = to_json(value)
        # a key that JSON calls null, and numbers that it has not
        if not any(odd in told for odd in (b'"None":', b"NaN", b"Infinity")):
            return told + b"\n"
    return ENCODER.encode(value).encode("utf-8", "replace") + b"\n"


def _checksum(header: Mapping[str, Any], blocks: Iterable[bytes | memoryview]) -> int:
    """Of the header, which does not hold it yet, and of all that follows."""
    checksum = zlib.crc32(_line(header))
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return checksum


@lru_cache(maxsize=4096)
def _tokens(*numbers: int) -> TokenCounts:
    return TokenCounts(*numbers)
