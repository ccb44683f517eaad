"""A cell: one task subset under one model, by what identifies it; the same command finds the same
cell, and its folder.

Whatever can change an answer is in the identity. What can't (batch size, packing, order, the
samples selected) is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evalkit.adapter import ModelAdapter, digest
from evalkit.errors import UsageError
from evalkit.plugin import code_of
from evalkit.store import CellFolder, Identity, Selection, model_name
from evalkit.task import Task

__all__ = ["Cell", "Selection", "model_name"]


@dataclass(frozen=True)
class Cell:
    """One task subset under one adapter, and the folder that belongs to them."""

    task: Task
    adapter: ModelAdapter
    model: str
    output: Path
    identity: Identity
    data: Path | None = None
    label: str = ""

    @classmethod
    def make(
        cls,
        task: Task,
        adapter: ModelAdapter,
        model: str,
        output: Path,
        data: Path | None = None,
        label: str = "",
        step: int | None = None,
    ) -> Cell:
        """Works out the identity. ``label`` is what tables call the model instead of its own name;
        ``step`` is that of a training run, whose results are kept apart. Raises DataError when the
        data can't be found.
        """
        try:
            fingerprint = dict(adapter.fingerprint)
            if step is not None:
                fingerprint["step"] = step
            digest(fingerprint)
        except (TypeError, ValueError) as e:
            raise UsageError(
                f"adapter {adapter.name!r}: its fingerprint is not a JSON object ({e})"
            ) from e
        identity = Identity(
            task=task.name,
            subset=task.subset_name,
            task_version=task.version,
            data=task.describe_data(data),
            budget=task.subset.budget,
            max_new_tokens=task.max_new_tokens,
            rank=task.rank,
            fingerprint=fingerprint,
            code=code_of(task=task, adapter=adapter),
        )
        return cls(task, adapter, model, output, identity, data, label)

    @property
    def name(self) -> str:
        """``task:subset``."""
        return self.task.full_name

    @property
    def title(self) -> str:
        """What tables call the model."""
        return self.label or model_name(self.model)

    @property
    def folder(self) -> Path:
        """Where the cell lies; it may not exist yet."""
        return self.stored.path

    @property
    def stored(self) -> CellFolder:
        """What is stored of the cell, read anew each time."""
        return CellFolder.of(self.output, self.title, self.identity)
