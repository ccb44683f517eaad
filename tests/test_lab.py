"""The lab: scenes, ceilings, paired runs, hypotheses, and a study that survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import EvalkitError, UsageError
from evalkit.lab import analysis, page, phases, schedule, stacked, trainer, voxels
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import SIZE, Study, find_study, load_study
from evalkit.lab.trainer import Measurement, Result, Run
from evalkit.lab.voxels import KINDS, Condition, Positions, Range
from evalkit.nano.recipe import ModelSize
from evalkit.nano.train import fresh

SMALL = ModelSize(
    vision_depth=1,
    vision_width=32,
    vision_heads=1,
    depth=1,
    width=64,
    heads=1,
    kv_heads=1,
    intermediate=32,
    rope_theta=10.0,
)
STUDY = """
name: tiny
question: Does it matter?
seeds: 2
steps: 2
batch: 2
model: {vision_depth: 1, vision_width: 32, vision_heads: 1, depth: 1, width: 64, heads: 1, intermediate: 32}
factors:
  scheme:
    contiguous: {switches: {position: mrope}}
    1D: {switches: {position: rope1d}}
grid: [scheme]
conditions:
  trained sizes: {scenes: 8}
  shuffled: {view: shuffled, scenes: 8}
hypotheses:
  - {name: H1, claim: It does., kind: when, condition: trained sizes, a: {scheme: contiguous}, b: {scheme: 1D}, below: -0.5}
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run(switches: dict[str, object] | None = None, **fields: object) -> Run:
    given = {"seed": 0, "switches": switches or {}, "model": SMALL, "steps": 3, "batch": 2}
    return Run.model_validate(given | fields)


def positions(switches: dict[str, object] | None = None) -> Positions:
    return Positions(trainer.positions_of(fresh(run(switches).recipe)), Range())


def batch(
    condition: Condition = Condition(), grid: voxels.Cells = (3, 2, 4), **more: object
) -> voxels.Batch:
    rng = np.random.default_rng(5)
    return voxels.make_batch([grid] * 4, rng, positions(), condition, **more)  # type: ignore[arg-type]


def test_a_scene_shows_one_mark_and_asks_for_its_three_places_and_its_colour() -> None:
    made = batch()
    assert (made.glyph > 0).sum(1).tolist() == [1] * 4
    assert made.kind[0][made.kind[0] >= 0].tolist() == [0, 1, 2, 3]
    for ids, glyph, labels in zip(made.ids, made.glyph, made.labels):
        cell = int(glyph.nonzero()) - 1  # the token before the scene comes first
        when, row, column, colour = labels[labels != -100].tolist()
        digits = [voxels._one(str(i)) for i in range(10)]
        assert (when, row, column) == tuple(
            digits[p + 1] for p in np.unravel_index(cell, (3, 2, 4))
        )
        assert colour in ids.tolist(), "the colour that is asked about is the mark's"


def test_a_question_sees_the_scene_and_itself_and_no_other_question() -> None:
    made = batch()
    owner, mask = made.owner[0], made.mask[0, 0]
    for i, j in zip(*mask.nonzero(as_tuple=True)):
        assert j <= i and owner[j] in (-1, owner[i])


def test_views_hide_what_they_say() -> None:
    assert not (batch(Condition(view="blind")).glyph > 0).any()
    whole, shuffled = batch(), batch(Condition(view="shuffled"))
    assert (shuffled.glyph > 0).sum() == 4
    assert not torch.equal(whole.glyph.argmax(1), shuffled.glyph.argmax(1))
    first = batch(Condition(view="first_second"))
    assert all(int(g.argmax()) <= 2 * 4 for g in first.glyph)


def test_text_is_moved_clamped_and_pushed_away_as_asked() -> None:
    scene = 1 + 12 * 2 * 2
    far = Range(low=(12, 2, 2), high=(12, 2, 2), most=64)
    place = positions()
    made = {
        name: voxels.make_batch([(12, 2, 2)], np.random.default_rng(0), place, condition).positions
        for name, condition in {
            "released": Condition(cells=far),
            "clamped": Condition(cells=far, text="clamped"),
            "moved": Condition(cells=far, moved=6),
        }.items()
    }
    starts = {name: ids[:, 0, scene].tolist() for name, ids in made.items()}
    assert starts["released"] == [13.0] * 3
    assert starts["clamped"] == [7.0] * 3, "six seconds at most in training, and the token before"
    assert starts["moved"] == [19.0] * 3
    assert torch.equal(made["released"][:, :, :scene], made["clamped"][:, :, :scene])
    pushed = batch(Condition(filler=8))
    assert pushed.ids.shape[1] == batch().ids.shape[1] + 8


def test_ceilings_are_what_an_ideal_observer_reaches() -> None:
    """Against a Monte Carlo count of the scenes, and 1 in 3.. for a view that knows the grid."""
    cells, limits = Range(), (6, 4, 4)
    tops = voxels.ceilings(cells, limits)
    rng, seen = np.random.default_rng(0), {k: [0, 0] for k in KINDS[:3]}
    best: dict[tuple[int, int, int], dict[int, int]] = {}
    draws = []
    for _ in range(40_000):
        grid = cells.draw(rng)
        index = int(rng.integers(np.prod(grid)))
        draws.append((grid, index, np.unravel_index(index, grid)))
    for grid, index, place in draws:
        for axis in range(3):
            table = best.setdefault((axis, int(np.prod(grid)), index), {})
            table[int(place[axis])] = table.get(int(place[axis]), 0) + 1
    for grid, index, place in draws:
        for axis, kind in enumerate(KINDS[:3]):
            table = best[axis, int(np.prod(grid)), index]
            seen[kind][0] += max(table, key=lambda p: table[p]) == place[axis]
            seen[kind][1] += 1
    for kind in KINDS[:3]:
        assert seen[kind][0] / seen[kind][1] == pytest.approx(tops["index"][kind].right, abs=0.01)
        assert tops["whole"][kind] == voxels.Ceiling(pytest.approx(1), pytest.approx(0))  # type: ignore[arg-type]
        assert tops["blind"][kind].right < tops["first_second"][kind].right < 1
    assert tops["blind"]["colour"].right == 1 / 8


def test_arms_of_a_seed_share_scenes_and_initialisation_and_other_seeds_do_not() -> None:
    mrope, rope1d, other = run(), run({"position": "rope1d"}), run(seed=1)
    batches = [
        trainer.training_batch(r, 7, Positions(trainer.positions_of(fresh(r.recipe)), r.trained))
        for r in (mrope, rope1d, other)
    ]
    assert torch.equal(batches[0].ids, batches[1].ids)
    assert torch.equal(batches[0].glyph, batches[1].glyph)
    assert not torch.equal(batches[0].positions, batches[1].positions)
    assert batches[0].ids.shape == batches[2].ids.shape, "shapes are the step's, so stacks fit"
    assert not torch.equal(batches[0].glyph, batches[2].glyph)


def test_a_run_is_a_function_of_its_settings() -> None:
    conditions = {"trained sizes": Condition(scenes=8)}
    torch.manual_seed(99)
    first = trainer.train(run(), conditions)
    again = trainer.train(run(), conditions)
    assert first.conditions == again.conditions and first.curve == again.curve
    assert Result.from_json(first.to_json()) == first


def test_a_switch_that_changes_nothing_shows_nothing() -> None:
    """theta=10 is what the model has anyway: every paired difference is exactly 0."""
    study = Study.model_validate(
        {
            "name": "null",
            "question": "",
            "seeds": 3,
            "steps": 2,
            "batch": 2,
            "model": SMALL.model_dump(),
            "factors": {"theta": {"own": {}, "same": {"switches": {"theta": 10.0}}}},
            "grid": ["theta"],
            "conditions": {"trained sizes": {"scenes": 8}},
        }
    )
    runs = [FinishedRun(a, r, trainer.train(r, study.conditions)) for a, r in study.runs()]
    for kind in KINDS:
        e = analysis.effect(runs, *study.arms(), "trained sizes", kind)
        assert e is not None and e.difference == 0 and e.noise == 0 and not e.significant


def result(nll: float) -> Result:
    return Result(1.0, 10, (), {"trained sizes": {"when": Measurement(nll, 0.5, 1.0, 8)}})


def noisy(study: Study, effect: float, rng: np.random.Generator) -> list[FinishedRun]:
    out = []
    for arm, r in study.runs():
        shift = effect if arm == study.arms()[0] else 0.0
        out.append(FinishedRun(arm, r, result(1.0 + shift + 0.1 * float(rng.standard_normal()))))
    return out


def test_intervals_miss_a_null_effect_at_the_stated_rate(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path)).model_copy(update={"seeds": 8})
    rng = np.random.default_rng(1)
    false_alarms = [
        analysis.effect(noisy(study, 0.0, rng), *study.arms(), "trained sizes", "when").significant  # type: ignore[union-attr]
        for _ in range(400)
    ]
    assert 0.02 < np.mean(false_alarms) < 0.09


@pytest.mark.parametrize(
    ("effect", "bounds", "verdict"),
    [
        (-2.0, {"below": -0.5}, "held"),
        (0.0, {"below": -0.5}, "refuted"),
        (-0.5, {"below": -0.5}, "undecided"),
        (0.0, {"within": 0.5}, "held"),
        (2.0, {"within": 0.5}, "refuted"),
        (0.5, {"within": 0.5}, "undecided"),
    ],
)
def test_a_hypothesis_holds_when_its_interval_lies_beyond_the_bound(
    tmp_path: Path, effect: float, bounds: dict[str, float], verdict: str
) -> None:
    study = load_study(write_study(tmp_path)).model_copy(update={"seeds": 8})
    hypothesis = study.hypotheses[0].model_copy(update={"below": None, "within": None} | bounds)
    study = study.model_copy(update={"hypotheses": (hypothesis,)})
    (tested,) = analysis.test_hypotheses(study, noisy(study, effect, np.random.default_rng(3)))
    assert tested.verdict == verdict


def test_the_minimum_detectable_effect_is_found_four_times_in_five(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path)).model_copy(update={"seeds": 8})
    rng = np.random.default_rng(4)
    noise = 0.1 * 2**0.5
    mde = analysis._mde(noise, 8)
    found = [
        analysis.effect(noisy(study, -mde, rng), *study.arms(), "trained sizes", "when").significant  # type: ignore[union-attr]
        for _ in range(400)
    ]
    assert 0.72 < np.mean(found) < 0.88


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("grid: [scheme]", "grid: [theta]", "grid: theta not among factors"),
        (
            "a: {scheme: contiguous}",
            "a: {scheme: diagonal}",
            "hypothesis H1: a: scheme: 'diagonal' unknown",
        ),
        ("condition: trained sizes", "condition: 12 s", "condition '12 s' is none of"),
        ("below: -0.5", "below: -0.5, within: 1", "give one of below"),
        ("position: rope1d", "position: rope9d", "rope9d"),
        ("seeds: 2", "seeds: 1", "seeds"),
        ("view: shuffled", "view: mixed", "view"),
    ],
)
def test_a_wrong_study_is_refused_by_file_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in STUDY
    path = write_study(tmp_path, STUDY.replace(old, new))
    with pytest.raises(UsageError, match=r"tiny\.yaml") as e:
        load_study(path)
    assert message in str(e.value)


def test_a_stack_trains_as_one_at_a_time() -> None:
    runs = [
        run(s, seed=seed, model=SIZE, steps=5, batch=3)
        for s in ({}, {"position": "rope1d"}, {"position": "mrope_i", "theta": 10_000.0})
        for seed in (0, 1)
    ]
    conditions = {"trained sizes": Condition(scenes=20)}
    together = stacked.train_stacked(runs, conditions)
    for r, stack in zip(runs, together):
        alone = trainer.train(r, conditions)
        for kind in KINDS:
            one, other = (x.conditions["trained sizes"][kind] for x in (alone, stack))
            assert other.nll == pytest.approx(one.nll, abs=1e-4)
    with pytest.raises(UsageError, match="steps"):
        stacked.train_stacked([runs[0], runs[1].model_copy(update={"steps": 6})], conditions)


def test_the_phase_table_says_which_axes_a_scheme_turns() -> None:
    study = load_study(find_study("schemes"))
    arms = {a.name: phases.turns(study, a) for a in study.arms()[:4]}
    wide = arms["contiguous, theta 10000"]["column"]
    assert wide.fastest < 0.01, "contiguous sections leave columns the slowest frequencies"
    assert arms["interleaved, theta 10000"]["column"].fastest > 0.1
    assert [arms["contiguous, theta 10"][a].frequencies for a in phases.AXES] == [8, 12, 12]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_same_numbers(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = load_study(path)
    command = [sys.executable, "-m", "evalkit", "study", str(path), "--workers", "1", "--output"]
    runs = tmp_path / "out" / "tiny" / schedule.RUNS
    process = subprocess.Popen([*command, str(tmp_path / "out")], start_new_session=True)
    while not (runs.is_file() and runs.read_bytes().count(b"\n") >= 1):
        time.sleep(0.01)
        assert process.poll() is None or runs.read_bytes().count(b"\n") >= 1
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with runs.open("ab") as file:
        file.write(b'{"key": "torn')
    kept = schedule.results(study, runs.parent)
    assert 1 <= len(kept) <= 4
    list(schedule.run_missing(study, runs.parent, workers=1))
    whole = schedule.results(study, runs.parent)
    assert len(whole) == 4 and not schedule.missing(study, runs.parent)
    alone = [trainer.train(r, study.conditions).conditions for _, r in study.runs()]
    assert [f.result.conditions for f in whole] == alone
    before = runs.read_bytes()
    assert list(schedule.run_missing(study, runs.parent, workers=1)) == []
    assert runs.read_bytes() == before


def test_two_processes_do_not_train_one_study_at_once(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    with (
        schedule._locked(tmp_path / schedule.RUNS),
        pytest.raises(EvalkitError, match="another process works on this study"),
    ):
        next(schedule.run_missing(study, tmp_path, workers=1))


def test_the_page_says_what_held_and_what_the_controls_showed(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    runs = [FinishedRun(a, r, trainer.train(r, study.conditions)) for a, r in study.runs()]
    text = page.write(study, runs, tmp_path / "out", "evalkit study tiny.yaml").read_text()
    assert ("| H1 | It does. |" in text and "undecided" in text) or "refuted" in text
    assert "*shuffled*:" in text
    assert "| contiguous | " in text and "*index and number of tokens" in text
    for name in ("forest.png", "heat.png", "curves.png", "scores.csv", "effects.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_hypotheses_that_change_after_the_run_are_called_that(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    page.state_hypotheses(study, tmp_path)
    runs = [FinishedRun(a, r, trainer.train(r, study.conditions)) for a, r in study.runs()]
    page.write(study, runs, tmp_path, "evalkit study tiny.yaml")
    assert page.is_current(study, tmp_path)
    assert "stated before the run" in (tmp_path / page.PAGE).read_text()
    other = load_study(write_study(tmp_path, STUDY.replace("below: -0.5", "below: -0.1")))
    assert not page.is_current(other, tmp_path), "the page is written again"
    page.state_hypotheses(other, tmp_path)
    page.write(other, runs, tmp_path, "evalkit study tiny.yaml")
    assert "CHANGED after the run" in (tmp_path / page.PAGE).read_text()


def test_edited_code_makes_another_run(recorded: Path) -> None:
    conditions = {"trained sizes": Condition()}
    before = run().key(conditions)
    value = json.loads(recorded.read_text())
    value["files"]["evalkit.models.qwen2_vl.positions"] = "another"
    recorded.write_text(json.dumps(value))
    assert run().key(conditions) != before
