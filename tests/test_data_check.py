"""``evalkit data check`` names what is wrong with a copy; ``evalkit data`` says how to get one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evalkit.cli import main
from evalkit.data_check import check
from evalkit.task import load_task
from tests.official import BUILDERS, parquet


def rows_of(file: Path) -> list[dict[str, object]]:
    return pq.read_table(file).to_pylist()


def found(name: str, data: Path | None = None, **options: int) -> dict[str, int]:
    return {f.what: f.count for f in check(load_task(name), data, **options).findings}


def test_embedded_data_are_whole() -> None:
    checked = check(load_task("refcoco"), decode=5)
    assert (checked.ok, checked.decoded) == (True, 5)
    assert checked.questions > checked.media > 5


@pytest.mark.parametrize("name", BUILDERS)
def test_the_one_odd_row_of_each_benchmark_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checked = check(load_task(name), BUILDERS[name](tmp_path / "data"), decode=3)
    odd = [f for f in checked.findings if f.what.startswith("a row that can't be used, by its")]
    assert [f.count for f in odd] == [1]
    assert 1 <= checked.decoded <= 3


def test_absent_clips_damaged_media_and_repeated_questions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = BUILDERS["perceptiontest:val"](tmp_path / "data")
    table = data / "mc_question_val" / "validation-00000-of-00001.parquet"
    rows = rows_of(table)[:10]
    rows = [row | {"question": f"Is {i} stable?"} for i, row in enumerate(rows)]
    rows[1] = rows[0] | {"question_id": "7"}  # the same question, under another id
    rows[2]["video_name"] = rows[3]["video_name"] = "nowhere"
    rows[5] |= {k: rows[4][k] for k in ("video_name", "question_id")}
    rows[6]["video_name"] = "broken"
    (data / "broken.mp4").write_bytes(b"no clip")
    parquet(table, rows)
    assert found("perceptiontest:val", data) == {
        "a question that comes twice, with the same media": 1,
        "clip absent": 2,
        "an id that comes twice": 1,
        "10 rows, and the release has 19,140": 1,
        "a clip that can't be decoded": 1,
    }


def test_absent_parts_and_columns_end_the_reading(tmp_path: Path) -> None:
    BUILDERS["screenspot:v1"](tmp_path)
    whole = tmp_path / "data" / "test-00000-of-00001.parquet"
    checked = check(load_task("docvqa:val"), whole)
    (finding,) = checked.findings
    assert finding.what == "the data can't be read to their end"
    assert "no column 'questionId'" in finding.cases[0]
    whole.rename(tmp_path / "data" / "test-00000-of-00003.parquet")
    (finding,) = check(load_task("screenspot:v1"), tmp_path).findings
    assert "absent: test-00001-of-00003.parquet, test-00002" in finding.cases[0]


def test_the_command_says_it_and_exits_accordingly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = BUILDERS["screenspot:v1"](tmp_path)
    assert main(["data", "check", "screenspot:v1", "--data", str(data)]) == 1
    told = capsys.readouterr().out
    assert "11 rows (the release has 1,272)" in told
    assert "1 x a row that can't be used, by its column 'bbox'" in told
    assert "row 10: 'bbox' is [20.0, 20.0" in told
    assert main(["data", "check", "refcoco:mini", "--decode", "1", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["decoded"]) == (True, 1)
    for wrong in (
        ["check"],
        ["check", "docvqa:val", "--data", "nowhere"],
        ["docvqa", "--data", "x"],
    ):
        assert main(["data", *wrong]) == 2


def test_the_command_says_how_to_get_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mvbench", "video_qa:videomme_sub", "docvqa:mini"]) == 0
    told = capsys.readouterr().out
    assert "hf download OpenGVLab/MVBench --repo-type dataset --include 'json/*'" in told
    assert "--include 'subtitle.zip' --local-dir video_qa-videomme_sub" in told
    assert "docvqa:mini: in the package" in told
    assert main(["data", "--json"]) == 0
    assert {"task", "data", "rows", "commands"} == set(json.loads(capsys.readouterr().out)[0])
