"""Attention backends: how queries meet keys, apart from the layers that make them.

The decoder's are ``Attend`` functions over [batch, tokens, heads, head_dim] (``causal``,
``Masked``, and ``CrossModal`` around another; the engine has its own for packs and for the cache).
The vision tower's is ``Segments`` over packed patches [patches, heads, head_dim].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.engine.interface import Attend
from evalkit.engine.packed import Lengths, can_pack, packed_attention
from evalkit.engine.products import attend_by_products, products_win


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over whole sequences without padding; an ``Attend``: q [batch, tokens,
    heads, head_dim], k and v [batch, tokens, kv_heads, head_dim], the result as q.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [batch, heads, tokens, head_dim]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


class Masked:
    """Attention under a boolean mask [batch, 1, tokens, tokens] (True: may attend); an
    ``Attend``.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [batch, heads, tokens, head_dim]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, enable_gqa=True
        ).transpose(1, 2)


class CrossModal:
    """Attention with scaled logits between visual tokens and text; an ``Attend`` around another.

    ``visual`` [batch, tokens] marks the visual tokens. ``multiply``: the logit of a pair of unlike
    kind is multiplied by ``scale`` (which raises a negative one); ``bias``: log ``scale`` is added
    to it, so that its weight is ``scale`` times that of a like pair before normalisation.

    Done by widening q and k, so that kernels and caches stay as they are. With S the scale, d the
    head's width and e(x) the one-hot kind of a token (text, visual), (x) the outer product:
    multiply: q' = e(q) (x) q, k' = (e(k) + S (1 - e(k))) (x) k, of width 2 d;
    bias: q' = [q, e(q)], k' = [k, sqrt(d) ln S (1 - e(k))], of width d + 2.
    Then q'.k' / sqrt(d) is the scaled logit.
    """

    def __init__(self, attend: Attend, visual: Tensor, form: str, scale: float) -> None:
        self.attend, self.form, self.scale = attend, form, scale
        # one-hot kinds [batch, tokens, 1 (heads), 2 (text, visual), 1 (width)]
        self.kind = torch.stack((~visual, visual), -1).long()[..., None, :, None]
        self.other_kind = 1 - self.kind

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        d = q.shape[-1]
        kind, other_kind = self.kind.to(q.dtype), self.other_kind.to(q.dtype)
        if self.form == "multiply":
            # [batch, tokens, heads, 2, d] -> [batch, tokens, heads, 2 d]
            q = (kind * q[..., None, :]).flatten(-2)
            k = ((kind + self.scale * other_kind) * k[..., None, :]).flatten(-2)
        else:
            # [batch, tokens, heads, d + 2]
            q, k = (
                torch.cat((x, y.expand(*x.shape[:-1], 2, 1).flatten(-2)), -1)
                for x, y in ((q, kind), (k, other_kind))
            )
            k[..., d:] *= d**0.5 * math.log(self.scale)
        # the kernel divides by the root of the new width; the logits are to be over sqrt(d)
        return self.attend(layer, q * (q.shape[-1] / d) ** 0.5, k, v)

    @staticmethod
    def key_dim(form: str, head_dim: int) -> int:
        """How wide keys become."""
        return 2 * head_dim if form == "multiply" else head_dim + 2


class Segments:
    """Which packed patches attend to each other: segments of given lengths.

    ``lengths`` in packed order, one per frame pair. Neighbours of equal length are batched:
    attention runs once for each such stretch, without a mask. In half precision on a GPU one
    variable-length kernel takes unequal lengths together (on equal ones it is the slower: 17.6 ms
    against 12.0 for 16 pages of 7,644 patches on an H200).
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        self.lengths, self.device = lengths, device
        self.equal = [(n, sum(1 for _ in same)) for n, same in groupby(lengths)]

    @cached_property
    def packed(self) -> Lengths:
        """The segments as the variable-length kernel wants them."""
        return Lengths(self.lengths, self.device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Full attention inside each segment; q, k, v and the result are [patches, heads,
        head_dim].
        """
        if len(self.equal) > 1 and can_pack(q.device, q.dtype):
            return packed_attention(q, k, v, self.packed, self.packed)
        out, start = torch.empty_like(v), 0
        for n, count in self.equal:
            rows = slice(start, start := start + n * count)
            if products_win(q, n):
                for part in zip(*(x[rows].split(n) for x in (out, q, k, v))):
                    attend_by_products(*part)
                continue
            # [count * n, heads, head_dim] -> [count, heads, n, head_dim]
            parts = [x[rows].unflatten(0, (count, n)).transpose(1, 2) for x in (q, k, v)]
            attended = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(0, 1)
            if len(self.equal) == 1:
                return attended
            out[rows] = attended
        return out
