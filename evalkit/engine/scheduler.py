"""Which prompts run next: those that wait, those under way, and the budget that bounds them.

Counts rows and tokens, and knows no tensors. The engine alternates between two kinds of steps (as
in Orca, OSDI 2022): while there is room, the next prompts are prefilled together; otherwise every
sequence under way decodes one token.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from evalkit.engine.sequence import Group, Output, Prompt, RunningSequence, room, size_class

SHORTEST_STEP = 64
"""Tokens of a step of a long prompt below which it is not tried again when memory runs out."""


@dataclass(frozen=True)
class Budget:
    """What runs at once.

    rows: sequences.
    pack_tokens: prompt tokens of one prefill, and of one step of a longer prompt.
    cache_tokens: of the keys and values; every row has room for the longest of its ``size_class``.
    """

    rows: int
    pack_tokens: int
    cache_tokens: int

    @property
    def patches(self) -> int:
        """Patches that a vision tower is given at once: towers join 2x2 of them into a token."""
        return 4 * self.pack_tokens

    def halved(self, tokens: int) -> Budget:
        """Packs of half as many tokens as the one of ``tokens`` that did not fit."""
        return replace(self, pack_tokens=max(min(self.pack_tokens, tokens) // 2, 1))


class Waiting:
    """Prompts that wait, read from their source one ahead; it gives None while it has none. Those
    that ``aside`` gives an output for are passed over; their outputs gather in ``outputs``.
    """

    def __init__(
        self, prompts: Iterable[Prompt | None], aside: Callable[[Prompt], Output | None]
    ) -> None:
        self.source, self.aside = iter(prompts), aside
        self.front: deque[Prompt] = deque()
        self.outputs: list[Output] = []
        self.ids: set[str] = set()

    def peek(self) -> Prompt | None:
        """The next prompt, which goes on waiting; None when there is none (now)."""
        while not self.front and (prompt := next(self.source, None)) is not None:
            if prompt.id in self.ids:
                output: Output | None = Output(prompt.id, error=repeated(prompt.id))
            else:
                output = self.aside(prompt)
            if output:
                self.outputs.append(output)
            else:
                self.front.append(prompt)
            self.ids.add(prompt.id)
        return self.front[0] if self.front else None

    def take(self) -> Prompt:
        """The prompt that was looked at last."""
        return self.front.popleft()

    def put_back(self, prompts: list[Prompt]) -> None:
        """Has prompts that were taken wait again, before all others."""
        self.front.extendleft(reversed(prompts))


def repeated(id_: str) -> str:
    """Why a prompt with an id that was there before is refused."""
    return f"the id {id_!r} names an earlier prompt"


def too_large(tokens: int) -> str:
    """Why a prompt for which memory did not suffice is given up."""
    return (
        f"out of memory: a prompt of {tokens} tokens does not fit; give it fewer or smaller images "
        "or frames"
    )


def _count(rows: Counter[int], longest: Counter[int], tokens: int) -> None:
    """Counts a sequence of at most so many tokens in."""
    kind = size_class(tokens)
    rows[kind] += 1
    longest[kind] = max(longest[kind], room(tokens))


class Scheduler:
    """Packs of prompts under a budget. The i-th of ``running`` owns row i of the cache."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.start((), lambda prompt: None)

    def start(
        self, prompts: Iterable[Prompt | None], aside: Callable[[Prompt], Output | None]
    ) -> None:
        """Begins anew with these prompts; what waited or ran is forgotten."""
        self.waiting = Waiting(prompts, aside)
        self.running: list[RunningSequence] = []
        # the prompt that is being tried in shorter steps, and the pack's size before it
        self.tried: tuple[str, int] | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.waiting.peek() is not None or bool(self.running)

    def set_aside(self) -> list[Output]:
        """Outputs of prompts that were passed over, each once."""
        outputs, self.waiting.outputs = self.waiting.outputs, []
        return outputs

    def schedule(self) -> list[Group]:
        """The groups to prefill now; none: decode.

        Prompts are taken in order while rows, cache and pack have room for the next one. One alone
        is always taken, however long. Neighbours with a common prefix form a group, and only their
        own tokens count.
        """
        pack: list[Group] = []
        budget, tokens = self.budget, 0
        rows, longest = Counter[int](), Counter[int]()  # of each size class
        for s in self.running:
            _count(rows, longest, s.prompt.longest)
        while (prompt := self.waiting.peek()) is not None:
            group = pack[-1] if pack and pack[-1].prompts[0].shares_prefix(prompt) else None
            tokens += len(prompt.ids) - (prompt.prefix if group else 0)
            _count(rows, longest, prompt.longest)
            held = sum(rows[kind] * longest[kind] for kind in rows)
            full = rows.total() > budget.rows or held > budget.cache_tokens
            # a first prompt beyond the pack goes step by step; others that share it add their own
            over = len(pack[0].prompts[0].ids) if group and len(pack) == 1 else 0
            most = budget.pack_tokens + (over if over > budget.pack_tokens else 0)
            if rows.total() > 1 and (full or (pack and tokens > most)):
                break
            if group:
                group.shared = prompt.prefix
                group.prompts.append(self.waiting.take())
            else:
                pack.append(Group([self.waiting.take()]))
        return pack

    def schedule_ranking(self) -> list[Group]:
        """The prompts whose choices are ranked now, each a group of its own. Ranking stores no keys
        and values, so only the pack is bounded.
        """
        pack: list[Group] = []
        tokens = 0
        while (prompt := self.waiting.peek()) is not None:
            tokens += prompt.ranked_tokens
            if pack and tokens > self.budget.pack_tokens:
                break
            pack.append(Group([self.waiting.take()]))
        return pack

    def finish(self, row: int) -> None:
        """Takes a sequence out; the last one moves to its row, as in the cache."""
        self.running[row] = self.running[-1]
        self.running.pop()

    def shrink(self, pack: list[Group]) -> list[Output]:
        """After running out of memory: asks for less from now on. Returns errors for what is given
        up.

        Prompts of a pack wait again, for packs of half the size. One that was alone is tried in
        ever shorter steps, and fails where these don't fit either: then packs are again as large as
        before it; a ranked one fails at once. Without a pack a decoding step did not fit: half of
        the sequences are given up, so that the others go on.
        """
        prompts = [p for group in pack for p in group.prompts]
        if not prompts:
            kept = len(self.running) // 2
            error = (
                f"out of memory with {len(self.running)} answers under way; ask again, or with at "
                f"most {max(kept, 1)} at once"
            )
            failed = [Output(s.prompt.id, error=error) for s in self.running[kept:]]
            del self.running[kept:]
            self.budget = replace(self.budget, rows=max(kept, 1))
            return failed
        tokens = sum(p.ranked_tokens for p in prompts)
        first, alone = prompts[0], len(prompts) == 1
        if not alone or (self.budget.pack_tokens > SHORTEST_STEP and not first.choices):
            if alone and (self.tried is None or self.tried[0] != first.id):
                self.tried = first.id, self.budget.pack_tokens
            self.waiting.put_back(prompts)
            self.budget = self.budget.halved(tokens)
            return []
        if self.tried is not None and self.tried[0] == first.id:
            self.budget = replace(self.budget, pack_tokens=self.tried[1])
        return [Output(first.id, error=too_large(tokens))]
