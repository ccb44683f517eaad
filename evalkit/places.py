"""The records of a journal that is being written, by where their lines lie: a run holds some 40
bytes of each, however many there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, ValuesView
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from evalkit.contents import Contents, Withdrawal, parsed
from evalkit.errors import DataError
from evalkit.index import Index
from evalkit.records import Record, asked

FILE = 48
"""Bits of a record's place before the number of its file: the byte of it, and whether the record
has a score."""


class Places(Mapping[str, Record]):
    """The last record of each id in order of first appearance, of one journal or of several of a
    cell. They are read from the files when they are asked for.
    """

    def __init__(self, seen: Callable[[Record], None] | None = None) -> None:
        """``seen`` is given each record as it comes, which spares to read them again."""
        self.seen = seen
        self.once = True
        """Whether no id came twice, and none was withdrawn."""
        self.early = 0
        """How many ids came until ``begin``: their places are the first ones."""
        self._files: list[Path] = []
        self._index = Index()
        self._asked = array("q")
        self._begun = False

    def file(self, path: Path) -> int:
        """A number for one more file."""
        self._files.append(path)
        return len(self._files) - 1

    def begin(self) -> None:
        """Says that what comes from here on is what a run appends."""
        self.early, self._begun = len(self._index.numbers), True

    def put(self, record: Record, file: int, start: int) -> None:
        """Takes a record whose line begins at this byte of a file. Of several files, one without a
        score does not take the place of one that has it.
        """
        number = file << FILE | start << 1 | record.scored
        at = self._index.put(record.id, number)
        if at is not None:
            known = self._index.numbers[at]
            elsewhere = not self._begun and known >> FILE != file
            if elsewhere and known & 1 and not record.scored:
                return
            self.once = False
            self._index.numbers[at] = number
        if not self._begun:
            was = asked(record.prompt, record.target) if record.scored else None
            if at is None:
                self._asked.append(was or 0)
            else:
                self._asked[at] = was or 0
        if self.seen:
            self.seen(record)

    def remove(self, id: str, file: int) -> None:
        """Takes an id out that a file withdraws, if it is there."""
        number = self._index.get(id)
        if number is not None and (self._begun or number >> FILE == file):
            self.once = False
            self._index.remove(id)

    def place(self, id: str) -> int | None:
        """Where an id is among all that came; None where it is not, or no more."""
        return self._index.place(id)

    def asked(self, place: int) -> int:
        """``records.asked`` of an early record; 0 where it has no score."""
        return self._asked[place]

    def scored(self, id: str) -> bool:
        """Whether an id is there and has a score."""
        return bool((self._index.get(id) or 0) & 1)

    def at(self, place: int) -> Record | None:
        """The record at a place; None where it was taken out."""
        if place in self._index.gone:
            return None
        number = self._index.numbers[place]
        with self._files[number >> FILE].open("rb") as file:
            return self._read(file, number)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and id in self._index

    def __getitem__(self, id: str) -> Record:
        place = self.place(id)
        record = None if place is None else self.at(place)
        if record is None:
            raise KeyError(id)
        return record

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return (record.id for record in self.values())

    @property
    def id_total(self) -> int:
        """``Index.total`` of the ids."""
        return self._index.total

    def values(self) -> ValuesView[Record]:
        """In order of first appearance, one at a time from the files."""
        return _Values(self)

    def stream(self) -> Iterator[Record]:
        with ExitStack() as stack:
            number, file = -1, None
            for place, where in enumerate(self._index.numbers):
                if place in self._index.gone:
                    continue
                if file is None or where >> FILE != number:
                    stack.close()
                    number = where >> FILE
                    file = stack.enter_context(self._files[number].open("rb", buffering=1 << 20))
                yield self._read(file, where)

    def _read(self, file: BinaryIO, number: int) -> Record:
        file.seek((number & (1 << FILE) - 1) >> 1)
        line = parsed(file.readline())
        if not isinstance(line, Record):
            path = self._files[number >> FILE]
            raise DataError(f"{path}: was changed while this run was writing to it")
        return line


class _Values(ValuesView[Record]):
    _mapping: Places

    def __iter__(self) -> Iterator[Record]:
        return self._mapping.stream()


@dataclass
class Placed(Contents):
    """What a journal holds, its records by place."""

    path: Path = Path()
    records: Places = field(default_factory=Places)

    def __post_init__(self) -> None:
        self.file = self.records.file(self.path)

    def keep(self, line: Record | Withdrawal) -> None:
        if isinstance(line, Record):
            self.records.put(line, self.file, self.good_bytes)
        else:
            self.records.remove(line.id, self.file)
