"""Two cells compared on the samples that both scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evalkit import journal
from evalkit.errors import UsageError
from evalkit.results.cells import StoredCell
from evalkit.stats import compare, holm, mean


def compare_cells(a: Sequence[StoredCell], b: Sequence[StoredCell]) -> list[dict[str, Any]]:
    """One row per task and metric that both sides have: values on the common samples, the paired
    difference a - b, its 95 % interval, the p-value of a sign-flip test over clusters, and Holm's
    adjustment over all rows. Raises UsageError when nothing is in common."""
    rows: list[dict[str, Any]] = []
    for mine in a:
        for theirs in b:
            if mine.task == theirs.task and mine.folder != theirs.folder:
                rows += _paired_rows(mine, theirs)
    if not rows:
        raise UsageError("the two have no scored samples of one task in common")
    told = [r for r in rows if r["p_value"] is not None]
    for row, adjusted in zip(told, holm([r["p_value"] for r in told])):
        row["p_holm"] = adjusted
    return rows


def _paired_rows(a: StoredCell, b: StoredCell) -> Iterator[dict[str, Any]]:
    left, right = (journal.read(c.folder / "journal.jsonl").scored for c in (a, b))
    for metric in a.results["metrics"]:
        name = metric["metric"]
        group = metric.get("group")
        common = [
            id
            for id in left
            if id in right and name in left[id]["scores"] and name in right[id]["scores"]
        ]
        if not common:
            continue
        x, y = ([side[id]["scores"][name] for id in common] for side in (left, right))
        groups = [str(left[id]["metadata"].get(group)) for id in common] if group else None
        clusters = [left[id]["cluster"] for id in common]
        found = compare(x, y, clusters, groups)
        scale = metric["scale"]
        yield {
            "task": a.task,
            "metric": name,
            "a": scale * mean(x, groups),
            "b": scale * mean(y, groups),
            "difference": found.difference.value * scale,
            "ci_low": None if found.difference.low is None else found.difference.low * scale,
            "ci_high": None if found.difference.high is None else found.difference.high * scale,
            "p_value": found.p_value,
            "p_holm": None,
            "n": found.n,
            "cell_a": a.folder.name,
            "cell_b": b.folder.name,
        }
