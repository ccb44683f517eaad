"""The journal: what was written stays, what was cut is cut and said, what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError, EvalkitError
from evalkit.journal import Journal, read, write_json
from evalkit.provenance import mask


def filled(path: Path, n: int = 5) -> Path:
    with Journal(path, {"cell": "t"}) as journal:
        for i in range(n):
            journal.append({"id": str(i), "text": "é\n|"})
    return path


def test_records_survive_and_the_last_of_an_id_counts(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    with Journal(path, {}) as journal:
        journal.append({"id": "2", "error": "no"})
    contents = read(path)
    assert list(contents.records) == ["0", "1", "2", "3", "4"]
    assert set(contents.scored) == {"0", "1", "3", "4"}
    assert contents.header["cell"] == "t" and not contents.faults


@given(st.integers(1, 200))
def test_a_journal_cut_anywhere_keeps_every_whole_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = filled(tmp_path_factory.mktemp("j") / "j")
    data = path.read_bytes()
    torn = data[: max(0, len(data) - cut)]
    path.write_bytes(torn)
    whole = [json.loads(line) for line in torn.split(b"\n")[:-1]]
    with Journal(path, {"cell": "t"}) as journal:
        assert list(journal.contents.records) == [r["id"] for r in whole if "id" in r]
        assert bool(journal.contents.faults) == (not torn.endswith(b"\n") and torn != b"")
        journal.append({"id": "new"})
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


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal, pytest.raises(ValueError):
        journal.append({"id": "a", "scores": {"x": float("nan")}})
    assert read(tmp_path / "j").records == {}


def test_a_folder_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="--output"):
        Journal(tmp_path / "file" / "j", {})
    with pytest.raises(EvalkitError, match="can't be written"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_full_disk_is_said_with_what_to_do_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = filled(tmp_path / "j")
    with Journal(path, {}) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EvalkitError, match="No space left on device; what was scored before is kept"):
            journal.append({"id": "new"})
    assert {"0", "1", "2", "3", "4"} <= set(read(path).records)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"schema_version": 99}\n')
    with pytest.raises(DataError, match="newer"):
        read(tmp_path / "j")


def test_secrets_are_masked() -> None:
    text = mask("evalkit run --model-args api_key=abc123,k=1 --x hf_abcdefghijk token: t0k")
    assert "abc123" not in text and "hf_abc" not in text and "t0k" not in text
    assert "k=1" in text
