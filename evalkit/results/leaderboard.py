"""The leaderboard: every cell with its headline score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.journal import SCHEMA_VERSION
from evalkit.results.frames import load_results
from evalkit.results.tables import interval_text, markdown_table, replace_text

if TYPE_CHECKING:
    import pandas as pd


MINI_NOTE = (
    "`mini` subsets are small sets drawn by evalkit; their scores are not comparable "
    "with those of the official subsets."
)


def write_leaderboard(output: Path = Path("results")) -> tuple[Path, Path]:
    """Writes ``leaderboard.csv`` (every metric) and ``leaderboard.md`` (headline metrics) into
    ``output``; returns both paths.

    In the second, every model that has switches gets a row for its no-vision baseline,
    ``vision_gate=0``, run or not.
    """
    frame = load_results(output)
    csv, markdown = output / "leaderboard.csv", output / "leaderboard.md"
    replace_text(
        csv,
        frame.drop(columns=["cell"])
        .assign(cell=[Path(c).name for c in frame["cell"]])
        .to_csv(index=False),
    )
    heads = frame[frame["headline"].astype(bool)]
    best_first = heads["value"].where(heads["higher_is_better"].astype(bool), -heads["value"])
    heads = heads.assign(best=best_first).sort_values(
        ["task", "best"], ascending=[True, False], kind="stable"
    )
    columns = (
        "task",
        "model",
        "adapter",
        "metric",
        "value",
        "95 % interval",
        "n",
        "errors",
        "unparsed",
        "settings",
        "version",
        "",
    )
    body = [
        (
            row["task"],
            row["model"],
            row["adapter"],
            row["metric"],
            f"{row['value']:.1f}",
            interval_text(row["ci_low"], row["ci_high"]),
            f"{row['n']}"
            if row["complete"] and not row["selection"]
            else f"{row['n']} (partial: do not quote)",
            row["errors"],
            row["unparsed"],
            row["settings"],
            f"{row['task_version']}",
            "inference probe" if row["inference_probe"] else "",
        )
        for row in heads.to_dict("records")
    ]
    body = sorted([*body, *_no_vision(heads)], key=lambda r: r[0])
    text = f"<!-- schema_version: {SCHEMA_VERSION}; made by `evalkit leaderboard` -->\n\n{markdown_table(columns, body)}\n\n{MINI_NOTE}\n"
    replace_text(markdown, text)
    return csv, markdown


def _no_vision(heads: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Rows that stand for the no-vision baselines that were not run."""
    reference = heads[heads["adapter"] == "reference"]
    for (task, model), rows in reference.groupby(["task", "model"], sort=False):
        gates = [json.loads(s).get("vision_gate") if s else None for s in rows["switches"]]
        if 0 not in gates:
            metric = rows["metric"].iloc[0]
            yield (
                task,
                model,
                "reference",
                metric,
                "–",
                "–",
                "–",
                "–",
                "–",
                "vision_gate=0",
                "–",
                "no vision: run with --switch vision_gate=0",
            )
