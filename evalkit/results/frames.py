"""Results as pandas frames: one row per cell and metric, or one per sample."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from math import nan
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from evalkit.adapter import digest
from evalkit.columns import Columns
from evalkit.protocols import DEFAULT
from evalkit.records import SCHEMA_VERSION, Record
from evalkit.results.cells import (
    arm,
    data_digest,
    data_kind,
    model_labels,
    selection_text,
    take_inventory,
)
from evalkit.results.repeats import repeated
from evalkit.store import CellFolder
from evalkit.types import TokenCounts

if TYPE_CHECKING:
    import pandas as pd

RESULT_COLUMNS = (
    "model adapter task metric value ci_low ci_high n n_total errors unparsed clusters "
    "complete selection data arm step inference_probe settings switches protocol control "
    "prompt_digest task_version data_digest weights fingerprint tokens_text_in "
    "tokens_vision_in tokens_out seconds created rescored evalkit_version git_commit git_dirty "
    "command cell headline higher_is_better scale schema_version"
).split()
SAMPLE_COLUMNS = (
    "cell model adapter task settings data selection id cluster question target choices text "
    "thought parsed unparsed error failed_in finish_reason prompt seconds tokens_text_in "
    "tokens_vision_in tokens_out"
).split()

RECORD_COLUMNS = tuple(c for c in SAMPLE_COLUMNS if c in Record.__dataclass_fields__)
TOKEN_COLUMNS = tuple(TokenCounts.__dataclass_fields__)


def load_results(output: str | Path = "results") -> pd.DataFrame:
    """``evalkit.load_results``."""
    return results_frame(take_inventory(Path(output)).cells)


def results_frame(cells: Sequence[CellFolder]) -> pd.DataFrame:
    """``load_results`` of these cells."""
    import pandas as pd

    columns, rows = result_rows(cells)
    return pd.DataFrame(rows, columns=columns)


def result_rows(cells: Sequence[CellFolder]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of ``results_frame``, and its rows; None where one has no value."""
    models = model_labels(cells)
    rows = [row for cell in cells for row in _result_rows(cell, models[cell.path])]
    columns = _with_switches(RESULT_COLUMNS, "switches", rows)
    return columns, [{c: row.get(c) for c in columns} for row in rows]


def load_samples(output: str | Path = "results", errors: bool = True) -> pd.DataFrame:
    """``evalkit.load_samples``."""
    return samples_frame(take_inventory(output).cells, errors)


def samples_frame(cells: Sequence[CellFolder], errors: bool = True) -> pd.DataFrame:
    """``load_samples`` of these cells."""
    import pandas as pd

    models = model_labels(cells)
    columns: dict[str, list[Any]] = {}
    rows = 0
    for cell in cells:
        mine = cell.columns()
        part = _sample_columns(mine)
        n = mine.rows
        if not errors:
            scored = [i for i, error in enumerate(part["error"]) if error is None]
            part, n = {k: [v[i] for i in scored] for k, v in part.items()}, len(scored)
        about = {
            "cell": str(cell.path),
            "model": models[cell.path],
            "adapter": cell.adapter,
            "task": cell.task,
            "settings": cell.settings,
            "data": data_kind(cell),
            "selection": selection_text(cell.results.selection),
            **_switch_columns(cell),
        }
        part = {k: [v] * n for k, v in about.items()} | part
        columns |= {k: [nan] * rows for k in part if k not in columns}
        rows += n
        for name, column in columns.items():
            column += part[name] if name in part else [nan] * n
    columns = {k: v if len(_kinds(v)) < 2 else _as_json(v) for k, v in columns.items()}
    return pd.DataFrame(columns, columns=_with_switches(SAMPLE_COLUMNS, "settings", [columns]))


PLAIN: Mapping[type, str] = {str: "text", bool: "truth", int: "number", float: "number"}


def _kinds(values: Collection[Any]) -> set[str]:
    """The kinds of values that are there, lists by those of their items: a column of a table file
    has one.
    """
    types = set(map(type, values)) - {NoneType}
    if len(types) > 1:  # what is missing is NaN where a cell lacks the column, and of no kind
        types = {type(v) for v in values if v is not None and v == v}
    kinds = {PLAIN[t] for t in types & PLAIN.keys()}
    if types & {list, tuple}:
        inner = chain.from_iterable(v for v in values if isinstance(v, list | tuple))
        kinds |= {f"list of {kind}" for kind in _kinds(list(inner))} or {"list"}
    for value in values if types - PLAIN.keys() - {list, tuple} else ():
        if isinstance(value, Mapping):
            kinds.add(str(sorted((k, *sorted(_kinds([v]))) for k, v in value.items())))
    return kinds


def _as_json(values: Sequence[Any]) -> list[str | None]:
    """Each value as JSON; None for one that is missing."""
    return [
        None if v is None or v != v else json.dumps(v, ensure_ascii=False, default=str)
        for v in values
    ]


def _sample_columns(columns: Columns) -> dict[str, list[Any]]:
    """What a frame shows of each record; what a sample lacks is NaN."""
    out = {name: columns[name] for name in RECORD_COLUMNS}
    out |= {"choices": list(map(tuple, out["choices"]))}
    out |= {f"tokens_{k}": columns[f"tokens_{k}"] for k in TOKEN_COLUMNS}
    metadata = columns["metadata"]
    keys = dict.fromkeys(k for m in metadata for k in m)
    out |= {f"metadata_{k}": [m.get(k, nan) for m in metadata] for k in keys}
    for metric in columns.metrics:
        out[f"score_{metric}"] = [nan if v is None else v for v in columns.score(metric)]
    return out


def _result_rows(cell: CellFolder, model: str) -> Iterator[dict[str, Any]]:
    run, results = cell.run, cell.results
    about = {
        "model": model,
        "adapter": cell.adapter,
        "task": cell.task,
        "n_total": results.n_total,
        "errors": results.errors,
        "unparsed": results.unparsed,
        "complete": not results.partial,
        "selection": selection_text(results.selection),
        "data": data_kind(cell),
        "arm": arm(cell),
        "step": run.identity.fingerprint.get("step"),
        "inference_probe": results.inference_probe,
        "settings": cell.settings,
        "switches": json.dumps(results.switches) if results.switches else "",
        **_switch_columns(cell),
        "protocol": run.identity.protocol_name or DEFAULT,
        "control": run.identity.control,
        "prompt_digest": run.prompt_digest,
        "task_version": run.identity.task_version,
        "data_digest": data_digest(cell),
        "weights": str(run.identity.fingerprint.get("weights", ""))[:12],
        "fingerprint": digest(run.identity.fingerprint),
        **{f"tokens_{k}": v for k, v in asdict(results.tokens).items()},
        "seconds": results.seconds,
        "created": results.created,
        "rescored": results.rescored or "",
        "evalkit_version": run.versions.get("evalkit"),
        "git_commit": run.git.commit if run.git else None,
        "git_dirty": run.git.dirty if run.git else None,
        "command": run.command,
        "cell": str(cell.path),
        "schema_version": SCHEMA_VERSION,
    }
    for i, metric in enumerate((*results.metrics, *repeated(cell))):
        scores = {
            k: v
            for k, v in asdict(metric).items()
            if k not in ("group", "units", "weight", "total")
        }
        yield about | scores | {"headline": i == 0}


def _switch_columns(cell: CellFolder) -> dict[str, Any]:
    return {f"switch_{k}": v for k, v in cell.results.switches.items()}


def _with_switches(
    columns: Sequence[str], after: str, rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The fixed columns, the switches' behind ``after``, and at the end what tasks named."""
    others = dict.fromkeys(key for row in rows for key in row if key not in columns)
    switches = sorted(k for k in others if k.startswith("switch_"))
    at = columns.index(after) + 1
    rest = [k for k in others if k not in switches]
    return [*columns[:at], *switches, *columns[at:], *rest]
