"""What goes through the engine: prompts with their visual inputs, the groups and sequences they become, and what comes out."""

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
    """Token ids with every visual placeholder expanded, and the visuals in the order of their placeholders.

    The first ``prefix`` tokens hold all the visuals; prompts with equal visuals and prefix share its computation.
    """

    id: str
    ids: tuple[int, ...]
    visuals: tuple[Visual, ...] = ()
    max_new_tokens: int = 128
    choices: tuple[tuple[int, ...], ...] = ()
    prefix: int = 0

    @property
    def images(self) -> list[Visual]:
        return [v for v in self.visuals if not v.is_video]

    @property
    def videos(self) -> list[Visual]:
        return [v for v in self.visuals if v.is_video]

    def shares_prefix(self, other: Prompt) -> bool:
        """Whether the two begin with the same visuals and tokens, and each goes on after them."""
        n = self.prefix
        return (
            0 < n == other.prefix < min(len(self.ids), len(other.ids))
            and self.ids[:n] == other.ids[:n]
            and [v.key for v in self.visuals] == [v.key for v in other.visuals]
        )


@dataclass
class Group:
    """Prompts whose first ``shared`` tokens are the same and are computed once. A single prompt shares nothing."""

    prompts: list[Prompt]
    shared: int = 0

    @property
    def tokens(self) -> int:
        return self.shared + sum(len(p.ids) - self.shared for p in self.prompts)


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
    next_position: float
    out: list[int] = field(default_factory=list)
