"""How requests become the arguments of a `transformers` model's ``generate``: what the adapter asks
of an ``InputMaker``, and what all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from evalkit.types import MediaBudget, Request

Inputs = dict[str, Tensor]
"""Arguments of a model's ``generate`` by name: ``input_ids`` [1, tokens], pixels, grids."""


class InputMaker(Protocol):
    """How requests become a model's inputs. ``tokenizer`` decodes its answers."""

    tokenizer: Any

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What of it can change an answer, beside the checkpoint."""

    def prepare(self, request: Request) -> Inputs:
        """The inputs of one request. Raises DataError for media that can't be read."""

    def choose(self, total: int, fps: float, budget: MediaBudget) -> list[int]:
        """Indices of the frames that are shown of a video of ``total``."""

    def collate(self, items: list[Inputs]) -> Inputs:
        """One batch of the inputs of several requests, padded on the left."""

    def visual_tokens(self, inputs: Inputs) -> int:
        """How many of the ids of one request's inputs stand for media."""

    def seen(self, inputs: Inputs) -> tuple[int, int] | None:
        """Width and height at which a model sees the first image, where it writes boxes in them."""
