"""The engine: prompts in, answers out, many at a time.

Every step is schedule, run, postprocess. In float32 an answer does not depend on what runs beside
it; in half precision the products of a larger batch round differently, and where two tokens are
nearly equally likely the choice may fall the other way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial

import torch

from evalkit.engine.budget import OutOfMemory, choose
from evalkit.engine.decode import NO_TOKEN
from evalkit.engine.interface import EngineModel
from evalkit.engine.runner import ModelRunner
from evalkit.engine.scheduler import Budget, Scheduler, too_large
from evalkit.engine.sequence import Group, Output, Prompt, RunningSequence, Stats, Watch
from evalkit.errors import DataError

NOT_A_NUMBER = (
    "the model computed no numbers (NaN): its weights or pixel settings are broken, "
    "or its dtype is too narrow"
)
FEATURE_TOKENS = 16_384
"""Visual features that are remembered, in tokens."""


class Engine:
    """Generation and ranking over one model.

    ``budget`` (chosen from free memory if None) bounds what runs at once; a single longer sequence
    runs alone. ``feature_tokens`` bounds the visual features that are remembered; those used last
    always are. Sequences whose id is in ``stop_ids`` end there.
    """

    def __init__(
        self,
        model: EngineModel,
        stop_ids: frozenset[int],
        budget: Budget | None = None,
        feature_tokens: int = FEATURE_TOKENS,
    ) -> None:
        self.model, self.stop_ids = model, stop_ids
        self.runner = ModelRunner(model, feature_tokens)
        self.scheduler = Scheduler(budget or choose(model))

    @property
    def budget(self) -> Budget:
        """What runs at once; smaller after memory ran out."""
        return self.scheduler.budget

    @property
    def stats(self) -> Stats:
        """What was done so far, and in which stage the time went."""
        return self.runner.stats

    @torch.inference_mode()
    def generate(
        self, prompts: Iterable[Prompt | None], watch: Watch | None = None
    ) -> Iterator[Output]:
        """Answers every prompt, in the order in which they end. Reads at most one prompt ahead of
        what it runs. None among the prompts says that there is none now: what runs goes on, and
        where nothing does, the call ends.

        A prompt that can't be run comes back with an ``error``, alone. Where memory runs out, packs
        are half as large from then on; a prompt that does not fit alone comes back with an
        ``error``, and so do half of the running ones where even a decoding step does not fit. What
        an earlier call that was broken off left in the cache is forgotten.
        """
        self.scheduler.start(prompts, self._refused)
        self.runner.start()
        yield from self._serve(self.scheduler.schedule, partial(self._generate, watch=watch))

    @torch.inference_mode()
    def converse(self, prompts: Iterable[Prompt | None], watch: Watch) -> Iterator[Output]:
        """As ``generate``, but a prompt with choices is ranked, at once and alone: it stores no
        keys and values, so those under way do not notice.
        """
        self.scheduler.start(prompts, self._refused_or_ranked)
        self.runner.start()
        yield from self._serve(self.scheduler.schedule, partial(self._generate, watch=watch))

    @torch.inference_mode()
    def rank(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """The log-likelihood of each of a prompt's choices as its continuation, summed over the
        choice's tokens.

        The choices of a prompt share its keys and values, and a pack holds several prompts. Errors
        and memory as in ``generate``.
        """
        self.scheduler.start(prompts, partial(self._refused, ranked=True))
        yield from self._serve(self.scheduler.schedule_ranking, self._rank)

    def _serve(
        self,
        schedule: Callable[[], list[Group]],
        run: Callable[[list[Group]], list[Output]],
    ) -> Iterator[Output]:
        while self.scheduler:
            pack = schedule()
            try:
                outputs = run(pack)
            except OutOfMemory:
                outputs = self.scheduler.shrink(pack)
                self.runner.recover(len(self.scheduler.running))
            yield from outputs
            yield from self.scheduler.set_aside()
        yield from self.scheduler.set_aside()

    def _generate(self, pack: list[Group], watch: Watch | None) -> list[Output]:
        """Prefills the pack, or decodes one token of every sequence; returns what ended."""
        running, outputs = self.scheduler.running, []
        if pack:
            running += self.runner.prefill(pack, self.budget)
        else:
            self.runner.decode(running)
        ending = watch(running) if watch else ()
        for row in reversed(range(len(running))):  # the last row takes the place of one that ended
            if output := self._ended(running[row], ending):
                outputs.append(output)
                self.scheduler.finish(row)
                self.runner.cache.drop(row)
        return outputs

    def _ended(self, sequence: RunningSequence, ending: Container[str]) -> Output | None:
        prompt, ids = sequence.prompt, sequence.generated
        if ids[-1] == NO_TOKEN:
            return Output(prompt.id, error=NOT_A_NUMBER)
        stopped = ids[-1] in self.stop_ids
        ended = prompt.id in ending
        if not stopped and not ended and len(ids) < prompt.max_new_tokens:
            return None
        seconds = time.perf_counter() - sequence.started
        answer = tuple(ids[:-1] if stopped else ids)
        return Output(prompt.id, answer, stopped or ended, seconds=seconds)

    def _rank(self, pack: list[Group]) -> list[Output]:
        started = time.perf_counter()
        scores = self.runner.rank(pack, self.budget)
        seconds = (time.perf_counter() - started) / len(pack)
        return [
            Output(group.prompts[0].id, error=NOT_A_NUMBER)
            if any(math.isnan(n) for tokens in of_choices for n in tokens)
            else Output(group.prompts[0].id, token_logprobs=of_choices, seconds=seconds)
            for group, of_choices in zip(pack, scores)
        ]

    def _refused_or_ranked(self, prompt: Prompt) -> Output | None:
        if (refused := self._refused(prompt, ranked=bool(prompt.choices))) or not prompt.choices:
            return refused
        try:
            return self._rank([Group([prompt])])[0]
        except OutOfMemory:
            return Output(prompt.id, error=too_large(prompt.ranked_tokens))

    def _refused(self, prompt: Prompt, ranked: bool = False) -> Output | None:
        error = self._why_invalid(prompt, ranked)
        return Output(prompt.id, error=error) if error else None

    def _why_invalid(self, prompt: Prompt, ranked: bool) -> str | None:
        """Why a prompt can't be run; None if it can."""
        if not prompt.ids:
            return "the prompt is empty: it has no tokens"
        if ranked and not (prompt.choices and all(prompt.choices)):
            return "nothing to rank: the question has no choices, or an empty one"
        if not ranked and prompt.max_new_tokens < 1:
            return f"max_new_tokens is {prompt.max_new_tokens}: an answer has at least 1 token"
        tokens = prompt.ids + sum(prompt.choices, ()) if ranked else prompt.ids
        if not 0 <= min(tokens) <= max(tokens) < self.model.vocab_size:
            wrong = next(t for t in tokens if not 0 <= t < self.model.vocab_size)
            return f"token {wrong} is not in the model's vocabulary of {self.model.vocab_size}"
        try:
            self.model.position_ids(prompt.ids, prompt.media)
        except DataError as e:
            return str(e)
        return None
