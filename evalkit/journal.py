"""The append-only record of one cell: JSON lines, one writer, each line on disk before its sample
counts as done.

``contents.py`` says what the lines are. A line that a crash cut short is removed when the journal
is next opened for writing; when one of schema 1 is, a header of the present schema follows what it
holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from types import TracebackType

from evalkit.cell_results import Ending
from evalkit.contents import Header, Line, Withdrawal, check_owner, read_into, written
from evalkit.errors import EvalkitError, reason
from evalkit.places import Placed, Places
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.run_info import RunInfo
from evalkit.safe_text import mapped, mask, without_values

BATCH = 256
"""Lines that one fsync covers at most."""
MOST_WAITING = 16 * BATCH
"""Lines that wait for the disk; then whoever has more does."""
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""What opening a file for writing fails with where it may be read only."""


class Journal:
    """A journal open for writing. Use as a context manager; ``append`` may be called from any
    thread.

    A thread of its own writes: ``append`` returns at once, and all that waits goes to disk with one
    fsync. A record is in ``contents`` from the moment that it is on disk. Raises EvalkitError when
    another process is writing to the file, or it can't be written, DataError when it is the journal
    of another cell. One that may be read only is read: a finished cell has nothing to write.

    ``beside`` are other journals of the cell, of which ``contents`` has the union; the records of
    all are read when they are asked for. ``seen`` is given each record, those that are there among
    them, in order. ``wait`` waits for another writer to end.
    """

    file: FileIO | None = None

    def __init__(
        self,
        path: Path,
        header: Header,
        beside: Sequence[Path] = (),
        wait: bool = False,
        seen: Callable[[Record], None] | None = None,
    ) -> None:
        self.path = path
        self.failure: EvalkitError | None = None
        self.told = False
        self.read_only: EvalkitError | None = None
        self.records = Places(seen)
        """Those of ``contents``."""
        try:
            self._open(header, beside, wait)
        except BaseException:
            if self.file:
                self.file.close()
            raise
        self.waiting: deque[tuple[bytes, Line]] = deque()
        self.change = threading.Condition()
        self.writing = self.closed = False
        self.writer = threading.Thread(target=self._serve, name="journal", daemon=True)
        self.writer.start()

    def _open(self, header: Header, beside: Sequence[Path], wait: bool) -> None:
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
            known = self._read(header, beside)
            if self.file and self.file.seek(0, os.SEEK_END) > self.contents.good_bytes:
                self.file.truncate(self.contents.good_bytes)
        except BlockingIOError:
            raise EvalkitError(
                f"{self.path}: another run is writing to it; wait for it to end"
            ) from None
        except OSError as e:
            raise self._refused(e) from e
        if self.file and (known is None or known.schema_version != SCHEMA_VERSION):
            self._write([(written(header), header)])

    def _read(self, header: Header, beside: Sequence[Path]) -> Header | None:
        """Takes what the journals beside this one hold, and then what this one does, of which it
        gives the header.
        """
        parts = []
        for path in (*beside, self.path):
            parts.append(read_into(Placed(path=path, records=self.records), path))
            check_owner(path, parts[-1].header, header.folder)
        own = parts[-1]
        self.contents = own
        if beside:
            self.contents = Placed(path=self.path, records=self.records)
            for part in parts:
                self.contents.join(part)
            self.contents.good_bytes = own.good_bytes
        return own.header

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
        other = read_into(Placed(path=path), path)
        for run in other.runs:
            self._put(run)
        for record in other.records.values():
            if record.scored or not self.records.scored(record.id):
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
        text = written(line)
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
                    self._write(batch)
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

    def _write(self, lines: Sequence[tuple[bytes, Line]]) -> None:
        """Puts lines on disk, and then into ``contents``."""
        assert self.file
        try:
            rest = memoryview(b"".join(text for text, _ in lines))
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
            there, mine = None, os.fstat(self.file.fileno())
            with suppress(FileNotFoundError, NotADirectoryError):
                there = self.path.stat()
        except OSError as e:
            raise self._refused(e) from e
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise EvalkitError(f"{self.path}: was removed while this run was writing to it")
        for text, line in lines:
            self.contents.take(line)
            self.contents.good_bytes += len(text)

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
