"""The append-only record of one cell: JSON lines, one writer, each line on disk before its sample
counts as done.

The first line is a header with the schema's version, the cell and its folder. Later lines are one
record per finished sample (``records.Record``), keyed by ``id``; the last record of an id is the
one that counts, so a sample that failed can be tried again, and one can be scored anew.
``{"id": ..., "withdrawn": true}`` takes an id out (a row that failed and now has samples with ids
of their own). ``{"run": ...}`` says what is run from here on, ``{"results": ..., ...}`` what had
come out when a run ended: run.json and results.json can be made again from them. A line that a
crash cut short is removed when the journal is next opened for writing; a damaged line elsewhere is
left in place, reported by number, and its sample runs again. A journal of schema 1 is read as it
is; when it is opened for writing, a header of the present schema follows what it holds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pydantic_core import from_json

from evalkit.cell_results import Ending
from evalkit.errors import DataError, EvalkitError, reason
from evalkit.files import regular
from evalkit.index import Index
from evalkit.malloc import uncollected
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.run_info import RunInfo
from evalkit.safe_text import mapped, mask, masked, without_values

BATCH = 256
"""Lines that one fsync covers at most."""
MOST_WAITING = 16 * BATCH
"""Lines that wait for the disk; then whoever has more does."""
HEADER_BYTES = 1 << 16
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""What opening a file for writing fails with where it may be read only."""


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
    records: MutableMapping[str, Record] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    good_bytes: int = 0
    """Bytes of whole lines."""
    lines: int = 0
    """Whole lines."""

    @property
    def scored(self) -> dict[str, Record]:
        return {id: r for id, r in self.records.items() if r.scored}

    def take(self, line: Line) -> None:
        """What the journal says once this line is a part of it."""
        if isinstance(line, Record):
            self.records[line.id] = line
        elif isinstance(line, Withdrawal):
            self.records.pop(line.id, None)
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


class Kept(MutableMapping[str, Record]):
    """The records of a journal that is being written: those that it had as they were read, those
    that came since by where their lines are in its file, which are read when they are asked for. So
    a run holds some 40 bytes of each, however many there are.
    """

    def __init__(self, path: Path, known: MutableMapping[str, Record]) -> None:
        self.path, self.known = path, dict(known)
        self.starts = Index()
        self.withdrawn: set[str] = set()

    def add(self, record: Record, start: int) -> None:
        """Takes a record whose line begins at this byte."""
        if record.id in self.known:
            self.known[record.id] = record
        else:
            self.starts[record.id] = start
            self.withdrawn.discard(record.id)

    def __contains__(self, id: object) -> bool:
        if id in self.known:
            return True
        return isinstance(id, str) and id in self.starts and id not in self.withdrawn

    def __getitem__(self, id: str) -> Record:
        if id in self.known:
            return self.known[id]
        if id in self.withdrawn or (start := self.starts.get(id)) is None:
            raise KeyError(id)
        with self.path.open("rb") as file:
            return self._at(file, start)

    def __setitem__(self, id: str, record: Record) -> None:
        self.known[id] = record

    def __delitem__(self, id: str) -> None:
        if id not in self:
            raise KeyError(id)
        if self.known.pop(id, None) is None:
            self.withdrawn.add(id)

    def __len__(self) -> int:
        return len(self.known) + len(self.starts) - len(self.withdrawn)

    def __iter__(self) -> Iterator[str]:
        return (record.id for record in self.values())

    def values(self) -> ValuesView[Record]:
        """In order of first appearance, one at a time from the file."""
        return _Values(self)

    def stream(self) -> Iterator[Record]:
        yield from self.known.values()
        if len(self.starts):
            with self.path.open("rb", buffering=1 << 20) as file:
                records = (self._at(file, start) for start in self.starts.numbers)
                yield from (r for r in records if r.id not in self.withdrawn)

    def _at(self, file: BinaryIO, start: int) -> Record:
        file.seek(start)
        line = _parsed(file.readline())
        if not isinstance(line, Record):
            raise DataError(f"{self.path}: was changed while this run was writing to it")
        return line


class _Values(ValuesView[Record]):
    _mapping: Kept

    def __iter__(self) -> Iterator[Record]:
        return self._mapping.stream()


def read_header(path: Path) -> Header | None:
    """A journal's first line; None where there is no file, or no whole header. Raises DataError for
    a file that can't be read.
    """
    try:
        with regular(path) as file:
            line = _parsed(file.readline(HEADER_BYTES))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise unreadable(path, e) from e
    return line if isinstance(line, Header) else None


@uncollected()
def read(path: Path, earlier: Contents | None = None) -> Contents:
    """Reads a journal without locking it. A missing file is an empty journal; damage is reported in
    ``faults``.

    ``earlier`` is what the same file held before it grew: only what came since is read, and added
    to it. Raises DataError for a journal of a newer schema, and for a file that can't be read.
    """
    out = earlier or Contents()
    if out.faults and out.faults[-1].endswith(CUT):
        out.faults.pop()  # what was half a line then may be whole by now
    try:
        with regular(path) as file:
            file.seek(out.good_bytes)
            data = file.read()
    except FileNotFoundError:
        return out
    except OSError as e:
        raise unreadable(path, e) from e
    lines = data.split(b"\n")
    last = out.lines + len(lines)
    for number, text in enumerate(lines, out.lines + 1):
        whole = number < last
        if not text and not whole:
            break
        line = _parsed(text) if whole else None
        if line is None:
            why = "damaged; its sample will run again" if whole else CUT
            out.faults.append(f"{path}, line {number}: {why}")
        elif isinstance(line, Header) and line.schema_version > SCHEMA_VERSION:
            raise DataError(
                f"{path}: written by a newer evalkit (schema {line.schema_version}); "
                "update evalkit to read it"
            )
        else:
            out.take(line)
        if whole:
            out.good_bytes += len(text) + 1
            out.lines = number
    return out


def _runs(contents: Contents) -> list[RunInfo]:
    """What each run said that it was, oldest first, without those before it."""
    if (run := contents.run) is None:
        return []
    return [replace(run, **vars(s), earlier=()) for s in (*run.earlier, run.session())]


def merged(parts: Iterable[Contents]) -> Contents:
    """Several journals of one cell as one: of an id's records the last, but none without a score
    in the place of one that has it.
    """
    out = Contents()
    for part in parts:
        out.header = out.header or part.header
        out.faults += part.faults
        for run in _runs(part):
            out.take(run)
        if part.ending:
            out.take(part.ending)
        for record in part.records.values():
            if record.scored or not ((known := out.records.get(record.id)) and known.scored):
                out.take(record)
    return out


def unreadable(path: Path, e: OSError) -> DataError:
    return DataError(f"{path}: can't be read ({e.strerror})")


def check_owner(path: Path, header: Header | None, folder: str) -> None:
    """Raises DataError for the journal of another cell's folder."""
    if header and header.folder and folder and header.folder != folder:
        raise DataError(
            f"{path}: is the journal of {header.folder}; put it back there, or remove {path.parent}"
        )


def _parsed(text: bytes) -> Line | None:
    """What a line says; None for damage."""
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


def _json(line: Line) -> Mapping[str, Any]:
    if isinstance(line, Record):
        return line.to_json()
    if isinstance(line, Withdrawal):
        return {"id": line.id, "withdrawn": True}
    if isinstance(line, Header):
        head = {"schema_version": line.schema_version, "cell": line.cell, "folder": line.folder}
        return {k: v for k, v in head.items() if v}
    return masked({"run": line.to_json()} if isinstance(line, RunInfo) else line.to_json())


class Journal:
    """A journal open for writing. Use as a context manager; ``append`` may be called from any
    thread.

    A thread of its own writes: ``append`` returns at once, and all that waits goes to disk with one
    fsync. A record is in ``contents`` from the moment that it is on disk. Raises EvalkitError when
    another process is writing to the file, or it can't be written, DataError when it is the journal
    of another cell. One that may be read only is read: a finished cell has nothing to write.

    ``beside`` are what other journals of the cell hold, of which ``contents`` has the union.
    ``wait`` waits for another writer to end.
    """

    file: FileIO | None = None
    contents: Contents
    size = 0
    """Bytes on disk."""

    def __init__(
        self, path: Path, header: Header, beside: Iterable[Contents] = (), wait: bool = False
    ) -> None:
        self.path = path
        self.failure: EvalkitError | None = None
        self.told = False
        self.read_only: EvalkitError | None = None
        try:
            self._open(header, wait)
            if others := list(beside):
                self.contents = merged([*others, self.contents])
            self.records = Kept(path, self.contents.records)
            self.contents.records = self.records
        except BaseException:
            if self.file:
                self.file.close()
            raise
        self.waiting: deque[tuple[bytes, Line]] = deque()
        self.change = threading.Condition()
        self.writing = self.closed = False
        self.writer = threading.Thread(target=self._serve, name="journal", daemon=True)
        self.writer.start()

    def _open(self, header: Header, wait: bool) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b", buffering=0)
        except OSError as e:
            refusal = EvalkitError(
                f"{self.path}: can't be written ({e.strerror}); choose another folder with --output"
            )
            if e.errno not in READ_ONLY or not self.path.is_file():
                raise refusal from e
            self.read_only = refusal
        try:
            if self.file:
                fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.contents = read(self.path)
            self.size = self.contents.good_bytes
            check_owner(self.path, self.contents.header, header.folder)
            if self.file and self.file.seek(0, os.SEEK_END) > self.contents.good_bytes:
                self.file.truncate(self.contents.good_bytes)
        except BlockingIOError:
            raise EvalkitError(
                f"{self.path}: another run is writing to it; wait for it to end"
            ) from None
        except OSError as e:
            raise self._refused(e) from e
        known = self.contents.header
        if self.file and (known is None or known.schema_version != SCHEMA_VERSION):
            self._write(_line(_json(header)))
            self.contents.take(header)

    def append(self, record: Record) -> None:
        """Hands one record to the writer, without secrets. Raises EvalkitError when the disk
        refused an earlier one, ValueError for NaN or infinity.
        """
        self._put(_without_secrets(record))

    def begin(self, run: RunInfo) -> None:
        """Says what is run from here on, and waits until that is on disk. Raises as ``flush``."""
        self._put(replace(run, earlier=()) if self.contents.run else run)
        self.flush()

    def end(self, ending: Ending) -> None:
        """Says how the run ended, and waits until that is on disk. Raises as ``flush`` does."""
        self._put(ending)
        self.flush()

    def withdraw(self, id: str) -> None:
        """Takes an id out, and waits until that is on disk. Raises as ``flush`` does."""
        self._put(Withdrawal(id))
        self.flush()

    def take_in(self, path: Path) -> None:
        """Adds what another journal of the cell holds, and removes that one once it is on disk.
        Raises as ``flush`` does, and EvalkitError when it can't be removed.
        """
        other = read(path)
        for run in _runs(other):
            self._put(run)
        for record in other.records.values():
            if record.scored or not ((known := self.records.get(record.id)) and known.scored):
                self._put(record)
        self.flush()
        try:
            path.unlink()
        except OSError as e:
            raise EvalkitError(f"{path}: can't be removed ({e.strerror})") from e

    def flush(self) -> None:
        """Waits until everything is on disk. Raises EvalkitError when it could not be written."""
        self._wait()
        self._raise()

    def _wait(self) -> None:
        with self.change:
            self.change.wait_for(lambda: not self.waiting and not self.writing)

    def _put(self, line: Line) -> None:
        self._raise()
        if self.read_only:
            raise self.read_only
        text = _line(_json(line))
        with self.change:
            self.change.wait_for(lambda: len(self.waiting) < MOST_WAITING)
            self.waiting.append((text, line))
            self.change.notify_all()

    def _raise(self) -> None:
        if self.failure:
            self.told = True
            raise self.failure

    def _serve(self) -> None:
        """Writes what waits until the journal is closed. An fsync takes milliseconds, an answer of
        a small model less: so all lines that came in during one fsync share the next.
        """
        while batch := self._next():
            try:
                if not self.failure:
                    start = self.size
                    self._write(b"".join(text for text, _ in batch))
                    for text, line in batch:
                        if isinstance(line, Record):
                            self.records.add(line, start)
                        else:
                            self.contents.take(line)
                        start += len(text)
            except BaseException as e:  # whoever waits for the lines must hear of it
                self.failure = e if isinstance(e, EvalkitError) else EvalkitError(reason(e))
            with self.change:
                self.writing = False
                self.change.notify_all()

    def _next(self) -> list[tuple[bytes, Line]]:
        """The lines that are written next; none once the journal is closed."""
        with self.change:
            self.change.wait_for(lambda: self.waiting or self.closed)
            batch = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]
            self.writing = bool(batch)
        return batch

    def _write(self, lines: bytes) -> None:
        assert self.file
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
            self.size += len(lines)
            there, mine = None, os.fstat(self.file.fileno())
            with suppress(FileNotFoundError, NotADirectoryError):
                there = self.path.stat()
        except OSError as e:
            raise self._refused(e) from e
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise EvalkitError(f"{self.path}: was removed while this run was writing to it")

    def _refused(self, e: OSError) -> EvalkitError:
        return EvalkitError(
            f"{self.path}: {e.strerror}; what was scored before is kept: free some room "
            "and repeat the command"
        )

    def __enter__(self) -> Journal:
        return self

    def close(self) -> None:
        """Writes what waits, and lets the file go."""
        self._wait()
        with self.change:
            self.closed = True
            self.change.notify_all()
        self.writer.join()
        if self.file:
            with suppress(OSError):  # every line has been waited for
                self.file.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None and not self.told:
            self._raise()


def _without_secrets(record: Record) -> Record:
    """What an adapter or a task said of a sample may quote a key. An answer is data: only the value
    of a secret variable is taken out of it, and what it was read as; what merely looks like a key
    may be what the picture shows. The row's own fields are the user's.
    """
    error = record.error and mask(record.error)
    text, parsed = mapped(record.text, without_values), mapped(record.parsed, without_values)
    if (error, text, parsed) == (record.error, record.text, record.parsed):
        return record
    return replace(record, error=error, text=text, parsed=parsed)


def _line(value: Mapping[str, Any]) -> bytes:
    return ENCODER.encode(value).encode("utf-8", "replace") + b"\n"
