"""Scores for other people's boards, and samples in the terminal: a number never travels alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results.export import model_index
from evalkit.run_info import Selection
from evalkit.store import CellFolder
from tests.stored import cell, moved, record


@pytest.fixture
def two(tmp_path: Path) -> tuple[CellFolder, CellFolder]:
    """Two models on four samples: one of them has a wrong, an unparsed and a failed one."""
    good = cell(tmp_path, [record(i, 1.0) for i in range(4)], model="good")
    records = [
        record(0, 1.0, question="How many?", target=["2", "two"]),
        record(1, 0.0, text="=cmd()", target="3"),
        record(2, 0.0, unparsed=True),
        record(3, 0.0, scores={}, error="row 3: no picture", failed_in="row", text=None),
    ]
    return good, cell(tmp_path, records, model="bad, with a comma")


def drawn_twice(output: Path) -> CellFolder:
    """A cell of two drawn answers to one sample, one of them right: no interval."""
    records = [record(f"0#{i}", float(i), metadata={"sample": "0"}, cluster="0") for i in (0, 1)]
    return moved(cell(output, records), asking={"temperature": 1.0, "repeats": 2})


def run(*words: str) -> int:
    return main(list(words))


def test_a_model_card_carries_n_interval_and_protocol(
    tmp_path: Path, two: tuple[CellFolder, CellFolder]
) -> None:
    out = tmp_path / "card.md"
    words = ("export", "good", "--format", "model-index", "--save", str(out))
    assert run(*words, "--output", str(tmp_path)) == 0
    text = out.read_text()
    assert text.startswith("---\n") and text.endswith("---\n")
    (model,) = yaml.safe_load(text.strip("-\n"))["model-index"]
    (result,) = model["results"]
    (metric,) = result["metrics"]
    assert (model["name"], metric["type"], metric["value"]) == ("good", "accuracy", 100.0)
    assert metric["args"]["n"] == 4 and metric["args"]["protocol"] == "default"


def test_a_model_card_is_one_models(two: tuple[CellFolder, CellFolder]) -> None:
    with pytest.raises(UsageError, match="a model card is one model's"):
        model_index(two)


def test_a_model_card_has_what_several_answers_make_and_no_empty_interval(tmp_path: Path) -> None:
    (model,) = model_index([drawn_twice(tmp_path)])["model-index"]
    metrics = [m for result in model["results"] for m in result["metrics"]]
    assert {m["type"]: m["value"] for m in metrics} == {
        "accuracy": 50.0,
        "accuracy, pass@1": 50.0,
        "accuracy, pass@2": 100.0,
        "accuracy, majority@2": 50.0,
    }
    assert not any("ci_low" in m["args"] for m in metrics)


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_frames_are_read_back_by_pandas(
    tmp_path: Path, two: tuple[CellFolder, CellFolder], form: str, samples: bool
) -> None:
    extra = ("--samples",) if samples else ()
    assert run("export", "--format", form, *extra, "--output", str(tmp_path)) == 0
    file = tmp_path / f"{'samples' if samples else 'scores'}.{form}"
    frame = pd.read_csv(file) if form == "csv" else pd.read_parquet(file)
    assert len(frame) == (8 if samples else 2)
    assert {"model", "task"} <= set(frame.columns)
    if not samples:
        assert {"n", "ci_low", "ci_high", "protocol", "settings"} <= set(frame.columns)


def test_latex_is_a_table_with_intervals(
    tmp_path: Path, two: tuple[CellFolder, CellFolder]
) -> None:
    assert run("export", "--format", "latex", "--output", str(tmp_path)) == 0
    text = (tmp_path / "scores.tex").read_text()
    assert r"\begin{tabular}" in text and "bad, with a comma" in text and r"95 \% interval" in text


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"selection": Selection(first=(0, 4))}, "first 4"),
        ({"complete": False}, "stopped early"),
        ({"missing_shards": ("2/2",), "complete": False}, "without shards 2/2"),
    ],
)
def test_a_part_of_the_samples_is_marked_in_every_form(
    tmp_path: Path, part: dict[str, Any], said: str
) -> None:
    cell(tmp_path, [record(i, 1.0) for i in range(4)], **part)
    for form in ("latex", "model-index", "csv"):
        assert run("export", "--format", form, "--output", str(tmp_path)) == 0
    assert f"4 (partial: {said}; do not quote)" in (tmp_path / "scores.tex").read_text()
    assert "complete: false" in (tmp_path / "scores.md").read_text()
    assert pd.read_csv(tmp_path / "scores.csv")["complete"].tolist() == [False]


def test_a_tracker_that_is_not_there_is_said(
    tmp_path: Path,
    two: tuple[CellFolder, CellFolder],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run("export", "--format", "wandb", "--output", str(tmp_path)) == 2
    assert "pip install 'evalkit[wandb]'" in capsys.readouterr().err


@pytest.mark.optional
def test_wandb_takes_the_scores_offline(
    tmp_path: Path, two: tuple[CellFolder, CellFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run("export", "--format", "wandb", "--output", str(tmp_path)) == 0
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.optional
def test_mlflow_takes_the_scores_without_a_server(
    tmp_path: Path, two: tuple[CellFolder, CellFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    drawn_twice(tmp_path)
    assert run("export", "--format", "mlflow", "--output", str(tmp_path)) == 0
    runs: Any = mlflow.search_runs(search_all_experiments=True, output_format="list")
    logged = [one.data.metrics for one in runs]
    assert sorted(m["accuracy.n"] for m in logged) == [2.0, 3.0, 4.0]
    assert [m["accuracy pass_at_2.value"] for m in logged if m["accuracy.n"] == 2] == [100.0]


@pytest.mark.parametrize(
    ("which", "ids"),
    [
        ("--wrong", ["1", "2"]),
        ("--unparsed", ["2"]),
        ("--errors", ["3"]),
        ("--id=0", ["0"]),
        ("--limit=2", ["0", "1"]),
    ],
)
def test_show_prints_the_samples_that_were_asked_for(
    tmp_path: Path,
    two: tuple[CellFolder, CellFolder],
    capsys: pytest.CaptureFixture[str],
    which: str,
    ids: list[str],
) -> None:
    words = ("show", str(two[1].path), which, "--output", str(tmp_path), "--json")
    assert run(*words) == 0
    assert [r["id"] for r in json.loads(capsys.readouterr().out)] == ids


def test_show_is_read_in_a_terminal(
    tmp_path: Path, two: tuple[CellFolder, CellFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", "good", "--output", str(tmp_path), "--limit", "1") == 0
    out = capsys.readouterr().out
    assert "answer    x" in out and "1 of 4; --limit 4 prints all" in out
    assert run("show", "good", "--id", "nine", "--output", str(tmp_path)) == 2
    assert "no sample 'nine'" in capsys.readouterr().err
