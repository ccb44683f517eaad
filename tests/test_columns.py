"""The columns beside a journal say what the journal says, or are not believed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from evalkit import columns
from evalkit.contents import parsed as line_of
from evalkit.contents import read, written
from evalkit.records import Record
from evalkit.results import load_samples, write_report
from evalkit.results.report import media
from evalkit.store import CellFolder, cells
from tests.runs import run


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "LEAST", 0)


@pytest.fixture
def cell(tmp_path: Path) -> CellFolder:
    return run(tmp_path).cell.stored


def parsed(folder: CellFolder) -> dict[str, Record]:
    """The records by the journal alone."""
    return read(folder.journal_path).records


def test_a_run_leaves_columns_that_say_what_its_journal_says(cell: CellFolder) -> None:
    written = cell.columns_path.read_bytes()
    assert cell.columns().records() == cell.records() == parsed(cell) != {}
    assert cell.columns().metrics == ("exact", "digits")
    cell.columns_path.unlink()
    cell.columns()
    assert cell.columns_path.read_bytes() == written


@pytest.mark.parametrize("where", [18, 500])
@pytest.mark.parametrize("damage", ["cut", "a digit changed", "empty", "a folder", "lost"])
def test_damaged_columns_are_made_again(cell: CellFolder, damage: str, where: int) -> None:
    path, expected = cell.columns_path, parsed(cell)
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:where])
    elif damage == "a digit changed":
        at = next(i for i in range(where % len(whole), 0, -1) if chr(whole[i]).isdigit())
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "empty":
        path.touch()
    elif damage == "a folder":
        path.mkdir()
    assert cell.records() == cell.columns().records() == expected
    assert damage == "a folder" or path.read_bytes() == whole


def test_columns_that_the_journal_has_left_behind_are_not_believed(cell: CellFolder) -> None:
    stale = cell.columns_path.read_bytes()
    changed = replace(cell.records()["sum/4"], scores={"exact": 0.0}, text="another")
    with cell.open_journal("sums:all") as opened:
        opened.append(changed)
    cell.columns_path.write_bytes(stale)
    assert cell.columns().records()["sum/4"] == cell.records()["sum/4"] == changed
    text = cell.journal_path.read_text()
    cell.journal_path.write_text(text.replace('"another"', '"another"'[::-1]))  # of equal length
    assert cell.columns().records() == parsed(cell)


def test_columns_that_cannot_be_written_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise columns.EvalkitError(f"{path}: can't be written (No space left on device)")

    monkeypatch.setattr(columns, "replace", refused)
    done = run(tmp_path)
    assert done.stopped is None and len(done.cell.stored.columns().records()) == 40


def test_frames_are_the_same_with_columns_and_without(cell: CellFolder, tmp_path: Path) -> None:
    lost = Record.of_row("row-9", "no picture")
    odd = replace(
        cell.records()["sum/4"], choices=("a", "b"), logprobs=(-1.0, -2.5), metadata={"x": None}
    )
    odd = replace(odd, frames=((0.5, 1.0), ()))
    with cell.open_journal("sums:all") as opened:
        opened.append(lost)
        opened.append(odd)
    first = load_samples(tmp_path)  # by the journal, and keeps the columns
    assert cell.columns_path.is_file() and len(first) == 41
    assert load_samples(tmp_path).equals(first)
    assert cells(tmp_path)[0].columns().records()["sum/4"] == odd


def test_what_was_asked_in_words_alone_is_not_looked_for_in_the_data(
    cell: CellFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(media, "read_samples", refused)
    assert write_report(tmp_path, tmp_path / "page.html") == []
    with cell.open_journal("sums:all") as opened:  # a prompt that may have held a picture
        opened.append(replace(cell.records()["sum/4"], prompt="0" * 16))
    (fault,) = write_report(tmp_path, tmp_path / "page.html")
    assert "the data were read" in fault


def test_odd_sizes_and_notes_cost_a_report_nothing(cell: CellFolder, tmp_path: Path) -> None:
    with cell.open_journal("sums:all") as opened:
        huge = {"width": 1e308, "height": 1e308}
        opened.append(replace(cell.records()["sum/4"], metadata=huge))
    (tmp_path / "notes.jsonl").write_bytes(b"\xff\xfe")
    assert write_report(tmp_path, tmp_path / "page.html") == []


class Kind(IntEnum):
    ONE = 1


ODD = ["", "\ud800", "NaN", None, True, 1 << 80, 5e-324, -0.0, 1e-7, 1e22, Kind.ONE, [], [1, "é"]]
ODD += [(1, (2,)), {"a": [{"b": None}]}, {None: 1}, {"None": 1}, {1: 2, 2.5: 3}, Counter("ab")]


@pytest.mark.parametrize("value", ODD)
def test_odd_values_are_written_as_json_has_them(tmp_path: Path, value: Any) -> None:
    told = {"text": "4", "scores": {"x": 1.0}, "metadata": {"key": value}}
    record = Record("a", "a", target=value, parsed=value, **told)
    line = written(record)
    plain = json.dumps(record.to_json(), ensure_ascii=False).encode("utf-8", "replace")
    assert json.loads(line) == json.loads(plain)
    writer = columns.Writer(tmp_path)
    writer.add(record)
    writer.write(tmp_path / "c", "digest", 0, True)
    writer.close()
    made = columns.read(tmp_path / "c", "digest")
    assert made is not None and made.records() == {"a": line_of(line)}


def nested(times: int) -> list[Any]:
    return [nested(times - 1)] if times else []


NOT_JSON = [{1}, b"x", datetime.now(UTC), Decimal(1), Path(), float("nan"), -float("inf"), 1j]
NOT_READ = [nested(300), nested(900), 10**5000]


@pytest.mark.parametrize("value", NOT_JSON + NOT_READ, ids=lambda value: type(value).__name__)
def test_what_json_has_not_or_cannot_be_read_again_is_in_no_line(value: Any) -> None:
    for held in (value, [value], {"a": value}, {"a": [value]}, ("b", (value,))):
        for field in ("target", "parsed", "metadata"):
            told = {"key": held} if field == "metadata" else held
            with pytest.raises((TypeError, ValueError)):
                written(replace(Record("a"), **{field: told}))


@pytest.mark.parametrize("part", [1, 7, 1000])
def test_columns_that_come_in_parts_are_those_that_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Also where a score is first seen in a later part, or not in all of them."""
    monkeypatch.setattr(columns, "PART", part)
    monkeypatch.setattr(columns, "HELD", 64)
    records = {
        str(i): Record(str(i), scores={"late": 0.5} if i > 8 else {"early": 1.0}, text="é,\n")
        for i in range(30)
    }
    writer = columns.Writer(tmp_path)
    for record in records.values():
        writer.add(record)
    writer.write(tmp_path / "c", "digest", 0, True)
    writer.close()
    made = columns.read(tmp_path / "c", "digest")
    assert made is not None and made.records() == records and made.metrics == ("early", "late")
    assert made.score("early")[7:10] == [1.0, 1.0, None]
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]


def test_a_full_disk_costs_the_columns_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns, "SpooledTemporaryFile", full)
    done = run(tmp_path)
    assert done.stopped is None and done.results.n == 40
    assert not done.cell.stored.columns_path.exists()
