"""Tables: what ran is what is read, rescoring needs no model, and what models wrote can't break a
page.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evalkit
from evalkit.cell import Cell, Selection
from evalkit.cli import main
from evalkit.errors import DataError, UsageError
from evalkit.results import (
    compare_cells,
    find_cells,
    load_breakdown,
    markdown_table,
    stored_cells,
    write_leaderboard,
)
from evalkit.results.rescore import rescore
from evalkit.runner import run_cell
from evalkit.stats import compare, mean
from evalkit.task import Task, load_task
from evalkit.types import Completion, Sample, Score
from tests.plugins.adder import Adder
from tests.test_runner import SUMS, run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    run(tmp_path)
    run(tmp_path, wrong=3)
    return tmp_path


def test_results_have_one_row_per_cell_and_metric(output: Path) -> None:
    frame = evalkit.load_results(output)
    assert len(frame) == 4
    assert set(frame["task"]) == {"sums:all"}
    assert set(frame.loc[frame["headline"], "metric"]) == {"exact"}
    assert frame["n"].tolist() == [40] * 4
    assert (frame["ci_low"] <= frame["value"]).all()


def test_samples_have_one_row_each_with_metadata_and_scores(output: Path) -> None:
    frame = evalkit.load_samples(output)
    assert len(frame) == 80
    assert frame.groupby(["cell", "metadata_parity"])["score_exact"].mean().between(0, 1).all()
    assert not frame.duplicated(["cell", "id"]).any()


def test_no_results_are_an_empty_table(tmp_path: Path) -> None:
    assert evalkit.load_results(tmp_path).empty
    assert evalkit.load_samples(tmp_path).empty


def test_the_leaderboard_states_counts_intervals_and_schema(output: Path) -> None:
    csv, markdown = write_leaderboard(output)
    text = markdown.read_text()
    assert text.startswith("<!-- schema_version: 2")
    assert "| sums:all | adder |" in text and "[" in text
    assert "schema_version" in csv.read_text().splitlines()[0]
    assert str(output) not in csv.read_text()


def test_every_model_with_switches_gets_a_row_without_vision(tmp_path: Path) -> None:
    def rows() -> list[str]:
        lines = write_leaderboard(tmp_path)[1].read_text().splitlines()
        return [line for line in lines if "vision_gate=0" in line]

    assert main(["run", "--tasks", "docvqa", "--limit", "2", "--output", str(tmp_path)]) == 0
    (missing,) = rows()
    assert "no vision: run with --switch vision_gate=0" in missing and "| – |" in missing
    assert (
        main(
            [
                "run",
                "--tasks",
                "docvqa",
                "--limit",
                "2",
                "--output",
                str(tmp_path),
                "--switch",
                "vision_gate=0",
            ]
        )
        == 0
    )
    (there,) = rows()
    assert "inference probe" in there and "run with" not in there


def test_a_partial_run_is_marked_in_the_leaderboard(tmp_path: Path) -> None:
    run(tmp_path, Selection(first=(0, 10)))
    assert "partial: do not quote" in write_leaderboard(tmp_path)[1].read_text()


def test_markdown_from_models_is_escaped() -> None:
    row = markdown_table(("a",), [("<script>x</script>|\n`",)]).splitlines()[-1]
    assert "<script>" not in row and "\\|" in row


def test_cells_compare_on_common_samples(output: Path) -> None:
    a, b = stored_cells(output)
    rows = compare_cells([a], [b])
    exact = rows[0]
    assert exact["n"] == 40
    assert exact["difference"] == pytest.approx(exact["a"] - exact["b"])
    assert exact["ci_low"] <= exact["difference"] <= exact["ci_high"]
    assert exact["p_holm"] >= exact["p_value"]
    with pytest.raises(UsageError, match="no such cell"):
        find_cells("nobody", output)


@pytest.fixture
def own_task(tmp_path: Path) -> Path:
    """A copy of the task as a user's file, and one finished cell of it."""
    file = tmp_path / "mine.py"
    file.write_text(Path(SUMS).read_text())
    run_cell(Cell.make(load_task(str(file)), Adder("adder"), "adder", tmp_path), progress=False)
    return file


def test_rescoring_with_the_same_task_changes_nothing(own_task: Path) -> None:
    (cell,) = stored_cells(own_task.parent)
    journal = (cell.folder / "journal.jsonl").read_bytes()
    same, changed = rescore(cell)
    assert (same.folder, changed, same.results["metrics"]) == (
        cell.folder,
        0,
        cell.results["metrics"],
    )
    assert (cell.folder / "journal.jsonl").read_bytes() == journal


def test_rescoring_needs_no_model_and_a_run_then_finds_its_scores(
    own_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = stored_cells(own_task.parent)
    own_task.write_text(own_task.read_text().replace("float(text == str(sample.target))", "1.0"))
    monkeypatch.setattr(Adder, "generate", lambda *_: pytest.fail("the model was asked"))
    new, changed = rescore(cell)
    assert new.folder != cell.folder and changed == 8
    assert new.results["metrics"][0]["value"] == pytest.approx(100 * 39 / 40)
    assert (
        stored_cells(own_task.parent)[
            [c.folder for c in stored_cells(own_task.parent)].index(cell.folder)
        ]
        == cell
    )
    found = run_cell(
        Cell.make(load_task(str(own_task)), Adder("adder"), "adder", own_task.parent),
        progress=False,
    )
    assert (found.cell.folder, found.made, found.reused) == (new.folder, 0, 40)


def test_rescoring_under_an_unchanged_version_appends_and_keeps_the_old_scores(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = stored_cells(output)[0]
    lines = (cell.folder / "journal.jsonl").read_text()

    def lenient(self: Task, sample: Sample, completion: Completion) -> Score:
        return Score({"exact": 1.0, "digits": 1.0}, completion.text)

    task = load_task(SUMS)
    monkeypatch.setattr(type(task), "score", lenient)
    monkeypatch.setattr("evalkit.results.rescore.load_task", lambda _: task)
    new, changed = rescore(cell)
    assert new.folder == cell.folder and changed > 0
    assert new.results["metrics"][0]["value"] == 100.0
    assert (cell.folder / "journal.jsonl").read_text().startswith(lines)


def test_a_macro_average_is_compared_as_one() -> None:
    values, groups = [1.0] * 30 + [0.0] * 10, ["a"] * 30 + ["b"] * 10
    assert mean(values) == 0.75
    assert mean(values, groups) == 0.5
    found = compare(values, [0.0] * 40, list(range(40)), groups)
    assert found.difference.value == 0.5


def test_a_damaged_results_file_is_named(output: Path) -> None:
    path = stored_cells(output)[0].folder / "run.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"run\.json"):
        stored_cells(output)
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DataError, match="schema 99"):
        stored_cells(output)


def test_scores_by_what_follows_from_a_record(tmp_path: Path) -> None:
    assert (
        main(["run", "--tasks", "refcoco,docvqa", "--limit", "200", "--output", str(tmp_path)]) == 0
    )
    for field, classes in {
        "object_size": ["under 2 %", "2 to 10 %", "over 10 % of the image"],
        "aspect": ["tall (under 2:3)", "2:3 to 3:2", "wide (over 3:2)"],
        "tier": ["easy", "medium", "hard"],
    }.items():
        frame = load_breakdown(tmp_path, field)
        boxes = frame[frame.task == "refcoco:mini"]
        assert boxes[field].tolist() == classes and boxes.n.sum() == 199
        assert ("docvqa:mini" in set(frame.task)) == (field != "object_size")
    areas = load_breakdown(tmp_path, "image_area")
    assert areas[areas.task == "docvqa:mini"].n.sum() == 200
    tokens = load_breakdown(tmp_path, "visual_tokens")
    assert [
        int(v.split()[0]) for v in tokens.visual_tokens[tokens.task == "refcoco:mini"]
    ] == sorted(int(v.split()[0]) for v in tokens.visual_tokens[tokens.task == "refcoco:mini"])
    with pytest.raises(UsageError, match="there are: aspect, height, image_area"):
        load_breakdown(tmp_path, "colour")
