"""What several models of a study read, as plain arrays that processes can hand over and a device
can take in one piece.

Arms of one seed see the same scenes, so these are drawn once for all of them; only the position ids
are each arm's own. Batches lie end to end, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.lab.batches import Batch, Condition, Positions, Setting
from evalkit.lab.pictures import Pictures
from evalkit.lab.trainer import Run, positions_of, start_batches, test_batches, training_batch
from evalkit.nano.train import fresh
from evalkit.probes.scene import Cells

Array = np.ndarray[Any, Any]
NOTHING = {"owner": -2, "label": -100, "allowed": -1}
"""What stands for padding, where it isn't 0."""


@dataclass(frozen=True)
class Packed:
    """Batches end to end, of one seed. ``arrays``:

    code, owner: [batches, scenes, tokens], the token's id, or of a visual token the size of the
    vocabulary plus the number of its picture; and ``Batch.owner``.
    row, column, label, kind: [batches, answers], the scene and the token at which an answer is
    predicted, its token, and the number of its kind. allowed: [batches, answers, most].

    ``positions`` [batches, components, scenes, tokens] are those of each arm.
    """

    arrays: Mapping[str, Array]
    positions: tuple[Array, ...]


@dataclass(frozen=True)
class Drawn:
    """What runs of one seed read in training, and under each condition."""

    training: Packed
    conditions: Mapping[str, Packed]


def draw(
    runs: Sequence[Run], conditions: Mapping[str, Condition], words: bool | None = None
) -> Drawn:
    """Draws it for runs that differ in the switches of positions alone. ``words``: not None for
    what other runs start from, with scenes written as words or shown.
    """
    run = runs[0]
    models: list[Any] = [fresh(r.recipe) for r in runs]
    pictures, size = Pictures(run.shows, models[0].switches), models[0].vocab_size
    trained = [pictures.grid(g) for g in run.trained.grids()]
    schemes = [positions_of(m, run.shows) for m in models]
    components = [len(scheme(trained[0], 0)) for scheme in schemes]

    def together(grid: Cells, text: int) -> Tensor:
        return torch.cat([scheme(grid, text).float() for scheme in schemes])

    def packed(batches: Iterable[Batch]) -> Packed:
        return pack(batches, size, components)

    positions = Positions(together, trained)
    own = Setting(run.asks(), pictures, positions)
    if words is not None:
        return Drawn(packed(start_batches(run, own, words)), {})
    return Drawn(
        packed(training_batch(run, step, own) for step in range(run.steps)),
        {
            name: packed(test_batches(run, name, c, Setting(run.asks(c), pictures, positions)))
            for name, c in conditions.items()
        },
    )


def pack(batches: Iterable[Batch], vocabulary: int, components: Sequence[int]) -> Packed:
    """Packs batches whose positions are those of arms with so many components each."""
    lists: dict[str, list[Array]] = {}
    for batch in batches:
        row, column = batch.asked.nonzero(as_tuple=True)
        values = {
            "code": torch.where(batch.visual, vocabulary + batch.glyph, batch.ids),
            "owner": batch.owner,
            "row": row,
            "column": column,
            "label": batch.labels[batch.asked],
            "kind": batch.kind[batch.asked],
            "allowed": batch.allowed,
            "positions": batch.positions,
        }
        for name, value in values.items():
            kind = np.float32 if name == "positions" else np.int16
            lists.setdefault(name, []).append(value.numpy().astype(kind))
    positions = padded(lists.pop("positions"))
    parts = np.split(positions, np.cumsum(components)[:-1], axis=1)
    return Packed({n: padded(a, NOTHING.get(n, 0)) for n, a in lists.items()}, tuple(parts))


def padded(arrays: Sequence[Array], fill: int = 0) -> Array:
    """Arrays of one number of dimensions, stacked [n, ...], filled up to the largest."""
    shape = np.max([a.shape for a in arrays], axis=0)
    out = np.full((len(arrays), *shape), fill, dtype=arrays[0].dtype)
    for i, a in enumerate(arrays):
        out[i][tuple(slice(n) for n in a.shape)] = a
    return out
