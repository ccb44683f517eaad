"""Tables: what ran is what is read, rescoring needs no model, and what models wrote can't break a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evalkit
from evalkit.errors import DataError, UsageError
from evalkit.results import compare_cells, find_cells, markdown_table, rescore, stored_cells, write_leaderboard
from tests.plugins import sums
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
    assert text.startswith("<!-- schema_version: 1")
    assert "| sums:all | adder |" in text and "[" in text
    assert "schema_version" in csv.read_text().splitlines()[0]
    assert str(output) not in csv.read_text()


def test_a_partial_run_is_marked_in_the_leaderboard(tmp_path: Path) -> None:
    from evalkit.runner import Selection

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


def test_rescoring_needs_only_the_journal(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = stored_cells(output)[0]
    before = cell.results["metrics"]
    monkeypatch.setattr("evalkit.task.load_task", lambda _: sums.Sums("all"))
    same, changed = rescore(cell)
    assert (same.folder, changed, same.results["metrics"]) == (cell.folder, 0, before)

    class Lenient(sums.Sums):
        def score(self, sample, completion):  # type: ignore[no-untyped-def]
            return sums.Score({"exact": 1.0, "digits": 1.0}, completion.text)

    monkeypatch.setattr("evalkit.task.load_task", lambda _: Lenient("all"))
    new, changed = rescore(cell)
    assert changed > 0
    assert new.results["metrics"][0]["value"] == 100.0
    assert (cell.folder / "journal.before-rescore.jsonl").is_file()

    monkeypatch.setattr(Lenient, "version", 2)
    moved, _ = rescore(cell)
    assert moved.folder != cell.folder
    assert moved.run["identity"]["task_version"] == 2


def test_a_damaged_results_file_is_named(output: Path) -> None:
    path = stored_cells(output)[0].folder / "run.json"
    path.write_text("{")
    with pytest.raises(DataError, match="run.json"):
        stored_cells(output)
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DataError, match="schema 99"):
        stored_cells(output)


def test_a_task_by_file_can_be_found_again() -> None:
    assert SUMS.endswith("sums.py")
