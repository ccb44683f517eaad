"""From the records of a cell to its numbers: counts, values and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.journal import Record
from evalkit.stats import mean_interval
from evalkit.task import Metric


def summarise(records: Sequence[Record], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Counts, and for each metric its value with a 95 % interval over clusters.

    ``n`` counts scored samples, ``errors`` those that have no score, ``unparsed`` those whose
    answer could not be read (they score lowest). A metric that no record carries (hidden answers)
    is left out.
    """
    done = [r for r in records if r.get("error") is None]
    values = []
    for metric in metrics:
        mine = [r for r in done if metric.name in r["scores"]]
        if not mine:
            continue
        groups = [str(r["metadata"].get(metric.group)) for r in mine] if metric.group else None
        found = mean_interval(
            [r["scores"][metric.name] for r in mine], [r["cluster"] for r in mine], groups
        )
        values.append(
            {
                "metric": metric.name,
                "value": found.value * metric.scale,
                "ci_low": None if found.low is None else found.low * metric.scale,
                "ci_high": None if found.high is None else found.high * metric.scale,
                "n": len(mine),
                "clusters": len({r["cluster"] for r in mine}),
                "group": metric.group,
                "higher_is_better": metric.higher_is_better,
                "scale": metric.scale,
            }
        )
    return {
        "n": len(done),
        "n_total": len(records),
        "errors": len(records) - len(done),
        "unparsed": sum(bool(r.get("unparsed")) for r in done),
        "tokens": {k: sum(r["tokens"][k] for r in done) for k in ("text_in", "vision_in", "out")},
        "metrics": values,
    }
