"""Tables: what ran is what is read, rescoring needs no model, and what models wrote can't break a
page.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import evalkit
from evalkit.cell import Cell
from evalkit.cli import main
from evalkit.errors import DataError, UsageError
from evalkit.results import (
    compare_cells,
    comparison_frame,
    find_cells,
    load_breakdown,
    markdown_table,
    take_inventory,
    write_leaderboard,
)
from evalkit.results.breakdown import breakdown_rows, breakdown_text
from evalkit.results.cells import labels, model_labels
from evalkit.results.leaderboard import Leaderboard
from evalkit.results.pairs import Verdict, comparison_text
from evalkit.results.rescore import rescore
from evalkit.results.tables import aligned, escaped, write_csv
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.stats import compare, mean
from evalkit.store import CellFolder
from evalkit.task import Metric, Task, load_task
from evalkit.types import Completion, Sample, Score
from tests.plugins.adder import Adder
from tests.runs import SUMS, run
from tests.stored import cell, moved, record


def cells_in(output: Path) -> list[CellFolder]:
    return list(take_inventory(output).cells)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    run(tmp_path)
    run(tmp_path, wrong=3)
    return tmp_path


def test_results_have_one_row_per_cell_and_metric(output: Path) -> None:
    frame = evalkit.load_results(output)
    assert len(frame) == 4
    assert set(frame["task"]) == {"sums:all"}
    assert set(frame.loc[frame["headline"], "metric"]) == {"exact"}
    assert frame["n"].tolist() == [40] * 4
    assert (frame["ci_low"] <= frame["value"]).all()


def test_samples_have_one_row_each_with_metadata_and_scores(output: Path) -> None:
    frame = evalkit.load_samples(output)
    assert len(frame) == 80
    assert frame.groupby(["cell", "metadata_parity"])["score_exact"].mean().between(0, 1).all()
    assert not frame.duplicated(["cell", "id"]).any()


@pytest.fixture
def own_task(tmp_path: Path) -> Path:
    """A copy of the task as a user's file, and one finished cell of it."""
    file = tmp_path / "mine.py"
    file.write_text(Path(SUMS).read_text())
    run_cell(Cell.make(load_task(str(file)), Adder("adder"), "adder", tmp_path), progress=False)
    return file


def test_a_macro_average_is_compared_as_one() -> None:
    values, groups = [1.0] * 30 + [0.0] * 10, ["a"] * 30 + ["b"] * 10
    assert mean(values) == 0.75
    assert mean(values, groups) == 0.5
    paired = compare(values, [0.0] * 40, list(range(40)), groups)
    assert paired.difference.value == 0.5


def test_scores_by_what_follows_from_a_record(tmp_path: Path) -> None:
    sides = {"width": 100, "height": 100, "tier": "easy"}
    boxes = [(10, 10, "under 2 %"), (20, 20, "2 to 10 %"), (90, 90, "over 10 % of the image")]
    records = [
        record(i, 1.0, scores={"acc@0.5": 1.0, "iou": 0.8}, target=[0, 0, w, h], metadata=sides)
        for i, (w, h, _) in enumerate(boxes)
    ]
    wide = {"width": 400, "height": 100, "tier": "hard"}
    cell(tmp_path, records, task="boxes:all", metrics=(Metric("acc@0.5"), Metric("iou")))
    cell(tmp_path, [record(i, 1.0, metadata=wide, tokens=4**i) for i in range(4)])
    for field, (of_boxes, of_quiz) in {
        "object_size": ([name for *_, name in boxes], []),
        "aspect": (["2:3 to 3:2"], ["wide (over 3:2)"]),
        "tier": (["easy"], ["hard"]),
        "image_area": (["under 10^5 pixels"], ["under 10^5 pixels"]),
        "visual_tokens": (["64 to 255"], ["1 to 3", "4 to 15", "16 to 63", "64 to 255"]),
    }.items():
        frame = load_breakdown(tmp_path, field)
        assert frame[frame.task == "boxes:all"][field].tolist() == of_boxes
        assert frame[frame.task == "quiz:all"][field].tolist() == of_quiz
        assert frame.n.sum() == len(of_boxes and records) + 4 * bool(of_quiz)
    with pytest.raises(UsageError, match="there are: aspect, height, image_area"):
        load_breakdown(tmp_path, "colour")


def test_a_macro_average_stays_one_inside_each_value(tmp_path: Path) -> None:
    """Three right answers in one language and one wrong in another are 50 %, not 75 %."""
    langs = {"A": [1.0, 1.0, 1.0], "B": [0.0]}
    records = [
        record(f"{lang}{i}", score, metadata={"lang": lang, "tier": "easy"})
        for lang, scores in langs.items()
        for i, score in enumerate(scores)
    ]
    cell(tmp_path, records, metrics=(Metric("accuracy", group="lang"),))
    assert load_breakdown(tmp_path, "tier").value.tolist() == [50.0]
    by_lang = load_breakdown(tmp_path, "lang")
    assert by_lang.value.tolist() == [100.0, 0.0] and by_lang.ci_low[0] > 40


# Frames


def test_a_folder_that_is_not_there_is_named_and_an_empty_one_gives_no_rows(tmp_path: Path) -> None:
    for load in (evalkit.load_results, evalkit.load_samples):
        assert load(tmp_path).empty and "task" in load(tmp_path)
        with pytest.raises(UsageError, match="elsewhere: no such folder"):
            load(tmp_path / "elsewhere")


def test_frames_say_what_each_row_is_of(tmp_path: Path) -> None:
    run(tmp_path, Selection(first=(0, 10)))
    results, samples = evalkit.load_results(tmp_path), evalkit.load_samples(tmp_path)
    assert results["complete"].tolist() == [False, False]
    assert set(results["selection"]) == set(samples["selection"]) == {"first 10"}
    assert set(results["data"]) == set(samples["data"]) == {"local"}
    assert set(samples["adapter"]) == {"adder"}
    assert samples.loc[samples["id"] == "sum/3", "question"].tolist() == ["3 + 3 ="]


def test_switches_have_columns_of_their_own(output: Path) -> None:
    cell = cells_in(output)[0]
    cell.write_results(replace(cell.results, switches={"position": "rope1d", "fps": 2.0}))
    results, samples = evalkit.load_results(output), evalkit.load_samples(output)
    for frame in (results, samples):
        mine = frame[frame["cell"] == str(cell.path)]
        assert set(mine["switch_position"]) == {"rope1d"} and set(mine["switch_fps"]) == {2.0}
        assert frame[frame["cell"] != str(cell.path)]["switch_position"].isna().all()
    assert set(results["settings"]) == {"position=rope1d fps=2.0", ""}


def test_every_csv_is_read_back_by_pandas_as_it_was(tmp_path: Path, output: Path) -> None:
    csv, _ = write_leaderboard(output)
    back = pd.read_csv(csv)
    assert back["value"].tolist() == evalkit.load_results(output)["value"].tolist()
    assert set(back["schema_version"]) == {2}
    frame = pd.DataFrame({"model": ["=cmd()", "+1", "nano"], "value": [-1.5, 2.0, 3.0]})
    again = pd.read_csv(write_csv(tmp_path / "x.csv", frame))
    assert again["model"].tolist() == ["'=cmd()", "'+1", "nano"]  # no formula in a spreadsheet
    assert again["value"].tolist() == frame["value"].tolist()


# Tables


def test_what_models_wrote_is_no_markup_in_markdown_and_no_escape_on_a_terminal() -> None:
    row = markdown_table(("a",), [("<script>x</script>|\n`",)]).splitlines()[-1]
    assert "<script>" not in row and row == "| &lt;script&gt;x&lt;/script&gt;&#124; &#96; |"
    assert escaped("[l](javascript:x)") == r"\[l\](javascript:x)"
    assert escaped(r"\[l\](x)\|") == r"&#92;\[l&#92;\](x)&#92;&#124;"  # no escape undoes another
    assert escaped("[41.2, 55.0]*") == "[41.2, 55.0]*"
    assert "\x1b" not in aligned(("id",), [("\x1b[31mred",)])


def test_columns_of_a_terminal_table_line_up_whatever_the_script() -> None:
    lines = aligned(("model", "value"), [("模型", "9.5"), ("nano", "81.6")]).splitlines()
    assert lines == ["model  value", "-----  -----", "模型     9.5", "nano    81.6"]


# The leaderboard


def test_the_leaderboard_begins_with_models_down_and_tasks_across(output: Path) -> None:
    _, markdown = write_leaderboard(output)
    text = markdown.read_text()
    assert text.startswith("<!-- schema_version: 2")
    overview, long = text.split("## All cells")
    best, worst = sorted((c.results.metrics[0].value for c in cells_in(output)), reverse=True)
    assert "sums:all exact, local data" in overview
    assert f" **{best:.1f} [" in overview and f" {worst:.1f} [" in overview
    assert long.count("| sums:all | adder | adder | local |") == 2


def test_no_bold_goes_to_a_part_of_the_samples(tmp_path: Path) -> None:
    run(tmp_path, Selection(first=(1, 4)), wrong=100)  # all right
    run(tmp_path)
    view = Leaderboard.of(tmp_path).overview()
    whole = [row[-1].startswith("77.5 [") for row in view.rows]
    assert sorted(whole) == [False, True] and view.best == {(whole.index(True), 3)}
    assert view.rows[whole.index(False)][-1].startswith("100.0*")
    (part,) = [line for line in Leaderboard.of(tmp_path).long() if "partial" in line[9]]
    assert part[9] == "3 (partial: 1 to 4; do not quote)"


def test_a_missing_baseline_without_vision_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adder, "blind", {"see": 0}, raising=False)
    run(tmp_path)
    advice = "run with --control blind (or --switch see=0)"
    assert any(advice in note for note in Leaderboard.of(tmp_path).notes())
    run(tmp_path, wrong=3)
    blind = cells_in(tmp_path)[0]
    blind.write_results(replace(blind.results, switches={"see": 0}))
    assert not any("--switch" in note for note in Leaderboard.of(tmp_path).notes())


def test_reading_a_leaderboard_starts_neither_torch_nor_matplotlib(output: Path) -> None:
    code = (
        "import sys; from evalkit.cli import main; "
        f"assert main(['leaderboard', '--output', {str(output)!r}]) == 0; "
        "assert not {'torch', 'matplotlib', 'scipy', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# Cells that can't be read, and cells that look alike


def test_one_damaged_cell_is_named_left_out_and_told_by_the_exit_code(
    output: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    damaged, whole = cells_in(output)
    make_folder(damaged, whole)
    assert [c.path for c in cells_in(output)] == [whole.path]
    assert str(damaged.journal_path) in caplog.text
    assert len(evalkit.load_results(output)) == 2 and len(evalkit.load_samples(output)) == 40
    for verb in ("leaderboard", "report", "rescore"):
        assert main([verb, "--output", str(output)]) == 1, verb
    assert damaged.journal_path.name in (output / "leaderboard.md").read_text()
    whole.run_path.write_text('{"schema_version": 99}')
    assert any("schema 99" in d for d in take_inventory(output).damaged)


def swap_journals(a: CellFolder, b: CellFolder) -> None:
    a.journal_path.write_bytes(b.journal_path.read_bytes())


def make_folder(a: CellFolder, b: CellFolder) -> None:
    a.journal_path.unlink()
    a.journal_path.mkdir()


def lose_journal(a: CellFolder, b: CellFolder) -> None:
    a.journal_path.unlink()


def lose_what_was_run(a: CellFolder, b: CellFolder) -> None:
    a.run_path.unlink()
    lines = a.journal_path.read_text().splitlines(keepends=True)
    a.journal_path.write_text("".join(li for li in lines if not li.startswith('{"run"')))


@pytest.mark.parametrize("damage", [swap_journals, make_folder, lose_journal, lose_what_was_run])
def test_whatever_is_damaged_every_table_has_the_other_cells(
    output: Path, damage: Callable[[CellFolder, CellFolder], None]
) -> None:
    damaged, whole = cells_in(output)
    damage(damaged, whole)
    left = {str(whole.path)}
    assert set(evalkit.load_results(output)["cell"]) == left
    assert set(evalkit.load_samples(output)["cell"]) == left
    assert len(Leaderboard.of(output).long()) == 1
    assert load_breakdown(output, "parity").n.sum() == 40
    for verb in (["leaderboard"], ["leaderboard", "--by", "parity"], ["report"], ["rescore"]):
        assert main([*verb, "--output", str(output)]) == 1, verb
    with pytest.raises(DataError, match=damaged.name):
        find_cells(str(damaged.path), output)


def test_models_of_one_name_are_told_apart_by_their_paths(output: Path) -> None:
    a, b = cells_in(output)
    a.write_run(replace(a.run, model="checkpoint-500", model_path="~/runA/checkpoint-500"))
    b.write_run(replace(b.run, model="checkpoint-500", model_path="~/runB/checkpoint-500"))
    names = set(model_labels(cells_in(output)).values())
    assert names == {"runA/checkpoint-500", "runB/checkpoint-500"}
    assert set(evalkit.load_results(output)["model"]) == names


def test_a_model_is_found_by_its_path_and_by_what_tables_call_it(output: Path) -> None:
    a, b = cells_in(output)
    places = {n: str(output / n / "checkpoint-500") for n in ("runA", "runB")}
    for one, place in zip((a, b), places.values()):
        one.write_run(replace(one.run, model="checkpoint-500", model_path=place))
    for one, (run_, place) in zip((a, b), places.items()):
        for name in (place, f"{run_}/checkpoint-500"):
            assert [c.name for c in find_cells(name, output)] == [one.name], name
    moved_elsewhere = str(output / "copy" / "checkpoint-500")
    assert len(find_cells(moved_elsewhere, output)) == 2
    with pytest.raises(UsageError, match="there are: runA/checkpoint-500, runB/checkpoint-500, "):
        find_cells("runC/checkpoint-500/x", output)


def test_steps_of_a_named_training_run_have_its_name(tmp_path: Path) -> None:
    for step, place in ((10, "~/runs/mine/checkpoint-10"), (2, "~/runs/mine/checkpoint-2")):
        at = {"model_path": place}
        cell(tmp_path, [record(1, 1)], model="mine", fingerprint={"step": step}, run=at)
    assert evalkit.load_results(tmp_path)["model"].tolist() == ["mine", "mine"]
    board = Leaderboard.of(tmp_path).overview()
    assert [row[:3] for row in board.rows] == [["mine", "fake", f"step={n}"] for n in (2, 10)]
    for step, place in ((1, "~/a/checkpoint-1"), (2, "~/b/checkpoint-1")):
        at = {"model_path": place}
        cell(tmp_path, [record(1, 1)], model="checkpoint-1", fingerprint={"step": step}, run=at)
    names = {"mine", "a/checkpoint-1", "b/checkpoint-1"}
    assert set(evalkit.load_results(tmp_path)["model"]) == names, "names that nobody gave"


def test_labels_add_only_what_tells_cells_apart(output: Path) -> None:
    a, b = cells_in(output)
    assert sorted(labels([a]).values()) == ["adder"]
    assert sorted(labels([a, b]).values()) == sorted([f"adder, {a.name}", f"adder, {b.name}"])
    b = moved(b, data={"kind": "hub"})
    assert sorted(labels([a, b]).values()) == ["adder, local data", "adder, official data"]


# Comparisons


def test_results_in_a_folder_below_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    assert main(["export", "--format", "csv", "--output", str(tmp_path)]) == 2
    assert "--output" not in capsys.readouterr().err
    cell(tmp_path / "ablations", [record(1, 1)])
    assert main(["export", "--format", "csv", "--output", str(tmp_path)]) == 2
    said = f"run something first; there are some for --output {tmp_path / 'ablations'}"
    assert said in " ".join(capsys.readouterr().err.split())


def test_cells_compare_on_common_samples(output: Path) -> None:
    a, b = cells_in(output)
    exact, _ = compare_cells([a], [b])
    scores = exact.scores
    assert (scores.n, scores.clusters) == (40, 10)
    assert scores.difference == pytest.approx(scores.a - scores.b)
    assert scores.ci_low is not None and scores.ci_high is not None
    assert scores.ci_low <= scores.difference <= scores.ci_high
    assert exact.p_holm == scores.p_value == 0.0625
    assert not any("damaged" in r for r in exact.remarks)
    frame = comparison_frame([exact])
    assert frame[["cell_a", "cell_b"]].iloc[0].tolist() == [str(a.path), str(b.path)]
    with pytest.raises(UsageError, match="no such cell"):
        find_cells("nobody", output)


@pytest.mark.parametrize(
    ("higher", "new", "by", "code"),
    [
        (True, [0] * 20, "0", 1),
        (True, [0] * 20, "99", 1),
        (True, [0] * 20, "100", 0),
        (True, [0, 0, *[1] * 18], "0", 0),  # may be chance
        (True, [1] * 20, "0", 0),
        (False, [2] * 20, "0", 1),
        (False, [0] * 20, "0", 0),
    ],
)
def test_compare_fails_a_job_where_the_new_model_is_worse_and_not_by_chance(
    tmp_path: Path, higher: bool, new: list[int], by: str, code: int
) -> None:
    metric = Metric("accuracy", higher_is_better=higher)
    for model, scores in (("new", new), ("old", [1] * 20)):
        records = [record(i, score) for i, score in enumerate(scores)]
        cell(tmp_path, records, model=model, metrics=(metric,))
    gate = ["compare", "new", "old", "--output", str(tmp_path), "--fail-if-worse"]
    assert main([*gate, by]) == code
    assert by != "0" or main(gate) == code, "by nothing, where no number is given"


def test_compare_fails_a_job_where_nothing_can_be_tested_or_a_task_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, score in (("new", 0), ("old", 1)):
        cell(tmp_path, [record(i, score, cluster="one page") for i in range(9)], model=model)
    compared = ["compare", "--output", str(tmp_path)]
    assert main([*compared, "new", "old", "--fail-if-worse"]) == 1
    assert "quiz:all: new is worse than old: accuracy 0.0, not 100.0" in capsys.readouterr().err
    assert main([*compared, "old", "new", "--fail-if-worse"]) == 0
    cell(tmp_path, [record(1, 1)], model="new", task="other:all")
    assert main([*compared, "old", "new"]) == 0
    assert main([*compared, "old", "new", "--fail-if-worse"]) == 1
    assert "other:all: old has no results like new's" in capsys.readouterr().err


def test_compare_fails_a_job_where_the_headline_score_alone_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = (Metric("accuracy"), Metric("iou"))
    for model, scores in (("new", {"iou": 1.0}), ("old", {"accuracy": 1.0, "iou": 1.0})):
        records = [record(i, 1, scores=scores) for i in range(9)]
        metrics = [m for m in both if m.name in scores]
        cell(tmp_path, records, model=model, metrics=tuple(metrics))
    assert main(["compare", "new", "old", "--output", str(tmp_path), "--fail-if-worse"]) == 1
    assert "quiz:all: new has no results like old's" in capsys.readouterr().err


@pytest.mark.parametrize("points", ["nan", "inf", "-1", "few"])
def test_a_job_fails_by_points_that_are_some(
    points: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "a", "b", "--fail-if-worse", points])
    assert "expected points of a score, 0 or more" in capsys.readouterr().err


def test_without_a_spread_of_differences_nothing_is_said_to_show(tmp_path: Path) -> None:
    same = [cell(tmp_path, [record(i, i % 2) for i in range(8)], model=m) for m in "ab"]
    (pair,) = compare_cells(*([c] for c in same))
    assert pair.scores.same and pair.scores.shows is None
    assert comparison_frame([pair])["mde"].isna().all()
    assert comparison_text([pair]).splitlines()[2].split()[-6:-3] == ["–", "8", "every"]


@pytest.mark.parametrize(
    ("higher", "a", "b", "verdict"),
    [
        (True, [1.0] * 20, [0.0] * 20, "a is higher"),
        (True, [0.0] * 20, [1.0] * 20, "b is higher"),
        (False, [0.0] * 20, [1.0] * 20, "a is lower"),
        (False, [1.0] * 20, [0.0] * 20, "b is lower"),
        (True, [1.0, 0.0] * 10, [1.0, 0.0] * 10, "every score the same"),
        (True, [1.0] * 18 + [0.0], [0.0] + [1.0] * 18, "not significant; a true difference below"),
        (True, [1.0], [0.0], "too few samples to test"),
    ],
)
def test_a_comparison_is_said_in_words_and_names_the_better(
    tmp_path: Path, higher: bool, a: list[float], b: list[float], verdict: str
) -> None:
    metric = Metric("accuracy", higher_is_better=higher)
    sides = [
        cell(tmp_path, [record(i, v) for i, v in enumerate(side)], model=m, metrics=(metric,))
        for m, side in (("a", a), ("b", b))
    ]
    pairs = compare_cells(*([c] for c in sides))
    (said,) = comparison_frame(pairs)["verdict"]
    assert said.startswith(verdict)
    assert said in comparison_text(pairs)


def test_steps_are_compared_with_equal_steps_else_with_each_other(tmp_path: Path) -> None:
    """Also where each step has several cells of a task."""
    made = {}
    for model, steps in (("a", (1, 2)), ("b", (2, 3))):
        for step in steps:
            for system in ("Be brief.", ""):
                one = cell(tmp_path, [record(1, 1)], model=model, fingerprint={"step": step})
                asked = moved(one, asking={"system": system}) if system else one
                made[model, step, system] = asked

    def pairs(*sides: Sequence[tuple[str, int]]) -> set[tuple[str, str]]:
        picked = [[c for (m, s, _), c in made.items() if (m, s) in side] for side in sides]
        return {(p.a.settings, p.b.settings) for p in compare_cells(*picked)}

    both = [("a", 1), ("a", 2)], [("b", 2), ("b", 3)]
    assert {a == b for a, b in pairs(*both)} == {True} and len(pairs(*both)) == 2
    apart = pairs([("a", 1)], [("b", 3)])
    assert len(apart) == 2 and all(a.replace("step=1", "step=3") == b for a, b in apart)


def test_too_few_clusters_for_a_test_are_never_significant_alone(tmp_path: Path) -> None:
    """The interval of five differences excludes 0, and no sign flips of five have p below 0.06."""
    a, b = (
        cell(tmp_path, [record(i, score) for i, score in enumerate(scores)], model=model)
        for model, scores in (("a", [1, 1, 1, 1, 0.9]), ("b", [0] * 5))
    )
    (pair,) = compare_cells([a], [b])
    assert pair.scores.ci_low and pair.scores.ci_low > 0 and pair.p_holm == 0.0625
    assert pair.scores.verdict(pair.p_holm) is Verdict.OPEN


def test_what_may_not_show_is_said_at_the_level_of_the_verdict(tmp_path: Path) -> None:
    """Of several metrics together only more would be found than of one alone."""
    one, two = Metric("accuracy"), Metric("other")
    halves = [1.0] * 10 + [0.0] * 10, [1.0, 0.0] * 10
    found = []
    for metrics in ((one,), (one, two)):
        folder, sides = tmp_path / str(len(metrics)), []
        for model, side in zip("ab", halves):
            both = [{m.name: v for m in metrics} for v in side]
            records = [replace(record(i, 0), scores=scores) for i, scores in enumerate(both)]
            sides.append(cell(folder, records, model=model, metrics=metrics))
        pair, *_ = compare_cells(*([c] for c in sides))
        assert pair.scores.mde is not None and f"below {pair.mde:.1f} may not show" in pair.verdict
        found.append(pair.mde)
        assert (pair.mde == pair.scores.mde) == (len(metrics) == 1)
    assert found[0] < found[1]


def test_tables_say_where_lower_is_better_and_what_a_dash_is(tmp_path: Path) -> None:
    cer = Metric("cer", higher_is_better=False)
    values = {"a": (0.2, 0.4), "b": (0.1, 0.6)}
    for model, scores in values.items():
        records = [
            record(i, s, metric="cer", cluster="one", metadata={"tier": "easy"})
            for i, s in enumerate(scores)
        ]
        cell(tmp_path, records, model=model, metrics=(cer,))
    a, b = cells_in(tmp_path)
    lower, dash = "cer: lower is better", "– for an interval: fewer than two images"
    board = Leaderboard.of(tmp_path)
    for text in (
        comparison_text(compare_cells([a], [b])),
        breakdown_text(breakdown_rows(tmp_path, "tier"), "tier"),
        board.text(),
        board.markdown(),
    ):
        assert lower in text and dash in text
    accuracy = [cell(tmp_path / "2", [record(i, i % 2) for i in range(8)], model=m) for m in "ab"]
    text = comparison_text(compare_cells(*([c] for c in accuracy)))
    assert "lower is better" not in text and dash not in text


def test_a_comparison_with_itself_is_called_that(output: Path) -> None:
    cell = cells_in(output)[0]
    with pytest.raises(UsageError, match="the same cell"):
        compare_cells([cell], [cell])


def with_switch(cell: CellFolder, value: int) -> CellFolder:
    """The cell under a switch, with a copy's settings."""
    cell.write_results(replace(cell.results, switches={"s": value}))
    return CellFolder(cell.path)


def test_like_is_compared_with_like_and_each_pair_once(tmp_path: Path) -> None:
    for wrong in (2, 3, 4, 5):
        run(tmp_path, wrong=wrong)
    a, b, c, d = cells_in(tmp_path)
    one = [with_switch(a, 1), with_switch(b, 2)]
    two = [with_switch(c, 1), with_switch(d, 2)]
    pairs = compare_cells(one, two)
    assert {(p.a.settings, p.b.settings) for p in pairs} == {("s=1", "s=1"), ("s=2", "s=2")}
    every = [*one, *two]
    alike = {frozenset((p.a.name, p.b.name)) for p in compare_cells(every, every)}
    assert alike == {frozenset((a.name, c.name)), frozenset((b.name, d.name))}
    with pytest.raises(UsageError, match="name two folders") as e:
        compare_cells([one[0], two[0]], [with_switch(b, 3), with_switch(d, 4)])
    assert all(str(cell.path) in str(e.value) for cell in (a, b, c, d))
    single = compare_cells([one[0]], [CellFolder(b.path)])  # named one by one: as they are
    assert (single[0].a.settings, single[0].b.settings) == ("s=1", "s=3")


def test_a_comparison_says_what_is_missing_from_its_sides(tmp_path: Path) -> None:
    whole = run(tmp_path).cell.stored
    part = run(tmp_path, Selection(first=(0, 20)), wrong=3).cell.stored
    with part.journal_path.open("ab") as file:
        file.write(b"\0\0\n")
    (exact, *_) = compare_cells([whole], [part])
    assert exact.scores.n == 20
    assert "b (partial: first 20; do not quote)" in exact.remarks
    assert "b: 1 damaged lines in its journal" in exact.remarks


# Scoring anew


def test_rescoring_with_the_same_task_changes_nothing(
    own_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells_in(own_task.parent)
    journal, results = cell.journal_path.read_bytes(), cell.results
    written = cell.results_path.stat()
    monkeypatch.setattr(CellFolder, "open_journal", lambda *_: pytest.fail("opened for writing"))
    same, changed = rescore(cell)
    assert (same.path, changed, same.results) == (cell.path, 0, results)
    assert cell.journal_path.read_bytes() == journal
    assert cell.results_path.stat() == written


def test_rescoring_needs_no_model_and_a_run_then_finds_its_scores(
    own_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells_in(own_task.parent)
    before = cell.results
    own_task.write_text(own_task.read_text().replace("float(text == str(sample.target))", "1.0"))
    monkeypatch.setattr(Adder, "generate", lambda *_: pytest.fail("the model was asked"))
    new, changed = rescore(cell)
    assert new.path != cell.path and changed == 8
    assert new.results.metrics[0].value == pytest.approx(100 * 39 / 40)
    assert new.results.rescored and new.results.created == before.created
    assert CellFolder(cell.path).results == before
    again = run_cell(
        Cell.make(load_task(str(own_task)), Adder("adder"), "adder", own_task.parent),
        progress=False,
    )
    assert (again.cell.folder, again.made, again.reused) == (new.path, 0, 40)


def test_rescoring_under_an_unchanged_version_appends_and_keeps_the_old_scores(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells_in(output)[0]
    lines = cell.journal_path.read_text()

    def lenient(self: Task, sample: Sample, completion: Completion) -> Score:
        return Score({"exact": 1.0, "digits": 1.0}, completion.text)

    task = load_task(SUMS)
    monkeypatch.setattr(type(task), "score", lenient)
    monkeypatch.setattr("evalkit.results.cells.load_task", lambda *_: task)
    new, changed = rescore(cell)
    assert new.path == cell.path and changed > 0
    assert new.results.metrics[0].value == 100.0
    assert cell.journal_path.read_text().startswith(lines)
    added = cell.journal_path.read_text().removeprefix(lines).splitlines()
    assert len(added) == changed + 1, "what changed, and how it ended"


def test_a_cell_whose_task_is_gone_does_not_keep_others_from_being_rescored(
    own_task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(own_task.parent, wrong=3)
    own_task.unlink()
    assert main(["rescore", "--output", str(own_task.parent)]) == 1
    said = capsys.readouterr()
    assert "mine.py: no such file" in said.err and said.out.count("0 scores changed") == 1


RUN_OF_SUMS = (
    "import sys\n"
    "from pathlib import Path\n"
    "from evalkit.results import write_leaderboard\n"
    "from tests.runs import run\n"
    "output, first, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])\n"
    "for i in range(rounds):\n"
    "    run(output, wrong=first + i)\n"
    "    write_leaderboard(output)\n"
)


@pytest.mark.parametrize(("runs", "rounds"), [(3, 2), pytest.param(12, 20, marks=pytest.mark.slow)])
def test_runs_that_share_a_folder_leave_whole_tables_and_no_reader_sees_a_torn_one(
    tmp_path: Path, runs: int, rounds: int
) -> None:
    command = [sys.executable, "-c", RUN_OF_SUMS, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(2 + i * rounds), str(rounds)], stderr=subprocess.PIPE)
        for i in range(runs)
    ]
    csv, rows = tmp_path / "leaderboard.csv", 0
    while any(p.poll() is None for p in processes):
        if csv.exists():
            now = len(pd.read_csv(csv))
            assert now >= rows, "a later table has what an earlier one had"
            rows = now
            if (markdown := tmp_path / "leaderboard.md").exists():  # it is written second
                assert markdown.read_text().endswith("\n")
        time.sleep(0.01)
    for p in processes:
        assert p.wait() == 0, p.stderr and p.stderr.read()
        assert p.stderr
        p.stderr.close()
    assert len(pd.read_csv(csv)) == 2 * runs * rounds  # two metrics a cell
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.md",
        "runs",
    ]


def test_a_comparison_beside_a_damaged_cell_says_so_and_exits_1(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = cells_in(output)
    third = run(output, wrong=7).cell.stored
    compare = ["compare", str(a.path), str(b.path), "--output", str(output)]
    assert main(compare) == 0
    make_folder(third, a)
    assert main(compare) == 1
    assert str(third.journal_path) in capsys.readouterr().err


def test_a_rescore_that_was_killed_before_its_results_is_made_good(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, _ = cells_in(output)
    task = load_task(SUMS)
    monkeypatch.setattr(type(task), "score", lambda *_: Score({"exact": 0.0, "digits": 0.0}))
    monkeypatch.setattr("evalkit.results.cells.load_task", lambda *_: task)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CellFolder, "write_results", killed)
        rescore(cell)
    shown = evalkit.load_results(output)
    assert set(shown[shown.cell == str(cell.path)].value) == {0.0}
