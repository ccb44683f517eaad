"""A run keeps what it scored: it resumes, isolates bad rows, and says what happened."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from evalkit.cell import Cell
from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.prompt_hash import prompt_hash
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.store import cells
from evalkit.task import Task, load_task
from evalkit.types import (
    Completion,
    Image,
    Message,
    Request,
    Sample,
    Score,
    Text,
    TokenCounts,
    Video,
)
from tests.plugins.adder import Adder
from tests.runs import SUMS, cell_of, run


def with_samples(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Sample], Iterable[object]]
) -> Task:
    """The sums, each sample replaced by what ``change`` makes of it."""
    task = load_task(SUMS)
    original = type(task).samples
    monkeypatch.setattr(
        type(task), "samples", lambda self, row: [c for s in original(self, row) for c in change(s)]
    )
    return task


def with_rows(monkeypatch: pytest.MonkeyPatch, count: int, **description: str) -> Task:
    """The first ``count`` sums, from a source with another description."""
    task = load_task(SUMS)
    source = type(task.source)
    rows = source.rows
    monkeypatch.setattr(source, "rows", lambda self, data=None: islice(rows(self, data), count))
    monkeypatch.setattr(source, "describe", lambda self, data=None: description)
    return task


def test_a_run_scores_every_sample_once(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    records = outcome.cell.stored.records()
    assert (outcome.made, outcome.reused, len(records)) == (40, 0, 40)
    exact = outcome.results.metrics[0]
    assert exact.value == pytest.approx(100 * 31 / 40)
    assert exact.ci_low < exact.value < exact.ci_high
    assert (outcome.results.n, outcome.results.errors, outcome.results.unparsed) == (
        40,
        0,
        1,
    )
    assert records["sum/7"].unparsed and records["sum/7"].scores["exact"] == 0.0


def test_a_finished_cell_is_reused_without_a_look_at_data_or_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path)
    monkeypatch.setattr(Adder, "generate", lambda *_: pytest.fail("the model was asked"))
    second = run(tmp_path)
    assert (second.made, second.reused) == (0, 40)
    assert second.results == first.results


def test_batch_size_is_not_part_of_the_cell_but_what_changes_answers_is(tmp_path: Path) -> None:
    assert run(tmp_path, batch_size=1).cell.folder == run(tmp_path, batch_size=7).cell.folder
    assert run(tmp_path, wrong=4).cell.folder != run(tmp_path).cell.folder


def test_a_growing_limit_only_runs_what_is_new(tmp_path: Path) -> None:
    assert run(tmp_path, Selection(first=(0, 10))).made == 10
    more = run(tmp_path, Selection(first=(5, 25)))
    assert (more.made, more.reused) == (15, 5)
    assert more.results.selection == Selection(first=(5, 25))
    assert run(tmp_path, Selection(first=(5, 25))).made == 0
    whole = run(tmp_path)
    assert (whole.made, whole.reused, whole.results.n) == (15, 25, 40)
    assert whole.results.metrics == run(tmp_path / "other").results.metrics


def test_a_random_selection_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    a, b, c = (
        run(tmp_path / name, Selection(drawn=8, seed=s))
        for name, s in (("a", 1), ("b", 1), ("c", 2))
    )
    ids = [set(o.cell.stored.records()) for o in (a, b, c)]
    assert len(ids[0]) == 8
    assert ids[0] == ids[1] != ids[2]


def test_one_sample_can_be_run_alone_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, Selection(ids=("sum/3",))).made == 1
    with pytest.raises(UsageError, match="nonsense"):
        run(tmp_path, Selection(ids=("nonsense",)))


def test_a_broken_row_is_an_error_of_its_own_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    broken = run(tmp_path)
    assert (broken.results.n, broken.results.errors, broken.stopped) == (39, 1, None)
    assert "row 13: IndexError" in str(broken.cell.stored.records()["row-13"].error)
    assert run(tmp_path).made == 1
    monkeypatch.delenv("EVALKIT_TEST_BROKEN")
    mended = run(tmp_path)
    assert (mended.made, mended.results.n, mended.results.errors) == (1, 40, 0)


def test_a_refused_request_is_an_error_and_never_a_zero(tmp_path: Path) -> None:
    outcome = run(tmp_path, refuse=6)
    assert (outcome.results.n, outcome.results.errors) == (39, 1)
    assert outcome.results.metrics[0].value == pytest.approx(100 * 30 / 39)


def test_an_adapter_that_breaks_loses_nothing(tmp_path: Path) -> None:
    stopped = run(tmp_path, crash_at=22)
    assert stopped.stopped == "MemoryError: out of memory"
    assert not stopped.results.complete
    kept = len(stopped.cell.stored.records())
    assert kept > 15
    whole = run(tmp_path)
    assert (whole.made, whole.reused) == (40 - kept, kept)
    assert whole.results.metrics == run(tmp_path / "other").results.metrics


def test_an_answer_nobody_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Adder.generate
    monkeypatch.setattr(
        Adder, "generate", lambda self, r: (c for x in original(self, r) for c in (x, x))
    )
    outcome = run(tmp_path)
    assert "was not asked or was answered before" in str(outcome.stopped)
    assert not outcome.results.complete


def test_an_adapter_that_ends_too_early_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Adder.generate
    monkeypatch.setattr(Adder, "generate", lambda self, r: islice(original(self, r), 6))
    outcome = run(tmp_path)
    assert "unanswered" in str(outcome.stopped)
    assert (outcome.results.n, outcome.results.complete) == (6, False)


def test_a_selection_never_replaces_the_results_of_everything(tmp_path: Path) -> None:
    whole = run(tmp_path)
    part = run(tmp_path, Selection(first=(0, 10)))
    assert (part.made, part.reused, part.results.n) == (0, 10, 10)
    assert run(tmp_path).results == whole.results


def test_results_do_not_depend_on_the_order_of_answers(tmp_path: Path) -> None:
    orders = [run(tmp_path / str(size), batch_size=size) for size in (1, 3, 40)]
    assert orders[0].results.metrics == orders[1].results.metrics == orders[2].results.metrics


def test_an_early_end_of_a_resumed_run_keeps_what_older_runs_scored(tmp_path: Path) -> None:
    before = run(tmp_path, crash_at=39).results.n
    assert run(tmp_path, crash_at=before).results.n >= before > 30


def test_a_row_that_failed_and_now_has_its_sample_leaves_no_trace_in_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    folder = run(tmp_path).cell.stored
    monkeypatch.delenv("EVALKIT_TEST_BROKEN")
    run(tmp_path)
    assert len(folder.records()) == 40


def test_a_repeated_id_is_one_counted_error_and_the_first_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = with_samples(monkeypatch, lambda s: [replace(s, id="sum/1") if s.id == "sum/9" else s])
    outcome = run(tmp_path, task=task)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    records = outcome.cell.stored.records()
    assert "'sum/1'" in str(records["row-9"].error) and "row 1" in str(records["row-9"].error)
    assert records["sum/1"].text == "2"
    assert run(tmp_path, task=task).made == 1


def test_ids_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = with_samples(monkeypatch, lambda s: [replace(s, id="")])
    outcome = run(tmp_path, task=task)
    assert list(outcome.cell.stored.records()) and outcome.results.n == 40
    assert set(outcome.cell.stored.records()) == {str(i) for i in range(40)}
    assert run(tmp_path, task=task).reused == 40


def nested(times: int) -> list[Any]:
    return [nested(times - 1)] if times else []


@pytest.mark.parametrize("value", [b"x", nested(300), nested(900)], ids=["bytes", "deep", "deeper"])
def test_metadata_that_json_cant_hold_is_an_error_of_that_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    task = with_samples(
        monkeypatch, lambda s: [replace(s, metadata={"raw": value}) if s.id == "sum/3" else s]
    )
    outcome = run(tmp_path, task=task)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    assert len(outcome.cell.stored.records()) == 40
    assert "can't be recorded as JSON" in str(outcome.failures[0].error)


@pytest.mark.parametrize("times", [300, 900])
def test_what_is_read_of_an_answer_too_deep_for_json_is_an_error_of_that_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    task = load_task(SUMS)
    deep = Score({"exact": 1.0, "digits": 1.0}, nested(times))
    original = task.score
    monkeypatch.setattr(task, "score", lambda s, c: deep if s.id == "sum/3" else original(s, c))
    outcome = run(tmp_path, task=task)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    assert "can't be recorded as JSON" in str(outcome.failures[0].error)


def test_a_resumed_cell_keeps_the_provenance_of_its_earlier_runs(tmp_path: Path) -> None:
    first = run(tmp_path, crash_at=22).cell.stored.run
    again = run(tmp_path).cell.stored.run
    assert again.earlier == (first.session(),)


def test_a_run_that_asks_nothing_keeps_the_dates_of_its_answers(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    old = replace(folder.results, created="2020-01-01T00:00:00+00:00", rescored="2021-01-01")
    folder.write_results(old)
    before = folder.run
    outcome = run(tmp_path)  # rescored results are looked at again
    assert outcome.reused == 40
    assert (outcome.results.created, outcome.results.rescored) == (old.created, "2021-01-01")
    assert outcome.cell.stored.run == before


def test_a_changed_prompt_makes_its_sample_run_again(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    with folder.open_journal("sums:all") as journal:
        journal.append(replace(folder.records()["sum/4"], prompt="0" * 16))
    assert run(tmp_path).made == 1


@pytest.mark.parametrize("kind", [Image, Video])
def test_the_hash_of_a_prompt_takes_the_bytes_of_media(
    tmp_path: Path, kind: type[Image] | type[Video]
) -> None:
    path = tmp_path / "a"

    def hash_of(*parts: Any) -> str:
        return prompt_hash(Sample("a", (Message("user", (*parts, Text("?"))),), 0))

    path.write_bytes(b"one")
    first = hash_of(kind(path))
    assert len(first) == 16 and hash_of(kind(b"one")) == first
    path.write_bytes(b"two")  # the same name and size
    assert hash_of(kind(path)) != first
    path.unlink()
    assert hash_of(kind(path)) not in (first, hash_of())
    if kind is Video:
        assert hash_of(Video(b"one", 0.0, 2.0)) != first


def test_media_that_were_overwritten_are_asked_about_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"white")

    def add(s: Sample) -> list[Sample]:
        return [replace(s, messages=(*s.messages, Message("user", (Image(picture),))))]

    task = with_samples(monkeypatch, add)
    assert run(tmp_path, task=task).made == 40
    assert run(tmp_path, task=task).made == 0
    picture.write_bytes(b"black")
    assert run(tmp_path, task=task).made == 40


def test_run_json_holds_what_a_repetition_needs(tmp_path: Path) -> None:
    cell = Cell.make(load_task(SUMS), Adder("a"), str(tmp_path), tmp_path / "out", tmp_path)
    info = run_cell(cell, progress=False, command="evaluate('sums')").cell.stored.run
    assert info.identity.fingerprint["model"] == "a"
    assert {"evalkit", "torch", "python"} <= info.versions.keys()
    assert (info.command, info.task_file) == ("evaluate('sums')", SUMS)
    assert (info.model_path, info.data_path) == (str(tmp_path), str(tmp_path))
    assert [m.name for m in info.metrics] == ["exact", "digits"]


def test_two_writers_never_share_a_journal(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    with folder.open_journal("sums:all"), pytest.raises(EvalkitError, match="another run"):
        run(tmp_path, wrong=5, fresh=True)


ASKED = (Message("user", (Text("1 + 1"),)),)


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        ("1 + 1 =", "str is not a Sample"),
        (Sample("a", (), 0), "no messages"),
        (Sample("a", ASKED, 0, cluster=["b"]), "cluster must be a string"),  # type: ignore[arg-type]
        (Sample("a", ASKED, 0, metadata=[1]), "metadata a mapping"),  # type: ignore[arg-type]
        (
            Sample("a", (Message("alien", ASKED[0].content),), 0),
            "with role system, user or assistant",
        ),  # type: ignore[arg-type]
        (Sample("a", (Message("user", (Text(None),)),), 0), "not a Text with a string"),  # type: ignore[arg-type]
    ],
)
def test_what_a_task_makes_wrongly_is_an_error_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: object, fault: str
) -> None:
    task = with_samples(monkeypatch, lambda s: [sample if s.id == "sum/3" else s])
    outcome = run(tmp_path, task=task)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    assert fault in str(outcome.cell.stored.records()["row-3"].error)


def test_a_cell_in_which_no_row_could_be_asked_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = with_samples(monkeypatch, lambda s: ["nonsense"])
    outcome = run(tmp_path, task=task)
    assert (outcome.results.n, outcome.results.errors, len(outcome.failures)) == (0, 40, 5)
    assert "row 0: Sums.samples: str is not a Sample" in str(outcome.failures[0].error)
    assert outcome.stopped == "no row could be used: mend Sums.samples or the data"
    assert cells(tmp_path) == [] and not outcome.cell.folder.exists()


def test_data_without_rows_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(tmp_path, task=with_rows(monkeypatch, 0))
    assert outcome.stopped == "sums:all has no rows: nothing was asked"
    assert cells(tmp_path) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_selection_beyond_the_end_is_said(tmp_path: Path, begun: bool) -> None:
    if begun:
        run(tmp_path)
    outcome = run(tmp_path, Selection(first=(1000, 1010)))
    assert outcome.stopped == (
        "nothing was selected: samples 1000 to 1010 were asked for, and there are 40"
    )
    assert (outcome.results.n, len(cells(tmp_path))) == (0, int(begun))


def test_a_task_that_lets_a_model_say_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    task.max_new_tokens = 0
    with pytest.raises(UsageError, match="max_new_tokens is 0; set it above 0"):
        run(tmp_path, task=task)


def test_where_the_data_end_badly_what_was_asked_before_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    rows = type(task.source).rows

    def bad(self: object, override: Path | None = None) -> object:
        yield from islice(rows(self, override), 20)  # type: ignore[arg-type]
        raise OSError("the data end badly")

    monkeypatch.setattr(type(task.source), "rows", bad)
    outcome = run(tmp_path, task=task, batch_size=16)
    assert (outcome.made, outcome.results.complete) == (20, False)
    assert "the data end badly" in str(outcome.stopped)


def test_data_that_change_while_they_are_read_never_make_a_complete_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    cell = cell_of(tmp_path, task)
    monkeypatch.setattr(type(task.source), "describe", lambda *_: {"sha256": "another"})
    outcome = run_cell(cell, progress=False)
    assert "changed while they were read" in str(outcome.stopped)
    assert not outcome.results.complete


def test_a_finished_cell_is_looked_at_where_data_are_not_known_by_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, task=with_rows(monkeypatch, 30, kind="folder")).made == 30
    monkeypatch.undo()
    assert run(tmp_path, task=with_rows(monkeypatch, 35, kind="folder")).made == 5


@pytest.mark.parametrize("description", [{"sha256": "ab"}, {"revision": "ab"}])
def test_a_finished_cell_is_not_looked_at_where_data_are_known_by_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: dict[str, str]
) -> None:
    task = with_rows(monkeypatch, 30, **description)
    first = run(tmp_path, task=task)
    monkeypatch.setattr("evalkit.stream.read_samples", lambda *_: pytest.fail("data were read"))
    again = run(tmp_path, task=task)
    assert (again.made, again.reused, again.results) == (0, 30, first.results)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"tokens": None}, "tokens=None"),
        ({"tokens": TokenCounts("many", 0, 1)}, "tokens=TokenCounts(text_in='many'"),
        ({"seconds": None}, "seconds=None"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"text": None}, "text=None"),
        ({"logprobs": ("high",)}, "logprobs=('high',)"),
        ({"finish_reason": "tired"}, "finish_reason='tired'"),
        ({"finish_reason": "error"}, "no answer, and no reason"),
        ({"box_space": "miles"}, "box_space='miles'"),
        ({"error": KeyError("x")}, "not a text"),
    ],
)
def test_a_malformed_completion_is_an_error_of_its_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], fault: str
) -> None:
    answer = Adder.answer

    def malformed(self: Adder, request: Request) -> Completion:
        good = answer(self, request)
        return replace(good, **fields) if request.id == "sum/3" else good

    monkeypatch.setattr(Adder, "answer", malformed)
    outcome = run(tmp_path)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    (failure,) = outcome.failures
    assert fault in str(failure.error) and failure.failed_in == "adapter"
    json.dumps(failure.to_json(), allow_nan=False)


def test_something_that_is_no_completion_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adder, "answer", lambda self, request: "4")
    assert "the adapter gave '4': expected a Completion" in str(run(tmp_path).stopped)


def test_the_box_space_of_an_adapter_counts_where_a_completion_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adder, "box_space", "pixel")
    assert {r.box_space for r in run(tmp_path).cell.stored.records().values()} == {"pixel"}


class Panic(BaseException):
    """As native libraries raise it."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [SystemExit(0), Panic("at the disco"), Mute(), MemoryError()])
def test_whatever_an_adapter_raises_is_stopped_with_what_it_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    answer = Adder.answer

    def exits(self: Adder, request: Request) -> Completion:
        if request.id == "sum/9":
            raise error
        return answer(self, request)

    monkeypatch.setattr(Adder, "answer", exits)
    outcome = run(tmp_path)
    assert type(error).__name__ in str(outcome.stopped) and outcome.results.n >= 6
    assert not outcome.cell.stored.results.complete


def test_fresh_asks_again_and_sets_the_old_journal_aside(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    old = folder.journal_path.read_bytes()
    again = run(tmp_path, fresh=True)
    assert (again.made, again.reused) == (40, 0)
    (aside,) = folder.path.glob("journal.2*")
    assert aside.read_bytes() == old
    assert [c.path for c in cells(tmp_path)] == [folder.path]


@pytest.mark.parametrize("fingerprint", [None, {"a": {1}}])
def test_a_fingerprint_that_is_not_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: object
) -> None:
    monkeypatch.setattr(Adder, "fingerprint", fingerprint)
    with pytest.raises(UsageError, match="adapter 'adder': its fingerprint"):
        run(tmp_path)


@pytest.mark.parametrize("score", [SystemExit(0), Panic("!"), Mute(), "yes"])
def test_an_invalid_score_is_an_error_of_its_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: object
) -> None:
    task = load_task(SUMS)

    def breaks(self: Task, sample: Sample, completion: Completion) -> object:
        if isinstance(score, BaseException):
            raise score
        return score

    monkeypatch.setattr(type(task), "score", breaks)
    outcome = run_cell(Cell.make(task, Adder("adder"), "adder", tmp_path), progress=False)
    assert (outcome.results.n, outcome.results.errors) == (0, 40)


@pytest.mark.parametrize("error", [SystemExit(0), Panic("!"), Mute()])
def test_whatever_ends_the_data_what_was_asked_before_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def samples(s: Sample) -> list[Sample]:
        if s.id == "sum/3":
            raise error
        return [s]

    outcome = run(tmp_path, task=with_samples(monkeypatch, samples))
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (39, 1, None)
    monkeypatch.undo()
    task = load_task(SUMS)
    rows = type(task.source).rows

    def bad(self: object, override: Path | None = None) -> object:
        yield from islice(rows(self, override), 20)  # type: ignore[arg-type]
        raise error

    monkeypatch.setattr(type(task.source), "rows", bad)
    outcome = run(tmp_path / "rows", task=task, batch_size=16)
    assert (outcome.made, outcome.results.complete) == (20, False)
    assert type(error).__name__ in str(outcome.stopped)


def test_data_that_can_no_longer_be_read_at_the_end_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(SUMS)
    cell = cell_of(tmp_path, task)

    def gone(*_: object) -> None:
        raise DataError("x.parquet: no such file")

    monkeypatch.setattr(type(task.source), "describe", gone)
    outcome = run_cell(cell, progress=False)
    assert "x.parquet: no such file" in str(outcome.stopped)
    assert (outcome.results.n, cell.stored.results.complete) == (40, False)


def test_a_sample_whose_target_changed_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    task = with_samples(
        monkeypatch, lambda s: [replace(s, target=0 if s.id == "sum/4" else s.target)]
    )
    outcome = run(tmp_path, task=task)
    assert (outcome.made, outcome.reused) == (1, 39)
    assert outcome.cell.stored.records()["sum/4"].scores["exact"] == 0.0


@pytest.mark.parametrize("finished", [True, False])
def test_a_cell_that_may_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    before = run(tmp_path, Selection() if finished else Selection(first=(0, 30)))
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if {"a", "x", "w"} & set(mode):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", read_only)
    again = run(tmp_path)
    if finished:
        assert (again.made, again.reused, again.stopped) == (0, 40, None)
        assert again.results == before.results
    else:
        assert "Read-only file system); choose another folder with --output" in str(again.stopped)
        assert again.results.n == 30
    monkeypatch.undo()
    assert run(tmp_path).results.n == 40


def test_fresh_twice_in_a_second_keeps_both_old_journals(tmp_path: Path) -> None:
    for i in range(3):
        folder = run(tmp_path, fresh=bool(i)).cell.stored
    assert len(list(folder.path.glob("journal.2*"))) == 2


class Hanging(Adder):
    """Never answers some requests; all others at once."""

    timeout = 0.1
    hang: tuple[int, ...] = ()

    def answer(self, request: Request) -> Completion:
        if int(request.id.partition("/")[2]) in self.hang:
            threading.Event().wait(60)
        return super().answer(request)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_request_that_gets_no_answer_in_time_costs_its_own_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(Hanging, "hang", (4, 21))
    cell = Cell.make(load_task(SUMS), Hanging("a", batch_size=batch_size), "a", tmp_path)
    outcome = run_cell(cell, progress=False)
    assert (outcome.results.n, outcome.results.errors, outcome.stopped) == (38, 2, None)
    assert {f.id for f in outcome.failures} == {"sum/4", "sum/21"}
    assert "no answer within 0.1 seconds" in str(outcome.failures[0].error)
    monkeypatch.setattr(Hanging, "hang", ())
    assert run_cell(cell, progress=False).made == 2


def test_an_adapter_that_answers_nothing_any_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hanging, "hang", tuple(range(10, 40)))
    cell = Cell.make(load_task(SUMS), Hanging("a", batch_size=1), "a", tmp_path)
    outcome = run_cell(cell, progress=False)
    assert "3 requests in a row got no answer within 0.1 seconds" in str(outcome.stopped)
    assert (outcome.results.n, outcome.results.errors) == (10, 3)


def test_an_adapter_with_a_timeout_is_otherwise_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_cell(Cell.make(load_task(SUMS), Hanging("a"), "a", tmp_path), progress=False)
    assert whole.results.metrics == run(tmp_path / "other").results.metrics
    monkeypatch.setattr(Hanging, "timeout", 20.0)
    cell = Cell.make(load_task(SUMS), Hanging("b", crash_at=22), "b", tmp_path)
    assert run_cell(cell, progress=False).stopped == "MemoryError: out of memory"
