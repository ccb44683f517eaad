"""Keys and values of the sequences under way, written in place.

Row i of the cache belongs to the i-th sequence; rows are kept dense by moving the last one into a
gap. Prefill packs sequences end to end without padding; decoding feeds one token of every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.engine.interface import CacheShape
from evalkit.engine.sequence import Group

NEIGHBOURS = 8
"""Rows that a decoding step on a CPU attends as one batch, padded to the longest of them."""


class KVCache:
    """[layers, rows, kv_heads, capacity, key_dim] for keys, [..., value_dim] for values; grows
    when needed, never shrinks.

    ``lengths`` [rows]: tokens that each row in use holds. All places beyond them are zero, also
    those that a finished sequence has left: a decoding step reads them under a mask, and there a
    weight of 0 times a NaN or an infinity would still be NaN.
    """

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (shape.layers, shape.kv_heads)
        self.dims = {"keys": shape.key_dim, "values": shape.value_dim}
        self.dtype, self.device = dtype, device
        self.keys, self.values = (self._zeros(0, 0, dim) for dim in self.dims.values())
        self.lengths: list[int] = []

    def reserve(self, rows: int, capacity: int) -> None:
        """Makes room for ``rows`` rows of ``capacity`` tokens; what is stored is kept."""
        old_rows, old_capacity = self.keys.shape[1], self.keys.shape[3]
        if rows <= old_rows and capacity <= old_capacity:
            return
        new_rows = max(rows, old_rows)
        new_capacity = old_capacity if capacity <= old_capacity else -(-capacity // 64) * 64
        grown = {
            name: self._zeros(new_rows, new_capacity, dim) for name, dim in self.dims.items()
        }  # all or, out of memory, none
        for name, new in grown.items():
            old = getattr(self, name)
            for row, n in enumerate(self.lengths):
                new[:, row, :, :n] = old[:, row, :, :n]
            setattr(self, name, new)

    def drop(self, row: int) -> None:
        """Frees a row; the last row takes its place."""
        last = len(self.lengths) - 1
        old, moved = self.lengths[row], self.lengths[last]
        for stored in (self.keys, self.values):
            if row != last:
                stored[:, row, :, :moved] = stored[:, last, :, :moved]
                stored[:, row, :, moved:old] = 0
            stored[:, last, :, :moved] = 0
        self.lengths[row] = moved
        self.lengths.pop()

    def keep(self, rows: int) -> None:
        """Frees all but the first ``rows`` rows, also those that were written in part."""
        self.keys[:, rows : len(self.lengths)] = 0
        self.values[:, rows : len(self.lengths)] = 0
        del self.lengths[rows:]

    def _zeros(self, rows: int, capacity: int, dim: int) -> Tensor:
        layers, heads = self.shape
        return torch.zeros(layers, rows, heads, capacity, dim, dtype=self.dtype, device=self.device)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over q [1, queries, heads, dim] and k, v [1, tokens, kv_heads, dim]: causal, or
    where ``mask`` [queries, tokens] allows it. Returns [1, queries, heads, value_dim].
    """
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
        self.first_row = len(cache.lengths) if cache else 0
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
            cache.lengths += [len(p.ids) for g in groups for p in g.prompts]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])  # [1, tokens, heads, value_dim]
        start, row = 0, self.first_row
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
                    length = group.shared + added
                    self.cache.keys[layer, row, :, :length] = keys[0].transpose(0, 1)
                    self.cache.values[layer, row, :, :length] = values[0].transpose(0, 1)
                row += 1
        return out


class Decode:
    """Attention of one new token per row [rows, 1, ...] over what that row of the cache holds and
    the token itself, whose key and value are stored. An ``Attend``.

    ``lengths`` [rows]: what each row holds already. ``span``: cache positions attended per row,
    greater than every length. On a CPU, NEIGHBOURS rows at a time attend only as far as the longest
    of them. The query heads that share a kv head stand as the rows of one product (grouped-query
    attention), so keys and values are never repeated.
    """

    def __init__(self, cache: KVCache, lengths: Tensor, span: int) -> None:
        self.cache, self.lengths = cache, lengths
        self.rows = torch.arange(len(lengths), device=cache.device)
        together = NEIGHBOURS if cache.device.type == "cpu" else len(lengths)
        self.blocks: list[tuple[slice, int, Tensor]] = []
        for start in range(0, len(lengths), together):
            block = slice(start, min(start + together, len(lengths)))
            seen = span if together == len(lengths) else int(lengths[block].max()) + 1
            # [rows of the block, 1, 1, seen]: True at what the row holds and at the new token
            mask = (torch.arange(seen, device=cache.device) <= lengths[block, None])[:, None, None]
            if cache.device.type == "cuda":  # kernels add a mask, and convert a boolean one anew
                mask = torch.zeros_like(mask, dtype=cache.dtype).masked_fill_(~mask, -torch.inf)
            self.blocks.append((block, seen, mask))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.lengths] = k[:, 0]
        values[self.rows, :, self.lengths] = v[:, 0]
        grouped = q[:, 0].unflatten(1, (k.shape[2], -1))  # [rows, kv_heads, heads of each, dim]
        attended = [
            F.scaled_dot_product_attention(
                grouped[rows], keys[rows, :, :seen], values[rows, :, :seen], attn_mask=mask
            )
            for rows, seen, mask in self.blocks
        ]
        return torch.cat(attended).flatten(1, 2)[:, None]  # [rows, 1, heads, value_dim]
