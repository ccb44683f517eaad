"""One step of decoding for every running sequence; on a GPU replayed as a CUDA graph.

Launching the kernels of a step one by one takes a GPU's host many times as long as the GPU needs to
run them: on an H200 a step of the 2B shape took 22 ms and more, replayed 5. A graph has, of each
block of the cache, a power of two of rows, or all of them; where fewer run, the rest compute into
free rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evalkit.engine.cache import Block, Decode, KVCache
from evalkit.engine.interface import EngineModel
from evalkit.engine.sequence import RunningSequence

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids [rows, 1], cos and sin [rows, 1, ...] of their positions, and lengths [rows]."""
NO_TOKEN = -1
AHEAD = 32
"""Steps whose positions are prepared at once."""
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


@dataclass(frozen=True)
class Course:
    """Steps of the same sequences in the same rows: all that they are fed is known beforehand but
    for the tokens.

    rows: of each of ``sequences``, its row of a step, which may have free rows between.
    cos, sin: [rows, steps, ...] of the positions of the coming steps.
    lengths: [rows, steps], tokens that each row holds before a step.
    """

    sequences: list[RunningSequence]
    rows: list[int]
    blocks: list[tuple[Block, int]]
    graph: Graph | None
    cos: Tensor
    sin: Tensor
    lengths: Tensor

    def inputs(self, number: int, ids: Tensor) -> Inputs:
        """Of the step with that number, from zero, given the ids [rows, 1] that it feeds."""
        at = slice(number, number + 1)
        return ids, self.cos[:, at], self.sin[:, at], self.lengths[:, number]


class Step:
    """A step of a course, which the device may still compute."""

    def __init__(self, course: Course, number: int, ids: Tensor, model: EngineModel) -> None:
        inputs = course.inputs(number, ids)
        self.course, self.number = course, number
        self.tokens, self.all_logits = (
            course.graph(inputs) if course.graph else step(model, course.blocks, *inputs)
        )
        for block, _ in course.blocks:
            block.lengths = [n + 1 for n in block.lengths]
        # on its way to the host before a replay writes the next tokens over it
        self.on_host = self.tokens.to("cpu", non_blocking=True)
        self.ready = torch.cuda.Event() if self.tokens.is_cuda else None
        if self.ready:
            self.ready.record()

    def likeliest(self) -> list[int]:
        """The likeliest next token of each sequence; waits for them."""
        if self.ready:
            self.ready.synchronize()
        tokens = self.on_host.tolist()
        return [int(tokens[row]) for row in self.course.rows]

    def logits(self, sequence: int) -> Tensor:
        """The logits [vocabulary] of a sequence, until the next step."""
        return self.all_logits[self.course.rows[sequence]]


class DecodeRunner:
    """Feeds one token to every sequence of the cache and says what comes next.

    Where steps are replayed, the next one is begun before the tokens of this one are looked at: the
    device takes them from its own memory, and while it computes, the host sees which answers have
    ended. What such a step computed for an ended one goes unused; sequences that joined meanwhile
    are fed from the step after it on.
    """

    def __init__(self, model: EngineModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        self.graphs: dict[Rows, Graph] = {}
        self.missed: Counter[Rows] = Counter()
        self.captured_for: list[Tensor] = []
        self.replays = cache.device.type == "cuda"
        self.ahead: Step | None = None

    def __call__(self, running: Sequence[RunningSequence]) -> Step:
        """A step of the sequences that own the cache's rows, given in that order; of those among
        them that a step begun before feeds, if there is one.
        """
        now, self.ahead = self.ahead, None
        if now is None or set(map(id, running)).isdisjoint(map(id, now.course.sequences)):
            course, ids = self._course(running)
            now = Step(course, 0, ids, self.model)
        if self._goes_on(now, running):
            ids = now.tokens.clamp_min(0)[:, None]  # NO_TOKEN is in no vocabulary
            with suppress(torch.OutOfMemoryError):  # then it is not begun yet
                self.ahead = Step(now.course, now.number + 1, ids, self.model)
        return now

    def forget(self) -> None:
        """No sequence is under way any more."""
        self.ahead = None

    def _goes_on(self, now: Step, running: Sequence[RunningSequence]) -> bool:
        """Whether the next step feeds the same rows, as far as is known before this one's tokens
        are.
        """
        course = now.course
        return (
            course.graph in self.graphs.values()
            and not self._moved([block for block, _ in course.blocks])
            and now.number + 1 < course.lengths.shape[1]
            and [*map(id, running)] == [*map(id, course.sequences)]
            and any(len(s.generated) + 1 < s.prompt.max_new_tokens for s in running)
        )

    def _course(self, running: Sequence[RunningSequence]) -> tuple[Course, Tensor]:
        """The coming steps of the sequences, and the ids [rows, 1] that the first one feeds."""
        blocks = [block for block in self.cache.blocks.values() if block.owners]
        counts = tuple(len(block.owners) for block in blocks)
        rows = self._rows_of_graph(blocks, counts)
        # what is fed, by blocks and their rows: a sequence's number; None for padding
        fed = [
            owner
            for block, n in zip(blocks, rows or counts)
            for owner in [*block.owners, *[None] * (n - len(block.owners))]
        ]
        drawn = any(s.prompt.temperature for s in running)  # by the host
        numbers = torch.arange(AHEAD if rows and not drawn else 1)  # of the steps
        at = torch.tensor([running[n or 0].next_position for n in fed])  # [rows, components]
        held = self.cache.lengths
        lengths = torch.tensor([[0 if n is None else held[n]] for n in fed])  # [rows, 1]
        owned = torch.tensor([[n is not None] for n in fed])
        ids = torch.tensor([[0 if n is None else running[n].generated[-1]] for n in fed])
        device = self.cache.device
        # [components, rows, steps]
        cos, sin = self.model.rotary((at.T[..., None] + numbers).to(device))
        lengths = (lengths + owned * numbers).to(device)  # [rows, steps]
        places = sorted((n, row) for row, n in enumerate(fed) if n is not None)
        course = Course(
            list(running),
            [row for _, row in places],
            list(zip(blocks, rows or counts)),
            self.graphs.get(rows),
            cos,
            sin,
            lengths,
        )
        ids = ids.to(device)
        if rows and not course.graph:
            self.graphs[rows] = Graph(self.model, course.blocks, course.inputs(0, ids))
            course = replace(course, graph=self.graphs[rows])
        return course, ids

    def _moved(self, blocks: list[Block]) -> bool:
        """Whether the graphs hold addresses that the blocks have left."""
        return [id(block.keys) for block in blocks] != [*map(id, self.captured_for)]

    def _rows_of_graph(self, blocks: list[Block], running: Rows) -> Rows:
        """Rows of the graph for this step, captured already or to be captured now; none: run it
        without one.

        Capturing takes as long as dozens of steps, so the sizes are few (powers of two), a larger
        graph fills in for a while, and a size that occurs once is not captured at all.
        """
        if not self.replays:
            return ()
        rows = tuple(min(1 << (n - 1).bit_length(), b.rows) for n, b in zip(running, blocks))
        if self._moved(blocks):
            self.graphs.clear()
            self.captured_for = [block.keys for block in blocks]
        if rows in self.graphs:
            return rows
        self.missed[rows] += 1
        larger = [n for n in self.graphs if all(a >= b for a, b in zip(n, rows))]
        if larger and self.missed[rows] <= PATIENCE:
            return min(larger, key=sum)
        return rows if self.missed[rows] > 1 else ()
