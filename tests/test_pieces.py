"""Whole pieces of work over workers: the cells of a sweep, the models of a study."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.executor.local import LocalExecutor
from evalkit.executor.pieces import workers_for
from evalkit.lab import schedule, trainer
from evalkit.lab.study import load_study
from evalkit.provenance import command
from evalkit.results.sweep_tables import table
from evalkit.store import cells
from evalkit.sweeps import Cells, Sweep, findings, load_sweep, plan, run_sweep

PLUGINS = Path(__file__).parent / "plugins"
STUDY = """
name: tiny
question: Does it matter?
seeds: 2
steps: 2
batch: 2
model:
  {vision_depth: 1, vision_width: 32, vision_heads: 1, depth: 1, width: 64, heads: 1,
   intermediate: 32}
factors:
  scheme:
    contiguous: {switches: {position: mrope}}
    1D: {switches: {position: rope1d}}
grid: [scheme]
conditions:
  trained sizes: {scenes: 8}
"""


def swept(tmp_path: Path, **changes: Any) -> Sweep:
    """Of sums, over how often the adder is wrong."""
    path = tmp_path / "sums.yaml"
    base = {
        "name": "sums",
        "question": "Which?",
        "adapter": str(PLUGINS / "adder.py"),
        "tasks": [str(PLUGINS / "sums.py")],
        "axes": {"wrong": [5, 3, 2]},
        "baseline": {"wrong": 5},
    }
    path.write_text(json.dumps(base | changes))
    return load_sweep(path)


def tables(config: Sweep, output: Path) -> tuple[str, list[str]]:
    """What came out, and what every cell holds."""
    planned = plan(config, output)
    records = [str(sorted(p.cell.stored.records().items())) for p in planned]
    found = table(findings(config, planned)).drop(columns="seconds")
    return found.to_csv(), records


def test_cells_side_by_side_give_the_tables_of_cells_in_turn(tmp_path: Path) -> None:
    config = swept(tmp_path)
    file = tmp_path / "sums.yaml"
    assert run_sweep(config, plan(config, tmp_path / "one")) == []
    assert main(["sweep", str(file), "--output", str(tmp_path / "two"), "--devices", "cpu:2"]) == 0
    assert tables(config, tmp_path / "two") == tables(config, tmp_path / "one")
    assert {c.run.command for c in cells(tmp_path / "two")} == {command()}  # this process's
    with pytest.raises(UsageError, match="not both"):
        swept(tmp_path, device="cpu").on("cpu")


def test_a_cell_whose_worker_is_killed_goes_on(tmp_path: Path) -> None:
    slow = swept(tmp_path, model_args={"seconds": 0.02})
    assert run_sweep(slow, plan(slow, tmp_path / "one")) == []
    workers = workers_for(Cells(slow, tmp_path / "two"), "cpu:2", "")
    assert isinstance(workers, LocalExecutor)
    kept: list[int] = []

    def kill() -> None:
        while not kept:
            time.sleep(0.01)
            begun = [len(c.records()) for c in cells(tmp_path / "two")]
            busy = [w for w in workers.workers if w.in_hand]
            if busy and any(0 < n < 40 for n in begun):
                kept.append(sum(begun))
                busy[0].process.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert run_sweep(slow, plan(slow, tmp_path / "two"), workers) == []
    thread.join()
    assert workers.deaths == 1
    assert tables(slow, tmp_path / "two") == tables(slow, tmp_path / "one")
    lines = [c.journal_path.read_bytes().count(b'"prompt"') for c in cells(tmp_path / "two")]
    assert lines == [40, 40, 40]  # nothing was asked twice


def test_a_cell_that_kills_its_workers_is_given_up_and_the_others_are_run(tmp_path: Path) -> None:
    config = swept(
        tmp_path,
        adapter=str(PLUGINS / "frail.py"),
        axes={},
        baseline={},
        include=[{"model": "killed by sum/7"}, {"model": "calm"}],
        model="quiet",
    )
    workers = workers_for(Cells(config, tmp_path), "cpu:2", "")
    (fault,) = run_sweep(config, plan(config, tmp_path), workers)
    assert "killed by sum/7: its worker died 3 times, the last by signal 9" in fault
    found = {c.model: c.results.n_total for c in cells(tmp_path)}
    assert (found["quiet"], found["calm"]) == (40, 40)


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_begun_anew_with_the_same_numbers(tmp_path: Path) -> None:
    (path := tmp_path / "tiny.yaml").write_text(STUDY)
    study = load_study(path)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.2)
            at_work = [p for p in multiprocessing.active_children() if p.pid]
            if at_work and (tmp_path / schedule.RUNS).exists():
                killed.append(at_work[0].pid or 0)
                time.sleep(3)
                at_work[0].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    got = list(schedule.run_missing(study, tmp_path, 2))
    thread.join()
    numbers = {f.run.key(study.conditions): f.result.conditions for f in got}
    alone = {
        r.key(study.conditions): trainer.train(r, study.conditions).conditions
        for _, r in study.runs()
    }
    assert killed and numbers == alone
