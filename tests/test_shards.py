"""Runs that share a cell's samples, such as the tasks of a job array: one cell of all."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import evalkit
from evalkit.cli.main import main
from evalkit.contents import Header
from evalkit.errors import UsageError
from evalkit.evaluation import Evaluation
from evalkit.journal import Journal
from evalkit.results import write_leaderboard
from evalkit.results.cells import partial_text
from evalkit.selection import RUN, Shard
from evalkit.store import CellFolder, cells
from evalkit.types import Sample

PLUGINS = Path(__file__).parent / "plugins"
SUMS, ADDER = str(PLUGINS / "sums.py"), str(PLUGINS / "adder.py")


def evaluate(output: Path, shard: str = "", **arguments: Any) -> Evaluation:
    return evalkit.evaluate(
        SUMS, adapter=ADDER, output=output, shard=shard, progress=False, **arguments
    )


def only_cell(output: Path) -> CellFolder:
    (cell,) = cells(output)
    return cell


def table(output: Path) -> list[dict[str, str]]:
    """The leaderboard but for when, how long and by which command."""
    with write_leaderboard(output)[0].open() as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in r.items() if k not in ("created", "seconds", "command")} for r in rows
    ]


def journal(output: Path) -> list[str]:
    return sorted(json.dumps(r.to_json()) for r in only_cell(output).records().values())


def test_shards_are_read() -> None:
    assert str(Shard.read("2/3")) == "2/3"
    for text in ("0/3", "4/3", "2", "2/", "-1/3", "a/b", "1/0"):
        with pytest.raises(UsageError, match="I/N"):
            Shard.read(text)


def test_every_sample_is_of_one_shard_and_pictures_stay_together() -> None:
    samples = [Sample(id=str(i), messages=(), target=0, cluster=str(i // 3)) for i in range(90)]
    owners = [owner for owner, _ in Shard(1, 4).owners(samples)]
    assert owners == [owner for owner, _ in Shard(3, 4).owners(samples)]
    assert all(len(set(owners[i : i + 3])) == 1 for i in range(0, 90, 3))
    assert {owners.count(i) for i in range(1, 5)} <= {21, 24}
    one_clip = [Sample(id=str(i), messages=(), target=0, cluster="clip") for i in range(2 * RUN)]
    assert {owner for owner, _ in Shard(1, 2).owners(one_clip)} == {1, 2}


@pytest.mark.parametrize("parts", [{"shard": ("1/2", "2/2")}, {"limit": ("0-20", "20-40")}])
def test_journals_of_two_machines_one_behind_the_other_are_the_cell_of_one_run(
    tmp_path: Path, parts: dict[str, tuple[str, str]]
) -> None:
    ((key, (first, second)),) = parts.items()
    evaluate(tmp_path / "whole")
    evaluate(tmp_path / "a", **{key: first})
    evaluate(tmp_path / "b", **{key: second})
    a, b = only_cell(tmp_path / "a"), only_cell(tmp_path / "b")
    with a.journal_path.open("ab") as file:
        file.write(b.journal_path.read_bytes())
    assert partial_text(only_cell(tmp_path / "a"))
    (outcome,) = evaluate(tmp_path / "a").outcomes
    assert outcome.made == outcome.results.errors
    assert table(tmp_path / "a") == table(tmp_path / "whole")
    alone = CellFolder(tmp_path / "c" / b.path.relative_to(tmp_path / "b"))
    alone.path.mkdir(parents=True)
    alone.journal_path.write_bytes(b.journal_path.read_bytes())
    assert table(tmp_path / "c") == table(tmp_path / "b")


def test_three_shards_are_the_cell_of_one_run(tmp_path: Path) -> None:
    evaluate(tmp_path / "one")
    for shard in ("2/3", "1/3", "3/3"):
        assert not evaluate(tmp_path / "three", shard).failed(tolerated=1.0)
    assert journal(tmp_path / "three") == journal(tmp_path / "one")
    assert table(tmp_path / "three") == table(tmp_path / "one")
    cell = only_cell(tmp_path / "three")
    assert cell.results.complete and not cell.shard_paths and cell.intact
    sessions = [*cell.run.earlier, cell.run]
    assert [s.command[-6:] for s in sessions] == ["'2/3')", "'1/3')", "'3/3')"]
    again = evaluate(tmp_path / "three")
    assert again.outcomes[0].made == 0  # a run of everything finds it done


def test_shards_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    evaluate(tmp_path / "one")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: evaluate(tmp_path / "four", f"{i}/4", seconds=0.002), range(1, 5)))
    assert len(journal(tmp_path / "four")) == 40 and only_cell(tmp_path / "four").results.complete


def test_a_shard_that_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", SUMS, "--adapter", ADDER, "--output", str(tmp_path), "-q", "--shard"]
    assert main([*command, "1/4"]) == 0
    assert "still to come: shards 2/4, 3/4, 4/4" in capsys.readouterr().out
    main([*command, "3/4"])
    cell = only_cell(tmp_path)
    assert partial_text(cell) == " (partial: without shards 2/4, 4/4; do not quote)"
    assert not cell.results.complete
    rest = evaluate(tmp_path)
    assert rest.outcomes[0].reused == 20 and only_cell(tmp_path).results.complete


def test_a_limit_is_shared_out_and_other_cuts_reuse_answers(tmp_path: Path) -> None:
    evaluate(tmp_path, "1/2", limit=10)
    evaluate(tmp_path, "2/2", limit=10)
    results = only_cell(tmp_path).results
    assert (results.complete, results.n_total, results.selection.first) == (True, 10, (0, 10))
    made = [evaluate(tmp_path, f"{i}/3").outcomes[0].made for i in (1, 2, 3)]
    assert sum(made) == 30 and only_cell(tmp_path).results.complete


def test_more_shards_than_samples_and_repeated_answers(tmp_path: Path) -> None:
    for i in range(1, 5):
        assert not evaluate(tmp_path, f"{i}/4", limit=3, wrong=50).failed()
    assert only_cell(tmp_path).results.complete


def test_a_row_that_is_mended_is_no_longer_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    for shard in ("1/2", "2/2"):
        evaluate(tmp_path, shard)
    assert only_cell(tmp_path).results.errors == 1
    monkeypatch.delenv("EVALKIT_TEST_BROKEN")
    for shard in ("1/2", "2/2"):
        evaluate(tmp_path, shard)
    results = only_cell(tmp_path).results
    assert (results.errors, results.n_total, results.complete) == (0, 40, True)


def test_a_killed_shard_is_read_and_gone_on_with(tmp_path: Path) -> None:
    code = f"""
import evalkit, os, signal
from evalkit.journal import Journal
append = Journal.append
def dying(self, record):
    append(self, record)
    if len(self.contents.records) >= 5:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.append = dying
evalkit.evaluate({SUMS!r}, adapter={ADDER!r}, output={str(tmp_path)!r}, shard="1/2", seconds=0.01)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    cell = only_cell(tmp_path)
    kept = len(cell.records())
    assert kept >= 5 and len(cell.shard_paths) == 1 and not cell.results.complete
    outcome = evaluate(tmp_path, "2/2").outcomes[0]
    assert (outcome.made, outcome.results.missing_shards) == (20, ("1/2",))
    assert evaluate(tmp_path).outcomes[0].reused == 20 + kept  # a plain run takes it in
    assert not only_cell(tmp_path).shard_paths and only_cell(tmp_path).results.complete


def test_a_shard_that_runs_is_not_run_twice(tmp_path: Path) -> None:
    evaluate(tmp_path, "1/2")
    cell = only_cell(tmp_path)
    with cell.open_shard("sums:all", "2/2"):
        for shard in ("2/2", ""):
            assert any("another run is writing" in e for e in evaluate(tmp_path, shard).errors)
    with pytest.raises(UsageError, match="choose a new output"):
        evaluate(tmp_path, "1/2", fresh=True)


def test_an_error_never_takes_an_answers_place(tmp_path: Path) -> None:
    evaluate(tmp_path, "1/2")
    cell = only_cell(tmp_path)
    known = next(iter(cell.records().values()))
    late = cell.path / "shard-2-of-2.jsonl"
    with Journal(late, Header("sums:all", cell.name)) as other:
        other.append(known.rescored("lost"))
    assert cell.records()[known.id].scored
    with cell.open_journal("sums:all") as whole:
        assert whole.contents.records[known.id].scored
    assert not late.exists()
