"""What a run says came out, without reading its records again, is what its journal says."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit import columns
from evalkit.cell_results import Ending, _sorted_digest, ids_digest
from evalkit.contents import Header, read
from evalkit.gathering import Gathering
from evalkit.journal import Journal
from evalkit.records import Record
from evalkit.run_info import Selection
from evalkit.runner import Outcome
from evalkit.store import CellFolder
from evalkit.task import Task, load_task
from evalkit.types import Completion, Metric, Sample, Score, TokenCounts
from tests.runs import SUMS, run

GROUPED = (Metric("exact", group="parity"), Metric("digits", units=("parity", "")))


def once(output: Path, task: Task) -> Outcome:
    return run(output, task=task)


def from_half(output: Path, task: Task) -> Outcome:
    folder = run(output, task=task).cell.stored
    lines = folder.journal_path.read_bytes().splitlines(keepends=True)
    folder.journal_path.write_bytes(b"".join(lines[:20]))
    folder.results_path.unlink()
    return run(output, task=task)


def after_a_refusal(output: Path, task: Task) -> Outcome:
    run(output, task=task, refuse=9)
    return run(output, task=task)


def with_a_refusal(output: Path, task: Task) -> Outcome:
    return run(output, task=task, refuse=9)


def a_part(output: Path, task: Task) -> Outcome:
    return run(output, Selection(first=(3, 17)), task)


def more_than_a_part(output: Path, task: Task) -> Outcome:
    a_part(output, task)
    return once(output, task)


def another_part(output: Path, task: Task) -> Outcome:
    a_part(output, task)
    return run(output, Selection(ids=("sum/5", "sum/30")), task)


def with_another_s_sample(output: Path, task: Task) -> Outcome:
    folder = run(output, task=task).cell.stored
    folder.results_path.unlink()
    with folder.open_journal("sums:all") as journal:
        journal.append(Record("foreign", scores={"exact": 1.0}))
    return run(output, task=task)


@pytest.mark.parametrize("metrics", [None, GROUPED], ids=["means", "groups"])
@pytest.mark.parametrize(
    "way",
    [
        once,
        from_half,
        after_a_refusal,
        with_a_refusal,
        a_part,
        more_than_a_part,
        another_part,
        with_another_s_sample,
    ],
)
def test_what_came_out_is_what_the_journal_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Path, Task], Outcome],
    metrics: tuple[Metric, ...] | None,
) -> None:
    monkeypatch.setattr(columns, "LEAST", 0)
    task = load_task(SUMS)
    if metrics:
        monkeypatch.setattr(type(task), "metrics", metrics)
    done = way(tmp_path, task)
    folder = CellFolder(done.cell.stored.path)
    contents = read(folder.journal_path)
    assert folder.derived(contents) == folder.results == done.results
    assert done.results.complete and len(done.results.metrics) == 2
    assert done.results.n_total == {a_part: 14, another_part: 2}.get(way, 40)
    kept = columns.read(folder.columns_path, folder._journal_digest())
    assert kept is not None and kept.records() == contents.records
    assert list(kept.records()) == list(contents.records)
    unscored = [r for r in contents.records.values() if not r.scored]
    assert [r.id for r in done.failures] == [r.id for r in unscored]


def test_what_tasks_and_adapters_give_is_told_as_it_is_read_back(tmp_path: Path) -> None:
    """Counts with a fraction, and groups that are no texts."""
    told: dict[str, Any] = {"parity": (1, 2)}
    sample = Sample("x", (), "4", cluster="a", metadata=told)
    answer = Completion("x", "4", tokens=TokenCounts(24.7, 0, 3.0))  # type: ignore[arg-type]
    record = Record.of(sample, "p", answer, Score({"exact": 1.0}))
    metrics = (Metric("exact", group="parity"),)
    gatherings = [Gathering(metrics, tmp_path), Gathering(metrics, tmp_path)]
    with Journal(tmp_path / "j", Header(), seen=gatherings[0].add) as journal:
        journal.append(record)
    with Journal(tmp_path / "j", Header(), seen=gatherings[1].add):
        pass
    one, other = (g.tally.counts() for g in gatherings)
    assert one == other and one["tokens"] == TokenCounts(24, 0, 3)
    kinds = [list(g.tally.kinds) for g in gatherings]
    assert kinds[0] == kinds[1] == [("[1, 2]",)]


def test_an_ending_of_an_older_evalkit_is_of_the_same_ids(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    contents = read(folder.journal_path)
    assert contents.ending and contents.ending.digest == ids_digest(contents.records)
    old = replace(contents.ending, digest=_sorted_digest(contents.records))
    for ending in (old, contents.ending):
        told = Ending.from_json(ending.to_json())
        assert told.results_of(contents.records, contents.run.metrics).complete  # type: ignore[union-attr]
        fewer = dict(list(contents.records.items())[1:])
        assert not told.results_of(fewer, contents.run.metrics).complete  # type: ignore[union-attr]


def test_a_journal_that_is_opened_again_holds_little_of_each_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "PART", 64)
    monkeypatch.setattr(columns, "HELD", 1024)
    with Journal(tmp_path / "j", Header()) as journal:
        for i in range(5000):
            journal.append(Record(str(i), scores={"exact": float(i % 2)}, text="x" * 2000))
    gathering = Gathering((Metric("exact"),), tmp_path)
    tracemalloc.start()
    with Journal(tmp_path / "j", Header(), seen=gathering.add) as journal:
        counts = gathering.tally.counts()
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert counts["n"] == len(journal.records) == 5000
    gathering.close()
    assert held < 1e6 and most < 2e6  # of texts of 10 MB
