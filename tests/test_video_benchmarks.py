"""Benchmarks of the Qwen2.5-VL and Qwen3-VL reports: asked as their harnesses ask, read and scored
as the published rules do, over rows in their official layouts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evalkit.tasks import mlvu

from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.errors import DataError
from evalkit.metrics import readers
from evalkit.records import Record
from evalkit.runner import run_cell
from evalkit.task import Row, RowError, Task, checked_score, load_task, read_samples
from evalkit.types import Completion, Sample, Text
from tests.official import BUILDERS, inline
from tests.plugins.looker import Looker
from tests.test_metrics_readers import OPTIONS, answers, can_infer

NAMES = ("mlvu:dev", "mlvu:test")


def samples(task: Task, data: Path) -> list[Sample]:
    return [s for s in read_samples(task, data) if isinstance(s, Sample)]


def prompt(task: Task, row: dict[str, Any]) -> str:
    """The conversation about a row, with media as marks."""
    (sample,) = task.samples(Row({"clip": Path(__file__), **row}))
    assert isinstance(sample, Sample)
    parts = sample.messages[-1].content
    return "".join(p.text if isinstance(p, Text) else "<>" for p in parts)


def values(task: Task, asked: list[Sample], said: list[str]) -> dict[str, float]:
    """The headline numbers of answers, as a run would have them."""
    records = []
    for sample, text in zip(asked, said, strict=True):
        completion = Completion(sample.id, text)
        records.append(Record.of(sample, "", completion, checked_score(task, sample, completion)))
    found = CellResults.of(records, task.metrics, complete=True)
    return {m.metric: m.value for m in found.metrics}


def repeated(asked: list[Sample], times: int) -> list[Sample]:
    """The samples over and over, with ids and clusters of their own."""
    return [
        replace(s, id=f"{k}-{s.id}", cluster=f"{k}-{s.cluster}")
        for k in range(times)
        for s in asked
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_that_is_absent_costs_its_own_questions(name: str, tmp_path: Path) -> None:
    data = BUILDERS[name](tmp_path / "data")
    sorted(data.rglob("*.zip"))[-1].unlink()
    absent = [
        s
        for s in read_samples(load_task(name), data)
        if isinstance(s, RowError) and "no clip" in s.reason
    ]
    cell = Cell.make(load_task(name), Looker("x"), "x", tmp_path / "out", data)
    results = run_cell(cell, progress=False).results
    assert 0 < len(absent) < results.n_total
    assert len(absent) <= results.errors <= len(absent) + 1  # and the odd row


# ---- MLVU


def test_mlvu_is_asked_as_its_harnesses_do() -> None:
    row = {"video_name": "1.mp4", "question": inline(1), "answer": "B", "task_type": "ego"}
    options = "(A) thing A1\n(B) thing B1\n(C) thing C1\n(D) thing D1\n"
    assert prompt(load_task("mlvu"), row) == (
        "Carefully watch this video and pay attention to every detail. Based on your observations, "
        "select the best option that accurately addresses the question.<>Question: What happens? 1"
        f"\nOptions:\n{options}Only give the best option."
    )
    assert prompt(load_task("mlvu", "lmms-eval"), row) == (
        f"<>What happens? 1\n{options}\nOnly give the best option.\nBest option: ("
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"question": "What happens?"}, "lists the options none"),
        ({"question": "What?\n(A) one\n(C) two"}, "lists the options AC"),
        ({"question": "What?\n(A) one\n(B) "}, "nothing but the letter"),
        ({"answer": "E"}, "'answer' is 'E'"),
        ({"answer": None}, "'answer' is None"),
        ({"task_type": "needleQA"}, "'task_type' is 'needleQA', not one of plotQA, needle,"),
        ({"video_name": None}, "'video_name' is null"),
    ],
)
def test_an_odd_row_of_mlvu_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    row = {"video_name": "1.mp4", "question": inline(1), "answer": "B", "task_type": "ego"}
    with pytest.raises(DataError, match=complaint):
        prompt(load_task("mlvu"), row | changes)


def test_m_avg_is_the_mean_over_tasks_and_vlmevalkits_over_questions(tmp_path: Path) -> None:
    task = load_task("mlvu")
    asked = repeated(samples(task, BUILDERS["mlvu:dev"](tmp_path)), 20)
    said = random.Random(0).choices(["A", "(B) it", "C.", "none of them"], k=len(asked))
    right: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, said):
        right[sample.metadata["task_type"]].append(answer.strip("(")[0] == "ABCD"[sample.target])
    assert set(right) == set(mlvu.KINDS["dev"])
    mean = 100 * sum(sum(r) / len(r) for r in right.values()) / 7
    micro = 100 * sum(map(sum, right.values())) / len(asked)
    assert values(task, asked, said) == pytest.approx({"m_avg": mean, "accuracy": micro})
    assert mean != pytest.approx(micro)
    assert load_task("mlvu", "vlmevalkit").metrics[0].name == "accuracy"


def test_mlvus_readers_follow_the_published_rules() -> None:
    named = both = 0
    for answer in answers():
        index = answer.find(")")
        letter = answer[index - 1 : index] if index >= 0 else answer
        fits = [c for c in "ABCD" if c in (letter, can_infer(answer))]
        read = readers.mlvu_vlmevalkit(answer, OPTIONS)
        assert read == ("ABCD".index(fits[0]) if len(fits) == 1 else None), answer
        named, both = named + (len(fits) == 1), both + (len(fits) > 1)
        six = readers.lmms_eval_four(answer, [*OPTIONS, "E", "F"])
        assert six == readers.lmms_eval(answer, OPTIONS)
    assert named > 300 and both
