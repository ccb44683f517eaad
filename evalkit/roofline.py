"""The least time that a load could take on a device, stage by stage.

Floating-point operations of linear layers and of attention, each image and shared prefix once, at
the rate of a large product; a decoding step takes no less than reading all weights and the cache of
its rows once. Norms, activations and transfers count nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.engine import Prompt
from evalkit.engine.interface import CacheShape
from evalkit.models.registry import Bench, LinearWeights


@dataclass(frozen=True)
class Work:
    """What a load costs: operations of linear layers and of attention, by stage.

    read: numbers of the cache that decoding reads, over all of its steps; weights: numbers that
    each of these steps reads.
    """

    vision: float
    vision_attention: float
    prefill: float
    prefill_attention: float
    decode: float
    read: float
    weights: int

    @property
    def linear(self) -> float:
        return self.vision + self.prefill + self.decode


@dataclass(frozen=True)
class Floor:
    """Seconds of each stage at the device's rates."""

    vision: float
    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        return self.vision + self.prefill + self.decode


def work(
    family: Bench,
    config: Any,
    weights: LinearWeights,
    cache: CacheShape,
    prompts: Sequence[Prompt],
    shared: bool = True,
) -> Work:
    """What answering ``prompts`` costs; ``shared``: each image and shared prefix once."""
    seen: set[Hashable] = set()
    patches = tokens = decoded = 0
    tower = pairs = read = 0.0
    for p in prompts:
        known = bool(shared and p.visuals and all(v.key in seen for v in p.visuals))
        for v in p.visuals:
            if not (shared and v.key in seen):
                patches += len(v.patches)
                tower += family.tower_attention(config, v.media)
            seen.add(v.key)
        n, kept = len(p.ids), p.prefix if known else 0
        tokens += n - kept
        pairs += (n * (n + 1) - kept * (kept + 1)) / 2
        steps = p.max_new_tokens - 1
        decoded += steps
        read += steps * n + steps * (steps + 1) / 2  # keys that the steps of this answer see
    each = family.decoder_attention(config)
    return Work(
        vision=2.0 * weights.per_patch * patches,
        vision_attention=tower,
        prefill=2.0 * (weights.per_token * tokens + weights.per_new_token * len(prompts)),
        prefill_attention=each * pairs,
        decode=2.0 * (weights.per_token + weights.per_new_token) * decoded + each * read,
        read=read * cache.numbers,
        weights=weights.per_token + weights.per_new_token,
    )


def floor(done: Work, steps: int, itemsize: int, rate: float, read_rate: float) -> Floor:
    """The floor of ``done`` in ``steps`` decoding steps, where a large product reaches ``rate``
    operations a second and memory ``read_rate`` bytes a second; ``itemsize``: bytes of a number.
    """
    read = itemsize * (steps * done.weights + done.read) / read_rate
    return Floor(
        vision=(done.vision + done.vision_attention) / rate,
        prefill=(done.prefill + done.prefill_attention) / rate,
        decode=max(read, done.decode / rate),
    )
