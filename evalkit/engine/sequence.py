"""What goes through the engine: prompts with their visual inputs, the sequences they become, and what comes out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from evalkit.qwen2vl.rope import Grid


@dataclass(frozen=True)
class Visual:
    """One processed image or video. ``key`` identifies the pixels: features are computed once per key."""

    patches: Tensor
    grid: Grid
    key: Hashable
    is_video: bool = False


@dataclass(frozen=True)
class Prompt:
    """Token ids with every visual placeholder expanded, and the visuals in the order of their placeholders."""

    id: str
    ids: tuple[int, ...]
    visuals: tuple[Visual, ...] = ()
    max_new_tokens: int = 128
    choices: tuple[tuple[int, ...], ...] = ()

    @property
    def images(self) -> list[Visual]:
        return [v for v in self.visuals if not v.is_video]

    @property
    def videos(self) -> list[Visual]:
        return [v for v in self.visuals if v.is_video]


@dataclass(frozen=True)
class Output:
    """Generated ids (the stop token not included), or one log-likelihood per choice."""

    id: str
    ids: tuple[int, ...] = ()
    stopped: bool = False
    logprobs: tuple[float, ...] = ()
    seconds: float = 0.0


@dataclass
class Sequence:
    """A prompt that occupies a row of the cache. ``next_position`` is that of the token to be fed next."""

    prompt: Prompt
    started: float
    next_position: int
    out: list[int] = field(default_factory=list)
