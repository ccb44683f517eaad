"""Keys and values of the sequences under way, written in place.

Sequences of like length share a block of rows, each as long as the longest of them, so that one of
16,000 tokens beside sixty short ones does not make sixty rows of 16,000. Rows of a block are kept
dense by moving the last one into a gap. Prefill packs sequences end to end without padding;
decoding feeds one token of every sequence.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.engine.interface import CacheShape
from evalkit.engine.products import attend_by_products, products_win
from evalkit.engine.sequence import Group, room, size_class

NEIGHBOURS = 8
"""Rows that a decoding step on a CPU attends as one batch, padded to the longest of them."""


class Block:
    """Rows of one capacity: ``keys`` [layers, rows, kv_heads, capacity, key_dim] and ``values``
    [..., value_dim].

    ``lengths``: tokens that each row in use holds. ``owners``: the numbers of their sequences.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.lengths: list[int] = []
        self.owners: list[int] = []

    @property
    def rows(self) -> int:
        """Rows that there are, in use or not."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    @property
    def tokens(self) -> int:
        """Tokens that its rows have room for."""
        return self.rows * self.capacity


class KVCache:
    """Blocks by ``size_class``; the i-th sequence owns row ``places[i][1]`` of block
    ``places[i][0]``.

    All places of a row beyond its length are zero, also those that a finished sequence has left: a
    decoding step reads them under a mask, and there a weight of 0 times a NaN or an infinity would
    still be NaN.
    """

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (shape.layers, shape.kv_heads)
        self.dims = (shape.key_dim, shape.value_dim)
        self.dtype, self.device = dtype, device
        self.blocks: dict[int, Block] = {}
        self.places: list[tuple[Block, int]] = []

    @property
    def lengths(self) -> list[int]:
        """Tokens that each sequence holds."""
        return [block.lengths[row] for block, row in self.places]

    def reserve(self, longest: Sequence[int], most: int, rows: int) -> None:
        """Makes room for further sequences of at most so many tokens each; what is stored is kept.
        Rows that no sequence uses are given up where all blocks together would have room for more
        than ``most`` tokens. There are never more than ``rows`` sequences.
        """
        needed: dict[int, tuple[int, int]] = {}  # rows and capacity of each block that takes more
        for kind in set(map(size_class, longest)):
            own = [n for n in longest if size_class(n) == kind]
            block = self.blocks.get(kind)
            used, capacity = (len(block.lengths), block.capacity) if block else (0, 0)
            needed[kind] = used + len(own), max(capacity, room(max(own)))
        grown = {
            kind: (max(n, self.blocks[kind].rows) if kind in self.blocks else n, capacity)
            for kind, (n, capacity) in needed.items()
            if kind not in self.blocks
            or n > self.blocks[kind].rows
            or capacity > self.blocks[kind].capacity
        }
        others = sum(b.tokens for kind, b in self.blocks.items() if kind not in grown)
        if self.device.type == "cpu" and 0 in grown:
            # of short ones there will be more; room that is not written to costs nothing
            ahead = grown | {0: (max(grown[0][0], rows), _power(grown[0][1]))}
            if others + sum(n * capacity for n, capacity in ahead.values()) <= most:
                grown = ahead
        if grown and others + sum(n * capacity for n, capacity in grown.values()) > most:
            for kind, block in self.blocks.items():
                grown[kind] = needed.get(kind, (len(block.lengths), block.capacity))
            grown |= needed
        new = {kind: self._moved(kind, *size) for kind, size in grown.items()}
        for kind, stored in new.items():  # all or, out of memory, none
            if not stored[0].shape[1]:
                del self.blocks[kind]
            elif kind in self.blocks:
                self.blocks[kind].keys, self.blocks[kind].values = stored
            else:
                self.blocks[kind] = Block(*stored)

    def _moved(self, kind: int, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a block of another size, with what it holds."""
        keys, values = (self._zeros(rows, capacity, dim) for dim in self.dims)
        if block := self.blocks.get(kind):
            for new, old in ((keys, block.keys), (values, block.values)):
                for row, n in enumerate(block.lengths):
                    new[:, row, :, :n] = old[:, row, :, :n]
        return keys, values

    def add(self, longest: int, length: int) -> None:
        """Takes a reserved row for one more sequence, which will hold ``length`` tokens."""
        block = self.blocks[size_class(longest)]
        block.lengths.append(length)
        block.owners.append(len(self.places))
        self.places.append((block, len(block.lengths) - 1))

    def drop(self, sequence: int) -> None:
        """Frees a sequence's row; the last sequence takes its number, the last row its place."""
        block, row = self.places[sequence]
        last = len(block.lengths) - 1
        old, moved = block.lengths[row], block.lengths[last]
        for stored in (block.keys, block.values):
            if row != last:
                stored[:, row, :, :moved] = stored[:, last, :, :moved]
                stored[:, row, :, moved:old] = 0
            stored[:, last, :, :moved] = 0
        block.lengths[row], block.owners[row] = moved, block.owners[last]
        self.places[block.owners[row]] = block, row
        block.lengths.pop()
        block.owners.pop()
        end = self.places.pop()
        if sequence < len(self.places):
            self.places[sequence] = end
            end[0].owners[end[1]] = sequence

    def keep(self, sequences: int) -> None:
        """Frees all but the first sequences, also those that were written in part."""
        for sequence in reversed(range(sequences, len(self.places))):
            self.drop(sequence)

    def store(self, layer: int, sequence: int, start: int, k: Tensor, v: Tensor) -> None:
        """Writes keys and values [tokens, kv_heads, dim] of a sequence's tokens from ``start``."""
        block, row = self.places[sequence]
        block.keys[layer, row, :, start : start + len(k)] = k.transpose(0, 1)
        block.values[layer, row, :, start : start + len(v)] = v.transpose(0, 1)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Gives a sequence the keys and values of another's first tokens."""
        (from_, row), (to, own) = self.places[source], self.places[target]
        to.keys[:, own, :, :tokens] = from_.keys[:, row, :, :tokens]
        to.values[:, own, :, :tokens] = from_.values[:, row, :, :tokens]

    def _zeros(self, rows: int, capacity: int, dim: int) -> Tensor:
        layers, heads = self.shape
        shape = layers, rows, heads, capacity, dim
        if self.device.type == "cpu" and rows and hasattr(mmap, "MAP_ANONYMOUS"):
            # zero pages of the system's, which take memory and time once they are written
            size = math.prod(shape) * self.dtype.itemsize
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return torch.frombuffer(pages, dtype=self.dtype).view(shape)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


def _power(n: int) -> int:
    """The power of two that is no less."""
    return 1 << (n - 1).bit_length()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over q [1, queries, heads, dim] and k, v [1, tokens, kv_heads, dim]: causal, or
    where ``mask`` [queries, tokens] allows it. Returns [1, queries, heads, value_dim].
    """
    if mask is None and k.shape == v.shape and products_win(q, q.shape[1]):
        out = torch.empty_like(q)
        attend_by_products(out[0], q[0], k[0], v[0], causal=True)
        return out
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [1, heads, tokens, dim]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    ).transpose(1, 2)


class Prefill:
    """Causal attention inside each prompt of a pack [1, tokens, ...]; stores keys and values in new
    rows of the cache, if there is one. An ``Attend``.

    The tokens of a group lie as: its shared prefix once, then what each prompt adds, which sees the
    prefix and itself. Each prompt's part is computed apart, so that one without finite numbers
    spoils no other.
    """

    def __init__(
        self, groups: Sequence[Group], cache: KVCache | None, device: torch.device
    ) -> None:
        self.cache, self.groups = cache, groups
        self.first = len(cache.places) if cache else 0
        # [own, shared + own]: behind a shared prefix, a prompt's own token sees all of the prefix
        # and its own tokens up to itself
        self.masks = {
            (own, group.shared): torch.ones(
                own, group.shared + own, dtype=torch.bool, device=device
            ).tril(group.shared)
            for group in groups
            if group.shared
            for own in group.added
        }
        if cache:
            for prompt in (p for g in groups for p in g.prompts):
                cache.add(prompt.longest, len(prompt.ids))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])  # [1, tokens, heads, value_dim]
        start, sequence = 0, self.first
        for group in self.groups:
            prefix = slice(start, start := start + group.shared)
            if group.shared:
                out[:, prefix] = attention(q[:, prefix], k[:, prefix], v[:, prefix])
            for added in group.added:
                own = slice(start, start := start + added)
                keys, values, mask = k[:, own], v[:, own], None
                if group.shared:
                    keys = torch.cat((k[:, prefix], keys), dim=1)  # [1, shared + added, ...]
                    values = torch.cat((v[:, prefix], values), dim=1)
                    mask = self.masks[added, group.shared]
                if added:  # a choice of one token adds none to its prompt
                    out[:, own] = attention(q[:, own], keys, values, mask)
                if self.cache:
                    self.cache.store(layer, sequence, 0, keys[0], values[0])
                sequence += 1
        return out


Piece = tuple[int, int, int]
"""A sequence, and from which to which of its tokens."""


class Continued:
    """Causal attention of pieces of sequences, end to end [1, tokens, ...], each over what its row
    of the cache holds before it and over itself; stores their keys and values. An ``Attend``.
    """

    def __init__(self, cache: KVCache, pieces: Sequence[Piece]) -> None:
        self.cache, self.pieces = cache, pieces
        # [tokens, end]: each token sees all before the piece, and itself
        self.masks = [
            torch.ones(end - start, end, dtype=torch.bool, device=cache.device).tril(start)
            if start
            else None
            for _, start, end in pieces
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, at = [], 0
        for (sequence, start, end), mask in zip(self.pieces, self.masks):
            own = slice(at, at := at + end - start)
            self.cache.store(layer, sequence, start, k[0, own], v[0, own])
            block, row = self.cache.places[sequence]
            # [kv_heads, end, dim] -> [1, end, kv_heads, dim]
            keys, values = (
                x[layer, row, :, :end].transpose(0, 1)[None] for x in (block.keys, block.values)
            )
            out.append(attention(q[:, own], keys, values, mask))
        return torch.cat(out, dim=1)


Part = tuple[slice, int, Tensor]
"""Rows of a block, how far they attend, and a mask of that [rows, 1, 1, seen]."""
Attended = tuple[Block, slice, tuple[Tensor, Tensor], list[Part]]
"""A block, which of the rows that are fed are its own, their rows and places in it, its parts."""


class Decode:
    """Attention of one new token per row [rows, 1, ...] over what that row of the cache holds and
    the token itself, whose key and value are stored. An ``Attend``.

    The rows are the first ones of each of ``blocks``, as many as stand beside it, one block behind
    the other. ``lengths`` [rows]: what each holds already. ``whole`` attends to all places of a
    row, under a mask, so that a graph of the step serves all lengths; else a row attends as far as
    the longest, on a CPU as the longest of NEIGHBOURS rows. The query heads that share a kv head
    stand as the rows of one product (grouped-query attention), so keys and values are never
    repeated.
    """

    def __init__(
        self, blocks: Sequence[tuple[Block, int]], lengths: Tensor, whole: bool = False
    ) -> None:
        self.blocks: list[Attended] = []
        start = 0
        for block, count in blocks:
            own = lengths[start : start + count]
            place = torch.arange(count, device=own.device), own
            self.blocks.append((block, slice(start, start := start + count), place, []))
            on_cpu = own.device.type == "cpu"
            together = NEIGHBOURS if on_cpu and not whole else count
            for first in range(0, count, together):
                rows = slice(first, min(first + together, count))
                seen = block.capacity if whole else int(own[rows].max()) + 1
                # [rows, 1, 1, seen]: True at what the row holds and at the new token
                mask = (torch.arange(seen, device=own.device) <= own[rows, None])[:, None, None]
                if not on_cpu:  # kernels add a mask, and convert a boolean one anew
                    dtype = block.keys.dtype
                    mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
                self.blocks[-1][3].append((rows, seen, mask))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = q[:, 0].unflatten(1, (k.shape[2], -1))  # [rows, kv_heads, heads of each, dim]
        attended = []
        for block, own, (rows, places), parts in self.blocks:
            keys, values = block.keys[layer], block.values[layer]
            keys[rows, :, places] = k[own, 0]
            values[rows, :, places] = v[own, 0]
            queries = grouped[own]
            attended += [
                F.scaled_dot_product_attention(
                    queries[part], keys[part, :, :seen], values[part, :, :seen], attn_mask=mask
                )
                for part, seen, mask in parts
            ]
        return torch.cat(attended).flatten(1, 2)[:, None]  # [rows, 1, heads, value_dim]
