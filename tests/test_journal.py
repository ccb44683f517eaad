"""The journal: what was written stays, what was cut is cut and said, what is damaged is named."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.contents import Header, merged, read
from evalkit.errors import DataError, EvalkitError
from evalkit.files import replace_json as write_json
from evalkit.journal import Journal
from evalkit.records import Record
from evalkit.store import cells
from tests.runs import run


def filled(path: Path, n: int = 5) -> Path:
    with Journal(path, Header("t")) as journal:
        for i in range(n):
            journal.append(Record(str(i), text="é\n|"))
    return path


def test_records_survive_and_the_last_of_an_id_counts(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    with Journal(path, Header()) as journal:
        journal.append(Record("2", error="no"))
    contents = read(path)
    assert list(contents.records) == ["0", "1", "2", "3", "4"]
    assert set(contents.scored) == {"0", "1", "3", "4"}
    assert contents.header == Header("t") and not contents.faults


@given(st.integers(1, 200))
def test_a_journal_cut_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = filled(tmp_path_factory.mktemp("j") / "j")
    data = path.read_bytes()
    torn = data[: max(0, len(data) - cut)]
    path.write_bytes(torn)
    whole = [json.loads(line) for line in torn.split(b"\n")[:-1]]
    with Journal(path, Header("t")) as journal:
        assert list(journal.contents.records) == [r["id"] for r in whole if "id" in r]
        assert bool(journal.contents.faults) == (not torn.endswith(b"\n") and torn != b"")
        journal.append(Record("new"))
    again = read(path)
    assert not again.faults
    assert "new" in again.records


def test_a_damaged_line_in_the_middle_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"\x00rubbish"
    path.write_bytes(b"\n".join(lines))
    contents = read(path)
    assert list(contents.records) == ["0", "2", "3", "4"]
    assert "line 3: damaged" in contents.faults[0]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "zzz"}',
        b'{"id": "a", "schema_version": "x"}',
        b'{"id": 3, "scores": {}}',
        b"[1]",
        b"3",
        b'{"id": "a", "scores": {"anls": NaN}}',
        b'{"id": "a", "scores": {}, "tokens": {"out": Infinity}}',
        b'{"id": "a", "scores": {}, "unparsed": 1}',
        b'{"id": "a", "scores": {}, "metadata": {"width": NaN}}',
        b'{"id": "a", "scores": {}, "target": [-Infinity]}',
    ],
)
def test_a_line_that_is_json_but_no_record_is_damage(tmp_path: Path, line: bytes) -> None:
    path = filled(tmp_path / "j")
    path.write_bytes(path.read_bytes() + line + b"\n")
    contents = read(path)
    assert list(contents.records) == ["0", "1", "2", "3", "4"]
    assert "damaged" in contents.faults[0]


def test_nan_and_infinity_are_never_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", Header()) as journal, pytest.raises(ValueError):
        journal.append(Record("a", scores={"x": float("nan")}))
    assert read(tmp_path / "j").records == {}


def test_a_folder_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="--output"):
        Journal(tmp_path / "file" / "j", Header())
    with pytest.raises(EvalkitError, match="can't be written"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_full_disk_is_said_with_what_to_do_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = filled(tmp_path / "j")
    with Journal(path, Header()) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            EvalkitError, match="No space left on device; what was scored before is kept"
        ):
            journal.append(Record("new"))
            journal.flush()
        with pytest.raises(EvalkitError, match="No space left"):
            journal.append(Record("newer"))
    assert {"0", "1", "2", "3", "4"} <= set(read(path).records)


def test_a_full_disk_is_told_at_the_end_where_nobody_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(EvalkitError, match="No space left"),
        Journal(tmp_path / "j", Header()) as journal,
    ):
        monkeypatch.setattr(os, "fsync", full)
        journal.append(Record("new"))


def test_records_that_wait_share_an_fsync_and_count_once_they_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, calls = threading.Event(), []
    real = os.fsync

    def slow(file: int) -> None:
        calls.append(file)
        assert allowed.wait(20)
        real(file)

    with Journal(tmp_path / "j", Header()) as journal:
        monkeypatch.setattr(os, "fsync", slow)
        for i in range(100):
            journal.append(Record(str(i)))
        assert not journal.contents.records
        allowed.set()
        journal.flush()
        assert len(journal.contents.records) == 100
    assert len(calls) < 10
    assert len(read(tmp_path / "j").records) == 100


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"schema_version": 99}\n')
    with pytest.raises(DataError, match="newer"):
        read(tmp_path / "j")


@given(st.binary(max_size=300))
def test_rubbish_never_stops_a_run(
    tmp_path_factory: pytest.TempPathFactory, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    path.write_bytes(rubbish)
    with Journal(path, Header("t")) as journal:
        journal.append(Record("a"))
    assert list(read(path).records) == ["a"]


def test_a_journal_of_schema_1_that_is_gone_on_with_says_so(tmp_path: Path) -> None:
    old = (
        '{"schema_version": 1, "cell": "t", "folder": "t-1"}\n'
        '{"id": "a", "scores": {"x": 1.0}, "tokens": {"text_in": 1, "vision_in": 0, "out": 2}}\n'
        '{"id": "b", "cluster": "b", "metadata": {}, "error": "row 3: no answer"}\n'
    )
    (tmp_path / "j").write_text(old)
    with Journal(tmp_path / "j", Header("t", "t-1")) as journal:
        journal.append(Record("c"))
    assert (tmp_path / "j").read_text().startswith(old)
    contents = read(tmp_path / "j")
    assert contents.header == Header("t", "t-1", 2)
    assert list(contents.records) == ["a", "b", "c"] and not contents.faults
    assert contents.records["b"].failed_in == "row"


def test_a_journal_that_is_removed_under_a_run_is_an_error(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    with pytest.raises(EvalkitError, match="was removed while"), Journal(path, Header()) as journal:
        path.unlink()
        journal.append(Record("new"))


def test_a_withdrawn_id_is_gone_until_it_is_recorded_again(tmp_path: Path) -> None:
    with Journal(filled(tmp_path / "j"), Header()) as journal:
        journal.withdraw("3")
        assert "3" not in journal.contents.records
    assert "3" not in read(tmp_path / "j").records


def test_a_disk_that_fills_up_in_the_middle_of_a_line_costs_only_that_line(tmp_path: Path) -> None:
    """A real limit: the kernel refuses bytes beyond it, after taking a part of the line."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from evalkit.contents import Header\n"
        "from evalkit.journal import Journal\n"
        "from evalkit.records import Record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3500, 3500))\n"
        "with Journal(Path(sys.argv[1]), Header()) as journal:\n"
        "    for i in range(100):\n"
        "        journal.append(Record(str(i), text='x' * 20))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "j")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "what was scored before is kept" in done.stderr
    with Journal(tmp_path / "j", Header()) as journal:
        assert "cut short" in journal.contents.faults[0]
        assert len(journal.contents.records) > 5
        journal.append(Record("after"))
    assert not read(tmp_path / "j").faults


def test_reading_leaves_the_collector_of_cycles_as_it_was(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    read(path)
    assert gc.isenabled()
    path.write_text('{"schema_version": 99}\n')
    with pytest.raises(DataError):
        read(path)
    assert gc.isenabled()
    gc.disable()
    try:
        read(tmp_path / "none")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_scores_of_no_answer_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"id": "a", "text": null, "scores": {"exact": 1.0}}\n')
    assert not read(path).records and "line 1: damaged" in read(path).faults[0]


@pytest.mark.parametrize("name", ["journal", "run", "results", "columns"])
def test_a_pipe_in_a_cell_keeps_no_reader_waiting(tmp_path: Path, name: str) -> None:
    folder = run(tmp_path).cell.stored
    file: Path = getattr(folder, f"{name}_path")
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    (again,) = cells(tmp_path)
    if name == "journal":
        with pytest.raises(DataError, match="not a regular file"):
            again.check()
    else:
        assert (again.run, again.results) == (folder.run, folder.results)
        assert len(again.columns().records()) == 40


def test_what_was_appended_is_read_from_the_file_and_not_held(tmp_path: Path) -> None:
    path = filled(tmp_path / "j", 3)
    with Journal(path, Header()) as journal:
        for i in range(2, 600):  # the last of those before comes again
            journal.append(Record(str(i), "c", text="new"))
        journal.append(Record("7", "c", text="newer"))
        journal.withdraw("8")
        journal.append(Record("9", "c", text="withdrawn, and back"))
        journal.withdraw("9")
        journal.append(Record("9", "c", text="withdrawn, and back"))
        journal.flush()
        assert dict(journal.records) == read(path).records
        assert [r.id for r in journal.records.values()] == list(journal.records)
        assert len(journal.records) == 599 and "8" not in journal.records
        assert journal.records["7"].text == "newer" and journal.records.get("8") is None


def test_whoever_is_faster_than_the_disk_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.journal.MOST_WAITING", 10)
    most = 0
    with Journal(tmp_path / "j", Header()) as journal:
        for i in range(300):
            journal.append(Record(str(i)))
            most = max(most, len(journal.waiting))
    assert most <= 10 and len(read(tmp_path / "j").records) == 300


LINES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["failed", "scored", "gone"])))


@given(LINES, LINES)
def test_journals_beside_one_another_are_one_as_readers_have_it(
    tmp_path_factory: pytest.TempPathFactory, one: list[tuple[str, str]], own: list[tuple[str, str]]
) -> None:
    folder, number = tmp_path_factory.mktemp("j"), 0
    for name, lines in (("one", one), ("own", own)):
        scored = set[str]()
        with Journal(folder / name, Header()) as journal:
            for id, kind in lines:
                number += 1
                if kind == "scored":
                    scored.add(id)
                    journal.append(Record(id, id, scores={"exact": float(number)}))
                elif id not in scored and kind == "failed":
                    journal.append(Record(id, id, error=f"{number}", failed_in="adapter"))
                elif id not in scored:
                    journal.withdraw(id)
    told = merged([read(folder / "one"), read(folder / "own")])
    with Journal(folder / "own", Header(), [folder / "one"]) as journal:
        mine = dict(journal.records)
        assert {id: r for id, r in mine.items() if r.scored} == told.scored
        assert mine.items() <= told.records.items() and journal.contents.header == told.header
        assert all(journal.records.scored(id) == r.scored for id, r in mine.items())
