"""A study's page: its sentences say what the intervals say, and every ceiling who met it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evalkit.cli.main import main
from evalkit.errors import UsageError
from evalkit.lab import analysis, figures, page, phases, tables
from evalkit.lab.analysis import Effect
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Arm, Hypothesis, Study, find_study, load_study
from evalkit.lab.trainer import CurvePoint, Measurement, Result
from evalkit.probes.oracle import ceilings
from tests.test_lab import STUDY, write_study

AT = "trained sizes"


def study_of(**fields: Any) -> Study:
    """Two factors, crossed; ``where``."""
    return Study.model_validate(
        {
            "name": "crossed",
            "question": "",
            "seeds": 4,
            "factors": {
                "scheme": {"3D": {}, "1D": {"switches": {"position": "rope1d"}}},
                "theta": {
                    "10": {"switches": {"theta": 10.0}},
                    "100": {"switches": {"theta": 100.0}},
                },
            },
            "grid": ["scheme", "theta"],
            "conditions": {AT: {}, "shuffled": {"view": "shuffled"}, "blind": {"view": "blind"}},
        }
        | fields
    )


def made(
    study: Study,
    nll: Callable[[Arm, str, int], float] = lambda arm, kind, seed: 1.0,
    right: Callable[[Arm, str, str], float] = lambda arm, condition, kind: 0.3,
) -> list[FinishedRun]:
    """What runs of the study might have left."""
    return [
        FinishedRun(
            arm,
            run,
            Result(
                1.0,
                10**6,
                (CurvePoint(20, dict.fromkeys(study.kinds, 1.0), {}),),
                {
                    name: {
                        kind: Measurement(
                            nll(arm, kind, run.seed), right(arm, name, kind), 1.0, 0.5, 400
                        )
                        for kind in study.kinds
                    }
                    for name in study.conditions
                },
            ),
        )
        for arm, run in study.runs()
    ]


def claim(**bound: float) -> Hypothesis:
    given = {"name": "H1", "claim": "So.", "kind": "when", "condition": AT, "a": {}, "b": {}}
    return Hypothesis.model_validate(given | bound)


def test_what_is_said_of_a_hypothesis_is_what_its_interval_says() -> None:
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.uniform(-1, 1, (2000, 2)), axis=1):
        e = Effect((low + high) / 2, low, high, 0.1, 0.1, 0.0, 8)
        for h in (claim(below=-0.4), claim(within=0.4)):
            said, verdict = tables.finding(h, e), analysis.verdict(h, e)
            words, _, numbers = said.partition(": ")
            assert numbers == f"{e.difference:+.3f} [{low:+.3f}, {high:+.3f}] nats."
            nothing = words.startswith(("No ", "There may be none", "The other way round"))
            assert nothing == (not (high < 0 or (h.within and low > 0))), said
            assert ("of more than 0.4" in words and not nothing) == (
                verdict == ("held" if h.below else "refuted")
            )
            assert (
                words.startswith(("No ", "The other"))
                or "smaller than 0.4" in words
                or (verdict != ("refuted" if h.below else "held"))
            )
            assert (verdict == "undecided") == words.endswith(
                ("is open", "or one of more than 0.4")
            )


def test_what_would_show_is_at_the_level_of_the_verdict() -> None:
    """Else a difference may be larger than what would show and yet be called undecided."""
    hypotheses = [
        {"name": f"H{i}", "claim": "So.", "kind": "when", "condition": AT, "below": -0.1}
        | {"a": {"scheme": "1D"}, "b": {"theta": theta}}
        for i, theta in enumerate(("10", "100"))
    ]
    study = study_of(hypotheses=hypotheses)
    rng = np.random.default_rng(0)
    runs = made(study, nll=lambda *_: float(rng.normal()))
    for tested in analysis.test_hypotheses(study, runs):
        e = tested.effect
        assert e is not None
        alone = analysis._mde(e.noise, e.seeds)
        assert e.mde > alone and e.mde == analysis._mde(e.noise, e.seeds, analysis.LEVEL / 2)
        assert e.mde > (e.high - e.low) / 2, "what would show lies beyond half of the interval"


def test_arms_that_can_not_differ_are_no_tests() -> None:
    hypotheses = [
        {"name": kind, "claim": "So.", "kind": kind, "condition": AT, "below": -0.1}
        | {"a": {"scheme": "1D"}, "b": {}}
        for kind in ("when", "row", "colour")
    ]
    study = study_of(hypotheses=hypotheses)
    rng = np.random.default_rng(0)
    runs = made(study, nll=lambda arm, kind, seed: float(rng.normal()) if kind == "when" else 1.0)
    assert analysis.number_of_tests(study, runs) == 1
    tested = {t.hypothesis.name: t.effect for t in analysis.test_hypotheses(study, runs)}
    arms = study.arm({"scheme": "1D"}), study.arm({})
    assert tested["when"] == analysis.effect(runs, *arms, AT, "when"), "as if it were the only one"
    assert "(Bonferroni over 1)" in page_of(study, runs)


def page_of(study: Study, runs: list[FinishedRun]) -> str:
    tested = analysis.test_hypotheses(study, runs)
    return page.text(study, runs, tested, [], "evalkit study x", "stated before the run")


def test_two_choices_that_add_up_are_no_interaction_and_others_are() -> None:
    rng = np.random.default_rng(1)

    def nll(arm: Arm, kind: str, seed: int) -> float:
        one = (arm.levels[0][1] == "1D") + (arm.levels[1][1] == "100")
        lost = 0.8 * (one == 2) if kind == "row" else 0.0
        noise = 0.0 if kind == "colour" else 0.02 * float(rng.normal())
        return 1 - 0.3 * one + lost + noise

    study = study_of()
    runs = made(study, nll)
    found, tests = analysis.interactions(study, runs, AT)
    assert tests == 3, "colour can't differ"
    told = [(i.both.name, i.kind) for i in found if i.effect.significant]
    assert told == [("1D, theta 100", "row")]
    (row,) = (i.effect for i in found if i.kind == "row")
    assert row.low < 0.8 < row.high
    text = page_of(study, runs).partition("## Two choices together")[2]
    lines = {line.split(" | ")[1]: line for line in text.splitlines() if line.startswith("| 1D")}
    assert lines["row"].endswith("| worse than added up |")
    assert "none found" in lines["when"] and lines["colour"].endswith("| none possible |")
    alone = study_of(grid=["scheme"])
    assert "Two choices" not in page_of(alone, made(alone))


def test_a_held_null_hypothesis_says_of_what_else_it_was_not_shown() -> None:
    h = {"name": "H1", "claim": "No difference.", "kind": "when", "condition": AT, "within": 0.1}
    study = study_of(hypotheses=[h | {"a": {"scheme": "1D"}, "b": {}}])
    rng = np.random.default_rng(2)
    runs = made(study, lambda arm, kind, seed: float(rng.normal(1, 0.5 * (kind == "row"))))
    (line,) = (x for x in page_of(study, runs).splitlines() if x.startswith("- **Held**"))
    assert "NOT shown on row" in line and "column" not in line and "colour" not in line


def test_arms_that_have_learnt_nothing_are_not_called_alike_without_a_word() -> None:
    h = {"name": "H1", "claim": "No difference.", "kind": "row", "condition": AT, "within": 0.1}
    study = study_of(hypotheses=[h | {"a": {"scheme": "1D"}, "b": {}}])
    for right, said in ((0.41, True), (0.9, False)):
        text = page_of(study, made(study, right=lambda *_, right=right: right))  # type: ignore[misc]
        (line,) = (x for x in text.splitlines() if x.startswith("- **Held**"))
        assert ("BOTH AT CHANCE (40 %)" in line) == said
        told = page.summary(study, made(study, right=lambda *_, right=right: right))  # type: ignore[misc]
        assert told.startswith("H1 held: ") and ("BOTH AT CHANCE (40 %)" in told) == said


def test_every_view_has_its_ceiling_and_who_met_it() -> None:
    study = study_of()
    tops = ceilings(study.run(study.arms()[0], 0).asks(), study.grids)

    def right(arm: Arm, condition: str, kind: str) -> float:
        one = dict(arm.levels)["scheme"] == "1D"
        if condition != AT:
            return tops["shuffled" if condition == "shuffled" else "blind"][kind].right - 0.1 * one
        return 0.99 if kind in ("when", "colour") and not one else 0.5

    table = tables.ceilings_table(study, made(study, right=right))
    assert len(table) == 2 + len(tables.KNOWN), "one row a view, none left out"
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in table[2:]}
    whole = rows["| knows everything"]
    assert whole[0] == "1.00: met, 3D, theta 10 0.99"
    assert "1.00: NOT met, " in whole[1] and " 0.50" in whole[1]
    assert all(": met, 3D" in cell for cell in rows[f"| {tables.KNOWN['shuffled']}"])
    index = rows[f"| {tables.KNOWN['index']}"]
    assert all("NOT met, 1D" in cell for cell in index), "1D alone, not what knows more"
    assert all("no arm was shown this" in c for c in rows[f"| {tables.KNOWN['first_second']}"])
    short = [x for x in page_of(study, made(study, right=right)).splitlines() if "- Ceiling" in x]
    assert short[0].startswith(
        "- Ceiling, everything shown, all right: some arm knows when, colour; "
    )
    assert "no arm reaches it on row (0.50, " in short[0]


@pytest.mark.parametrize(("more", "fails"), [(0.0, False), (0.02, False), (0.2, True)])
def test_who_knows_more_than_a_view_shows_is_named_and_noise_is_not(
    more: float, fails: bool
) -> None:
    study = study_of()
    tops = ceilings(study.run(study.arms()[0], 0).asks(), study.grids)

    def right(arm: Arm, condition: str, kind: str) -> float:
        known = "whole" if condition == AT else condition
        top = tops[known][kind].right  # type: ignore[index]
        return min(1.0, top + more * (kind == "row" and condition == "shuffled"))

    (line,) = (x for x in page_of(study, made(study, right=right)).splitlines() if "Controls" in x)
    assert ("FAIL" in line and "row, shuffled: 0.60 against 0.40" in line) == fails
    assert ("known by positions" in line) == (not fails)


def test_a_study_that_needs_no_position_claims_none_to_be_about_them() -> None:
    study = study_of(probe="controls", conditions={AT: {}, "shuffled": {"view": "shuffled"}})
    text = page_of(study, made(study, right=lambda *_: 1.0))
    assert "no question here needs a position" in text and "by positions" not in text
    assert "some arm knows present, count" in text


def test_without_a_shuffled_view_nothing_is_said_to_be_about_positions() -> None:
    study = study_of(conditions={AT: {}})
    assert "what is about positions is not known" in page_of(study, made(study))


def test_phases_span_what_is_shown_in_visual_tokens() -> None:
    study = load_study(find_study("frames"))
    seconds = {a.name: phases.turns(study, a)["second"].fastest for a in study.arms()}
    one = seconds["a patch a second"]
    assert math.isclose(one, 7 / (2 * math.pi), rel_tol=1e-3), "8 seconds are 7 steps"
    assert math.isclose(seconds["a patch for two"], one * 3 / 7, rel_tol=1e-3)
    assert math.isclose(seconds["stride 2"], one * 2, rel_tol=1e-3)
    assert math.isclose(seconds["times as text"], one * 3, rel_tol=1e-3), "a stamp, then two rows"
    pages = load_study(find_study("resolution"))
    rows = {a.name: phases.turns(pages, a)["row"].fastest for a in pages.arms()}
    assert math.isclose(rows["112 x 140 pixels"], rows["own size"] * 3 / 7, rel_tol=1e-3)
    assert phases.turns(pages, pages.arms()[0])["second"].frequencies == 0, "a page has one second"


def test_a_rate_check_says_whether_the_rates_favour_an_arm() -> None:
    h = {"name": "H1", "claim": "So.", "kind": "when", "condition": AT, "below": -0.5}
    study = study_of(rate_check=[0.5, 2.0], hypotheses=[h | {"a": {}, "b": {"scheme": "1D"}}])
    runs = [
        FinishedRun(
            f.arm,
            f.run,
            Result(
                1.0,
                10,
                (),
                {
                    name: {
                        k: Measurement(
                            1.0 + (dict(f.arm.levels)["scheme"] == "1D") / f.run.rate,
                            0.5,
                            1.0,
                            0.5,
                            8,
                        )
                        for k in kinds
                    }
                    for name, kinds in f.result.conditions.items()
                },
            ),
        )
        for f in made(study)
    ]
    text = page_of(study, runs)
    assert "| 1D, theta 10 | never | never | never | never | ×2 (2.00) |" in text
    assert "- H1: -1.00 nats; with each arm at its best rate -0.50." in text


def test_a_page_without_matplotlib_lacks_its_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    study = study_of()
    text = page.write(study, made(study), tmp_path, "evalkit study crossed").read_text()
    assert "## Learning" in text and "pip install 'evalkit[plots]'" in text and "![" not in text
    assert (tmp_path / "effects.csv").stat().st_size > 0


def test_another_study_does_not_overwrite_a_page(tmp_path: Path) -> None:
    own, folder = load_study(write_study(tmp_path)), tmp_path / "out"
    page.write(own, made(own), folder, "evalkit study tiny.yaml --seeds 2")
    changed = load_study(write_study(tmp_path, STUDY.replace("seeds: 2", "seeds: 3")))
    page.check_own(changed, folder, "evalkit study tiny.yaml --device cuda")
    page.check_own(own.model_copy(), folder, "evalkit study elsewhere/tiny.yaml")
    with pytest.raises(UsageError, match="the page of another study, `evalkit study tiny.yaml"):
        page.check_own(changed, folder, "evalkit study copy.yaml")
    with pytest.raises(UsageError, match="`name` of its own"):
        page.check_own(own, folder, "evalkit study tiny.yaml --start b/model")


def test_two_studies_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_study(tmp_path)
    (tmp_path / "b").mkdir()
    second = write_study(tmp_path / "b", STUDY.replace("seeds: 2", "seeds: 3"))
    out = ["--output", str(tmp_path / "out"), "--dry-run"]
    assert main(["study", str(first), str(second), *out]) == 2
    assert "tiny: two of these studies have this name" in capsys.readouterr().err
    study = load_study(first)
    page.write(study, made(study), tmp_path / "out" / "tiny", f"evalkit study {first}")
    assert main(["study", str(second), *out]) == 2
    assert "page of another study" in capsys.readouterr().err


def test_hypotheses_without_a_record_are_not_called_stated_before(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    text = page.write(study, made(study), tmp_path / "out", "evalkit study tiny.yaml").read_text()
    assert (
        "stated before" not in text and "## Hypotheses, no record of when they were stated" in text
    )


@pytest.mark.parametrize("draw", [figures._forest, figures._heat])
def test_labels_of_a_figure_do_not_overlap(draw: Callable[..., None]) -> None:
    levels = {f"a long name of an arm, in words, number {i}": {"text_jitter": i} for i in range(14)}
    study = study_of(factors={"arm": levels}, grid=["arm"], hypotheses=())
    rng = np.random.default_rng(0)
    runs = made(study, lambda *_: float(rng.normal(1, 0.001)))
    figure = Figure(figsize=(10, 4), layout="constrained")
    draw(figure, study, runs)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            shown = [t for t in axis.get_ticklabels() if t.get_visible() and t.get_text()]
            boxes = [t.get_window_extent(renderer) for t in shown]
            for a, b in pairwise(boxes):
                assert not a.overlaps(b), (ax.get_title(), [t.get_text() for t in shown])
