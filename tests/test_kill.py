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

from evalkit.store import CellFolder, cells

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


def cell_in(output: Path) -> CellFolder:
    """The only cell under an output folder, read anew."""
    (cell,) = cells(output)
    return cell


def lines(output: Path) -> int:
    """Whole lines that the journal has so far; 0 before there is a cell."""
    return sum(c.journal_path.read_bytes().count(b"\n") for c in cells(output))


def kill_and_resume(output: Path, kills: int, seed: int) -> str:
    """Kills as many runs as asked, each once its journal has begun, at a random later moment;
    returns the last run's stderr.
    """
    rng = random.Random(seed)
    for _ in range(kills):
        process = start(output)
        deadline = time.monotonic() + 60
        while not cells(output) and time.monotonic() < deadline and process.poll() is None:
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
    killed, whole = cell_in(tmp_path / "killed"), cell_in(tmp_path / "quiet")
    assert killed.results.metrics == whole.results.metrics
    written = map(json.loads, killed.journal_path.read_text().splitlines())
    ids = [line["id"] for line in written if "id" in line]
    assert sorted(ids) == sorted(f"sum/{i}" for i in range(40))


@pytest.mark.slow
def test_a_line_cut_short_is_removed_and_said(tmp_path: Path) -> None:
    assert start(tmp_path).wait(timeout=120) == 0
    cell = cell_in(tmp_path)
    whole = cell.results.metrics
    cell.journal_path.write_bytes(cell.journal_path.read_bytes()[:-25])
    cell.results_path.unlink()
    again = start(tmp_path)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0
    assert "cut short by a crash; removed" in err
    assert cell_in(tmp_path).results.metrics == whole


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_keeps_what_was_scored_and_prints_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path)
    while lines(tmp_path) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err
    assert f"evalkit run --tasks {PLUGINS / 'sums.py'}" in err
    assert lines(tmp_path) >= 5
    assert cell_in(tmp_path).results.partial


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
    while lines(tmp_path) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Resume with" in err and "Traceback" not in err
