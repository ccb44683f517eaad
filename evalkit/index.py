"""Whole numbers by text, for as many texts as a data set has samples."""

from __future__ import annotations

import sys
from array import array
from hashlib import blake2b

SIZE = 16
"""Bytes of a digest: among ten million texts, two share one with a chance below 1e-24."""
FREE = -1


class Index:
    """A number for each of many texts, in some 30 bytes a text, however long: in its place stands a
    digest, so that texts can be looked up but not listed. ``kind`` is the type code of the numbers
    (``array.array``), ``numbers`` has them in the order in which their texts came. One thread may
    add while another looks up.
    """

    def __init__(self, kind: str = "Q") -> None:
        self.numbers = array(kind)
        self.gone: set[int] = set()
        """Places in ``numbers`` whose texts were removed."""
        self._digests = bytearray()
        self._slots = array("i", [FREE]) * 8  # open addressing: places in ``numbers``

    def place(self, text: str) -> int | None:
        """Where a text's number is in ``numbers``; None for a text that is not there."""
        slots, slot = self._find(digest(text))
        at = slots[slot]
        return None if at == FREE or at in self.gone else at

    def get(self, text: str) -> int | None:
        """The number of a text; None for one that is not there."""
        at = self.place(text)
        return None if at is None else int(self.numbers[at])

    def __contains__(self, text: str) -> bool:
        return self.place(text) is not None

    def __len__(self) -> int:
        return len(self.numbers) - len(self.gone)

    def __setitem__(self, text: str, number: int) -> None:
        if (at := self.put(text, number)) is not None:
            self.numbers[at] = number

    def remove(self, text: str) -> None:
        """Raises KeyError for a text that is not there."""
        if (at := self.place(text)) is None:
            raise KeyError(text)
        self.gone.add(at)

    def add(self, text: str, number: int) -> int | None:
        """Gives a text its number; of one that has one, that number, which it keeps."""
        at = self.put(text, number)
        return None if at is None else int(self.numbers[at])

    def put(self, text: str, number: int) -> int | None:
        """Adds a text with its number; where it is there already, its place."""
        mine = digest(text)
        slots, slot = self._find(mine)
        at = slots[slot]
        if at != FREE and at not in self.gone:
            return at
        at = len(self.numbers)
        self.numbers.append(number)
        self._digests += mine
        slots[slot] = at  # last: another thread may look it up
        if 3 * at > 2 * len(slots):
            self._grow()
        return None

    @property
    def total(self) -> int:
        """The sum of the digests as whole numbers, which tells a set of texts in any order."""
        import numpy as np  # which short commands do without

        words = np.frombuffer(self._digests, ">u4").reshape(-1, SIZE // 4)
        sums = np.delete(words, list(self.gone), axis=0).sum(axis=0, dtype=np.uint64).tolist()
        return sum(int(word) << 32 * k for k, word in enumerate(reversed(sums)))

    def _find(self, digest: bytes) -> tuple[array[int], int]:
        """The slot of a digest, or the free one that it would take; and of which table."""
        slots, digests = self._slots, self._digests
        last = len(slots) - 1
        slot = int.from_bytes(digest[:8], sys.byteorder) & last
        while (at := slots[slot]) != FREE and not digests.startswith(digest, SIZE * at):
            slot = (slot + 1) & last
        return slots, slot

    def _grow(self) -> None:
        slots = array("i", [FREE]) * (2 * len(self._slots))
        last = len(slots) - 1
        with memoryview(self._digests).cast("Q") as halves:
            for at, first in enumerate(halves[::2]):
                if at in self.gone:
                    continue
                slot = first & last
                while slots[slot] != FREE:
                    slot = (slot + 1) & last
                slots[slot] = at
        self._slots = slots


def digest(text: str) -> bytes:
    """What stands for a text: BLAKE2b in ``SIZE`` bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()
