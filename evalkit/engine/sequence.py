"""What goes through the engine: prompts with their visual inputs, the groups and sequences they
become, and what comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalkit.engine.interface import Media


@dataclass(frozen=True)
class Visual:
    """One processed image or video.

    patches: its patches [patches, ...], on the CPU.
    media: its grid, and whether it is a video.
    key: identifies the pixels: features are computed once per key.
    normalise: makes of ``patches``, on the model's device, what the model reads; None where they
        are that already. Patches of 8 bits take a quarter of the memory while they wait.
    """

    patches: Tensor
    media: Media
    key: Hashable
    normalise: Callable[[Tensor], Tensor] | None = None

    def pixels(self, device: torch.device) -> Tensor:
        """Patches [patches, ...] as the model reads them, on ``device``."""
        patches = self.patches.to(device)
        return patches if self.normalise is None else self.normalise(patches)


@dataclass(frozen=True)
class Prompt:
    """Token ids with every visual placeholder expanded, and the visuals in the order of their
    placeholders.

    The first ``prefix`` tokens hold all the visuals; prompts with equal visuals and prefix share
    its computation.
    """

    id: str
    ids: tuple[int, ...]
    visuals: tuple[Visual, ...] = ()
    max_new_tokens: int = 128
    choices: tuple[tuple[int, ...], ...] = ()
    prefix: int = 0

    @property
    def media(self) -> list[Media]:
        return [v.media for v in self.visuals]

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
    """Prompts whose first ``shared`` tokens are the same and are computed once. A single prompt
    shares nothing.
    """

    prompts: list[Prompt]
    shared: int = 0

    @property
    def tokens(self) -> int:
        return self.shared + sum(len(p.ids) - self.shared for p in self.prompts)


@dataclass(frozen=True)
class Output:
    """Generated ids (the stop token not included), or one log-likelihood per choice, or why there
    is neither.
    """

    id: str
    ids: tuple[int, ...] = ()
    stopped: bool = False
    logprobs: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Sequence:
    """A prompt that occupies a row of the cache. ``next_position`` is that of the token to be fed
    next, by component.
    """

    prompt: Prompt
    started: float
    next_position: list[float]
    out: list[int] = field(default_factory=list)


class Waiting:
    """Prompts that wait: the next one can be looked at, and what was taken can be put back to the
    front.
    """

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self.source = iter(prompts)
        self.front: deque[Prompt] = deque()

    def __bool__(self) -> bool:
        return self.peek() is not None

    def peek(self) -> Prompt | None:
        if not self.front and (prompt := next(self.source, None)) is not None:
            self.front.append(prompt)
        return self.front[0] if self.front else None

    def take(self) -> Prompt:
        self.peek()
        return self.front.popleft()

    def put_back(self, prompts: list[Prompt]) -> None:
        self.front.extendleft(reversed(prompts))


@dataclass
class Stats:
    """What an engine did so far. Tokens that a shared prefix saved are in ``tokens_reused``, not in
    ``tokens_in``.
    """

    packs: int = 0
    tokens_in: int = 0
    tokens_reused: int = 0
    tokens_out: int = 0
    decode_steps: int = 0
    rows_decoded: int = 0
    visuals: int = 0
    visuals_reused: int = 0
    halvings: int = 0
    vision_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def prefilled(self, pack: list[Group], seconds: float) -> None:
        """Seconds include those of the vision tower."""
        self.packs += 1
        self.tokens_in += sum(g.tokens for g in pack)
        self.tokens_reused += sum(g.shared * (len(g.prompts) - 1) for g in pack)
        self.prefill_seconds += seconds
        self.tokens_out += sum(not p.choices for g in pack for p in g.prompts)

    def decoded(self, rows: int, seconds: float) -> None:
        self.decode_steps += 1
        self.rows_decoded += rows
        self.tokens_out += rows
        self.decode_seconds += seconds
