"""Tokens drawn instead of the likeliest ones.

Each draw takes one number that depends on the request's seed and on how many tokens its answer has
so far, and on nothing else: an answer is the same whatever runs beside it.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from evalkit.engine.decode import NO_TOKEN


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) for a step of the answer of a seed: 53 bits of SHA-256 of both."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / (1 << 53)


def drawn(logits: Tensor, temperature: float, seed: int, step: int) -> int:
    """A token of logits [vocabulary], each as likely as their softmax at ``temperature`` says;
    ``NO_TOKEN`` where there is a NaN among them.
    """
    if bool(logits.isnan().any()):
        return NO_TOKEN
    shares = (logits.double() / temperature).softmax(-1).cumsum(-1)
    at = torch.searchsorted(shares, shares[-1] * uniform(seed, step), right=True)
    return min(int(at), len(shares) - 1)
