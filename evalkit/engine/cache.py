"""Keys and values of the sequences under way, written in place.

Row i of the cache belongs to the i-th sequence; rows are kept dense by moving the last one into a gap. Prefill packs sequences
end to end without padding; decoding feeds one token of every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.engine.sequence import Group
from evalkit.qwen2vl.config import TextConfig
from evalkit.qwen2vl.decoder import Masked, causal


class KVCache:
    """[layers, rows, kv_heads, capacity, key_dim] for keys, [..., head_dim] for values; grows when needed, never shrinks."""

    def __init__(self, config: TextConfig, key_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (config.num_hidden_layers, config.num_key_value_heads)
        self.dims = {"keys": key_dim, "values": config.head_dim}
        self.dtype, self.device = dtype, device
        self.keys, self.values = (self._empty(0, 0, dim) for dim in self.dims.values())
        self.lengths: list[int] = []

    def reserve(self, rows: int, capacity: int) -> None:
        """Makes room for ``rows`` rows of ``capacity`` tokens; what is stored is kept."""
        old_rows, old_capacity = self.keys.shape[1], self.keys.shape[3]
        if rows <= old_rows and capacity <= old_capacity:
            return
        new_rows = max(rows, old_rows)
        new_capacity = old_capacity if capacity <= old_capacity else -(-capacity // 64) * 64
        used = len(self.lengths)
        for name, dim in self.dims.items():
            new = self._empty(new_rows, new_capacity, dim)
            new[:, :used, :, :old_capacity] = getattr(self, name)[:, :used]
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

    def _empty(self, rows: int, capacity: int, dim: int) -> Tensor:
        layers, heads = self.shape
        # zeros, not empty: what lies beyond a row's length is masked, and a masked NaN would still spoil the sum
        return torch.zeros(layers, rows, heads, capacity, dim, dtype=self.dtype, device=self.device)


class Prefill:
    """Causal attention inside each prompt of a pack [1, tokens, ...]; stores keys and values in new rows. An ``Attend``.

    The tokens of a group lie as: its shared prefix once, then what each prompt adds, which sees the prefix and itself.
    """

    def __init__(self, groups: Sequence[Group], cache: KVCache | None) -> None:
        self.groups, self.cache = groups, cache
        self.first_row = len(cache.lengths) if cache else 0
        if cache:
            cache.lengths += [len(p.ids) for g in groups for p in g.prompts]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, start, row = q.new_empty(*q.shape[:-1], v.shape[-1]), 0, self.first_row
        for group in self.groups:
            shared = slice(start, start + group.shared)
            if group.shared:
                out[:, shared] = causal(layer, q[:, shared], k[:, shared], v[:, shared])
            start += group.shared
            for prompt in group.prompts:
                own = slice(start, start + len(prompt.ids) - group.shared)
                start = own.stop
                keys, values = k[:, own], v[:, own]
                if group.shared:
                    keys, values = (torch.cat((x[:, shared], x[:, own]), dim=1) for x in (k, v))
                out[:, own] = self._continued(layer, q[:, own], keys, values)
                if self.cache:
                    self.cache.keys[layer, row, :, : keys.shape[1]] = keys[0].transpose(0, 1)
                    self.cache.values[layer, row, :, : keys.shape[1]] = values[0].transpose(0, 1)
                    row += 1
        return out

    @staticmethod
    def _continued(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of the last tokens of a sequence, given all its keys and values."""
        before = k.shape[1] - q.shape[1]
        if not before:
            return causal(layer, q, k, v)
        return Masked(torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(before))(layer, q, k, v)


class Decode:
    """Attention of one new token per row [rows, 1, ...] over that row's cache, which it joins. An ``Attend``.

    ``lengths`` [rows]: what each row holds already; ``span``: how many places of a row are looked at, more than any length.
    The query heads of one kv head stand as rows of one product, so keys and values are never repeated.
    """

    def __init__(self, cache: KVCache, lengths: Tensor, span: int) -> None:
        self.cache, self.at, self.span = cache, lengths, span
        self.rows = torch.arange(len(lengths), device=cache.device)
        self.mask = (torch.arange(span, device=cache.device) <= lengths[:, None])[:, None, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, kv_heads = k.shape[0], k.shape[2]
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.at] = k[:, 0]
        values[self.rows, :, self.at] = v[:, 0]
        grouped = q[:, 0].unflatten(1, (kv_heads, -1))
        seen = slice(0, self.span)
        mixed = F.scaled_dot_product_attention(grouped, keys[:rows, :, seen], values[:rows, :, seen], attn_mask=self.mask)
        return mixed.flatten(1, 2)[:, None]
