"""Evaluations as Python calls."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evalkit
from evalkit.adapter import adapter_class
from evalkit.cell import Cell
from evalkit.errors import UsageError
from evalkit.plan import build_adapter, tasks_of
from evalkit.results.frames import RESULT_COLUMNS, SAMPLE_COLUMNS
from evalkit.selection import Limit, describe
from evalkit.store import CellFolder, cells
from evalkit.task import Row, Subset, load_task
from evalkit.types import Completion, Request
from tests.plugins.adder import Adder
from tests.plugins.sums import Numbers, Sums

PLUGINS = Path(__file__).parent / "plugins"
SUMS, ADDER = str(PLUGINS / "sums.py"), str(PLUGINS / "adder.py")


def run_of(output: Path) -> CellFolder:
    (cell,) = cells(output)
    return cell


def test_an_evaluation_is_a_frame_and_its_samples(tmp_path: Path) -> None:
    evaluation = evalkit.evaluate(SUMS, "m", adapter=ADDER, output=tmp_path, progress=False)
    assert evaluation.errors == () and not evaluation.failed()
    assert evaluation.scores == {"sums:all": pytest.approx(77.5)}
    assert list(evaluation["metric"]) == ["exact", "digits"]
    assert [row.metric for row in evaluation] == ["exact", "digits"]
    assert len(evaluation) == 2 and len(evaluation.samples) == 40
    assert evaluation.frame.equals(evalkit.load_results(tmp_path))
    assert "77.5" in repr(evaluation) and "<table" in evaluation._repr_html_()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks", 3),
        ("tasks", [b"docvqa"]),
        ("adapter", ["a"]),
        ("system", 3),
        ("system", "half \ud800"),
        ("temperature", "hot"),
        ("temperature", True),
        ("num_fewshot", 2.5),
        ("output", b"out"),
        ("limit", True),
        ("seed", "x"),
        ("ids", "s1"),
        ("ids", [1]),
        ("data", "rows.jsonl"),
        ("data", {"docvqa:val": 3}),
        ("columns", ["question"]),
        ("name", ["n"]),
        ("step", float("nan")),
        ("step", "7"),
        ("fresh", "no"),
        ("devices", 2),
        ("shard", (1, 2)),
    ],
)
def test_an_argument_of_another_type_is_refused_by_name(
    tmp_path: Path, name: str, value: Any
) -> None:
    given = {"tasks": SUMS, "model": "m", "adapter": ADDER, "output": tmp_path, name: value}
    with pytest.raises(UsageError, match=f"^{name}=.*: expected .*, not {type(value).__name__}"):
        evalkit.evaluate(**given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["compare", "leaderboard", "load_results", "sweep", "view"])
def test_every_call_says_which_argument_is_of_another_type(name: str) -> None:
    with pytest.raises(UsageError, match="=3: expected "):
        getattr(evalkit, name)(*[3] * (2 if name == "compare" else 1))


def test_none_is_the_default(tmp_path: Path) -> None:
    given: dict[str, Any] = {"system": None, "temperature": None, "repeats": None, "fresh": None}
    evaluation = evalkit.evaluate(
        Path(SUMS), "m", adapter=ADDER, output=tmp_path, limit=5, progress=False, **given
    )
    assert len(evaluation.samples) == 5


def test_values_of_numpy_and_pandas_are_those_of_python(tmp_path: Path) -> None:
    class Drawing(Adder):
        can_sample = True

    def cell(**given: Any) -> Path:
        given |= {"adapter": Drawing("m"), "output": tmp_path, "progress": False}
        return evalkit.evaluate(SUMS, "m", **given).cells[0].path

    own = {"step": 5, "limit": 3, "seed": 7, "thinking": 4, "temperature": 1.0, "repeats": 2}
    others = {k: np.asarray(v)[()] for k, v in own.items()}
    assert cell(**own) == cell(**others) == cell(**own | {"temperature": 1})
    assert cell(fresh=np.bool_(False), limit=np.float32(0.5)) == cell(limit=0.5)
    ids = evalkit.evaluate(SUMS, "m", adapter=ADDER, output=tmp_path / "ids").samples["id"][:2]
    assert cell(ids=ids) == cell(ids=ids.to_numpy()) == cell(ids=ids.to_list())


@pytest.mark.parametrize("name", ["limit", "temperature"])
def test_a_number_beyond_all_floats_is_refused(tmp_path: Path, name: str) -> None:
    given: dict[str, Any] = {"adapter": ADDER, "output": tmp_path, name: 10**400}
    with pytest.raises(UsageError, match=f"^{name}.*: expected "):
        evalkit.evaluate(SUMS, "m", **given)


def test_an_evaluation_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evalkit.evaluate(SUMS, "m", adapter=ADDER, output=tmp_path, progress=False)
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_a_repeated_evaluation_asks_nothing_unless_it_is_to_be_fresh(tmp_path: Path) -> None:
    adapter = Counter("m")
    for _ in range(2):
        evalkit.evaluate(Sums, adapter=adapter, output=tmp_path, progress=False)
    assert adapter.asked == 40
    evalkit.evaluate(Sums, adapter=adapter, output=tmp_path, progress=False, fresh=True)
    assert adapter.asked == 80
    assert len(cells(tmp_path)) == 1


def test_the_recorded_command_is_a_python_call_that_repeats_it(tmp_path: Path) -> None:
    evalkit.evaluate(
        SUMS, "m", adapter=ADDER, output=str(tmp_path), limit=5, wrong=3, progress=False
    )
    command = run_of(tmp_path).run.command
    assert command == (
        f"evalkit.evaluate({SUMS!r}, model='m', adapter={ADDER!r}, output={str(tmp_path)!r}, "
        "limit=5, wrong=3)"
    )
    again = eval(command, {"evalkit": evalkit})
    assert [o.made for o in again.outcomes] == [0]


def test_a_task_that_breaks_is_told_in_the_result_and_the_others_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(Path(SUMS).read_text().replace('"kind": "test"', '"kind": 1 / 0'))
    (tmp_path / "gone.py").write_text(
        Path(SUMS)
        .read_text()
        .replace('return {"kind": "test"}', "raise DataError('the data are gone')")
        .replace("from evalkit.task", "from evalkit.errors import DataError\nfrom evalkit.task")
    )
    with caplog.at_level(logging.ERROR, "evalkit"):
        evaluation = evalkit.evaluate(
            [str(tmp_path / "gone.py"), Sums], "m", adapter=Adder, output=tmp_path, progress=False
        )
    # the file's task has the same name and subset, and counts once
    assert evaluation.failed() and "the data are gone" in "".join(evaluation.errors)
    assert "the data are gone" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "docvq"}, "did you mean docvqa?"),
        ({"tasks": "DocVQA"}, "did you mean docvqa?"),
        ({"tasks": "chart_nothing*"}, "no task is named like"),
        ({"tasks": []}, "no task is named"),
        ({"tasks": [3]}, "expected str"),
        ({"tasks": "docvqa", "model": "nano,twin-mrope"}, "one model at a time"),
        ({"tasks": "docvqa", "limit": -1}, "limit -1"),
        ({"tasks": "docvqa", "limit": 1.5}, "limit 1.5"),
        ({"tasks": "docvqa", "limit": True}, "limit=True"),
        ({"tasks": "docvqa", "seed": 1}, "needs a limit"),
        ({"tasks": "docvqa", "data": {"docvqa:val": "x"}}, "with one of docvqa:mini"),
        ({"tasks": "docvqa", "data": {"docvqa:mini": "./nothere"}}, "does not exist"),
        ({"tasks": "docvqa", "adapter": Adder("m"), "wrong": 3}, "takes no arguments"),
        ({"tasks": "docvqa", "adapter": Adder, "worng": 3}, "worng"),
    ],
)
def test_what_cant_be_run_as_written_raises_before_anything_is_run(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        evalkit.evaluate(**arguments, output=tmp_path, progress=False)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (20, Limit(first=(0, 20))),
        ("20", Limit(first=(0, 20))),
        ("1e2", Limit(first=(0, 100))),
        ("5-20", Limit(first=(5, 20))),
        (0.1, Limit(share=0.1)),
        ("0.1", Limit(share=0.1)),
        ("10%", Limit(share=0.1)),
        ("100%", Limit(share=1.0)),
        (1, Limit(first=(0, 1))),
        (None, Limit()),
    ],
)
def test_a_limit_is_a_number_a_range_or_a_share(limit: object, expected: Limit) -> None:
    assert Limit.of(limit) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["x", "20-5", "5-5", 0, "0%", "150%", "-3", float("nan"), "1-"])
def test_an_invalid_limit_is_refused(limit: object) -> None:
    with pytest.raises(UsageError, match="expected N, A-B"):
        Limit.of(limit)  # type: ignore[arg-type]


def test_a_dtype_may_be_given_in_short() -> None:
    assert build_adapter("reference", "nano", {"dtype": "bf16"}).fingerprint["dtype"] == "bfloat16"


def test_tasks_are_named_by_pattern_case_and_all() -> None:
    assert {t.name for t in tasks_of("refcoco*")} == {"refcoco", "refcoco+", "refcocog"}
    assert {t.full_name for t in tasks_of("refcoco*:mini,docvqa,docvqa:mini")} >= {"docvqa:mini"}
    assert len(tasks_of("all")) >= 6


def test_a_share_counts_the_samples_and_is_rounded_up(tmp_path: Path) -> None:
    evaluation = evalkit.evaluate(
        Sums, adapter=Adder("m"), output=tmp_path, limit="51%", progress=False
    )
    assert evaluation.outcomes[0].results.n == 21


@pytest.mark.parametrize(
    ("limit", "seed"), [(40, None), (300, None), ("100%", None), ("0-50", None), (60, 1)]
)
def test_a_limit_that_leaves_nothing_out_makes_no_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: object, seed: int | None
) -> None:
    evaluation = evalkit.evaluate(
        Sums,
        adapter=Adder("m"),
        output=tmp_path,
        limit=limit,  # type: ignore[arg-type]
        seed=seed,
        progress=False,
    )
    results = evaluation.outcomes[0].results
    assert results.n == 40 and not results.partial
    assert "never quote" not in caplog.text
    assert evaluation.frame["complete"].all()


class Broken(Numbers):
    def rows(self, override: Path | None = None) -> Iterator[Row]:
        raise ValueError("boom")


class Faulty(Sums):
    name = "faulty"
    subsets = {"all": Subset(Broken())}


def test_a_source_that_fails_ends_its_own_cell_alone_under_a_limit_too(tmp_path: Path) -> None:
    evaluation = evalkit.evaluate(
        [Faulty, Sums], adapter=Adder("m"), output=tmp_path, limit=2, progress=False
    )
    stopped, ran = evaluation.outcomes
    assert stopped.stopped and ran.results.n == 2


def test_a_limited_evaluation_says_what_the_samples_have_in_common(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evalkit.evaluate("docvqa", adapter=Refuser("m"), output=tmp_path, limit=10, progress=False)
    assert "the first 10 of " in caplog.text and "all of tier easy" in caplog.text
    assert "never quote" in caplog.text


@pytest.mark.parametrize(
    ("limit", "seed", "words"),
    [
        (2, None, "the first 2 samples of 214 rows"),
        ("1-3", None, "samples 1 to 3 of 214 rows"),
        (2, 0, "2 samples of 214 rows, drawn at random"),
    ],
)
def test_what_a_limit_leaves_out_of_many_rows_is_told_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Any, seed: int | None, words: str
) -> None:
    task = load_task("docvqa")
    cell = Cell.make(task, Adder("m"), "m", tmp_path)
    monkeypatch.setattr("evalkit.selection.SMALL", 213)
    monkeypatch.setattr("evalkit.selection.read_samples", lambda *_: pytest.fail("was read"))
    told = describe(cell, Limit.of(limit, seed).selection(cell))
    assert told.startswith(f"{words}; ")


class Counter(Adder):
    """Counts what it is asked."""

    asked = 0

    def answer(self, request: evalkit.Request) -> evalkit.Completion:
        self.asked += 1
        return super().answer(request)


class Refuser(Adder):
    """Answers nothing."""

    def answer(self, request: evalkit.Request) -> evalkit.Completion:
        return evalkit.Completion(request.id, "nothing")


def test_results_of_a_training_run_form_a_curve_by_step(tmp_path: Path) -> None:
    for step, wrong in ((10, 2), (20, 5), (30, 5)):
        evalkit.evaluate(
            Sums, adapter=Adder("m", wrong=wrong), output=tmp_path, step=step, progress=False
        )
    frame = evalkit.load_results(tmp_path)
    curve = frame[frame.metric == "exact"].set_index("step")["value"].sort_index()
    assert list(curve.index) == [10, 20, 30]
    assert curve[10] < curve[20] == curve[30]


def test_a_name_is_what_tables_call_the_model(tmp_path: Path) -> None:
    evaluation = evalkit.evaluate(
        Sums, adapter=Adder("m"), output=tmp_path, name="baseline", progress=False
    )
    assert set(evaluation["model"]) == {"baseline"}


def test_another_name_is_that_of_other_cells_also_on_data_that_0_1_knew(tmp_path: Path) -> None:
    for name in ("first", "second"):
        made = evalkit.evaluate("docvqa", output=tmp_path, name=name, limit=1, progress=False)
        assert set(made["model"]) == {name}


def test_the_public_names_are_there_and_light(tmp_path: Path) -> None:
    heavy = "{'torch', 'pandas', 'datasets', 'transformers', 'pyarrow', 'scipy', 'PIL'}"
    names = "evalkit.Task, evalkit.ModelAdapter, evalkit.evaluate"
    code = f"import sys, evalkit; {names}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    assert all(getattr(evalkit, name) is not None for name in dir(evalkit))


def test_a_model_in_memory_scores_as_its_checkpoint_and_trains_on(tmp_path: Path) -> None:
    import torch

    from evalkit.models.qwen2_vl.checkpoint import load
    from evalkit.nano import shipped

    model = load(shipped()["nano"]).train()
    model.visual.eval()  # a part of its own mode
    model.requires_grad_(True)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    live = evalkit.evaluate("docvqa", model, output=tmp_path / "a", limit=3, step=7, progress=False)
    named = evalkit.evaluate("docvqa", "nano", output=tmp_path / "b", limit=3, progress=False)
    assert list(live.samples["text"]) == list(named.samples["text"])
    assert list(live["step"]) == [7, 7]
    assert model.training and not model.visual.training
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    model.lm_head(torch.ones(1, model.config.text.hidden_size)).sum().backward()


def test_another_state_of_a_model_in_memory_is_asked_anew(tmp_path: Path) -> None:
    import torch

    from evalkit.models.qwen2_vl.checkpoint import load
    from evalkit.nano import shipped

    model = load(shipped()["nano"])
    adapter = adapter_class("reference")(model)

    def made() -> int:
        evaluation = evalkit.evaluate(
            "docvqa", adapter=adapter, output=tmp_path, limit=1, progress=False
        )
        return evaluation.outcomes[0].made

    assert [made(), made()] == [1, 0]
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    assert made() == 1


@pytest.mark.slow
def test_the_training_loop_example_gives_a_curve(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    try:
        import training_loop
    finally:
        sys.path.pop(0)
    assert len(training_loop.main(tmp_path, steps=1, every=1)) == 2
    assert list(evalkit.load_results(tmp_path)["model"].unique()) == ["relearning"]


def test_a_part_after_the_whole_is_shown_and_leaves_the_whole(tmp_path: Path) -> None:
    settings = {"adapter": Adder("m"), "output": tmp_path, "progress": False}
    evalkit.evaluate(Sums, **settings)
    part = evalkit.evaluate(Sums, limit=4, **settings)
    assert list(part["n"]) == [4, 4] and not part["complete"].any()
    assert list(evalkit.load_results(tmp_path)["n"]) == [40, 40]


def test_an_evaluation_in_which_nothing_was_answered_is_an_empty_frame(tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    gone.write_text(Path(SUMS).read_text().replace("range(40)", "range(0)"))
    evaluation = evalkit.evaluate(
        str(gone), adapter=Adder("m"), output=tmp_path / "out", progress=False
    )
    assert evaluation.failed() and len(evaluation.frame) == len(evaluation) == 0
    assert evaluation._repr_html_().startswith("<")


class Wanderer(Adder):
    """Changes the present folder in the middle of its work."""

    name = "wanderer"

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for completion in super().generate(requests):
            os.chdir("/")
            yield completion


def test_an_adapter_that_changes_the_present_folder_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = evalkit.evaluate(SUMS, adapter=Wanderer("m"), progress=False)
    assert not evaluation.failed()
    assert run_of(tmp_path / "results").results.complete


@pytest.mark.parametrize(
    ("call", "columns"),
    [(evalkit.load_results, RESULT_COLUMNS), (evalkit.load_samples, SAMPLE_COLUMNS)],
)
def test_every_column_of_a_frame_is_named_where_its_call_is_described(
    call: Callable[..., object], columns: list[str]
) -> None:
    named = set(re.findall(r"\w+", str(call.__doc__)))
    assert not set(columns) - named
