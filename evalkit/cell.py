"""A cell: one task subset under one model, by what identifies it; the same command finds the same
cell, and its folder.

Whatever can change an answer is in the identity. What can't (batch size, packing, order, the
samples selected) is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.adapter import ModelAdapter, digest, recordable
from evalkit.asking import Asking, Examples
from evalkit.code import CONTROLS, code_of, code_of_module
from evalkit.controls import check_control
from evalkit.errors import DataError, UsageError
from evalkit.names import model_name, model_path
from evalkit.run_info import Identity
from evalkit.safe_text import without_keys
from evalkit.sources import table_files
from evalkit.store import CellFolder
from evalkit.task import Task


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
    asking: Asking = Asking()
    examples: Examples = Examples()

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
        asking: Asking = Asking(),
        examples_data: Path | None = None,
        control: str = "",
    ) -> Cell:
        """Works out the identity. ``label`` is what tables call the model instead of its own name;
        ``step`` is that of a training run, whose results are kept apart; ``examples_data`` a local
        copy of the subset that ``asking`` takes examples from; ``control`` as
        ``evalkit.controls`` names them. Raises DataError when the
        data can't be found, UsageError for a task or an adapter that can't be run.
        """
        if task.max_new_tokens < 1:
            raise UsageError(
                f"{task.full_name}: max_new_tokens is {task.max_new_tokens}; set it above 0"
            )
        if asking.temperature and (task.rank or not adapter.can_sample):
            who = f"{task.full_name} ranks" if task.rank else f"adapter {adapter.name!r} is greedy"
            raise UsageError(f"temperature={asking.temperature:g}: {who}, so nothing can be drawn")
        if asking.thinking and task.rank:
            raise UsageError(f"thinking={asking.thinking}: {task.full_name} ranks choices")
        examples = asking.examples(task, examples_data)
        try:
            fingerprint = recordable(adapter, adapter.fingerprint)
            if step is not None:
                fingerprint["step"] = step
            digest(fingerprint)
        except (TypeError, ValueError, RecursionError) as e:
            raise UsageError(
                f"adapter {adapter.name!r}: its fingerprint is not a JSON object ({e})"
            ) from e
        code = {"task": code_of(task), "adapter": code_of(adapter, adapter.code)}
        if check_control(control):
            code["control"] = code_of_module(CONTROLS)
        identity = Identity(
            task=task.name,
            subset=task.subset_name,
            task_version=task.version,
            data=task.describe_data(data),
            budget=task.budget,
            max_new_tokens=task.max_new_tokens,
            rank=task.rank,
            fingerprint=fingerprint,
            code={k: v for k, v in code.items() if v},
            protocol=task.describe_protocol(),
            asking=asking.describe(examples.data),
            control=control,
        )
        return cls(task, adapter, model, output, identity, data, label, asking, examples)

    @property
    def name(self) -> str:
        """``task:subset``."""
        return self.task.full_name

    @property
    def title(self) -> str:
        """What tables call the model; an address without its user and keys."""
        return without_keys(self.label or model_name(self.model))

    @property
    def folder(self) -> Path:
        """Where the cell lies; it may not exist yet."""
        return self.stored.path

    @property
    def stored(self) -> CellFolder:
        """What is stored of the cell, read anew each time: under its own name, or under the one
        that evalkit 0.1 gave it.
        """
        own = CellFolder.of(self.output, self.title, self.identity)
        if own.exists:
            return own
        before = identity_of_0_1(self.identity, self.data)
        if before is None:
            return own
        model = Path(self.model).resolve().name if model_path(self.model) else self.model
        old = CellFolder.of(self.output, self.label or model, before)
        return old if old.exists else own


def identity_of_0_1(identity: Identity, data: Path | None) -> Identity | None:
    """What evalkit 0.1 took for the identity of the same cell: it named local data by their folder
    and files, and knew no digests of media. None for data that it would have read otherwise, or
    not at all.
    """
    known = {"kind", "name", "repository", "config", "split", "revision", "files", "sha256"}
    if identity.data.keys() - known - {"media"}:
        return None
    described = {k: v for k, v in identity.data.items() if k in known}
    if data is not None:
        described["name"] = data.name
        if "files" not in described and {"config", "split"} <= described.keys():
            try:
                files = table_files(data, described["config"], described["split"])
            except DataError:
                return None
            described["files"] = [f.name for f in files]
    return replace(identity, data=described)
