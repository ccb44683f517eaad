"""A cell: one task subset under one model, by what identifies it; the same command finds the same
cell, and its folder.

Whatever can change an answer is in the identity. What can't (batch size, packing, order, the
samples selected) is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapter import ModelAdapter, digest
from evalkit.errors import UsageError
from evalkit.plugin import code_of
from evalkit.task import Task


@dataclass(frozen=True)
class Selection:
    """Which samples of a subset a run takes: all, ``first`` (start, stop) in dataset order,
    ``drawn`` at random by ``seed``, or by id.
    """

    first: tuple[int, int] | None = None
    drawn: int | None = None
    seed: int = 0
    ids: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        return self.first is not None or self.drawn is not None or bool(self.ids)

    def describe(self) -> dict[str, Any]:
        """JSON of what is set, empty for everything."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v}
        return given if self.partial else {}


@dataclass(frozen=True)
class Cell:
    """One task subset under one adapter, and the folder that belongs to them."""

    task: Task
    adapter: ModelAdapter
    model: str
    output: Path
    data: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls, task: Task, adapter: ModelAdapter, model: str, output: Path, data: Path | None = None
    ) -> Cell:
        """Works out the identity. Raises DataError when the data can't be found."""
        try:
            fingerprint = dict(adapter.fingerprint)
            digest(fingerprint)
        except (TypeError, ValueError) as e:
            raise UsageError(
                f"adapter {adapter.name!r}: its fingerprint is not a JSON object ({e})"
            ) from e
        identity = {
            "task": task.name,
            "subset": task.subset_name,
            "task_version": task.version,
            "data": dict(task.source.describe(data)),
            "budget": asdict(task.subset.budget),
            "max_new_tokens": task.max_new_tokens,
            "rank": task.rank,
            "fingerprint": fingerprint,
        }
        if code := code_of(task=task, adapter=adapter):
            identity["code"] = code
        return cls(task, adapter, model, output, data, identity)

    @property
    def name(self) -> str:
        return self.task.full_name

    @property
    def folder(self) -> Path:
        return (
            self.output
            / "runs"
            / slug(model_name(self.model))
            / f"{slug(self.task.name)}-{slug(self.task.subset_name)}-{digest(self.identity)[:8]}"
        )


def model_name(text: str) -> str:
    """How tables call a model: a hub id or shipped name as it is, a path by its last part."""
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", text) and not Path(text).exists()
    return text if hub else Path(text).resolve().name or "model"


def slug(text: str) -> str:
    """A folder name for a model or task, hub ids with ``--`` for ``/``."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("/", "--")).strip(".") or "_"
