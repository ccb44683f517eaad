"""Runs what the scheduler chose: prefills packs, decodes steps, scores choices. Knows no queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from evalkit.engine.budget import raises_out_of_memory
from evalkit.engine.cache import Continued, KVCache, Piece, Prefill
from evalkit.engine.decode import DecodeRunner, argmax_tokens
from evalkit.engine.features import FeatureCache
from evalkit.engine.interface import Attend, EngineModel
from evalkit.engine.packed import PackedPrefill, can_pack
from evalkit.engine.sampling import drawn
from evalkit.engine.scheduler import Budget
from evalkit.engine.sequence import Group, RunningSequence, Stats


class ModelRunner:
    """One model with its cache of keys and values and its cache of visual features.

    ``prefill``, ``decode`` and ``rank`` raise OutOfMemory; ``recover`` then restores the cache.
    """

    def __init__(self, model: EngineModel, feature_tokens: int) -> None:
        self.model, self.stats = model, Stats()
        self.cache = KVCache(model.cache_shape, model.dtype, model.device)
        self.features = FeatureCache(model, feature_tokens, self.stats)
        self.decoder = DecodeRunner(model, self.cache)

    @raises_out_of_memory
    def prefill(self, pack: list[Group], budget: Budget) -> list[RunningSequence]:
        """Stores keys and values of the pack's prompts in new rows of the cache, in order, and
        chooses the first token of each answer. A prompt longer than ``budget``'s packs goes through
        the decoder step by step, each step seeing what the ones before have stored.
        """
        started = time.perf_counter()
        prompts = [p for g in pack for p in g.prompts]
        self.cache.reserve([p.longest for p in prompts], budget.cache_tokens, budget.rows)
        if len(pack) == 1 and len(prompts[0].ids) > budget.pack_tokens:
            last, positions = self._step_by_step(pack[0], budget)
        else:
            hidden, positions = self.forward(pack, self.cache, budget)
            last = hidden[_ends(pack)]
        logits = self.model.logits(last)  # [prompts, vocabulary]
        running = [
            RunningSequence(replace(p, visuals=()), started, at[:, -1].tolist())
            for p, at in zip(prompts, positions)
        ]
        tokens = _chosen(running, argmax_tokens(logits).tolist(), logits.__getitem__)
        for sequence, token in zip(running, tokens):
            sequence.generated.append(token)
        self.stats.prefilled(pack, time.perf_counter() - started)
        return running

    @raises_out_of_memory
    def decode(self, running: list[RunningSequence]) -> None:
        """Appends one token to each sequence that the step feeds."""
        started = time.perf_counter()
        step = self.decoder(running)
        fed = step.course.sequences
        tokens = _chosen(fed, step.likeliest(), step.logits)
        under_way = set(map(id, running))
        for sequence, token in zip(fed, tokens):
            sequence.append(token)
        self.stats.decoded(sum(id(s) in under_way for s in fed), time.perf_counter() - started)

    @raises_out_of_memory
    def rank(self, pack: list[Group], budget: Budget) -> list[tuple[tuple[float, ...], ...]]:
        """Log-likelihood of each token of each choice of each prompt."""
        started = time.perf_counter()
        prompts = [p for g in pack for p in g.prompts]
        # a choice's last token is predicted, not fed
        choices = [
            Group([replace(p, ids=p.ids + c[:-1]) for c in p.choices], shared=len(p.ids))
            for p in prompts
        ]
        hidden, _ = self.forward(choices, None, budget)
        scores, start = [], 0
        for prompt in prompts:
            start += len(prompt.ids)
            last, logprobs = hidden[start - 1 : start], []  # predicts every choice's first token
            for choice in prompt.choices:
                own = hidden[start : (start := start + len(choice) - 1)]
                logits = self.model.logits(torch.cat((last, own))).float()  # [tokens, vocabulary]
                chosen = torch.tensor(choice, device=logits.device)[:, None]
                of_tokens = logits.log_softmax(-1).gather(1, chosen)[:, 0]
                logprobs.append(tuple(of_tokens.tolist()))
            scores.append(tuple(logprobs))
        self.stats.prefilled(choices, time.perf_counter() - started)
        return scores

    def start(self) -> None:
        """Forgets every sequence."""
        self.decoder.forget()
        self.cache.keep(0)

    def recover(self, kept: int) -> None:
        """After running out of memory: keeps the first ``kept`` rows of the cache alone."""
        self.stats.halvings += 1
        self.cache.keep(kept)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def forward(
        self, pack: list[Group], cache: KVCache | None, budget: Budget
    ) -> tuple[Tensor, list[Tensor]]:
        """Hidden states [tokens, hidden] of a pack, and the position ids [components, tokens + 1]
        of each prompt and of the token after it.
        """
        model = self.model
        positions: list[Tensor] = []
        packed_ids: list[int] = []
        packed_positions: list[Tensor] = []
        for group in pack:
            for i, p in enumerate(group.prompts):
                start = group.shared if i else 0  # the first brings the shared prefix
                positions.append(model.position_ids(p.ids, p.media, following=1))
                packed_positions.append(positions[-1][:, start:-1])
                packed_ids += p.ids[start:]
        # one group's prompts show the same media, all of them within the shared prefix
        features = self.features.of([v for g in pack for v in g.prompts[0].visuals], budget.patches)
        ids = torch.tensor([packed_ids], device=model.device)  # [1, tokens]
        x = model.embed(ids, features)  # [1, tokens, hidden]
        # [components, tokens] -> [components, 1 (batch), tokens]
        cos, sin = model.rotary(torch.cat(packed_positions, dim=1)[:, None].to(model.device))
        return model.decode(x, cos, sin, self._attend(pack, cache), ids)[0], positions

    def _step_by_step(self, group: Group, budget: Budget) -> tuple[Tensor, list[Tensor]]:
        """The last hidden state of each prompt [prompts, hidden], and position ids as in
        ``forward``, of a group that is too long for a pack: so many tokens at a time, which see
        what the cache holds of those before.
        """
        model, cache = self.model, self.cache
        prompts, head = group.prompts, group.shared or len(group.prompts[0].ids)
        positions = [model.position_ids(p.ids, p.media, following=1) for p in prompts]
        features = self.features.of(prompts[0].visuals, budget.patches)  # all lie in the head
        ids = torch.tensor([prompts[0].ids[:head]], device=model.device)
        x = model.embed(ids, features)  # [1, head, hidden]
        first = len(cache.places)
        for p in prompts:
            cache.add(p.longest, len(p.ids))
        last: dict[int, Tensor] = {}
        for pieces in _steps(group, budget.pack_tokens):
            i, start, end = pieces[0]
            in_head = end <= head
            if not in_head and start == head and i == 0:
                for sequence in range(1, len(prompts)):
                    cache.copy(first, first + sequence, head)
            ids = torch.tensor(
                [[t for i, a, b in pieces for t in prompts[i].ids[a:b]]], device=model.device
            )
            at = torch.cat([positions[i][:, a:b] for i, a, b in pieces], dim=1)
            # [components, tokens] -> [components, 1 (batch), tokens]
            cos, sin = model.rotary(at[:, None].to(model.device))
            attend = Continued(cache, [(first + i, a, b) for i, a, b in pieces])
            own = x[:, start:end] if in_head else model.embed(ids)
            hidden = model.decode(own, cos, sin, attend, ids)[0]  # [tokens, hidden]
            done = accumulate(b - a for _, a, b in pieces)
            last |= {i: hidden[n - 1] for n, (i, _, _) in zip(done, pieces)}
        return torch.stack([last[i] for i in range(len(prompts))]), positions

    def _attend(self, pack: list[Group], cache: KVCache | None) -> Attend:
        """How the prompts of a pack attend; the packed kernel wants keys as wide as values."""
        model, shape = self.model, self.model.cache_shape
        if shape.key_dim == shape.value_dim and can_pack(model.device, model.dtype):
            return PackedPrefill(pack, cache, model.device)
        return Prefill(pack, cache, model.device)


def _steps(group: Group, step: int) -> list[list[Piece]]:
    """The pieces of a long group's prompts that are computed together, at most ``step`` tokens at
    once: the shared prefix, or all of a single prompt, bit by bit, then what each prompt adds.
    """
    head = group.shared or len(group.prompts[0].ids)
    steps: list[list[Piece]] = [[(0, a, min(a + step, head))] for a in range(0, head, step)]
    room = 0
    for i, p in enumerate(group.prompts):
        for a in range(head, len(p.ids), step):
            piece = i, a, min(a + step, len(p.ids))
            tokens = piece[2] - a
            if tokens > room:
                steps.append([])
                room = step
            steps[-1].append(piece)
            room -= tokens
    return steps


def _ends(pack: list[Group]) -> list[int]:
    """Where each prompt's last token lies in a pack: a group's tokens are its shared prefix once,
    then what each prompt adds.
    """
    ends, end = [], 0
    for group in pack:
        end += group.shared
        for added in group.added:
            end += added
            ends.append(end - 1)
    return ends


def _chosen(
    sequences: list[RunningSequence], likeliest: list[int], logits: Callable[[int], Tensor]
) -> list[int]:
    """The next token of each sequence: the likeliest, or one that is drawn from its ``logits``
    [vocabulary].
    """
    return [
        drawn(logits(i), s.prompt.temperature, s.prompt.seed, len(s.generated))
        if s.prompt.temperature
        else token
        for i, (s, token) in enumerate(zip(sequences, likeliest))
    ]
