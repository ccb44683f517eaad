"""Scores for other people's boards: a model card, data frames, LaTeX, W&B, MLflow.

A number never travels alone: every form carries the number of samples, the 95 % interval, the
protocol and the settings. Model cards follow the Hub's ``model-index``
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md), written by ``huggingface_hub``;
W&B and MLflow are optional packages and log where they are set up to, offline too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError
from evalkit.files import replace
from evalkit.results.cells import data_kind, model_labels, partial_text
from evalkit.results.frames import result_rows, results_frame, samples_frame
from evalkit.results.tables import interval_text, latex_table, value_text, write_csv
from evalkit.store import CellFolder

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model adapter task protocol metric value ci_low ci_high n errors unparsed complete selection "
    "data arm settings task_version data_digest created evalkit_version"
).split()
"""Of the frame of scores."""
SAID = (
    "n ci_low ci_high errors unparsed complete protocol settings selection data arm task_version "
    "data_digest evalkit_version"
).split()
"""What a number is to be read with."""


def scores_frame(cells: Sequence[CellFolder]) -> pd.DataFrame:
    """One row a cell and metric, columns COLUMNS."""
    return results_frame(cells)[COLUMNS]


def model_index(cells: Sequence[CellFolder]) -> dict[str, Any]:
    """The ``model-index`` of a model card; the cells are one model's. Raises UsageError when they
    are of several models.
    """
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    models = sorted(set(model_labels(cells).values()))
    if len(models) != 1:
        raise UsageError(f"a model card is one model's; these are {', '.join(models)}")
    by_path = {str(cell.path): cell for cell in cells}
    results = []
    for row in result_rows(cells)[1]:
        cell = by_path[row["cell"]]
        data = cell.run.identity.data
        result = EvalResult(
            task_type="image-text-to-text",
            dataset_type=str(data.get("repository") or cell.run.identity.task),
            dataset_name=cell.task if data_kind(cell) != "mini" else f"{cell.task} (evalkit's own)",
            dataset_config=data.get("config"),
            dataset_split=data.get("split"),
            dataset_revision=data.get("revision"),
            metric_type=row["metric"],
            metric_name=_metric_name(row),
            metric_value=round(row["value"], 2),
            metric_args=_said(row),
        )
        results.append(result)
    return {"model-index": eval_results_to_model_index(models[0], results)}


def _metric_name(row: Mapping[str, Any]) -> str:
    settings = f", {row['settings']}" if row["settings"] else ""
    return f"{row['metric']} ({row['protocol']} protocol{settings})"


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a number is to be read with."""
    return {k: row[k] for k in SAID if row[k] not in ("", None)}


def write_model_index(cells: Sequence[CellFolder], file: Path) -> None:
    """Writes the front matter of a model's card with the scores, YAML between two lines `---`."""
    import yaml

    text = yaml.safe_dump(model_index(cells), sort_keys=False, allow_unicode=True)
    replace(file, f"---\n{text}---\n", durable=False)


def write_latex(cells: Sequence[CellFolder], file: Path) -> None:
    """Writes a LaTeX table with a row for each cell and metric."""
    named = "task model data settings arm protocol metric".split()
    columns = (*named, "value", "95 % interval", "n", "errors")
    partial = {str(cell.path): partial_text(cell) for cell in cells}
    rows = [
        (
            *(str(r[c]) for c in named),
            value_text(r["value"]),
            interval_text(r["ci_low"], r["ci_high"]),
            f"{r['n']}{partial[r['cell']]}",
            str(r["errors"]),
        )
        for r in result_rows(cells)[1]
    ]
    replace(file, latex_table(columns, rows), durable=False)


def write_parquet(frame: pd.DataFrame, file: Path) -> None:
    """Writes a frame; columns of lists and whatever else is no text hold them as JSON."""
    import io
    import json

    safe = frame.copy()
    for column in [c for c in safe.columns if safe[c].dtype == object]:
        kinds = {type(v) for v in safe[column] if v is not None and v == v}
        if not kinds <= {str}:
            safe[column] = [None if v is None else json.dumps(v, default=str) for v in safe[column]]
    buffer = io.BytesIO()
    safe.to_parquet(buffer, index=False)
    replace(file, buffer.getvalue(), durable=False)


def log_to_wandb(cells: Sequence[CellFolder], project: str) -> str:
    """A run of Weights & Biases with the table of scores and a summary value for each; returns
    where it went. Offline (``WANDB_MODE=offline``) it stays in the folder ``wandb``.
    """
    wandb = _package("wandb")
    with wandb.init(project=project, job_type="evaluation") as run:
        run.log({"scores": wandb.Table(dataframe=scores_frame(cells))})
        for row in result_rows(cells)[1]:
            name = f"{row['task']}/{row['metric']}/{row['model']} {_metric_name(row)}"
            run.summary[name] = {"value": row["value"], **_said(row)}
        return str(run.dir)


def log_to_mlflow(cells: Sequence[CellFolder], experiment: str) -> str:
    """An MLflow run for each cell: metrics with n and interval, settings as parameters; returns
    where they went. ``MLFLOW_TRACKING_URI`` names the store.
    """
    mlflow = _package("mlflow")
    mlflow.set_experiment(experiment)
    for cell in cells:
        _, rows = result_rows([cell])
        with mlflow.start_run(run_name=f"{cell.model} {cell.task}"):
            if rows:
                keys = "model adapter task protocol settings selection data task_version".split()
                mlflow.log_params({k: rows[0][k] for k in keys})
            for row in rows:
                # MLflow takes letters, digits, blanks and "_-./:" in a name
                name = re.sub(r"[^\w./: -]", "", row["metric"].replace("@", "_at_"))
                for key in ("value", "ci_low", "ci_high", "n"):
                    if row[key] is not None:
                        mlflow.log_metric(f"{name}.{key}", float(row[key]))
    return str(mlflow.get_tracking_uri())


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as e:
        raise UsageError(f"{name} is not installed: pip install 'evalkit[{name}]'") from e


def _frame_writer(
    write: Callable[[pd.DataFrame, Path], object],
) -> Callable[[Sequence[CellFolder], Path, bool], None]:
    def written(cells: Sequence[CellFolder], file: Path, samples: bool) -> None:
        write(samples_frame(cells) if samples else scores_frame(cells), file)

    return written


FRAMES = {
    "csv": _frame_writer(lambda frame, file: write_csv(file, frame)),
    "parquet": _frame_writer(write_parquet),
}
"""Forms that hold scores or samples."""
FILES = {"model-index": (write_model_index, "md"), "latex": (write_latex, "tex")}
"""Forms that hold scores, and the suffix of their file."""
TRACKERS = {"wandb": log_to_wandb, "mlflow": log_to_mlflow}
"""Trackers that scores are logged to."""
