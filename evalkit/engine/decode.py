"""One step of decoding for every running sequence; on a GPU replayed as a CUDA graph.

Launching the kernels of a step one by one takes a GPU's host many times as long as the GPU needs to
run them: on an H200 a step of the 2B shape took 22 ms and more, replayed 5. A graph has a power of
two of rows, or all rows of the cache; where fewer run, the rest compute into free rows.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from evalkit.engine.cache import Decode, KVCache
from evalkit.engine.interface import EngineModel

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids [rows, 1], cos and sin [rows, 1, ...] of their positions, and lengths [rows]."""
NO_TOKEN = -1
PATIENCE = 32
"""Steps that a larger graph is reused for before one of the exact size is captured. With no larger
graph, a size is captured the second time it occurs.
"""


def step(
    model: EngineModel,
    cache: KVCache,
    ids: Tensor,
    cos: Tensor,
    sin: Tensor,
    lengths: Tensor,
    span: int,
) -> tuple[Tensor, Tensor]:
    """The most likely next tokens [rows] after ids [rows, 1], and the logits [rows, vocabulary] of
    all; their keys and values are stored at ``lengths`` [rows].
    """
    attend = Decode(cache, lengths, span)
    logits = model.logits(model.decode(model.embed(ids), cos, sin, attend, ids)[:, 0])
    return argmax_tokens(logits), logits


def argmax_tokens(logits: Tensor) -> Tensor:
    """The tokens [rows] of the largest logits [rows, vocabulary], ``NO_TOKEN`` where there is a NaN
    among them.
    """
    best, tokens = logits.max(-1)
    return tokens.masked_fill(best.isnan(), NO_TOKEN)


class Graph:
    """``step`` over a fixed number of rows and the whole capacity of a cache, captured.

    Padding rows write to position 0 of cache rows that no sequence owns, so they overwrite nothing.
    """

    def __init__(self, model: EngineModel, cache: KVCache, inputs: Inputs) -> None:
        ids, cos, sin, lengths = (x.clone() for x in inputs)
        self.inputs = ids, cos, sin, lengths
        span = cache.keys.shape[3]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # a first run outside the capture: libraries set themselves up, which a capture forbids
        with torch.cuda.stream(side):
            step(model, cache, *self.inputs, span)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.chosen = step(model, cache, *self.inputs, span)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        for captured, new in zip(self.inputs, inputs):
            captured.copy_(new)
        self.graph.replay()
        return self.chosen


class DecodeRunner:
    """Feeds one token to every row of the cache and says what comes next."""

    def __init__(self, model: EngineModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        self.graphs: dict[int, Graph] = {}
        self.missed: Counter[int] = Counter()
        self.captured_for = cache.keys
        self.replays = cache.device.type == "cuda"

    def __call__(self, ids: list[int], positions: list[list[float]]) -> tuple[list[int], Tensor]:
        """The likeliest next tokens of the rows, given the last token of each and its position ids
        [rows, components]; and all logits [rows, vocabulary], until the next call.
        """
        running, cache = len(ids), self.cache
        rows = self._rows_of_graph(running)
        padding = max(rows - running, 0)
        inputs = self._inputs(
            ids + [0] * padding, positions + positions[:1] * padding, cache.lengths + [0] * padding
        )
        if rows and rows not in self.graphs:
            self.graphs[rows] = Graph(self.model, cache, inputs)
        tokens, logits = (
            self.graphs[rows](inputs)
            if rows
            else step(self.model, cache, *inputs, max(cache.lengths) + 1)
        )
        cache.lengths = [n + 1 for n in cache.lengths]
        return list(map(int, tokens[:running].tolist())), logits[:running]

    def _rows_of_graph(self, running: int) -> int:
        """Rows of the graph for this step, captured already or to be captured now; 0: run it
        without one.

        Capturing takes as long as dozens of steps, so the sizes are few (powers of two), a larger
        graph fills in for a while, and a size that occurs once is not captured at all.
        """
        if not self.replays:
            return 0
        rows = min(1 << (running - 1).bit_length(), self.cache.keys.shape[1])
        if self.captured_for is not self.cache.keys:  # the cache grew: graphs hold old addresses
            self.graphs.clear()
            self.captured_for = self.cache.keys
        if rows in self.graphs:
            return rows
        self.missed[rows] += 1
        larger = [n for n in self.graphs if n > rows]
        if larger and self.missed[rows] <= PATIENCE:
            return min(larger)
        return rows if self.missed[rows] > 1 else 0

    def _inputs(self, ids: list[int], positions: list[list[float]], lengths: list[int]) -> Inputs:
        device = self.cache.device
        at = torch.tensor(positions, device=device)  # [rows, components]
        cos, sin = self.model.rotary(at.T[..., None])  # of [components, rows, 1]
        return (
            torch.tensor(ids, device=device)[:, None],
            cos,
            sin,
            torch.tensor(lengths, device=device),
        )
