"""The append-only record of one cell: JSON lines, one writer, each line on disk before its sample
counts as done.

The first line is a header with the schema's version, the cell and its folder. Later lines are one
record per finished sample (``records.Record``), keyed by ``id``; the last record of an id is the
one that counts, so a sample that failed can be tried again, and one can be scored anew.
``{"id": ..., "withdrawn": true}`` takes an id out (a row that failed and now has samples with ids
of their own). A line that a crash cut short is removed when the journal is next opened for writing;
a damaged line elsewhere is left in place, reported by number, and its sample runs again. A journal
of schema 1 is read as it is; when it is opened for writing, a header of the present schema follows
what it holds.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Any

from pydantic_core import from_json

from evalkit.errors import DataError, EvalkitError
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.safe_text import mapped, mask, without_values

BATCH = 256
"""Lines that one fsync covers at most."""
HEADER_BYTES = 1 << 16
Header = Mapping[str, Any]


@dataclass
class Contents:
    """What a journal holds: its header, the last record of each id in order of first appearance,
    and what was wrong with it.
    """

    header: Mapping[str, Any] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    good_bytes: int = 0

    @property
    def scored(self) -> dict[str, Record]:
        return {id: r for id, r in self.records.items() if r.scored}


def read_header(path: Path) -> Mapping[str, Any]:
    """A journal's first line; empty where there is no file, or no whole line. Raises DataError for
    a file that can't be read.
    """
    try:
        with path.open("rb") as file:
            value = json.loads(file.readline(HEADER_BYTES))
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise DataError(f"{path}: can't be read ({e.strerror})") from e
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and "schema_version" in value else {}


@contextmanager
def uncollected() -> Iterator[None]:
    """While many objects are made that all stay, Python's collector of reference cycles would look
    through them again and again: it rests, and half of the time is saved.
    """
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()


@uncollected()
def read(path: Path) -> Contents:
    """Reads a journal without locking it. A missing file is an empty journal; damage is reported in
    ``faults``.

    Raises DataError for a journal of a newer schema, and for a file that can't be read.
    """
    out = Contents()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return out
    except OSError as e:
        raise DataError(f"{path}: can't be read ({e.strerror})") from e
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        whole = number < len(lines)
        if not line and not whole:
            break
        value = _parsed(line) if whole else None
        if value is None:
            why = "damaged; its sample will run again" if whole else "cut short by a crash; removed"
            out.faults.append(f"{path}, line {number}: {why}")
        elif isinstance(value, Record):
            out.records[value.id] = value
        elif "schema_version" in value:
            if value["schema_version"] > SCHEMA_VERSION:
                raise DataError(
                    f"{path}: written by a newer evalkit (schema {value['schema_version']}); "
                    "update evalkit to read it"
                )
            out.header = {**out.header, **value}
        else:
            out.records.pop(value["id"], None)
        if whole:
            out.good_bytes += len(line) + 1
    return out


def _parsed(line: bytes) -> Record | dict[str, Any] | None:
    """A record, a header or a withdrawal; None for what is none of them."""
    try:
        value = from_json(line, cache_strings="keys")
        if not isinstance(value, dict):
            return None
        if isinstance(value.get("schema_version"), int):
            return value
        if value.get("withdrawn") is True and isinstance(value.get("id"), str):
            return value
        return Record.from_json(value)
    except (ValueError, TypeError, RecursionError):
        return None


class Journal:
    """A journal open for writing. Use as a context manager; ``append`` may be called from any
    thread.

    A thread of its own writes: ``append`` returns at once, and all that waits goes to disk with one
    fsync. A record is in ``contents`` from the moment that it is on disk. Raises EvalkitError when
    another process is writing to the file, or it can't be written.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.failure: EvalkitError | None = None
        self.told = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a+b", buffering=0)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise EvalkitError(
                f"{path}: another run is writing to it; wait for it to end"
            ) from None
        except OSError as e:
            raise EvalkitError(
                f"{path}: can't be written ({e.strerror}); choose another folder with --output"
            ) from e
        self.contents = read(path)
        self.file.truncate(self.contents.good_bytes)
        if self.contents.header.get("schema_version") != SCHEMA_VERSION:
            self._write(_line({"schema_version": SCHEMA_VERSION, **header}))
        self.waiting: Queue[tuple[bytes, Record | str] | None] = Queue()
        self.writer = threading.Thread(target=self._serve, name="journal", daemon=True)
        self.writer.start()

    def append(self, record: Record) -> None:
        """Hands one record to the writer, without secrets. Raises EvalkitError when the disk
        refused an earlier one, ValueError for NaN or infinity.
        """
        record = _without_secrets(record)
        self._put(_line(record.to_json()), record)

    def withdraw(self, id: str) -> None:
        """Takes an id out, and waits until that is on disk. Raises as ``flush`` does."""
        self._put(_line({"id": id, "withdrawn": True}), id)
        self.flush()

    def flush(self) -> None:
        """Waits until everything is on disk. Raises EvalkitError when it could not be written."""
        self.waiting.join()
        self._raise()

    def _put(self, line: bytes, record: Record | str) -> None:
        self._raise()
        self.waiting.put((line, record))

    def _raise(self) -> None:
        if self.failure:
            self.told = True
            raise self.failure

    def _serve(self) -> None:
        """Writes what waits until None comes. An fsync takes milliseconds, an answer of a small
        model less: so all lines that came in during one fsync share the next.
        """
        while (first := self.waiting.get()) is not None:
            batch = [first]
            while (
                not self.waiting.empty()
                and len(batch) < BATCH
                and (item := self.waiting.get()) is not None
            ):
                batch.append(item)
            try:
                if not self.failure:
                    self._write(b"".join(line for line, _ in batch))
                    for _, record in batch:
                        self._count(record)
            except EvalkitError as e:
                self.failure = e
            for _ in batch:
                self.waiting.task_done()

    def _count(self, record: Record | str) -> None:
        """Takes a written record into ``contents``, or a withdrawn id out of them."""
        if isinstance(record, Record):
            self.contents.records[record.id] = record
        else:
            self.contents.records.pop(record, None)

    def _write(self, lines: bytes) -> None:
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
            if os.fstat(self.file.fileno()).st_nlink == 0:
                raise EvalkitError(f"{self.path}: was removed while this run was writing to it")
        except OSError as e:
            raise EvalkitError(
                f"{self.path}: {e.strerror}; what was scored before is kept: free some room "
                "and repeat the command"
            ) from e

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.waiting.join()
        self.waiting.put(None)
        self.writer.join()
        self.file.close()
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
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
