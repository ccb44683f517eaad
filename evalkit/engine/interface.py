"""What the engine asks of a model. The engine knows this file and no model family.

A family (``evalkit.models``) implements ``EngineModel`` on its own class; nothing is inherited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Media:
    """One image or video as the model sees it.

    grid: (t, h, w) in patches, h and w before any merging, t in temporal steps.
    is_video: whether it stands under the video placeholder.
    seconds_per_step: seconds between two temporal steps, for families whose positions measure time.
    times: the second of each temporal step, for families that write it into the prompt.
    """

    grid: tuple[int, int, int]
    is_video: bool = False
    seconds_per_step: float | None = None
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class CacheShape:
    """What a layer stores for a token: ``kv_heads`` keys of ``key_dim`` and values of
    ``value_dim`` numbers, in each of ``layers`` layers.
    """

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def numbers(self) -> int:
        """Numbers stored for a token over all layers."""
        return self.layers * self.kv_heads * (self.key_dim + self.value_dim)


class Attend(Protocol):
    """An attention backend: combines values of the tokens that a query may see.

    Takes the layer's number, q [batch, tokens, heads, key_dim], k [batch, tokens, kv_heads,
    key_dim] and v [batch, tokens, kv_heads, value_dim]; returns [batch, tokens, heads, value_dim].
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class EngineModel(Protocol):
    """All that the engine uses of a model."""

    @property
    def cache_shape(self) -> CacheShape:
        """Shape of the keys and values that ``decode`` hands to its ``Attend``."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def activation_bytes(self) -> int:
        """Bytes that a prompt token takes at the peak of a forward pass, visual or text, whichever
        is more. The engine sizes its packs by it.
        """

    @property
    def steps_apart(self) -> bool:
        """Whether the features of a video's temporal steps don't depend on each other, so that the
        engine may have a long one encoded a few steps at a time.
        """

    def encode(self, patches: Tensor, media: Sequence[Media]) -> Sequence[Tensor]:
        """Features [visual tokens, hidden] of each of ``media``, whose patches [patches, ...] lie
        end to end in ``patches``. An item's features don't depend on the others.
        """

    def embed(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        """Embeddings [batch, tokens, hidden] of ids [batch, tokens]; the placeholders of images and
        videos are replaced, in order, by ``features`` [visual tokens, hidden]. What a model adds
        further up may lie beside, in features and embeddings alike; only ``decode`` reads it.

        Raises DataError when there are not as many placeholders as features.
        """

    def position_ids(
        self, ids: Sequence[int], media: Sequence[Media], following: int = 0
    ) -> Tensor:
        """Position ids [components, tokens + following] of one sequence and of ``following`` text
        tokens after it. Every further text token adds one to all components.

        Raises DataError when placeholders and ``media`` don't fit each other.
        """

    def rotary(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [batch, tokens, ...] for position ids [components, batch, tokens]."""

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, ids: Tensor) -> Tensor:
        """Hidden states [batch, tokens, hidden], after the final norm, for embeddings ``x`` of
        ``ids``. Attention is left to ``attend``.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
