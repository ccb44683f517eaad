"""Which cells there are under an output folder, which of them the user means, and what tables call
them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.adapter import digest
from evalkit.errors import DataError, UsageError
from evalkit.names import model_name, model_path
from evalkit.protocols import DEFAULT
from evalkit.run_info import Selection
from evalkit.safe_text import printable
from evalkit.store import CellFolder, cells
from evalkit.task import Task, load_task

LOG = logging.getLogger("evalkit")
MINI_NOTE = (
    "mini subsets are small sets drawn by evalkit; their scores are not comparable "
    "with those of the official subsets."
)
IMPORTED = "imported"
DATA_KINDS = {"hub": "official", "embedded": "mini", "imported": IMPORTED}
"""How tables call the kinds of data that a source describes; any other kind is local."""


@dataclass(frozen=True)
class Inventory:
    """The cells under an output folder."""

    output: Path
    cells: tuple[CellFolder, ...]
    """Those that can be read, in the order of their folders."""
    damaged: tuple[str, ...]
    """Why each of the others can't be, in words that name its file."""


Output = str | Path | Inventory
"""An output folder, or what was read of it already."""


def take_inventory(output: Output) -> Inventory:
    """Reads run.json, results.json and the journal's header of every cell. A damaged cell costs the
    others nothing: it is logged as a warning and left out.

    Raises UsageError when there is no such folder.
    """
    if isinstance(output, Inventory):
        return output
    folder = Path(output)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    whole, damaged = [], []
    for cell in cells(folder):
        try:
            cell.check()
            whole.append(cell)
        except DataError as e:
            LOG.warning("left out: %s", e)
            damaged.append(str(e))
    return Inventory(folder, tuple(whole), tuple(damaged))


def inventory_if_any(output: Output) -> Inventory:
    """``take_inventory``; an empty one where there is no such folder."""
    if isinstance(output, str | Path) and not Path(output).is_dir():
        return Inventory(Path(output), (), ())
    return take_inventory(output)


def some_cells(output: Output) -> Inventory:
    """``take_inventory`` of a folder that must hold at least one cell. Raises UsageError."""
    there = inventory_if_any(output)
    if not there.cells and not there.damaged:
        others = sorted(
            str(runs.parent) for runs in there.output.glob("*/runs") if any(cells(runs.parent))
        )
        advice = f"; there are some for --output {', '.join(others)}" if others else ""
        raise UsageError(f"no results under {there.output / 'runs'}: run something first{advice}")
    return there


def find_cells(name: str, output: Output = Path("results")) -> list[CellFolder]:
    """Cells named on the command line: a cell's folder (its path or its name), or all cells of a
    model: its path, or what tables call it. Raises UsageError with what there is.
    """
    if Path(name).is_dir() and (cell := CellFolder(Path(name))).exists:
        cell.check()
        return [cell]
    inventory = inventory_if_any(output)
    there = inventory.cells
    shown = model_labels(there)
    meant = [c for c in there if name in (c.name, c.model, c.path.parent.name, shown[c.path])]
    if not meant:  # the last part of a path is many a model's, and results may have moved
        own = [c for c in there if c.run.model_path and c.run.model_path == model_path(name)]
        meant = own or [c for c in there if model_name(name) == c.model]
    if not meant:
        known = sorted({shown[c.path] for c in there} | {c.name for c in there})
        raise UsageError(
            f"{name}: no such cell or model under {inventory.output / 'runs'}; there are: "
            f"{', '.join(known) or 'none'}"
        )
    return meant


def task_of(cell: CellFolder, loaded: dict[str, Task] | None = None) -> Task:
    """The task of a cell, as it is now. ``loaded`` keeps those of one command's cells, of which a
    thousand have a dozen. Raises UsageError when there is none.
    """
    run, identity = cell.run, cell.run.identity
    name = f"{run.task_file or identity.task}:{identity.subset}"
    kept = {} if loaded is None else loaded
    key = json.dumps([name, identity.protocol, run.reading], sort_keys=True)
    if key not in kept:
        kept[key] = load_task(name, identity.protocol_name, run.reading)
    return kept[key]


def data_kind(cell: CellFolder) -> str:
    """``official`` (from the hub), ``local`` (a copy or a set of the user's own), ``mini`` (drawn
    by evalkit), or ``imported``: answers that another harness collected.
    """
    return DATA_KINDS.get(str(cell.run.identity.data.get("kind")), "local")


def data_digest(cell: CellFolder) -> str:
    """12 hex digits that tell one data set, revision or copy from another."""
    return digest(cell.run.identity.data)


def arm(cell: CellFolder) -> str:
    """``imported`` for another harness's answers, ``inference probe`` when the weights ran with
    settings that they were not trained with, ``trained arm`` when they were trained with settings
    other than the release's, else empty.
    """
    if data_kind(cell) == IMPORTED:
        return IMPORTED
    if cell.results.inference_probe:
        return "inference probe"
    return "trained arm" if cell.run.identity.fingerprint.get("trained_with") else ""


def protocol_text(cell: CellFolder) -> str:
    """Name of a cell's protocol and the digest of its prompt and settings."""
    name = cell.run.identity.protocol_name or DEFAULT
    return " ".join(filter(None, (name, cell.run.prompt_digest)))


def selection_text(selection: Selection) -> str:
    """Which samples were taken, in words; empty for all of them."""
    if selection.ids:
        return f"{len(selection.ids)} by id"
    if selection.drawn is not None:
        return f"{selection.drawn} at random (seed {selection.seed})"
    if selection.first is not None:
        start, stop = selection.first
        return f"first {stop}" if start == 0 else f"{start} to {stop}"
    return ""


def partial_text(cell: CellFolder) -> str:
    """Why a cell's score is not to be quoted, in brackets; empty for a whole cell."""
    if chosen := selection_text(cell.results.selection):
        return f" (partial: {chosen}; do not quote)"
    if missing := cell.results.missing_shards:
        return f" (partial: without shards {', '.join(missing)}; do not quote)"
    return "" if cell.results.complete else " (partial: stopped early; do not quote)"


def model_labels(cells: Sequence[CellFolder]) -> dict[Path, str]:
    """What tables call the model of each cell, by the cell's folder: its name, or as many parts of
    its path as it takes to tell it from another model of the same name. Steps of a training run
    that was given a name have that one, wherever each lies.
    """
    place = {c.path: "" if _is_named_step(c) else c.run.model_path for c in cells}
    paths: dict[str, set[str]] = {}
    for c in cells:
        paths.setdefault(c.model, set()).add(place[c.path])
    return {c.path: _distinct(c.model, place[c.path], paths[c.model]) for c in cells}


def _is_named_step(cell: CellFolder) -> bool:
    named = cell.model != model_name(cell.run.model_path)
    return named and "step" in cell.run.identity.fingerprint


def _distinct(name: str, path: str, others: set[str]) -> str:
    """The last parts of a path, so many that no other one ends like it."""
    if len(others) == 1 or not path:
        return name
    parts = Path(path).parts
    for n in range(1, len(parts)):
        ends = [Path(o).parts[-n:] for o in others if o != path]
        if name in parts[-n:] and parts[-n:] not in ends:
            return "/".join(parts[-n:])
    return path


def labels(cells: Sequence[CellFolder]) -> dict[Path, str]:
    """What legends and lists call each cell, by its folder: model and settings, and then only what
    it takes to tell it from the other cells of its task: adapter, data, task version, code, model
    weights, and at last the folder's name.
    """
    models = model_labels(cells)
    out = {c.path: printable(", ".join(filter(None, (models[c.path], c.settings)))) for c in cells}
    details: tuple[Callable[[CellFolder], str], ...] = (
        lambda c: c.adapter,
        lambda c: f"{data_kind(c)} data",
        lambda c: f"data {data_digest(c)[:6]}",
        lambda c: f"version {c.run.identity.task_version}",
        lambda c: f"code {digest(c.run.identity.code)[:6]}" if c.run.identity.code else "",
        lambda c: f"weights {str(c.run.identity.fingerprint.get('weights', ''))[:6]}",
        lambda c: c.name,
    )
    for detail in details:
        for alike in _alike(cells, out):
            if len({detail(c) for c in alike}) > 1:
                for c in alike:
                    out[c.path] = ", ".join(filter(None, (out[c.path], detail(c))))
    return out


def _alike(cells: Sequence[CellFolder], names: Mapping[Path, str]) -> list[list[CellFolder]]:
    """Cells of one task that still share a name."""
    groups: dict[tuple[str, str], list[CellFolder]] = {}
    for cell in cells:
        groups.setdefault((cell.task, names[cell.path]), []).append(cell)
    return [group for group in groups.values() if len(group) > 1]
