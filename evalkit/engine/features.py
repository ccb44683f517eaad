"""Visual features, computed once per distinct image or video and kept while they are in use."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence

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

    def of(self, visuals: Sequence[Visual]) -> Tensor | None:
        """Features [visual tokens, hidden] of all ``visuals``, end to end; None for none."""
        if not visuals:
            return None
        self._encode(visuals)
        features = torch.cat([self.features[v.key] for v in visuals])
        kept = sum(len(f) for f in self.features.values())
        while kept > self.max_tokens and len(self.features) > 1:
            kept -= len(self.features.popitem(last=False)[1])
        return features

    def _encode(self, visuals: Sequence[Visual]) -> None:
        """Computes what is not known yet, in one call of the vision tower."""
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
        pixels = [v.pixels(self.model.device) for v in new]
        patches = pixels[0] if len(pixels) == 1 else torch.cat(pixels)  # a clip's are many
        del pixels
        encoded = self.model.encode(patches, [v.media for v in new])
        self.features.update(zip((v.key for v in new), encoded))
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()  # so that the seconds are those of the vision tower
        self.stats.vision_seconds += time.perf_counter() - started
