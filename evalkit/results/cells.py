"""Which cells there are under an output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.cell import model_name
from evalkit.errors import DataError, UsageError
from evalkit.records import READABLE, SCHEMA_VERSION


@dataclass(frozen=True)
class StoredCell:
    """A cell on disk: its folder, run.json and results.json."""

    folder: Path
    run: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def task(self) -> str:
        return f"{self.run['identity']['task']}:{self.run['identity']['subset']}"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.run["identity"]["fingerprint"]
        return found

    @property
    def settings(self) -> str:
        """What was set away from the defaults, and what bounds the pixels, in one line."""
        parts = [f"{k}={v}" for k, v in self.results["switches"].items()]
        budget = {
            k: v
            for k, v in self.run["identity"]["budget"].items()
            if v is not None and k not in self.results["switches"]
        }
        parts += [f"{k}={v}" for k, v in budget.items()]
        if self.fingerprint.get("dtype"):
            parts.append(str(self.fingerprint["dtype"]))
        return " ".join(parts)


def stored_cells(output: Path = Path("results")) -> list[StoredCell]:
    """All cells with results under ``output/runs``, in the order of their folders. Damaged ones
    raise DataError naming the file.
    """
    return [_stored(path.parent) for path in sorted((output / "runs").glob("*/*/results.json"))]


def some_cells(output: Path) -> list[StoredCell]:
    """``stored_cells``, of which there must be one. Raises UsageError."""
    if not (cells := stored_cells(output)):
        raise UsageError(f"no results under {output / 'runs'}: run something first")
    return cells


def find_cells(name: str, output: Path = Path("results")) -> list[StoredCell]:
    """The cells that a word on the command line means: a cell folder, or all cells of a model.
    Raises UsageError with what there is.
    """
    if (Path(name) / "results.json").is_file():
        return [_stored(Path(name))]
    every = stored_cells(output)
    found = [
        c
        for c in every
        if model_name(name) == c.run["model"] or name in (c.folder.parent.name, c.folder.name)
    ]
    if not found:
        known = sorted({c.folder.parent.name for c in every} | {c.folder.name for c in every})
        raise UsageError(
            f"{name}: no such cell or model under {output / 'runs'}; there are: "
            f"{', '.join(known) or 'none'}"
        )
    return found


def _stored(folder: Path) -> StoredCell:
    parts = []
    for name in ("run.json", "results.json"):
        path = folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(
                f"{path}: can't be read ({e}); repeat the run's command to make it again, or "
                f"remove {folder}"
            ) from e
        if value.get("schema_version") not in READABLE:
            raise DataError(
                f"{path}: schema {value.get('schema_version')!r}, this evalkit reads "
                f"{SCHEMA_VERSION}"
            )
        parts.append(value)
    return StoredCell(folder, parts[0], parts[1])
