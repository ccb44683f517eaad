"""The engine: prompts in, greedy answers out, many at a time, with answers that do not depend on what runs beside them.

Work goes in steps: while there is room, the next prompts are prefilled as one pack without padding; otherwise every running
sequence decodes one token. A sequence that ends leaves its row at once. Visual features are computed once per distinct image, and
neighbouring prompts that begin with the same image share its prefix.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evalkit.engine.cache import Decode, KVCache, Prefill
from evalkit.engine.sequence import Group, Output, Prompt, Sequence, Visual
from evalkit.qwen2vl.model import Qwen2VL


class Engine:
    """Greedy generation and ranking over one model.

    ``max_rows`` sequences run at once; a pack has at most ``max_tokens`` prompt tokens, and rows times longest row stay within
    ``cache_tokens`` (a single longer sequence runs alone). ``feature_tokens`` bounds the visual features that are remembered.
    """

    def __init__(
        self,
        model: Qwen2VL,
        stop_ids: frozenset[int],
        max_rows: int = 16,
        max_tokens: int = 2048,
        cache_tokens: int = 131_072,
        feature_tokens: int = 65_536,
    ) -> None:
        self.model, self.stop_ids = model, stop_ids
        self.max_rows, self.max_tokens, self.cache_tokens, self.feature_tokens = max_rows, max_tokens, cache_tokens, feature_tokens
        weight = model.model.embed_tokens.weight
        self.device = weight.device
        self.cache = KVCache(model.config.text, weight.dtype, self.device)
        self.features: OrderedDict[Hashable, Tensor] = OrderedDict()

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """Answers every prompt, in the order in which they end. Reads at most one prompt ahead of what it runs."""
        waiting = _Ahead(prompts)
        running: list[Sequence] = []
        while waiting or running:
            pack = self._schedule(waiting, running)
            if pack:
                running += self._prefill(pack)
            else:
                self._decode(running)
            for row in reversed(range(len(running))):
                done = self._finished(running[row])
                if done:
                    running[row] = running[-1]
                    running.pop()
                    self.cache.drop(row)
                    yield done

    @torch.inference_mode()
    def rank(self, prompts: Iterable[Prompt]) -> Iterator[Output]:
        """The log-likelihood of each of a prompt's choices as its continuation, summed over the choice's tokens."""
        for prompt in prompts:
            started = time.perf_counter()
            longer = [replace(prompt, ids=prompt.ids + c) for c in prompt.choices]
            hidden, _ = self._forward([Group(longer, shared=len(prompt.ids) - 1)], None)
            logprobs, start = [], len(prompt.ids) - 1
            for choice in prompt.choices:
                logits = self.model.lm_head(hidden[start : start + len(choice)]).float()
                chosen = torch.tensor(choice, device=self.device)[:, None]
                logprobs.append(float(logits.log_softmax(-1).gather(1, chosen).double().sum()))
                start += 1 + len(choice)
            yield Output(prompt.id, logprobs=tuple(logprobs), seconds=time.perf_counter() - started)

    def _schedule(self, waiting: _Ahead, running: list[Sequence]) -> list[Group]:
        """The groups to prefill now: neighbours that share a prefix together, as many as rows and tokens allow."""
        pack: list[Group] = []
        rows, tokens = len(running), 0
        longest = max((len(s.prompt.ids) + s.prompt.max_new_tokens for s in running), default=0)
        while (prompt := waiting.peek()) is not None:
            group = pack[-1] if pack and pack[-1].prompts[0].shares_prefix(prompt) else None
            tokens += len(prompt.ids) - (prompt.prefix if group else 0)
            longest = max(longest, len(prompt.ids) + prompt.max_new_tokens)
            rows += 1
            if rows > 1 and (rows > self.max_rows or rows * longest > self.cache_tokens or (pack and tokens > self.max_tokens)):
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
        self.cache.reserve(len(self.cache.lengths) + len(prompts), max(len(p.ids) + p.max_new_tokens for p in prompts))
        hidden, positions = self._forward(pack, self.cache)
        ends, end = [], 0
        for group in pack:
            end += group.shared
            for prompt in group.prompts:
                end += len(prompt.ids) - group.shared
                ends.append(end - 1)
        first = self.model.lm_head(hidden[ends]).argmax(-1).tolist()
        return [Sequence(p, started, at[0, -1].item(), [token]) for p, at, token in zip(prompts, positions, first)]

    def _forward(self, pack: list[Group], cache: KVCache | None) -> tuple[Tensor, list[Tensor]]:
        """Hidden states [tokens, hidden] of a pack, and the position ids of each prompt and of the token after it."""
        images = [v for g in pack for v in g.prompts[0].images]
        videos = [v for g in pack for v in g.prompts[0].videos]
        self._encode(images + videos)
        ids: list[int] = []
        positions: list[Tensor] = []
        packed: list[Tensor] = []
        for group in pack:
            for i, p in enumerate(group.prompts):
                start = group.shared if i else 0
                grids = [v.grid for v in p.images], [v.grid for v in p.videos]
                positions.append(self.model.positions(p.ids, *grids, following=1))
                packed.append(positions[-1][:, start:-1])
                ids += p.ids[start:]
        x = self.model.embed(torch.tensor([ids], device=self.device), self._look_up(images), self._look_up(videos))
        self._forget()
        cos, sin = self.model.rotary(torch.cat(packed, dim=1)[:, None].to(self.device))
        return self.model.model(x, cos, sin, Prefill(pack, cache))[0], positions

    def _decode(self, running: list[Sequence]) -> None:
        ids = torch.tensor([[s.out[-1]] for s in running], device=self.device)
        at = torch.tensor([[s.next_position] for s in running], device=self.device)
        cos, sin = self.model.rotary(at.expand(self.model.scheme.components, -1, -1))
        hidden = self.model.model(self.model.embed(ids), cos, sin, Decode(self.cache))
        for sequence, token in zip(running, self.model.lm_head(hidden[:, 0]).argmax(-1).tolist()):
            sequence.out.append(token)
            sequence.next_position += 1

    def _finished(self, s: Sequence) -> Output | None:
        stopped = s.out[-1] in self.stop_ids
        if not stopped and len(s.out) < s.prompt.max_new_tokens:
            return None
        ids = s.out[:-1] if stopped else s.out
        return Output(s.prompt.id, tuple(ids), stopped, seconds=time.perf_counter() - s.started)

    def _encode(self, visuals: list[Visual]) -> None:
        new = {v.key: v for v in visuals if v.key not in self.features}
        for visual in visuals:
            if visual.key in self.features:
                self.features.move_to_end(visual.key)
        if not new:
            return
        grids = [v.grid for v in new.values()]
        patches = torch.cat([v.patches for v in new.values()]).to(self.device)
        features = self.model.visual(patches, grids).split([t * h * w // 4 for t, h, w in grids])
        self.features.update(zip(new, features))

    def _look_up(self, visuals: list[Visual]) -> Tensor | None:
        return torch.cat([self.features[v.key] for v in visuals]) if visuals else None

    def _forget(self) -> None:
        kept = sum(len(f) for f in self.features.values())
        while kept > self.feature_tokens:
            kept -= len(self.features.popitem(last=False)[1])


class _Ahead:
    """An iterator whose next item can be looked at."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self.source = iter(prompts)
        self.head = next(self.source, None)

    def __bool__(self) -> bool:
        return self.head is not None

    def peek(self) -> Prompt | None:
        return self.head

    def take(self) -> Prompt:
        assert self.head is not None
        taken, self.head = self.head, next(self.source, None)
        return taken
