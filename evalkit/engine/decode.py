"""One step of decoding for every running sequence; on a GPU replayed as a CUDA graph.

Launching the kernels of a step one by one takes a GPU's host many times as long as the GPU needs to
run them: on an H200 a step of the 2B shape took 22 ms and more, replayed 5. A graph has, of each
block of the cache, a power of two of rows, or all of them; where fewer run, the rest compute into
free rows.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from evalkit.engine.cache import Block, Decode, KVCache
from evalkit.engine.interface import EngineModel

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids [rows, 1], cos and sin [rows, 1, ...] of their positions, and lengths [rows]."""
NO_TOKEN = -1
PATIENCE = 32
"""Steps that a larger graph is reused for before one of the exact size is captured. With no larger
graph, a size is captured the second time it occurs.
"""


Rows = tuple[int, ...]
"""Rows of each block of the cache, in the order of the blocks."""


def step(
    model: EngineModel,
    blocks: list[tuple[Block, int]],
    ids: Tensor,
    cos: Tensor,
    sin: Tensor,
    lengths: Tensor,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """The most likely next tokens [rows] after ids [rows, 1], and the logits [rows, vocabulary] of
    all; their keys and values are stored at ``lengths`` [rows] of the first rows of each block.
    ``whole``: as ``Decode`` has it.
    """
    attend = Decode(blocks, lengths, whole)
    logits = model.logits(model.decode(model.embed(ids), cos, sin, attend, ids)[:, 0])
    return argmax_tokens(logits), logits


def argmax_tokens(logits: Tensor) -> Tensor:
    """The tokens [rows] of the largest logits [rows, vocabulary], ``NO_TOKEN`` where there is a NaN
    among them.
    """
    best, tokens = logits.max(-1)
    return tokens.masked_fill(best.isnan(), NO_TOKEN)


class Graph:
    """``step`` over a fixed number of rows of each block, and their whole capacity, captured.

    Padding rows write to position 0 of cache rows that no sequence owns, so they overwrite nothing.
    """

    def __init__(self, model: EngineModel, blocks: list[tuple[Block, int]], inputs: Inputs) -> None:
        ids, cos, sin, lengths = (x.clone() for x in inputs)
        self.inputs = ids, cos, sin, lengths
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # a first run outside the capture: libraries set themselves up, which a capture forbids
        with torch.cuda.stream(side):
            step(model, blocks, *self.inputs, whole=True)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.chosen = step(model, blocks, *self.inputs, whole=True)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        for captured, new in zip(self.inputs, inputs):
            captured.copy_(new)
        self.graph.replay()
        return self.chosen


class DecodeRunner:
    """Feeds one token to every sequence of the cache and says what comes next."""

    def __init__(self, model: EngineModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        self.graphs: dict[Rows, Graph] = {}
        self.missed: Counter[Rows] = Counter()
        self.captured_for: list[Tensor] = []
        self.replays = cache.device.type == "cuda"

    def __call__(self, ids: list[int], positions: list[list[float]]) -> tuple[list[int], Tensor]:
        """The likeliest next tokens of the sequences, given the last token of each and its position
        ids [sequences, components]; and all logits [sequences, vocabulary], until the next call.
        """
        blocks = [block for block in self.cache.blocks.values() if block.owners]
        running = tuple(len(block.owners) for block in blocks)
        rows = self._rows_of_graph(blocks, running)
        # what is fed, by blocks and their rows: a sequence's number; None for padding
        fed = [
            owner
            for block, n in zip(blocks, rows or running)
            for owner in [*block.owners, *[None] * (n - len(block.owners))]
        ]
        lengths = self.cache.lengths
        inputs = self._inputs(
            [0 if n is None else ids[n] for n in fed],
            [positions[n or 0] for n in fed],
            [0 if n is None else lengths[n] for n in fed],
        )
        if rows and rows not in self.graphs:
            self.graphs[rows] = Graph(self.model, list(zip(blocks, rows)), inputs)
        tokens, logits = (
            self.graphs[rows](inputs)
            if rows
            else step(self.model, list(zip(blocks, running)), *inputs)
        )
        for block in blocks:
            block.lengths = [n + 1 for n in block.lengths]
        if fed != list(range(len(ids))):  # back into the order of the sequences
            order = sorted((n, place) for place, n in enumerate(fed) if n is not None)
            places = torch.tensor([place for _, place in order], device=logits.device)
            tokens, logits = tokens[places], logits[places]
        return list(map(int, tokens.tolist())), logits

    def _rows_of_graph(self, blocks: list[Block], running: Rows) -> Rows:
        """Rows of the graph for this step, captured already or to be captured now; none: run it
        without one.

        Capturing takes as long as dozens of steps, so the sizes are few (powers of two), a larger
        graph fills in for a while, and a size that occurs once is not captured at all.
        """
        if not self.replays:
            return ()
        rows = tuple(min(1 << (n - 1).bit_length(), b.rows) for n, b in zip(running, blocks))
        stored = [block.keys for block in blocks]
        if [*map(id, stored)] != [*map(id, self.captured_for)]:  # graphs hold old addresses
            self.graphs.clear()
            self.captured_for = stored
        if rows in self.graphs:
            return rows
        self.missed[rows] += 1
        larger = [n for n in self.graphs if all(a >= b for a, b in zip(n, rows))]
        if larger and self.missed[rows] <= PATIENCE:
            return min(larger, key=sum)
        return rows if self.missed[rows] > 1 else ()

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
