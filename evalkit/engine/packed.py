"""Attention over a whole pack in one kernel call, in half precision on a GPU.

FlashAttention's variable-length form (arXiv 2307.08691) takes sequences of unequal lengths end to
end, without padding, so that a layer costs one call however many prompts there are. Queries may be
fewer than keys: causally, the last query then sees all keys, which is what a prompt behind a shared
prefix needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from evalkit.engine.cache import Block, KVCache, attention
from evalkit.engine.sequence import Group, size_class

Kernel = Callable[..., Any]


@cache
def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device has the kernel for that dtype, in half precision on a GPU, and it says
    the same as plain attention.
    """
    if device.type != "cuda" or dtype == torch.float32 or varlen_kernel() is None:
        return False
    try:
        return kernel_agrees(device, dtype)
    except RuntimeError:  # this build of torch has no such kernel for this card
        return False


def kernel_agrees(device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether the kernel says of a small pack what plain attention says: causal, with fewer queries
    than keys and fewer heads of keys. torch's releases differ in what they take.
    """
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(tokens, heads, 64, generator=random).to(device, dtype)
        for tokens, heads in ((4, 4), (8, 2), (8, 2))
    )
    got = packed_attention(q, k, v, Lengths([1, 3], device), Lengths([2, 6], device), causal=True)
    mask = torch.zeros(4, 8, dtype=torch.bool, device=device)
    mask[0, :2] = True
    mask[1:, 2:] = torch.ones(3, 6, dtype=torch.bool, device=device).tril(3)
    expected = attention(q[None], k[None], v[None], mask)[0]
    return torch.allclose(got.float(), expected.float(), atol=0.05)


@cache
def varlen_kernel() -> Kernel | None:
    """torch's variable-length attention; None where torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # takes more than a second
    except ImportError:  # torch before 2.10
        return None
    known = inspect.signature(varlen_attn).parameters

    def kernel(*tensors_and_lengths: Any, causal: bool, grouped: bool) -> Any:
        how: dict[str, Any] = {}
        if causal:  # torch 2.10 has a flag, later ones say it by the window
            how |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
        if grouped and "enable_gqa" in known:
            how["enable_gqa"] = True
        return varlen_attn(*tensors_and_lengths, **how)

    return kernel


class Lengths:
    """Sequences end to end: their ``longest``, and ``ends`` [sequences + 1] (int32), where each
    begins and the last one ends.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        self.longest = max(lengths)
        self.ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths, causal: bool = False
) -> Tensor:
    """Attention inside each sequence of a pack: q [queries, heads, dim] over k and v [keys,
    kv_heads, dim]; returns the shape of q. ``causal``: the last query of a sequence sees all of its
    keys, the one before it all but the last.
    """
    kernel = varlen_kernel()
    assert kernel is not None
    grouped = q.shape[1] != k.shape[1]
    lengths = (queries.ends, keys.ends, queries.longest, keys.longest)
    attended = kernel(q, k, v, *lengths, causal=causal, grouped=grouped)
    assert isinstance(attended, Tensor)
    return attended


class PackedPrefill:
    """What ``Prefill`` computes and stores, in one kernel call a layer. An ``Attend``.

    Each shared prefix is a sequence of its own, and so is what each prompt adds, whose keys are the
    prefix and its own.
    """

    def __init__(
        self, groups: Sequence[Group], cache: KVCache | None, device: torch.device
    ) -> None:
        queries: list[int] = []
        seen: list[Tensor] = []  # of each sequence, the tokens of the pack that are its keys
        stored: list[Tensor] = []  # of each prompt, the tokens that its row of the cache holds
        start = 0
        for group in groups:
            prefix = torch.arange(start, start := start + group.shared)
            if group.shared:
                queries.append(group.shared)
                seen.append(prefix)
            for added in group.added:
                own = torch.arange(start, start := start + added)
                stored.append(torch.cat((prefix, own)))
                if added:  # a choice of one token adds none to its prompt
                    queries.append(added)
                    seen.append(stored[-1])
        self.queries = Lengths(queries, device)
        self.keys = Lengths([len(tokens) for tokens in seen], device)
        shares = any(group.shared for group in groups)
        self.seen = torch.cat(seen).to(device) if shares else None  # else as they lie
        self.writes: dict[int, tuple[Block, Tensor, Tensor, Tensor]] = {}
        if cache:
            self.writes = self._writes(cache, groups, stored)

    def _writes(
        self, cache: KVCache, groups: Sequence[Group], stored: list[Tensor]
    ) -> dict[int, tuple[Block, Tensor, Tensor, Tensor]]:
        """Takes rows of the cache; for each of its blocks, which rows and places of it [written]
        hold which tokens of the pack [written].
        """
        parts: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for prompt, tokens in zip((p for g in groups for p in g.prompts), stored):
            cache.add(prompt.longest, len(tokens))
            row = torch.full_like(tokens, cache.places[-1][1])
            kind = size_class(prompt.longest)
            parts.setdefault(kind, []).append((row, torch.arange(len(tokens)), tokens))
        writes = {}
        for kind, own in parts.items():
            rows, places, tokens = (torch.cat(x).to(cache.device) for x in zip(*own))
            writes[kind] = cache.blocks[kind], rows, places, tokens
        return writes

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q[0], k[0], v[0]  # [tokens, heads, dim]
        for block, rows, places, tokens in self.writes.values():
            block.keys[layer][rows, :, places] = k[tokens]
            block.values[layer][rows, :, places] = v[tokens]
        if self.seen is not None:
            k, v = k[self.seen], v[self.seen]  # a shared prefix once for each that sees it
        return packed_attention(q, k, v, self.queries, self.keys, causal=True)[None]
