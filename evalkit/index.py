"""Whole numbers by text, for as many texts as a data set has samples."""

from __future__ import annotations

from array import array
from hashlib import blake2b

SIZE = 16
"""Bytes of a digest: among ten million texts, two share one with a chance below 1e-24."""
FREE = -1


class Index:
    """A number for each of many texts, in some 30 bytes a text, however long: in its place stands a
    digest, so that texts can be looked up but not listed. ``kind`` is the type code of the numbers
    (``array.array``), ``numbers`` has them in the order in which their texts came.
    """

    def __init__(self, kind: str = "Q") -> None:
        self.numbers = array(kind)
        self._digests = bytearray()
        self._slots = array("i", [FREE]) * 8  # open addressing: places in ``numbers``

    def place(self, text: str) -> int | None:
        """Where a text's number is in ``numbers``; None for a text that is not there."""
        slots, slot = self._find(_digest(text))
        return None if slots[slot] == FREE else slots[slot]

    def get(self, text: str) -> int | None:
        """The number of a text; None for one that is not there."""
        at = self.place(text)
        return None if at is None else int(self.numbers[at])

    def __contains__(self, text: str) -> bool:
        return self.place(text) is not None

    def __len__(self) -> int:
        return len(self.numbers)

    def __setitem__(self, text: str, number: int) -> None:
        if (at := self._added(text, number)) is not None:
            self.numbers[at] = number

    def add(self, text: str, number: int) -> int | None:
        """Gives a text its number; of one that has one, that number, which it keeps."""
        at = self._added(text, number)
        return None if at is None else int(self.numbers[at])

    def _added(self, text: str, number: int) -> int | None:
        """Adds a text with its number; where it is there already, its place."""
        digest = _digest(text)
        slots, slot = self._find(digest)
        if slots[slot] != FREE:
            return slots[slot]
        self.numbers.append(number)
        self._digests += digest
        slots[slot] = len(self.numbers) - 1  # last: another thread may look it up
        if 3 * len(self.numbers) > 2 * len(slots):
            self._grow()
        return None

    def _find(self, digest: bytes, slots: array[int] | None = None) -> tuple[array[int], int]:
        """The slot of a digest, or the free one that it would take; and of which table."""
        slots = self._slots if slots is None else slots
        digests, last = self._digests, len(slots) - 1
        slot = int.from_bytes(digest[:8], "little") & last
        while (at := slots[slot]) != FREE and digests[SIZE * at : SIZE * (at + 1)] != digest:
            slot = (slot + 1) & last
        return slots, slot

    def _grow(self) -> None:
        larger = array("i", [FREE]) * (2 * len(self._slots))
        for at in range(len(self.numbers)):
            _, slot = self._find(bytes(self._digests[SIZE * at : SIZE * (at + 1)]), larger)
            larger[slot] = at
        self._slots = larger


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()
