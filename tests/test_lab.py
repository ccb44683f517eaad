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

from evalkit.cli.main import main
from evalkit.errors import EvalkitError, UsageError
from evalkit.lab import analysis, page, phases, schedule, trainer
from evalkit.lab.batches import Batch, Condition, Setting, make_batch, token
from evalkit.lab.schedule import OWN, FinishedRun
from evalkit.lab.study import Study, find_study, load_study
from evalkit.lab.trainer import Measurement, Result, Run
from evalkit.nano.recipe import ModelSize
from evalkit.nano.train import fresh
from evalkit.probes import PROBES
from evalkit.probes.scene import Cells, Range

KINDS = PROBES["where"].kinds

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


def setting(probe: str = "where", **fields: object) -> Setting:
    r = run(probe=probe, trained=PROBES[probe].trained, **fields)
    return trainer.setting_of(r, fresh(r.recipe))


def batch(
    condition: Condition = Condition(), grid: Cells = (3, 2, 4), jitter: int = 0, **of: object
) -> Batch:
    return make_batch([grid] * 4, np.random.default_rng(5), setting(**of), condition, jitter)  # type: ignore[arg-type]


def test_a_scene_shows_one_mark_and_asks_for_its_three_places_and_its_colour() -> None:
    made = batch()
    assert (made.glyph > 0).sum(1).tolist() == [1] * 4
    assert made.kind[0][made.kind[0] >= 0].tolist() == [0, 1, 2, 3]
    for ids, glyph, labels in zip(made.ids, made.glyph, made.labels):
        cell = int(glyph.nonzero()) - 1  # the token before the scene comes first
        when, row, column, colour = labels[labels != -100].tolist()
        digits = [token(str(i)) for i in range(10)]
        assert (when, row, column) == tuple(
            digits[p + 1] for p in np.unravel_index(cell, (3, 2, 4))
        )
        assert colour in ids.tolist(), "the colour that is asked about is the mark's"


def test_a_question_sees_the_scene_and_itself_and_no_other_question() -> None:
    made = batch()
    owner = made.owner[0].tolist()
    seen = [
        [j <= i and other in (-1, own) for j, other in enumerate(owner)]
        for i, own in enumerate(owner)
    ]
    assert made.mask[0, 0].tolist() == seen


def test_views_hide_what_they_say() -> None:
    assert not (batch(Condition(view="blind")).glyph > 0).any()
    whole, shuffled = batch(), batch(Condition(view="shuffled"))
    assert (shuffled.glyph > 0).sum() == 4
    assert not torch.equal((whole.glyph > 0).int().argmax(1), (shuffled.glyph > 0).int().argmax(1))
    first = batch(Condition(view="first_second"))
    assert all(int(g.argmax()) <= 2 * 4 for g in first.glyph)


def test_text_is_moved_clamped_and_pushed_away_as_asked() -> None:
    scene = 1 + 12 * 2 * 2
    far = Range(low=(12, 2, 2), high=(12, 2, 2), most=64)
    place = setting()
    made = {
        name: make_batch([(12, 2, 2)], np.random.default_rng(0), place, condition).positions
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


def test_arms_of_a_seed_share_scenes_and_initialisation_and_other_seeds_do_not() -> None:
    mrope, rope1d, other = run(), run({"position": "rope1d"}, text_jitter=9), run(seed=1)
    batches = [
        trainer.training_batch(r, 7, trainer.setting_of(r, fresh(r.recipe)))
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


@pytest.mark.slow
def test_arms_that_do_the_same_in_other_words_show_nothing_in_20_of_20_studies() -> None:
    """A null switch at the level that hypotheses are tested at: no column is rotated by a stride of
    time of 1, by sections in the trained ratio, or by a text offset that is never reached.
    """
    null = {"temporal_spacing": 1.0, "ratio": "4:6:6", "text_offset": "clamp:1000"}
    for repeat in range(20):
        study = Study.model_validate(
            {
                "name": "null",
                "question": "",
                "seeds": 2,
                "steps": 2,
                "batch": 2,
                "model": SMALL.model_dump(),
                "trained": {"low": [2, 2, 2 + repeat % 3], "high": [3, 3, 4], "most": 36},
                "factors": {"way": {"own": {}, "same": {"switches": null}}},
                "grid": ["way"],
                "conditions": {"trained sizes": {"scenes": 4 + repeat}},
            }
        )
        runs = [FinishedRun(a, r, trainer.train(r, study.conditions)) for a, r in study.runs()]
        for kind in KINDS:
            e = analysis.effect(runs, *study.arms(), "trained sizes", kind)
            assert e is not None and not e.significant and abs(e.difference) < 1e-4


def test_a_true_null_is_claimed_no_more_often_than_the_stated_level(tmp_path: Path) -> None:
    """20 studies of 8 seeds without an effect, 20 hypotheses together each: all intervals hold 0 in
    at least 18 of 20, as 95 % together says.
    """
    study = load_study(write_study(tmp_path)).model_copy(update={"seeds": 8})
    rng, clean = np.random.default_rng(2), 0
    for _ in range(20):
        level = analysis.LEVEL / 20
        found = [
            analysis.effect(noisy(study, 0.0, rng), *study.arms(), "trained sizes", "when", level)
            for _ in range(20)
        ]
        clean += not any(e.significant for e in found if e)
    assert clean >= 18


def result(nll: float) -> Result:
    return Result(1.0, 10, (), {"trained sizes": {"when": Measurement(nll, 0.5, 1.0, 0.5, 8)}})


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
        ("seeds: 2", "probe: what", "'what' is none of where, relations"),
        ("kind: when", "kind: next", "kind 'next' is none of when"),
        ("view: shuffled", "apart: 3", "only the probe needle has a look-alike"),
        ("{switches: {position: rope1d}}", "{shows: {drawn: true}}", "a page has one second"),
        ("{switches: {position: rope1d}}", "{shows: {down: 4}}", "only a drawn page is resized"),
        ("{switches: {position: rope1d}}", "{stages: [{share: 0.5}]}", "shares must add up to 1"),
        ("name: tiny", "name: ../elsewhere", "since it names a folder"),
        ("name: tiny", "name: ''", "since it names a folder"),
        ("claim: It does.", "claim: a | b", "expected a line of text without"),
        ("    1D: {", '    "a|b": {', "expected a line of text without"),
        ("    1D: {", "    1: {", "such as '1' in quotes"),
        ("factors:", "factors:\n  x: {}", "factors.x: Dictionary should have at least 1 item"),
        (
            "grid: [scheme]",
            "grid: [scheme, scheme]",
            "grid: scheme, scheme: each may be there once",
        ),
        ("batch: 2", "batch: 2\nrate_check: [0]", "rate_check.0: Input should be greater than 0"),
        ("batch: 2", "batch: 2\nrate_check: [1]", "1 is the rate of every run"),
        ("batch: 2", "batch: 2\nmuon: .inf", "muon: Input should be a finite number"),
        ("steps: 2", "steps: 10000000000", "steps: Input should be less than or equal to"),
        ("seeds: 2", "seeds: 2\nbaseline: {scheme: 2D}", "baseline: scheme: '2D' unknown"),
        ("b: {scheme: 1D}", "b: {scheme: contiguous}", "a and b are the same arm"),
        ("{switches: {position: rope1d}}", "{}\n    2D: {}", "arms '1D' and '2D' train the same"),
        ("  trained sizes: {scenes: 8}\n", "", "the first one, 'shuffled', which must show all"),
        ("width: 64, heads: 1", "width: 64, heads: 3", "model: config: hidden_size 64"),
        (
            "seeds: 2",
            "seeds: 2\ntrained: {high: [12, 2, 2]}",
            "at most 8 seconds, rows and columns",
        ),
        ("seeds: 2", "seeds: 2\ntrained: {high: [90, 9, 9]}", "not above 64"),
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


def test_the_phase_table_says_which_axes_a_scheme_turns() -> None:
    study = load_study(find_study("schemes"))
    arms = {a.name: phases.turns(study, a) for a in study.arms()}
    wide = arms["3D"]["column"]
    assert wide.fastest < 0.01, "contiguous sections leave columns the slowest frequencies"
    assert arms["3D, allocation interleaved"]["column"].fastest > 0.1
    assert [arms["3D"][a].frequencies for a in phases.AXES] == [8, 12, 12]
    assert [arms["none"][a].frequencies for a in phases.AXES] == [0, 0, 0]


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


def test_a_study_can_be_asked_for_other_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_study(tmp_path))
    assert main(["study", path, "--seeds", "3", "--dry-run"]) == 0
    assert "2 arms, 6 runs" in capsys.readouterr().out
    assert main(["study", path, "--seeds", "1", "--dry-run"]) == 2
    assert "expected 2 to 64; intervals are over seeds" in capsys.readouterr().err


def test_the_command_of_a_study_in_a_folder_with_a_blank_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "my studies").mkdir()
    path, said = str(write_study(folder)), []
    monkeypatch.setattr("evalkit.lab.page.check_own", lambda *given: said.append(given[2]))
    assert main(["study", path, "--dry-run"]) == 0
    assert said == [f"evalkit study '{path}'"]


def test_runs_of_other_code_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(path := write_study(tmp_path))
    arm, run = next(iter(study.runs()))
    done = FinishedRun(arm, run, trainer.train(run, study.conditions))
    with schedule._locked(tmp_path / "tiny" / schedule.RUNS) as file:
        others = schedule.Keys("of-other-code", "of-other-source")
        own = schedule._keys(OWN, run, study.conditions)
        schedule._append(file, [(others, done), (own, done)])
    command = ["study", str(path), "--output", str(tmp_path), "--dry-run"]
    assert main(command) == 0
    assert "3 to go (1 that lie there are of other code or settings)" in capsys.readouterr().out


def test_runs_of_edited_code_count_once_that_code_is_recorded(
    tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = load_study(write_study(tmp_path)), tmp_path / "out"
    value, positions = json.loads(recorded.read_text()), "evalkit.models.qwen2_vl.positions"
    as_it_is = value["files"][positions]
    value["files"][positions] = "as it was before somebody edited it"
    recorded.write_text(json.dumps(value))
    with schedule._locked(folder / schedule.RUNS) as file:
        for arm, r in study.runs():
            done = FinishedRun(arm, r, result(1.0))
            schedule._append(file, [(schedule._keys(OWN, r, study.conditions), done)])
    assert not schedule.missing(study, folder)
    value["files"][positions] = as_it_is
    recorded.write_text(json.dumps(value))
    assert len(schedule.results(study, folder)) == 4 and not schedule.others(study, folder)
    schedule.adopt(study, folder)
    kept = (folder / schedule.RUNS).read_bytes()
    schedule.adopt(study, folder)
    assert (folder / schedule.RUNS).read_bytes() == kept, "each once"
    monkeypatch.setattr(
        trainer, "source_of_module", lambda name: "edited, and recorded as the same"
    )
    assert not schedule.missing(study, folder)


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
    assert text.index("- **Refuted**: It does. No effect") < text.index("| H1 | It does. |")
    (row,) = (line for line in text.splitlines() if line.startswith("| H1 | It does. |"))
    assert "| below -0.5 |" in row and row.endswith("| 0.2 | **refuted** |")
    assert "| contiguous | " in text and "knows indices and the number of tokens" in text
    for name in ("forest.png", "heat.png", "curves.png", "scores.csv", "effects.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_a_study_of_sizes_shows_effects_against_size(tmp_path: Path) -> None:
    """Each size against the baseline of that size; the sign must be clear at three sizes."""
    sizes = {f"{n} M": SMALL.model_copy(update={"depth": n}).model_dump() for n in (1, 2, 3)}
    study = Study.model_validate(
        {
            "name": "sizes",
            "question": "",
            "probe": "needle",
            "seeds": 4,
            "factors": {
                "scheme": {"1D": {"switches": {"position": "rope1d"}}, "3D": {}},
                "size": {name: {"model": model} for name, model in sizes.items()},
            },
            "grid": ["scheme", "size"],
            "conditions": {"trained sizes": {}},
        }
    )
    rng, runs = np.random.default_rng(0), []
    for arm, r in study.runs():
        nll = 1 - dict(arm.levels)["scheme"].startswith("3D") + 0.01 * rng.standard_normal()
        measured = {"trained sizes": {"needle": Measurement(nll, 0.5, 1.0, 0.5, 8)}}
        runs.append(FinishedRun(arm, r, Result(1.0, 10 * r.model.depth, (), measured)))
    (name,) = by_size = analysis.effects_by_size(study, runs, "needle")
    assert name == "3D" and [p for p, _ in by_size[name]] == [10, 20, 30]
    assert all(e.high < -0.9 for _, e in by_size[name])
    text = page.write(study, runs, tmp_path, "evalkit study sizes").read_text()
    assert (tmp_path / "sizes.png").stat().st_size > 0
    row = text.partition("## Effect against size")[2].partition("| 3D | needle")[2]
    assert row.partition("\n")[0].endswith("| yes |")


@pytest.mark.slow
def test_hypotheses_that_change_after_the_run_are_called_that(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    page.state_hypotheses(study, tmp_path)
    runs = [FinishedRun(a, r, trainer.train(r, study.conditions)) for a, r in study.runs()]
    page.write(study, runs, tmp_path, "evalkit study tiny.yaml")
    assert page.is_current(study, tmp_path, "evalkit study tiny.yaml")
    assert not page.is_current(study, tmp_path, "evalkit study tiny.yaml --device cuda")
    assert "stated before the run" in (tmp_path / page.PAGE).read_text()
    other = load_study(write_study(tmp_path, STUDY.replace("below: -0.5", "below: -0.1")))
    assert not page.is_current(other, tmp_path, "evalkit study tiny.yaml"), (
        "the page is written again"
    )
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


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_trains_and_is_measured(probe: str) -> None:
    kind = PROBES[probe]
    result = trainer.train(
        run(probe=probe, trained=kind.trained),
        {"trained sizes": Condition(scenes=12), "large": Condition(cells=kind.large, scenes=6)},
    )
    for condition in result.conditions.values():
        assert set(condition) == set(kind.kinds)
        assert all(np.isfinite(m.nll) and 0 <= m.choice <= 1 for m in condition.values())


def test_a_kind_whose_word_is_no_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PROBES["where"], "kinds", (*KINDS, "roof"))
    with pytest.raises(UsageError, match="give 'roof' one in KIND_WORDS"):
        load_study(write_study(tmp_path))


@pytest.mark.parametrize(
    ("shows", "grid", "tokens"),
    [
        ({"frames": "each"}, (5, 2, 2), 20),
        ({"frames": "pair"}, (5, 2, 2), 12),
        ({"frames": "half"}, (5, 2, 2), 12),
        ({"stamps": True}, (5, 2, 2), 20),
        ({"tower": "scene"}, (5, 2, 2), 20),
        ({"drawn": True}, (1, 3, 4), 12),
        ({"drawn": True, "down": 6}, (1, 3, 4), 12),
    ],
)
def test_scenes_are_shown_as_asked(shows: dict[str, object], grid: Cells, tokens: int) -> None:
    of = {"probe": "aspect"} if shows.get("drawn") else {}
    made = batch(grid=grid, shows=shows, **of)
    assert made.visual.sum(1).tolist() == [tokens] * 4
    assert made.positions.shape[2] == made.ids.shape[1]
    if shows.get("drawn") or shows.get("tower"):
        assert made.patches is not None and len(made.patches) == 4 * 4 * tokens


def test_a_pair_of_seconds_is_one_picture_that_shows_both() -> None:
    pictures = setting(shows={"frames": "pair"}).pictures
    table = pictures.table.unflatten(0, (81, 4))
    single = setting().pictures.table.unflatten(0, (9, 4))
    assert torch.equal(table[10], single[1]), "a colour with itself is its still picture"
    early, late = table[9], table[1]  # red, then white; white, then red
    frames = [x.unflatten(1, (3, 2, 196)) for x in (early, late, single[1])]
    assert torch.equal(frames[0][:, :, 0], frames[2][:, :, 0])
    assert torch.equal(frames[1][:, :, 1], frames[2][:, :, 1])


def test_down_and_back_keeps_the_tokens_and_loses_detail() -> None:
    own = setting("aspect", shows={"drawn": True}).pictures
    back = setting("aspect", shows={"drawn": True, "down": 2}).pictures
    mark = PROBES["aspect"]().scene(np.random.default_rng(0), (1, 4, 8)).marks
    sharp, blurred = own.page((1, 4, 8), mark), back.page((1, 4, 8), mark)
    assert sharp.shape == blurred.shape
    assert blurred.std() < sharp.std(), "the square is paler"


def test_a_gate_and_scaled_attention_reach_the_lab_model() -> None:
    made = batch()
    for switches in ({"vision_gate": 0.0}, {"cross_modal": "multiply:0.5"}):
        models = [fresh(run(s).recipe) for s in ({}, switches)]
        models[1].load_state_dict(models[0].state_dict())
        a, b = (trainer.answer_logits(m, made)[0] for m in models)
        assert not torch.allclose(a, b)


def test_arms_start_from_one_model_that_read_text_and_adapt_it() -> None:
    """At no rate the arms are that model; a tower that read no picture is as it was drawn."""
    arms = [
        run({"position": p}, start={"steps": 2}, learning_rate=1e-12, muon=1e-12)
        for p in ("mrope", "rope1d")
    ]
    before = [trainer.begins_with(r, r.start) for r in arms]  # type: ignore[arg-type]
    assert before[0] == before[1] and before[0].switches == {"position": "rope1d"}
    begun = trainer._begun(before[0].model_dump_json(), True)
    torch.manual_seed(0)
    drawn = fresh(arms[0].recipe).state_dict()
    moved = {k for k in drawn if not torch.equal(drawn[k], begun[k])}
    assert any(k.startswith("model.layers") for k in moved)
    assert not any(k.startswith("visual.") for k in moved)


def test_arms_can_start_from_themselves_on_another_probe() -> None:
    r = run({"position": "mrope_i"}, probe="relations", start={"steps": 2, "probe": "where"})
    before = trainer.begins_with(r, r.start)  # type: ignore[arg-type]
    assert before.probe == "where" and before.switches == r.switches and before.start is None
    assert trainer.train(r, {"trained sizes": Condition(scenes=4)}).conditions


def test_a_frozen_tower_does_not_learn_and_the_language_model_does() -> None:
    r = run(stages=[{"share": 1.0, "vision": 0.0}])
    torch.manual_seed(0)
    model = fresh(r.recipe)
    drawn = {k: v.clone() for k, v in model.state_dict().items()}
    batches = (trainer.training_batch(r, s, trainer.setting_of(r, model)) for s in range(3))
    list(trainer.fitted(model, r, batches))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, drawn[k])}
    assert any(k.startswith("model.") for k in moved)
    assert not any(k.startswith("visual.blocks") for k in moved)
