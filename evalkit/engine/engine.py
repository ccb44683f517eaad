"""The engine: prompts in, greedy answers out, many at a time, with answers that do not depend on
what runs beside them.

Work goes in steps: while there is room, the next prompts are prefilled as one pack without padding;
otherwise every running sequence decodes one token. A sequence that ends leaves its row at once.
Visual features are computed once per distinct image, and neighbouring prompts that begin with the
same image share its prefix.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evalkit.engine.budget import Budget, choose, within_memory
from evalkit.engine.cache import KVCache, Prefill
from evalkit.engine.decode import NO_TOKEN, DecodeRunner, likeliest
from evalkit.engine.interface import EngineModel
from evalkit.engine.sequence import Group, Output, Prompt, Sequence, Stats, Visual, Waiting

NO_NUMBER = (
    "the model computed no numbers (NaN): its weights or pixel settings are broken, "
    "or its dtype is too narrow"
)


class Engine:
    """Greedy generation and ranking over one model.

    ``budget`` (chosen from free memory if None) bounds what runs at once; a single longer sequence
    runs alone. ``feature_tokens`` bounds the visual features that are remembered; those used last
    always are. ``stats`` counts what was done, and in which stage the time went.
    """

    def __init__(
        self,
        model: EngineModel,
        stop_ids: frozenset[int],
        budget: Budget | None = None,
        feature_tokens: int = 16_384,
    ) -> None:
        self.model, self.stop_ids, self.device, self.feature_tokens = (
            model,
            stop_ids,
            model.device,
            feature_tokens,
        )
        self.budget = budget or choose(model)
        self.cache = KVCache(model.cache_shape, model.dtype, self.device)
        self.runner = DecodeRunner(model, self.cache)
        self.features: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.stats = Stats()

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """Answers every prompt, in the order in which they end. Reads at most one prompt ahead of
        what it runs.

        Where memory runs out, packs are half as large from then on; a prompt that does not fit
        alone comes back with an ``error``, and so do half of the running ones where even a decoding
        step does not fit. What a call that was broken off left in the cache is forgotten.
        """
        waiting = Waiting(prompts)
        running: list[Sequence] = []
        self.cache.lengths.clear()
        while waiting or running:
            pack = self._schedule(waiting, running)
            if not pack:
                if within_memory(self._decode, running) is None:
                    yield from self._fewer(running)
            elif (begun := within_memory(self._prefill, pack)) is not None:
                running += begun
            else:
                del self.cache.lengths[len(running) :]
                yield from self._smaller([p for g in pack for p in g.prompts], waiting)
            for row in reversed(range(len(running))):
                done = self._finished(running[row])
                if done:
                    running[row] = running[-1]
                    running.pop()
                    self.cache.drop(row)
                    yield done

    @torch.inference_mode()
    def rank(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """The log-likelihood of each of a prompt's choices as its continuation, summed over the
        choice's tokens.

        The choices of a prompt share its keys and values, and a pack holds several prompts. Memory
        as in ``generate``; a prompt without choices, or with an empty one, comes back with an
        ``error``.
        """
        refused: list[Prompt] = []
        waiting = Waiting(_rankable(prompts, refused))
        while waiting:
            started, asked, tokens = time.perf_counter(), [waiting.take()], 0
            while (following := waiting.peek()) is not None:
                tokens = sum(_length_with_choices(p) for p in (*asked, following))
                if tokens > self.budget.pack_tokens:
                    break
                asked.append(waiting.take())
            scores = within_memory(self._rank, asked)
            if scores is None:
                yield from self._smaller(asked, waiting)
                continue
            seconds = (time.perf_counter() - started) / len(asked)
            for prompt, logprobs in zip(asked, scores):
                unknown = any(map(math.isnan, logprobs))
                yield (
                    Output(prompt.id, error=NO_NUMBER)
                    if unknown
                    else Output(prompt.id, logprobs=logprobs, seconds=seconds)
                )
        yield from (
            Output(p.id, error="nothing to rank: the question has no choices, or an empty one")
            for p in refused
        )

    def _rank(self, asked: list[Prompt]) -> list[tuple[float, ...]]:
        started = time.perf_counter()
        pack = [
            Group([replace(p, ids=p.ids + c[:-1]) for c in p.choices], shared=len(p.ids))
            for p in asked
        ]
        hidden, _ = self._forward(pack, None)
        out, start = [], 0
        for prompt in asked:
            start += len(prompt.ids)
            asking, logprobs = hidden[start - 1 : start], []
            for choice in prompt.choices:
                own = hidden[start : (start := start + len(choice) - 1)]
                logits = self.model.logits(torch.cat((asking, own))).float()
                chosen = torch.tensor(choice, device=self.device)[:, None]
                logprobs.append(float(logits.log_softmax(-1).gather(1, chosen).double().sum()))
            out.append(tuple(logprobs))
        self.stats.prefilled(pack, time.perf_counter() - started)
        return out

    def _smaller(self, prompts: list[Prompt], waiting: Waiting) -> Iterator[Output]:
        """After running out of memory: the prompts wait again, for packs of half the size; one that
        was alone fails.
        """
        self.stats.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        tokens = sum(_length_with_choices(p) for p in prompts)
        if len(prompts) == 1:
            yield Output(
                prompts[0].id,
                error=(
                    f"out of memory: a prompt of {tokens} tokens does not fit; give it fewer or "
                    "smaller images or frames"
                ),
            )
        else:
            waiting.put_back(prompts)
            self.budget = self.budget.below(tokens)

    def _fewer(self, running: list[Sequence]) -> Iterator[Output]:
        """After running out of memory in a decoding step: half of the sequences are given up, so
        that the others go on.
        """
        self.stats.halvings += 1
        kept = len(running) // 2
        for s in running[kept:]:
            yield Output(
                s.prompt.id,
                error=(
                    f"out of memory with {len(running)} answers under way; ask again, or "
                    f"with at most {max(kept, 1)} at once"
                ),
            )
        del running[kept:], self.cache.lengths[kept:]
        self.budget = replace(self.budget, rows=max(kept, 1))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _schedule(self, waiting: Waiting, running: list[Sequence]) -> list[Group]:
        """The groups to prefill now: neighbours that share a prefix together, as many as rows and
        tokens allow.
        """
        pack: list[Group] = []
        rows, tokens, budget = len(running), 0, self.budget
        longest = max((len(s.prompt.ids) + s.prompt.max_new_tokens for s in running), default=0)
        while (prompt := waiting.peek()) is not None:
            group = pack[-1] if pack and pack[-1].prompts[0].shares_prefix(prompt) else None
            tokens += len(prompt.ids) - (prompt.prefix if group else 0)
            longest = max(longest, len(prompt.ids) + prompt.max_new_tokens)
            rows += 1
            if rows > 1 and (
                rows > budget.rows
                or rows * longest > budget.cache_tokens
                or (pack and tokens > budget.pack_tokens)
            ):
                break
            if group:
                group.shared = prompt.prefix
                group.prompts.append(waiting.take())
            else:
                pack.append(Group([waiting.take()]))
        return pack

    def _prefill(self, pack: list[Group]) -> list[Sequence]:
        started = time.perf_counter()
        prompts = [p for g in pack for p in g.prompts]
        self.cache.reserve(
            len(self.cache.lengths) + len(prompts),
            max(len(p.ids) + p.max_new_tokens for p in prompts),
        )
        hidden, positions = self._forward(pack, self.cache)
        ends, end = [], 0
        for group in pack:
            end += group.shared
            for prompt in group.prompts:
                end += len(prompt.ids) - group.shared
                ends.append(end - 1)
        first = likeliest(self.model.logits(hidden[ends])).tolist()
        self.stats.prefilled(pack, time.perf_counter() - started)
        done = [replace(p, visuals=()) for p in prompts]  # their pixels are not needed any more
        return [
            Sequence(p, started, at[:, -1].tolist(), [token])
            for p, at, token in zip(done, positions, first)
        ]

    def _forward(self, pack: list[Group], cache: KVCache | None) -> tuple[Tensor, list[Tensor]]:
        """Hidden states [tokens, hidden] of a pack, and the position ids of each prompt and of the
        token after it.
        """
        visuals = [v for g in pack for v in g.prompts[0].visuals]
        self._encode(visuals)
        ids: list[int] = []
        positions: list[Tensor] = []
        packed: list[Tensor] = []
        for group in pack:
            for i, p in enumerate(group.prompts):
                start = group.shared if i else 0
                positions.append(self.model.position_ids(p.ids, p.media, following=1))
                packed.append(positions[-1][:, start:-1])
                ids += p.ids[start:]
        whole = torch.tensor([ids], device=self.device)
        x = self.model.embed(whole, self._look_up(visuals))
        self._forget()
        cos, sin = self.model.rotary(torch.cat(packed, dim=1)[:, None].to(self.device))
        attend = Prefill(pack, cache, self.device)
        return self.model.decode(x, cos, sin, attend, whole)[0], positions

    def _decode(self, running: list[Sequence]) -> bool:
        """One more token for each; True, so that None says that memory ran out."""
        started = time.perf_counter()
        tokens = self.runner([s.out[-1] for s in running], [s.next_position for s in running])
        for sequence, token in zip(running, tokens):
            sequence.out.append(token)
            sequence.next_position = [n + 1 for n in sequence.next_position]
        self.stats.decoded(len(running), time.perf_counter() - started)
        return True

    def _finished(self, s: Sequence) -> Output | None:
        if s.out[-1] == NO_TOKEN:
            return Output(s.prompt.id, error=NO_NUMBER)
        stopped = s.out[-1] in self.stop_ids
        if not stopped and len(s.out) < s.prompt.max_new_tokens:
            return None
        ids = s.out[:-1] if stopped else s.out
        return Output(s.prompt.id, tuple(ids), stopped, seconds=time.perf_counter() - s.started)

    def _encode(self, visuals: list[Visual]) -> None:
        started = time.perf_counter()
        found = {v.key: v for v in visuals if v.key not in self.features}
        new = dict(
            sorted(found.items(), key=lambda item: item[1].media.grid[1:])
        )  # equal sizes side by side
        for visual in visuals:
            if visual.key in self.features:
                self.features.move_to_end(visual.key)
        self.stats.visuals += len(new)
        self.stats.visuals_reused += len(visuals) - len(new)
        if not new:
            return
        patches = torch.cat([v.pixels(self.device) for v in new.values()])
        media = [v.media for v in new.values()]
        self.features.update(zip(new, self.model.encode(patches, media)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.stats.vision_seconds += time.perf_counter() - started

    def _look_up(self, visuals: list[Visual]) -> Tensor | None:
        return torch.cat([self.features[v.key] for v in visuals]) if visuals else None

    def _forget(self) -> None:
        kept = sum(len(f) for f in self.features.values())
        while kept > self.feature_tokens and len(self.features) > 1:
            kept -= len(self.features.popitem(last=False)[1])


def _length_with_choices(prompt: Prompt) -> int:
    return len(prompt.ids) + sum(map(len, prompt.choices))


def _rankable(prompts: Iterable[Prompt], refused: list[Prompt]) -> Iterator[Prompt]:
    for prompt in prompts:
        if prompt.choices and all(prompt.choices):
            yield prompt
        else:
            refused.append(prompt)
