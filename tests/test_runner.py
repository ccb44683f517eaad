"""A run keeps what it scored: it resumes, isolates bad rows, and says what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from evalkit.cell import Cell, Selection, model_name
from evalkit.errors import EvalkitError, UsageError
from evalkit.journal import Journal, read
from evalkit.runner import Outcome, run_cell
from evalkit.task import Row, Task, load_task
from evalkit.types import Completion, Message, Sample, Text
from tests.plugins.adder import Adder

SUMS = str(Path(__file__).parent / "plugins" / "sums.py")


def run(output: Path, selection: Selection = Selection(), **arguments: object) -> Outcome:
    adapter = Adder("adder", **arguments)  # type: ignore[arg-type]
    return run_cell(
        Cell.make(load_task(SUMS), adapter, "adder", output),
        selection,
        say=lambda _: None,
        progress=False,
    )


def test_a_run_scores_every_sample_once(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    records = read(outcome.cell.folder / "journal.jsonl").records
    assert (outcome.made, outcome.reused, len(records)) == (40, 0, 40)
    exact = outcome.results["metrics"][0]
    assert exact["value"] == pytest.approx(100 * 31 / 40)
    assert exact["ci_low"] < exact["value"] < exact["ci_high"]
    assert (outcome.results["n"], outcome.results["errors"], outcome.results["unparsed"]) == (
        40,
        0,
        1,
    )
    assert records["sum/7"]["unparsed"] and records["sum/7"]["scores"]["exact"] == 0.0


def test_a_finished_cell_is_reused_without_a_look_at_data_or_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path)
    monkeypatch.setattr(Adder, "generate", lambda *_: pytest.fail("the model was asked"))
    second = run(tmp_path)
    assert (second.made, second.reused) == (0, 40)
    assert second.results == first.results


def test_batch_size_is_not_part_of_the_cell_but_what_changes_answers_is(tmp_path: Path) -> None:
    assert run(tmp_path, batch_size=1).cell.folder == run(tmp_path, batch_size=7).cell.folder
    assert run(tmp_path, wrong=4).cell.folder != run(tmp_path).cell.folder


def test_a_growing_limit_only_runs_what_is_new(tmp_path: Path) -> None:
    assert run(tmp_path, Selection(first=(0, 10))).made == 10
    more = run(tmp_path, Selection(first=(5, 25)))
    assert (more.made, more.reused) == (15, 5)
    assert more.results["selection"] == {"first": [5, 25]}
    assert run(tmp_path, Selection(first=(5, 25))).made == 0
    whole = run(tmp_path)
    assert (whole.made, whole.reused, whole.results["n"]) == (15, 25, 40)
    assert whole.results["metrics"] == run(tmp_path / "other").results["metrics"]


def test_a_random_selection_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    a, b, c = (
        run(tmp_path / name, Selection(drawn=8, seed=s))
        for name, s in (("a", 1), ("b", 1), ("c", 2))
    )
    ids = [set(read(o.cell.folder / "journal.jsonl").records) for o in (a, b, c)]
    assert len(ids[0]) == 8
    assert ids[0] == ids[1] != ids[2]


def test_one_sample_can_be_run_alone_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, Selection(ids=("sum/3",))).made == 1
    with pytest.raises(UsageError, match="nonsense"):
        run(tmp_path, Selection(ids=("nonsense",)))


def test_a_broken_row_is_an_error_of_its_own_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    broken = run(tmp_path)
    assert (broken.results["n"], broken.results["errors"], broken.stopped) == (39, 1, None)
    assert (
        "row 13: IndexError"
        in read(broken.cell.folder / "journal.jsonl").records["row-13"]["error"]
    )
    assert run(tmp_path).made == 1
    monkeypatch.delenv("EVALKIT_TEST_BROKEN")
    mended = run(tmp_path)
    assert (mended.made, mended.results["n"], mended.results["errors"]) == (1, 40, 0)


def test_a_refused_request_is_an_error_and_never_a_zero(tmp_path: Path) -> None:
    outcome = run(tmp_path, refuse=6)
    assert (outcome.results["n"], outcome.results["errors"]) == (39, 1)
    assert outcome.results["metrics"][0]["value"] == pytest.approx(100 * 30 / 39)


def test_an_adapter_that_breaks_loses_nothing(tmp_path: Path) -> None:
    stopped = run(tmp_path, crash_at=22)
    assert stopped.stopped == "MemoryError: out of memory"
    assert not stopped.results["complete"]
    kept = len(read(stopped.cell.folder / "journal.jsonl").records)
    assert kept > 15
    whole = run(tmp_path)
    assert (whole.made, whole.reused) == (40 - kept, kept)
    assert whole.results["metrics"] == run(tmp_path / "other").results["metrics"]


def test_an_answer_nobody_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Adder.generate
    monkeypatch.setattr(
        Adder, "generate", lambda self, r: (c for x in original(self, r) for c in (x, x))
    )
    outcome = run(tmp_path)
    assert "was not asked or was answered before" in str(outcome.stopped)
    assert not outcome.results["complete"]


def test_an_adapter_that_ends_too_early_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Adder.generate
    monkeypatch.setattr(Adder, "generate", lambda self, r: islice(original(self, r), 6))
    outcome = run(tmp_path)
    assert "unanswered" in str(outcome.stopped)
    assert (outcome.results["n"], outcome.results["complete"]) == (6, False)


def test_a_selection_never_replaces_the_results_of_everything(tmp_path: Path) -> None:
    whole = run(tmp_path)
    part = run(tmp_path, Selection(first=(0, 10)))
    assert (part.made, part.reused, part.results["n"]) == (0, 10, 10)
    assert run(tmp_path).results == whole.results


def test_results_do_not_depend_on_the_order_of_answers(tmp_path: Path) -> None:
    orders = [run(tmp_path / str(size), batch_size=size) for size in (1, 3, 40)]
    assert (
        orders[0].results["metrics"] == orders[1].results["metrics"] == orders[2].results["metrics"]
    )


def test_an_early_end_of_a_resumed_run_keeps_what_older_runs_scored(tmp_path: Path) -> None:
    before = run(tmp_path, crash_at=39).results["n"]
    assert run(tmp_path, crash_at=before).results["n"] >= before > 30


def test_a_row_that_failed_and_now_has_its_sample_leaves_no_trace_in_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    folder = run(tmp_path).cell.folder
    monkeypatch.delenv("EVALKIT_TEST_BROKEN")
    run(tmp_path)
    assert len(read(folder / "journal.jsonl").records) == 40


def test_a_repeated_id_is_one_counted_error_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    original = type(task).samples

    def samples(self: Task, row: Row) -> list[Sample]:
        return [replace(s, id="sum/1") if row["n"] == 9 else s for s in original(self, row)]

    monkeypatch.setattr(type(task), "samples", samples)
    outcome = run_cell(
        Cell.make(task, Adder("adder"), "adder", tmp_path), say=lambda _: None, progress=False
    )
    assert (outcome.results["n"], outcome.results["errors"], outcome.stopped) == (39, 1, None)
    error = read(outcome.cell.folder / "journal.jsonl").records["row-9"]["error"]
    assert error == "row 9: the id 'sum/1' is that of a sample of row 1 already"


def test_metadata_that_json_cant_hold_is_an_error_of_that_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    original = type(task).samples

    def samples(self: Task, row: Row) -> list[Sample]:
        return [
            replace(s, metadata={"raw": b"x"}) if row["n"] == 3 else s for s in original(self, row)
        ]

    monkeypatch.setattr(type(task), "samples", samples)
    outcome = run_cell(
        Cell.make(task, Adder("adder"), "adder", tmp_path), say=lambda _: None, progress=False
    )
    assert (outcome.results["n"], outcome.results["errors"], outcome.stopped) == (39, 1, None)
    assert (
        "can't be recorded as JSON"
        in read(outcome.cell.folder / "journal.jsonl").records["sum/3"]["error"]
    )


def test_a_task_file_that_changed_is_another_cell(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(Path(SUMS).read_text())
    folders = []
    for extra in ("", "\n# changed"):
        file.write_text(file.read_text() + extra)
        folders.append(Cell.make(load_task(str(file)), Adder("adder"), "adder", tmp_path).folder)
    assert folders[0] != folders[1]


def test_a_resumed_cell_keeps_the_provenance_of_its_earlier_runs(tmp_path: Path) -> None:
    run(tmp_path, crash_at=22)
    record = json.loads((run(tmp_path).cell.folder / "run.json").read_text())
    assert [set(r) for r in record["earlier"]] == [
        {"created", "selection", "details", "versions", "git", "command"}
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [("nano", "nano"), ("Qwen/Qwen2-VL-2B", "Qwen/Qwen2-VL-2B"), ("/a/b/mine/", "mine")],
)
def test_tables_name_models_without_the_folders_of_a_machine(text: str, name: str) -> None:
    assert model_name(text) == name


def test_a_changed_prompt_makes_its_sample_run_again(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.folder
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines()
    changed = json.loads(lines[5])
    changed["prompt"] = "0" * 12
    lines[5] = json.dumps(changed)
    path.write_text("\n".join(lines) + "\n")
    (folder / "results.json").unlink()
    assert run(tmp_path).made == 1


def test_run_json_holds_what_a_repetition_needs(tmp_path: Path) -> None:
    record = json.loads((run(tmp_path).cell.folder / "run.json").read_text())
    assert record["schema_version"] == 2
    assert record["identity"]["fingerprint"]["model"] == "adder"
    assert {"evalkit", "torch", "python"} <= set(record["versions"])
    assert record["command"].startswith("evalkit")


def test_two_writers_never_share_a_journal(tmp_path: Path) -> None:
    path = run(tmp_path).cell.folder / "journal.jsonl"
    with Journal(path, {}), pytest.raises(EvalkitError, match="another run"):
        Journal(path, {})


ASKED = (Message("user", (Text("1 + 1"),)),)


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        ("1 + 1 =", "str is not a Sample"),
        (Sample("a", (), 0), "no messages"),
        (Sample("a", ASKED, 0, cluster=["b"]), "cluster must be a string"),  # type: ignore[arg-type]
        (Sample("a", ASKED, 0, metadata=[1]), "metadata a mapping"),  # type: ignore[arg-type]
        (
            Sample("a", (Message("alien", ASKED[0].content),), 0),
            "with role system, user or assistant",
        ),  # type: ignore[arg-type]
        (Sample("a", (Message("user", (Text(None),)),), 0), "not a Text with a string"),  # type: ignore[arg-type]
    ],
)
def test_what_a_task_makes_wrongly_is_an_error_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: object, fault: str
) -> None:
    task = load_task(SUMS)
    good = type(task).samples
    monkeypatch.setattr(
        type(task), "samples", lambda self, row: [sample] if row["n"] == 3 else good(self, row)
    )
    outcome = run_cell(
        Cell.make(task, Adder("adder"), "adder", tmp_path), say=lambda _: None, progress=False
    )
    assert (outcome.results["n"], outcome.results["errors"], outcome.stopped) == (39, 1, None)
    assert fault in read(outcome.cell.folder / "journal.jsonl").records["row-3"]["error"]


def test_where_the_data_end_badly_what_was_asked_before_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    rows = type(task.subsets["all"].source).rows

    def bad(self: object, override: Path | None = None) -> object:
        yield from islice(rows(self, override), 20)  # type: ignore[arg-type]
        raise OSError("the data end badly")

    monkeypatch.setattr(type(task.subsets["all"].source), "rows", bad)
    outcome = run_cell(
        Cell.make(task, Adder("adder", batch_size=16), "adder", tmp_path),
        say=lambda _: None,
        progress=False,
    )
    assert (outcome.made, outcome.results["complete"]) == (20, False)
    assert "the data end badly" in str(outcome.stopped)


def test_an_adapter_that_answers_with_something_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Adder, "answer", lambda self, request: Completion(request.id, "2", tokens=None)
    )  # type: ignore[arg-type]
    assert "expected a Completion with TokenCounts" in str(run(tmp_path).stopped)


@pytest.mark.parametrize("fingerprint", [None, {"a": {1}}])
def test_a_fingerprint_that_is_not_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: object
) -> None:
    monkeypatch.setattr(Adder, "fingerprint", fingerprint)
    with pytest.raises(UsageError, match="adapter 'adder': its fingerprint"):
        run(tmp_path)


@pytest.mark.parametrize("score", [SystemExit(0), "yes"])
def test_a_score_that_is_none_is_an_error_of_its_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: object
) -> None:
    task = load_task(SUMS)

    def breaks(self: Task, sample: Sample, completion: Completion) -> object:
        if isinstance(score, SystemExit):
            raise score
        return score

    monkeypatch.setattr(type(task), "score", breaks)
    outcome = run_cell(
        Cell.make(task, Adder("adder"), "adder", tmp_path), say=lambda _: None, progress=False
    )
    assert (outcome.results["n"], outcome.results["errors"]) == (0, 40)
