"""Published scores stand beside measured ones; a difference is given only where the protocol is the
same.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from evalkit.results.cells import StoredCell
from evalkit.results.published import beside_published, published
from evalkit.task import load_task


def cell(**changes: Any) -> StoredCell:
    """A finished run of the 7B release on MTVQA under the published settings, but for changes."""
    task = load_task("multilingual_ocr:mtvqa")
    budget = task.subsets["mtvqa"].budget
    bounds = {"min_pixels": budget.min_pixels, "max_pixels": budget.max_pixels}
    identity = {
        "task": "multilingual_ocr",
        "subset": "mtvqa",
        "budget": bounds,
        "fingerprint": {"dtype": "bfloat16"},
    }
    run: dict[str, Any] = {"model": "Qwen/Qwen2-VL-7B-Instruct", "identity": identity}
    metric = {"metric": "mtvqa", "value": 26.1, "n": 6000}
    results: dict[str, Any] = {
        "metrics": [metric],
        "complete": True,
        "selection": {},
        "switches": {},
    }
    run, results = deepcopy(run), deepcopy(results)
    for key, value in changes.items():
        target = identity if key in identity else results if key in results else run
        (run["identity"] if target is identity else target)[key] = value
    return StoredCell(Path("cell"), run, results)


def test_the_same_protocol_gives_a_difference() -> None:
    (row,) = beside_published([cell()]).to_dict("records")
    assert (
        row["published"] == 25.6
        and row["difference"] == pytest.approx(0.5)
        and row["why_not"] == ""
    )
    (row,) = beside_published([cell(model="/models/Qwen2-VL-7B-Instruct")]).to_dict("records")
    assert row["difference"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"complete": False}, "only a part"),
        ({"selection": {"first": [0, 10]}}, "only a part"),
        ({"switches": {"position": "rope1d"}}, "switches are set"),
        ({"budget": {"min_pixels": 3136, "max_pixels": 12845056}}, "min_pixels is 3136"),
        ({"subset": "mini"}, "drawn by evalkit"),
        ({"model": "nano"}, "nano is not among the published models"),
    ],
)
def test_anything_else_is_labelled_with_the_reason(changes: dict[str, Any], why: str) -> None:
    (row,) = beside_published([cell(**changes)]).to_dict("records")
    assert row["difference"] != row["difference"]
    assert row["why_not"].startswith("not comparable: ") and why in row["why_not"]


def test_every_published_score_names_a_split_and_a_metric_that_there_is() -> None:
    for p in published():
        task = load_task(p.task)
        metrics = task.metrics
        assert metrics[0].name == p.metric, p
        assert 0 < p.value < 100 and p.source
    assert len({(p.task, p.model, p.source) for p in published()}) == len(published())


def test_the_scores_are_those_of_the_papers_tables() -> None:
    found = {
        (p.task, p.model.split("-")[2]): p.value
        for p in published()
        if "table 6" in p.source or "table 2" in p.source
    }
    assert found["docvqa:test", "72B"] == 96.5 and found["docvqa:test", "2B"] == 90.1
    assert [found["refcoco:" + s, "7B"] for s in ("val", "testA", "testB")] == [91.7, 93.6, 87.3]
    assert [found["refcocog:" + s, "2B"] for s in ("val", "test")] == [81.2, 80.3]
    assert found["multilingual_ocr:mtvqa", "72B"] == 30.9
