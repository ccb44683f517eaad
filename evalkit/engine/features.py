"""Visual features, computed once per distinct image or video and kept while they are in use."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evalkit.engine.interface import EngineModel
from evalkit.engine.sequence import Stats, Visual


class FeatureCache:
    """Features [visual tokens, hidden] by ``Visual.key``, at most ``max_tokens`` of them beyond
    those of the last call; the least recently used go first.
    """

    def __init__(self, model: EngineModel, max_tokens: int, stats: Stats) -> None:
        self.model, self.max_tokens, self.stats = model, max_tokens, stats
        self.features: OrderedDict[Hashable, Tensor] = OrderedDict()

    def of(self, visuals: Sequence[Visual], patches: int) -> Tensor | None:
        """Features [visual tokens, hidden] of all ``visuals``, end to end; None for none. The
        vision tower is given at most so many patches at once, or one image or temporal step.
        """
        if not visuals:
            return None
        self._encode(visuals, patches)
        features = torch.cat([self.features[v.key] for v in visuals])
        kept = sum(len(f) for f in self.features.values())
        while kept > self.max_tokens and len(self.features) > 1:
            kept -= len(self.features.popitem(last=False)[1])
        return features

    def _encode(self, visuals: Sequence[Visual], patches: int) -> None:
        """Computes what is not known yet, in as few calls of the vision tower as it may take."""
        started = time.perf_counter()
        unknown = {v.key: v for v in visuals if v.key not in self.features}
        # equal sizes side by side: their attention runs as one batch
        new = sorted(unknown.values(), key=lambda v: v.media.grid[1:])
        for visual in visuals:
            if visual.key in self.features:
                self.features.move_to_end(visual.key)
        self.stats.visuals += len(new)
        self.stats.visuals_reused += len(visuals) - len(new)
        if not new:
            return
        parts: dict[Hashable, list[Tensor]] = {v.key: [] for v in new}
        call: list[Visual] = []
        for piece in [piece for v in new for piece in self._pieces(v, patches)]:
            if call and sum(len(v.patches) for v in call) + len(piece.patches) > patches:
                self._call(call, parts)
                call = []
            call.append(piece)
        self._call(call, parts)
        self.features |= {
            key: own[0] if len(own) == 1 else torch.cat(own) for key, own in parts.items()
        }
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()  # so that the seconds are those of the vision tower
        self.stats.vision_seconds += time.perf_counter() - started

    def _pieces(self, visual: Visual, patches: int) -> list[Visual]:
        """A video as shorter ones of at most so many patches, where its steps may be parted."""
        t, h, w = visual.media.grid
        steps = max(patches // (h * w), 1)
        if t <= steps or not self.model.steps_apart:
            return [visual]
        each = len(visual.patches) // t
        return [
            replace(
                visual,
                patches=visual.patches[a * each : (a + steps) * each],
                media=replace(visual.media, grid=(min(steps, t - a), h, w)),
            )
            for a in range(0, t, steps)
        ]

    def _call(self, pieces: Sequence[Visual], parts: dict[Hashable, list[Tensor]]) -> None:
        """Encodes ``pieces`` together; adds the features of each to its key's."""
        pixels = [v.pixels(self.model.device) for v in pieces]
        patches = pixels[0] if len(pixels) == 1 else torch.cat(pixels)  # a clip's are many
        del pixels
        for piece, features in zip(pieces, self.model.encode(patches, [v.media for v in pieces])):
            parts[piece.key].append(features)
