"""`kill -9` at any moment, then the same command: the table of an undisturbed run, nothing lost,
nothing doubled.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
COMMAND = [
    sys.executable,
    "-m",
    "evalkit",
    "run",
    "--tasks",
    str(PLUGINS / "sums.py"),
    "--adapter",
    str(PLUGINS / "adder.py"),
]
SLOW = ["--model-args", "seconds=0.04"]


def start(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *SLOW, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def journal_of(output: Path) -> Path:
    return next(output.glob("runs/*/*/journal.jsonl"))


def metrics_of(output: Path) -> object:
    return json.loads((journal_of(output).parent / "results.json").read_text())["metrics"]


def kill_and_resume(output: Path, kills: int, seed: int) -> str:
    """Kills as many runs as asked, each once its journal has begun, at a random later moment;
    returns the last run's stderr.
    """
    rng = random.Random(seed)
    for _ in range(kills):
        process = start(output)
        deadline = time.monotonic() + 60
        while (
            not list(output.glob("runs/*/*/run.json"))
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.9))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(output)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    return err


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_table_of_an_undisturbed_one(tmp_path: Path, kills: int) -> None:
    quiet = start(tmp_path / "quiet")
    assert quiet.wait(timeout=120) == 0
    kill_and_resume(tmp_path / "killed", kills, seed=kills)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "quiet")
    ids = [
        json.loads(line)["id"]
        for line in journal_of(tmp_path / "killed").read_text().splitlines()[1:]
    ]
    assert sorted(ids) == sorted(f"sum/{i}" for i in range(40))


def test_a_line_cut_short_is_removed_and_said(tmp_path: Path) -> None:
    assert start(tmp_path).wait(timeout=120) == 0
    path = journal_of(tmp_path)
    whole = metrics_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-25])
    (path.parent / "results.json").unlink()
    again = start(tmp_path)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0
    assert "cut short by a crash; removed" in err
    assert metrics_of(tmp_path) == whole


def test_ctrl_c_keeps_what_was_scored_and_prints_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    while (
        not list(tmp_path.glob("runs/*/*/journal.jsonl"))
        or len(journal_of(tmp_path).read_bytes().splitlines()) < 5
    ):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"evalkit run --tasks {PLUGINS / 'sums.py'}" in err
    assert len(journal_of(tmp_path).read_bytes().splitlines()) >= 5


def test_ctrl_c_ends_a_run_of_the_model_whose_requests_are_prepared_in_threads(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable,
        "-m",
        "evalkit",
        "run",
        "--tasks",
        "refcoco",
        "--output",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (
        not list(tmp_path.glob("runs/*/*/journal.jsonl"))
        or len(journal_of(tmp_path).read_bytes().splitlines()) < 5
    ):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Resume with" in err and "Traceback" not in err
