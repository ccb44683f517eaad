"""A run says how far it is, and when it will be done."""

from __future__ import annotations

import logging
import os
import re
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from evalkit.progress import Progress
from evalkit.run_info import Selection
from evalkit.task import Task, load_task
from tests.runs import SUMS, run


def counted(monkeypatch: pytest.MonkeyPatch, rows: int | None) -> Task:
    """The sums, whose source says how many rows it has."""
    task = load_task(SUMS)
    monkeypatch.setattr(type(task.source), "count", lambda self, data: rows, raising=False)
    return task


def shown(
    monkeypatch: pytest.MonkeyPatch, output: Path, **arguments: Any
) -> list[tuple[int, int, int | None]]:
    """(done, reused, total) of every step that a run shows."""
    steps: list[tuple[int, int, int | None]] = []
    monkeypatch.setattr(Progress, "due", True)
    monkeypatch.setattr(
        Progress,
        "update",
        lambda self, done, reused, total, score: steps.append((done, reused, total)),
    )
    run(output, **arguments)
    return steps


def test_the_total_comes_from_the_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = shown(monkeypatch, tmp_path, task=counted(monkeypatch, 40))
    assert steps[0] == (1, 0, 40) and steps[-1] == (40, 0, 40)


def test_rows_of_several_samples_are_reckoned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = counted(monkeypatch, 40)
    original = type(task).samples
    monkeypatch.setattr(
        type(task),
        "samples",
        lambda self, row: [s for sample in original(self, row) for s in repeat(sample, 2)],
    )
    assert {total for _, _, total in shown(monkeypatch, tmp_path, task=task)} == {80}


@pytest.mark.parametrize(
    ("selection", "total"),
    [
        (Selection(first=(10, 30)), 20),
        (Selection(first=(30, 90)), 10),
        (Selection(drawn=7), 7),
        (Selection(drawn=90), 40),
        (Selection(ids=("sum/3", "sum/8")), 2),
    ],
)
def test_the_total_is_of_what_is_selected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: Selection, total: int
) -> None:
    task = counted(monkeypatch, 40)
    steps = shown(monkeypatch, tmp_path, task=task, selection=selection)
    assert steps[-1] == (total, 0, total)


def test_a_source_that_does_not_say_shows_no_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = shown(monkeypatch, tmp_path, task=counted(monkeypatch, None))
    assert steps[-1] == (40, 0, None)


def test_a_resumed_run_counts_what_it_reuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Selection(first=(0, 30)))
    steps = shown(monkeypatch, tmp_path, task=counted(monkeypatch, 40))
    assert steps[-1] == (40, 30, 40)


def test_a_line_says_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("docvqa:mini", wanted=False)
    assert progress.line(129, 89, 199, "anls 90.7") == (
        "129/199, 65 %, 4 a second, 0:00:18 left; anls 90.7"
    )
    assert progress.line(129, 89, None, "") == "129 done, 4 a second"


def test_a_log_gets_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "evalkit")
    with Progress("sums:all", wanted=True) as progress:
        progress.update(3, 1, 40, "exact 50.0")
    assert re.fullmatch(
        r"sums:all: 3/40, 8 %, [\d.e+]+ a second, 0:00:\d\d left; exact 50.0", caplog.messages[0]
    )


def test_a_terminal_without_a_size_gets_lines_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "evalkit")
    ours, theirs = os.openpty()  # 0 rows of 0 columns
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("sums:all", wanted=True) as progress:
            progress.update(3, 1, 40, "exact 50.0")
        monkeypatch.undo()
    os.close(ours)
    assert caplog.messages[0].startswith("sums:all: 3/40, 8 %")


def test_a_run_without_progress_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path)
    assert capsys.readouterr() == ("", "") and not caplog.messages
