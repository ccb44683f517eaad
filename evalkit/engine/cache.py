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
"""Rows whose lengths a decoding step on a CPU takes for alike."""


class KVCache:
    """[layers, rows, kv_heads, capacity, key_dim] for keys, [..., value_dim] for values; grows
    when needed, never shrinks.
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
        if row != last:
            n = self.lengths[last]
            self.keys[:, row, :, :n] = self.keys[:, last, :, :n]
            self.values[:, row, :, :n] = self.values[:, last, :, :n]
            self.lengths[row] = n
        self.lengths.pop()

    def _zeros(self, rows: int, capacity: int, dim: int) -> Tensor:
        # zeros, not empty: what lies beyond a row's length is masked, and a masked NaN would still
        # spoil the sum
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
    rows. An ``Attend``.

    The tokens of a group lie as: its shared prefix once, then what each prompt adds, which sees the
    prefix and itself.
    """

    def __init__(
        self, groups: Sequence[Group], cache: KVCache | None, device: torch.device
    ) -> None:
        self.cache, self.first_row = cache, len(cache.lengths) if cache else 0
        self.groups = [
            (group, _own(group, device) if 0 < group.shared < group.tokens else None)
            for group in groups
        ]
        if cache:
            cache.lengths += [len(p.ids) for g in groups for p in g.prompts]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, start, row = q.new_empty(*q.shape[:-1], v.shape[-1]), 0, self.first_row
        for group, own in self.groups:
            whole = slice(start, start + group.tokens)
            shared, rest = (
                (slice(start, start + group.shared), slice(start + group.shared, whole.stop))
                if own is not None
                else (whole, None)
            )
            out[:, shared] = attention(q[:, shared], k[:, shared], v[:, shared])
            if own is not None:
                out[:, rest] = attention(q[:, rest], k[:, whole], v[:, whole], own)
            if self.cache:
                for stored, new in (
                    (self.cache.keys[layer], k[0]),
                    (self.cache.values[layer], v[0]),
                ):
                    self._store(
                        stored[row : row + len(group.prompts)], new[whole].transpose(0, 1), group
                    )
            start, row = whole.stop, row + len(group.prompts)
        return out

    @staticmethod
    def _store(rows: Tensor, new: Tensor, group: Group) -> None:
        """Writes [heads, group's tokens, dim] to rows [prompts, heads, capacity, dim]."""
        rows[:, :, : group.shared] = new[:, : group.shared]
        start = group.shared
        for row, prompt in zip(rows, group.prompts):
            own = len(prompt.ids) - group.shared
            row[:, group.shared : group.shared + own] = new[:, start : start + own]
            start += own


def _own(group: Group, device: torch.device) -> Tensor:
    """Mask [what the prompts add, all tokens of the group]: the prefix, and of the prompt's own
    tokens those up to it.
    """
    added = torch.tensor([len(p.ids) - group.shared for p in group.prompts])
    prompt = torch.arange(len(added)).repeat_interleave(added)
    own = (prompt[:, None] == prompt).tril()
    return torch.cat((own.new_ones(len(own), group.shared), own), dim=1).to(device)


class Decode:
    """Attention of one new token per row [rows, 1, ...] over that row's cache, which it joins. An
    ``Attend``.

    ``lengths`` [rows]: what each row holds already; ``span``: how many places of a row are looked
    at, more than any length. On a CPU a few neighbouring rows at a time look at as many as the
    longest of them needs. The query heads of one kv head stand as rows of one product, so keys and
    values are never repeated.
    """

    def __init__(self, cache: KVCache, lengths: Tensor, span: int) -> None:
        self.cache, self.at = cache, lengths
        self.rows = torch.arange(len(lengths), device=cache.device)
        together = NEIGHBOURS if cache.device.type == "cpu" else len(lengths)
        self.blocks: list[tuple[slice, int, Tensor]] = []
        for start in range(0, len(lengths), together):
            block = slice(start, min(start + together, len(lengths)))
            seen = span if together == len(lengths) else int(lengths[block].max()) + 1
            mask = (torch.arange(seen, device=cache.device) <= lengths[block, None])[:, None, None]
            self.blocks.append((block, seen, mask))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.at] = k[:, 0]
        values[self.rows, :, self.at] = v[:, 0]
        grouped = q[:, 0].unflatten(1, (k.shape[2], -1))
        mixed = [
            F.scaled_dot_product_attention(
                grouped[b], keys[b, :, :seen], values[b, :, :seen], attn_mask=mask
            )
            for b, seen, mask in self.blocks
        ]
        return torch.cat(mixed).flatten(1, 2)[:, None]
