"""What a run leaves on disk is read back as it was, also from the files of evalkit 0.1."""

from __future__ import annotations

import fcntl
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.errors import DataError, EvalkitError
from evalkit.files import PART, part_of, remove_parts
from evalkit.files import replace as replace_file
from evalkit.store import (
    CellResults,
    Record,
    RunInfo,
    cells,
    display_names,
    model_name,
    model_path,
    shown_path,
)
from evalkit.types import Completion, Message, Sample, Score, Text, TokenCounts
from tests.runs import run

SAMPLE = Sample(
    "a",
    (Message("user", (Text("one"), Text("two"))),),
    [1, 2],
    ("x", "y"),
    "page",
    {"tier": "easy"},
)
ANSWER = Completion("a", "x", "length", TokenCounts(3, 4, 5), 0.25, (-1.0, -2.0), "norm1000")


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


def test_the_cell_of_a_killed_run_is_partial_and_counts_what_its_journal_holds(
    tmp_path: Path,
) -> None:
    whole = run(tmp_path).cell.stored
    whole.results_path.unlink()
    killed = cells(tmp_path)[0]
    assert killed.results.partial and not killed.results.complete
    assert killed.results.metrics == whole.results.metrics


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2, "model": 3}', "{" * 9999])
def test_a_damaged_run_json_is_named(tmp_path: Path, text: str) -> None:
    folder = run(tmp_path).cell.stored
    folder.run_path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(folder.run_path))):
        _ = folder.run


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
    assert display_names(folders) == [
        "runA/checkpoint-500",
        "a/runB/checkpoint-500",
        "b/runB/checkpoint-500",
        "x",
    ]
    assert display_names(folders[:1]) == ["checkpoint-500"]


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
