"""What goes through the engine: prompts with their visual inputs, the groups and sequences they
become, and what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Hashable, Sequence
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
    times: when the frames of a clip are on the screen, in seconds from the start of its file; what
        makes a prompt of it reports them, the engine doesn't read them.
    """

    patches: Tensor
    media: Media
    key: Hashable
    normalise: Callable[[Tensor], Tensor] | None = None
    times: tuple[float, ...] = ()

    def pixels(self, device: torch.device) -> Tensor:
        """Patches [patches, ...] as the model reads them, on ``device``."""
        patches = self.patches.to(device)
        return patches if self.normalise is None else self.normalise(patches)


@dataclass(frozen=True)
class Prompt:
    """One question to the model.

    id: names it among those of one call; its output carries it.
    ids: token ids, every visual placeholder repeated once per visual token.
    visuals: in the order of their placeholders.
    max_new_tokens: the longest answer to generate, at least 1.
    choices: token ids of the answers to rank; not read by generation.
    temperature: 0 for the likeliest tokens; above it they are drawn, as ``seed`` decides.
    prefix: so many tokens from the start hold all visuals; neighbouring prompts with equal visuals
        and an equal prefix share its computation. 0: nothing is shared.
    """

    id: str
    ids: tuple[int, ...]
    visuals: tuple[Visual, ...] = ()
    max_new_tokens: int = 128
    choices: tuple[tuple[int, ...], ...] = ()
    prefix: int = 0
    temperature: float = 0.0
    seed: int = 0

    @property
    def media(self) -> list[Media]:
        return [v.media for v in self.visuals]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longest possible answer."""
        return len(self.ids) + self.max_new_tokens

    @property
    def ranked_tokens(self) -> int:
        """Tokens of the prompt and all its choices."""
        return len(self.ids) + sum(map(len, self.choices))

    def shares_prefix(self, other: Prompt) -> bool:
        """Whether the two begin with the same visuals and tokens, and each goes on after them."""
        n = self.prefix
        return (
            0 < n == other.prefix < min(len(self.ids), len(other.ids))
            and self.ids[:n] == other.ids[:n]
            and [v.key for v in self.visuals] == [v.key for v in other.visuals]
        )


SHORT = 1024
"""Tokens below which all sequences share a block of the cache."""


def size_class(tokens: int) -> int:
    """Which sequences share a block of the cache, by their greatest length: those below SHORT, then
    up to four times as long, and so on. A longer one has so at most four times the room it needs.
    """
    return ((tokens // SHORT).bit_length() + 1) // 2


def room(tokens: int) -> int:
    """Tokens of a row of the cache that is to hold so many."""
    return -(-tokens // 64) * 64


@dataclass
class Group:
    """Prompts whose first ``shared`` tokens are the same and are computed once. A single prompt
    shares nothing.
    """

    prompts: list[Prompt]
    shared: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are computed: the shared prefix once, and what each prompt adds."""
        return self.shared + sum(self.added)

    @property
    def added(self) -> list[int]:
        """How many tokens each prompt adds to the shared prefix."""
        return [len(p.ids) - self.shared for p in self.prompts]


@dataclass(frozen=True)
class Output:
    """What the engine made of a prompt.

    id: the prompt's.
    ids: the generated tokens, without the stop token.
    stopped: whether the model ended the answer itself, or who watched it did.
    token_logprobs: of a ranked prompt, the log-likelihood of each token of each choice.
    seconds: wall time, of a generated answer from its prefill to its end, of a ranked one its share
        of the pack.
    error: why there is no answer.
    """

    id: str
    ids: tuple[int, ...] = ()
    stopped: bool = False
    token_logprobs: tuple[tuple[float, ...], ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Of a ranked prompt, the log-likelihood of each choice."""
        return tuple(map(math.fsum, self.token_logprobs))


@dataclass
class RunningSequence:
    """A prompt that occupies a row of the cache.

    prompt: without its pixels, which are not needed after prefill.
    started: time (``perf_counter``) at which its prefill began.
    next_position: position ids [components] of the next token to be fed.
    generated: tokens so far; the last one is still to be fed.
    """

    prompt: Prompt
    started: float
    next_position: list[float]
    generated: list[int] = field(default_factory=list)

    def append(self, token: int) -> None:
        self.generated.append(token)
        self.next_position = [n + 1 for n in self.next_position]


Watch = Callable[[Sequence[RunningSequence]], Container[str]]
"""Sees the answers under way after each step, and names those (by their prompts' ids) that end as
they are.
"""


@dataclass
class Stats:
    """What an engine did so far. Tokens that a shared prefix saved are in ``tokens_reused``, not in
    ``tokens_in``; ``prefill_seconds`` include ``vision_seconds``.
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

    def reset(self) -> None:
        """Counts from zero again."""
        vars(self).update(vars(Stats()))

    def prefilled(self, pack: list[Group], seconds: float) -> None:
        """Counts a pack, and the first token of each prompt that is answered, not ranked."""
        self.packs += 1
        self.tokens_in += sum(g.tokens for g in pack)
        self.tokens_reused += sum(g.shared * (len(g.prompts) - 1) for g in pack)
        self.prefill_seconds += seconds
        self.tokens_out += sum(not p.choices for g in pack for p in g.prompts)

    def decoded(self, rows: int, seconds: float) -> None:
        """Counts a decoding step: a token a row."""
        self.decode_steps += 1
        self.rows_decoded += rows
        self.tokens_out += rows
        self.decode_seconds += seconds
