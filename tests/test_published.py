"""Published scores stand beside measured ones; a difference is given only where the protocol is the
same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evalkit.results.cells import take_inventory
from evalkit.results.published import beside_published, published, write_paper_table
from evalkit.run_info import Selection
from evalkit.store import CellFolder
from evalkit.task import Metric, load_task
from evalkit.types import MediaBudget
from tests.stored import cell, moved, record

MTVQA = 6778
"""Questions of the split."""
HUB_CACHE = "/cache/hub/models--Qwen--Qwen2-VL-7B-Instruct/snapshots/" + "0" * 40


def run(output: Path, n: int = MTVQA, **changes: Any) -> CellFolder:
    """A finished run of the 7B release on MTVQA under the published settings, but for changes."""
    task = load_task("multilingual_ocr:mtvqa")
    right = round(0.261 * n)
    about = {
        "task": "multilingual_ocr:mtvqa",
        "model": "Qwen/Qwen2-VL-7B-Instruct",
        "metrics": (Metric("mtvqa"),),
        "budget": task.budget,
    }
    identity = changes.pop("identity", {})
    records = (record(i, float(i < right), metric="mtvqa") for i in range(n))
    made = cell(output, records, **about | changes)
    return moved(made, **identity) if identity else made


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> CellFolder:
    return run(tmp_path_factory.mktemp("official"))


def test_the_same_protocol_gives_a_difference(official: CellFolder) -> None:
    (row,) = beside_published([official]).to_dict("records")
    assert row["difference"] == pytest.approx(0.5, abs=0.01)
    assert (row["published"], row["published_n"], row["n"]) == (25.6, MTVQA, MTVQA)
    assert row["why_not"] == ""


def test_models_of_one_name_are_told_apart_beside_published_scores(tmp_path: Path) -> None:
    for n, place in enumerate(("~/a/last", "~/b/last")):
        cell(
            tmp_path, [record(n, 1)], model="last", fingerprint={"n": n}, run={"model_path": place}
        )
    assert set(beside_published(take_inventory(tmp_path).cells)["model"]) == {"a/last", "b/last"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"complete": False}, "only a part"),
        ({"selection": Selection(first=(0, 10))}, "only a part .*first 10"),
        ({"switches": {"position": "rope1d"}}, "switches are set"),
        ({"fingerprint": {"trained_with": {"position": "rope1d"}}}, "switches are set"),
        ({"identity": {"control": "blind"}}, "asked with control=blind, the published"),
        ({"identity": {"asking": {"system": "Be brief."}}}, "asked with system, the published"),
        ({"budget": MediaBudget(3136, 12845056)}, "min_pixels is 3136"),
        ({"task": "multilingual_ocr:mini", "data": {"kind": "embedded"}}, "drawn by evalkit"),
        ({"model": "nano"}, "nano is not among the published models"),
        ({"n": 3}, "over 3 questions, the published one over 6778"),
        # random weights in a folder of the right name, three questions of one's own
        (
            {
                "n": 3,
                "model": "Qwen2-VL-7B-Instruct",
                "run": {"model_path": "~/x/Qwen2-VL-7B-Instruct"},
            },
            "a folder that is called so; give Qwen/Qwen2-VL-7B-Instruct",
        ),
        ({"model": "Qwen2-VL-7B-Instruct"}, "a folder that is called so"),
        ({"model": "someone/Qwen2-VL-7B-Instruct"}, "a folder that is called so"),
    ],
)
def test_anything_else_is_labelled_with_the_reason(
    tmp_path: Path, official: CellFolder, changes: dict[str, Any], why: str
) -> None:
    small = {"n": 20} | changes  # what else differs is found before the number of questions
    if "budget" in changes:
        small["n"] = MTVQA
    (row,) = beside_published([run(tmp_path, **small)]).to_dict("records")
    assert row["difference"] != row["difference"]
    assert row["why_not"].startswith("not comparable: ")
    assert re.search(why, row["why_not"]), row["why_not"]


def test_the_hubs_own_cache_counts_as_the_hub(official: CellFolder) -> None:
    info = replace(official.run, model="0" * 40, model_path=HUB_CACHE)
    cached = CellFolder(official.path)
    cached.__dict__["run"] = info
    (row,) = beside_published([cached]).to_dict("records")
    assert row["difference"] == pytest.approx(0.5, abs=0.01)


def test_local_rows_are_marked_even_where_their_number_is_right(official: CellFolder) -> None:
    identity = replace(official.run.identity, data={"kind": "local"})
    local = CellFolder(official.path)
    local.__dict__["run"] = replace(official.run, identity=identity)
    (row,) = beside_published([local]).to_dict("records")
    assert row["data"] == "local" and "not known to be the official rows" in row["why_not"]


def test_the_table_says_how_small_a_difference_means_nothing(official: CellFolder) -> None:
    csv, markdown = write_paper_table(official.path.parents[2])
    assert "below one point says nothing" in markdown.read_text()
    assert "| +0.5 |" in markdown.read_text()
    assert pd.read_csv(csv)["difference"].tolist() == pytest.approx([0.5], abs=0.01)


def test_every_published_score_names_a_split_and_a_metric_that_there_is() -> None:
    for p in published():
        task = load_task(p.task)
        assert task.metrics[0].name == p.metric, p
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
    readme = {p.model.split("-")[2]: p.value for p in published() if p.task == "docvqa:val"}
    assert readme == {"2B": 88.34, "7B": 93.89, "72B": 95.79}
    assert all("README" in p.source for p in published() if p.task == "docvqa:val")
