"""Results as pandas frames: one row per cell and metric, or one per sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import journal
from evalkit.adapter import digest
from evalkit.journal import SCHEMA_VERSION
from evalkit.results.cells import StoredCell, stored_cells

if TYPE_CHECKING:
    import pandas as pd


def load_results(output: str | Path = "results") -> pd.DataFrame:
    """One row per cell and metric.

    Columns: model, adapter, task (``name:subset``), metric, value, ci_low, ci_high (95 %, over
    clusters; empty when it can't be told), n (scored), n_total, errors, unparsed, clusters,
    complete, selection (empty: everything), step (of a training run), inference_probe, switches, settings, task_version,
    data, weights, fingerprint, tokens_text_in, tokens_vision_in, tokens_out, seconds, created,
    evalkit_version, git_commit, git_dirty, command, cell (the folder), headline (True for the
    task's first metric), higher_is_better, schema_version.
    """
    import pandas as pd

    rows = [row for cell in stored_cells(Path(output)) for row in _result_rows(cell)]
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


def load_samples(output: str | Path = "results", errors: bool = True) -> pd.DataFrame:
    """One row per sample of every cell.

    Columns: cell, model, task, id, cluster, target, text (the answer), parsed, unparsed, error,
    finish_reason, prompt, seconds, tokens_text_in, tokens_vision_in, tokens_out, then
    ``metadata_*`` and ``score_*`` as the tasks name them. ``errors=False`` leaves out samples
    without a score.
    """
    import pandas as pd

    rows = []
    for cell in stored_cells(Path(output)):
        for r in journal.read(cell.folder / "journal.jsonl").records.values():
            if errors or r.get("error") is None:
                plain = {k: r.get(k) for k in SAMPLE_COLUMNS if k not in ("cell", "model", "task")}
                tokens = {f"tokens_{k}": v for k, v in r.get("tokens", {}).items()}
                named = {f"metadata_{k}": v for k, v in r.get("metadata", {}).items()}
                scores = {f"score_{k}": v for k, v in r.get("scores", {}).items()}
                where = {"cell": str(cell.folder), "model": cell.run["model"], "task": cell.task}
                rows.append({**where, **plain, **tokens, **named, **scores})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=SAMPLE_COLUMNS)


SAMPLE_COLUMNS = "cell model task id cluster target text parsed unparsed error finish_reason prompt seconds".split()


RESULT_COLUMNS = (
    "model adapter task metric value ci_low ci_high n n_total errors unparsed clusters "
    "complete selection step inference_probe switches "
    "settings task_version data weights fingerprint tokens_text_in tokens_vision_in "
    "tokens_out seconds created evalkit_version "
    "git_commit git_dirty command cell headline higher_is_better schema_version"
).split()


def _result_rows(cell: StoredCell) -> Iterator[dict[str, Any]]:
    run, results = cell.run, cell.results
    git = run.get("git") or {}
    for i, metric in enumerate(results["metrics"]):
        yield {
            "model": run["model"],
            "adapter": cell.fingerprint.get("adapter"),
            "task": cell.task,
            **{k: metric[k] for k in ("metric", "value", "ci_low", "ci_high", "n", "clusters")},
            **{
                k: results[k]
                for k in (
                    "n_total",
                    "errors",
                    "unparsed",
                    "complete",
                    "inference_probe",
                    "seconds",
                    "created",
                )
            },
            "selection": json.dumps(results["selection"]) if results["selection"] else "",
            "step": cell.fingerprint.get("step"),
            "switches": json.dumps(results["switches"]) if results["switches"] else "",
            "settings": cell.settings,
            "task_version": run["identity"]["task_version"],
            "data": digest(run["identity"]["data"]),
            "weights": str(cell.fingerprint.get("weights", ""))[:12],
            "fingerprint": digest(cell.fingerprint),
            **{f"tokens_{k}": v for k, v in results["tokens"].items()},
            "evalkit_version": run["versions"].get("evalkit"),
            "git_commit": git.get("commit"),
            "git_dirty": git.get("dirty"),
            "command": run["command"],
            "cell": str(cell.folder),
            "headline": i == 0,
            "higher_is_better": metric["higher_is_better"],
            "schema_version": SCHEMA_VERSION,
        }
