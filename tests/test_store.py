"""What a run leaves on disk is read back as it was, also from the files of evalkit 0.1."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.api import load_results
from evalkit.cell_results import CellResults
from evalkit.errors import DataError, EvalkitError
from evalkit.files import PART, part_of, remove_parts
from evalkit.files import replace as replace_file
from evalkit.names import model_name, model_path, shown_path, slug
from evalkit.records import Record
from evalkit.results.cells import model_labels
from evalkit.run_info import RunInfo, Selection
from evalkit.store import CellFolder, cells
from evalkit.types import Completion, Message, Sample, Score, Text, TokenCounts
from tests.runs import run


def damage(path: Path, text: str | None) -> None:
    """Puts a text in the place of a file's; None: removes it."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def kill(folder: CellFolder) -> None:
    """Leaves of a finished run what a kill before its end would have left."""
    folder.results_path.unlink()
    lines = folder.journal_path.read_text().splitlines(keepends=True)
    folder.journal_path.write_text("".join(li for li in lines if not li.startswith('{"results"')))


def as_0_1_wrote_it(folder: CellFolder) -> None:
    """Takes away what evalkit 0.1 did not write: the journal's lines of runs, and the digest."""
    lines = folder.journal_path.read_text().splitlines(keepends=True)
    records = [li for li in lines if not li.startswith(('{"results"', '{"run"'))]
    folder.journal_path.write_text("".join(records))
    results = json.loads(folder.results_path.read_text())
    del results["journal"]
    folder.results_path.write_text(json.dumps(results))


SAMPLE = Sample(
    "a",
    (Message("user", (Text("one"), Text("two"))),),
    [1, 2],
    ("x", "y"),
    "page",
    {"tier": "easy"},
)
ANSWER = Completion(
    "a", "x", "length", TokenCounts(3, 4, 5), 0.25, (-1.0, -2.0), "norm1000", frames=((0.0, 1.5),)
)


def test_a_record_reads_back_as_it_was_written() -> None:
    record = Record.of(SAMPLE, "0" * 16, ANSWER, Score({"acc": 1.0}, parsed="x"))
    assert Record.from_json(record.to_json()) == record
    assert record.question == "one\ntwo" and record.scored
    assert record.sample() == replace(SAMPLE, messages=())
    assert record.completion() == ANSWER


@pytest.mark.parametrize(
    ("record", "where", "answered"),
    [
        (Record.of(SAMPLE, "", replace(ANSWER, error="too long"), None), "adapter", False),
        (Record.of(SAMPLE, "", ANSWER, "scoring failed: KeyError: 'x'"), "scoring", True),
        (Record.of_row("row-3", "row 3: no answer"), "row", False),
    ],
)
def test_a_record_says_where_its_sample_was_lost(
    record: Record, where: str, answered: bool
) -> None:
    assert (record.failed_in, record.answered, record.scored) == (where, answered, False)
    old = {k: v for k, v in record.to_json().items() if k not in ("failed_in", "question")}
    if where == "row":  # evalkit 0.1 wrote no answer where nothing was asked
        old = {k: old[k] for k in ("id", "cluster", "metadata", "error")}
    assert Record.from_json(old).failed_in == where


@pytest.mark.parametrize(
    "damage",
    [
        {"id": 3},
        {"scores": None},
        {"scores": {"acc": "1"}},
        {"scores": {"acc": True}},
        {"tokens": {"text_in": "many"}},
        {"tokens": [1]},
        {"frames": [1.5]},
        {"frames": [["late"]]},
        {"metadata": []},
        {"error": 5},
        {"seconds": "long"},
        {"failed_in": "mars", "error": "lost"},
    ],
)
def test_json_that_is_no_record_is_refused(damage: dict[str, object]) -> None:
    good = Record.of(SAMPLE, "", ANSWER, Score({"acc": 1.0})).to_json()
    with pytest.raises((ValueError, TypeError)):
        Record.from_json(good | damage)


def test_run_info_and_results_read_back_as_they_were_written(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    assert RunInfo.from_json(folder.run.to_json()) == folder.run
    assert CellResults.from_json(folder.results.to_json()) == folder.results
    assert (folder.task, folder.model, folder.adapter) == ("sums:all", "adder", "adder")
    assert [c.path for c in cells(tmp_path)] == [folder.path]


def test_results_without_their_metrics_are_made_again(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    whole = folder.results_path.read_bytes()
    kept = json.loads(whole)
    kept.pop("metrics")
    folder.results_path.write_text(json.dumps(kept))
    assert cells(tmp_path)[0].results == folder.results
    run(tmp_path)
    assert folder.results_path.read_bytes() == whole


def test_the_cell_of_a_killed_run_is_partial_and_counts_what_its_journal_holds(
    tmp_path: Path,
) -> None:
    whole = run(tmp_path).cell.stored
    expected = whole.results.metrics
    kill(whole)
    killed = cells(tmp_path)[0]
    assert killed.results.partial and not killed.results.complete
    assert killed.results.metrics == expected


DAMAGE = [
    None,
    "",
    "[]",
    "{}",
    '{"schema_version": 2, "model": 3}',
    '{"schema_version": 2, "selection": {"first": [1]}}',
    "{" * 9999,
]


@pytest.mark.parametrize("text", DAMAGE)
def test_a_lost_or_damaged_run_json_is_read_from_the_journal_and_made_again(
    tmp_path: Path, text: str | None
) -> None:
    first = run(tmp_path, crash_at=22).cell.stored.run
    resumed = run(tmp_path).cell.stored
    whole = resumed.run_path.read_bytes()
    damage(resumed.run_path, text)
    (again,) = cells(tmp_path)
    assert again.run == resumed.run and again.run.earlier == (first.session(),)
    assert not again.intact
    run(tmp_path)
    assert resumed.run_path.read_bytes() == whole


@pytest.mark.parametrize("text", DAMAGE)
def test_a_lost_or_damaged_results_json_is_read_from_the_journal_and_made_again(
    tmp_path: Path, text: str | None
) -> None:
    folder = run(tmp_path).cell.stored
    whole = folder.results_path.read_bytes()
    damage(folder.results_path, text)
    (again,) = cells(tmp_path)
    assert again.results == folder.results and again.results.complete
    run(tmp_path)
    assert folder.results_path.read_bytes() == whole


def test_half_a_character_in_a_file_of_a_cell_is_damage(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    expected = folder.run, folder.results
    for path in (folder.run_path, folder.results_path):
        value = json.loads(path.read_text())
        path.write_text(json.dumps(value | {"versions": {"evalkit": "\ud800"}}))
    (again,) = cells(tmp_path)
    assert (again.run, again.results) == expected and not again.intact
    assert len(load_results(tmp_path)) == len(expected[1].metrics)


@pytest.mark.parametrize("selection", [Selection(), Selection(drawn=8), Selection(first=(5, 25))])
def test_both_can_be_lost(tmp_path: Path, selection: Selection) -> None:
    run(tmp_path, Selection(first=(0, 3)))
    folder = run(tmp_path, selection).cell.stored
    expected = folder.run, folder.results
    folder.run_path.unlink()
    folder.results_path.unlink()
    (again,) = cells(tmp_path)
    assert (again.run, again.results) == expected


@pytest.mark.parametrize("text", DAMAGE)
def test_a_damaged_run_json_of_evalkit_0_1_is_named(tmp_path: Path, text: str | None) -> None:
    folder = run(tmp_path).cell.stored
    as_0_1_wrote_it(folder)
    damage(folder.run_path, text)
    (again,) = cells(tmp_path)
    with pytest.raises(DataError, match=re.escape(str(folder.run_path))):
        again.check()


def test_the_files_of_another_cell_are_not_believed(tmp_path: Path) -> None:
    own, other = run(tmp_path).cell.stored, run(tmp_path, wrong=4).cell.stored
    expected = own.run, own.results
    assert other.results.metrics != own.results.metrics
    shutil.copy(other.run_path, own.run_path)
    shutil.copy(other.results_path, own.results_path)
    again = CellFolder(own.path)
    assert (again.run, again.results) == expected


def test_results_that_the_journal_has_left_behind_are_worked_out_anew(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    record = replace(folder.records()["sum/4"], scores={"exact": 0.0, "digits": 0.0})
    with folder.open_journal("sums:all") as journal:
        journal.append(record)
    (again,) = cells(tmp_path)
    assert again.results.metrics[0].value == pytest.approx(100 * 30 / 40)
    assert again.results.complete and again.finished() == again.results


@pytest.mark.parametrize("also", ["", '{"id": "foreign", "scores": {"exact": 1.0}}\n'])
def test_a_cell_is_complete_by_the_ids_of_its_samples(tmp_path: Path, also: str) -> None:
    folder = run(tmp_path).cell.stored
    lines = folder.journal_path.read_text().splitlines(keepends=True)
    (at,) = [i for i, line in enumerate(lines) if '"sum/4"' in line]
    lines[at] = "\x00" * 20 + "\n"
    folder.journal_path.write_text("".join(lines) + also)
    (again,) = cells(tmp_path)
    assert (again.results.n, again.results.complete) == (39 + bool(also), False)
    mended = run(tmp_path)
    assert (mended.made, mended.results.n, mended.results.complete) == (1, 40, True)
    assert set(mended.cell.stored.records()) == {f"sum/{i}" for i in range(40)}


def test_results_of_0_1_that_are_not_of_their_journal_are_worked_out_anew(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    as_0_1_wrote_it(folder)
    assert cells(tmp_path)[0].results == folder.results
    lines = folder.journal_path.read_text().splitlines(keepends=True)
    folder.journal_path.write_text("".join(lines[:-1]))
    (again,) = cells(tmp_path)
    assert (again.results.n, again.results.complete) == (39, False)


def test_a_run_that_was_killed_before_it_said_what_it_is_leaves_no_cell(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    first = folder.journal_path.read_text().splitlines(keepends=True)[0]
    kill(folder)
    folder.run_path.unlink()
    folder.journal_path.write_text(first)
    assert cells(tmp_path) == []
    assert run(tmp_path).made == 40


@pytest.mark.parametrize("lost", ["removed", "a folder"])
def test_a_cell_without_its_journal_is_named(tmp_path: Path, lost: str) -> None:
    folder = run(tmp_path).cell.stored
    folder.journal_path.unlink()
    if lost == "a folder":
        folder.journal_path.mkdir()
    (again,) = cells(tmp_path)
    with pytest.raises(DataError, match=f"{folder.journal_path}: can't be read"):
        again.check()
    if lost == "a folder":
        with pytest.raises(EvalkitError, match="can't be written"):
            run(tmp_path)
    else:
        assert run(tmp_path).made == 40


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    folder.run_path.write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="update evalkit"):
        _ = folder.run


def test_a_file_is_replaced_whole_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    replace_file(path, "one")
    replace_file(path, "two", durable=False)
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_file_that_cant_be_replaced_keeps_its_contents(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "inside").touch()
    with pytest.raises(EvalkitError, match="can't be written"):
        replace_file(tmp_path / "x", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_parts_of_killed_writers_are_removed_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    killed, live = part_of(tmp_path / "x.json"), part_of(tmp_path / "x.json")
    others = tmp_path / "x.json", tmp_path / f"download{PART}"
    for file in (killed, live, *others):
        file.touch()
    with live.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        remove_parts(tmp_path)
    assert set(tmp_path.iterdir()) == {live, *others}


def test_a_journal_of_another_cell_is_refused(tmp_path: Path) -> None:
    own, other = run(tmp_path).cell.stored, run(tmp_path, wrong=4).cell.stored
    shutil.copy(other.journal_path, own.journal_path)
    with pytest.raises(DataError, match=f"is the journal of {other.name}"):
        own.records()
    with pytest.raises(DataError, match=f"is the journal of {other.name}"):
        own.open_journal("sums:all")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nano", "nano"),
        ("Qwen/Qwen2-VL-2B", "Qwen/Qwen2-VL-2B"),
        ("/a/b/mine/", "mine"),
        ("/runs/025bfe18cee9/model", "025bfe18cee9"),
        ("./model", Path.cwd().name),
    ],
)
def test_tables_name_models_without_the_folders_of_a_machine(text: str, name: str) -> None:
    assert model_name(text) == name


def test_models_of_one_name_show_as_much_of_their_paths_as_it_takes(tmp_path: Path) -> None:
    paths = ("/a/runA/checkpoint-500", "/a/runB/checkpoint-500", "/b/runB/checkpoint-500", "/c/x")
    folders = []
    for i, path in enumerate(paths):
        folder = run(tmp_path / str(i)).cell.stored
        folder.write_run(replace(folder.run, model=Path(path).name, model_path=path))
        folders.append(folder)
    assert list(model_labels(folders).values()) == [
        "runA/checkpoint-500",
        "a/runB/checkpoint-500",
        "b/runB/checkpoint-500",
        "x",
    ]
    assert list(model_labels(folders[:1]).values()) == ["checkpoint-500"]


def test_paths_are_kept_resolved_and_without_the_name_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shown_path(tmp_path / "a" / ".." / "b") == "~/b"
    assert shown_path("/x/y") == "/x/y"
    assert (model_path("nano"), model_path("Qwen/Qwen2-VL-2B")) == ("", "")
    assert model_path(str(tmp_path / "b")) == "~/b"


def test_folders_named_like_a_shipped_model_or_a_hub_id_change_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    (tmp_path / "mine" / "checkpoint-500").mkdir(parents=True)
    assert model_name("nano") == "nano"
    assert model_name("mine/checkpoint-500") == "checkpoint-500"
    assert model_path("mine/checkpoint-500").endswith("mine/checkpoint-500")


def test_one_module_alone_names_the_files_of_a_cell() -> None:
    root = Path(__file__).parents[1]
    names = [f'"{stem}"' for stem in ("journal.jsonl", "run" + ".json", "results" + ".json")]
    places = {
        str(file.relative_to(root))
        for folder in ("evalkit", "tasks", "model_adapters", "tests", "benchmarks")
        for file in (root / folder).rglob("*.py")
        if file != Path(__file__) and any(n in file.read_text(encoding="utf-8") for n in names)
    }
    assert places == {"evalkit/store.py"}


@pytest.mark.parametrize("name", ["m" * 300, "x/" + "m" * 300, "模" * 120, "~" * 300, "é/" * 200])
def test_a_name_too_long_for_a_folder_is_cut_and_told_apart(name: str) -> None:
    for text in (name, name + "2"):
        assert len(slug(text).encode()) <= 200
    assert slug(name) != slug(name + "2")
    assert model_name(name)
    assert slug("owner/name") == "owner--name"
