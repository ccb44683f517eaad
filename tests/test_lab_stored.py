"""A study's folder is read back as it was written, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import DataError
from evalkit.lab import analysis, page
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.stored import (
    CURVES,
    SCORES,
    StoredEffect,
    load_studies,
    load_study,
    stamp,
    study_folders,
)
from evalkit.lab.study import Study
from evalkit.lab.trainer import CurvePoint, Measurement, Result

AT, KIND = "trained sizes", "needle"
STUDY = Study.model_validate(
    {
        "name": "made-up",
        "question": "Does it matter,\nor not?",
        "probe": KIND,
        "seeds": 3,
        "factors": {"scheme": {"1D": {"switches": {"position": "rope1d"}}, "3D, new": {}}},
        "grid": ["scheme"],
        "rate_check": [2.0],
        "conditions": {AT: {}},
        "hypotheses": [
            {"name": "H1", "claim": "It does.", "kind": KIND, "condition": AT, "below": -0.5}
            | {"a": {"scheme": "3D, new"}, "b": {"scheme": "1D"}}
        ],
    }
)


def made() -> list[FinishedRun]:
    """What runs of the study might have left: the second arm is a nat better, more or less."""
    runs = []
    for arm, run in STUDY.runs():
        nll = 2.0 - (arm.name == "3D, new") * (1 + run.seed / 10) + 5 * (run.rate != 1)
        measured = {AT: {KIND: Measurement(nll, (3 - nll) / 4, 1.0, 0.5, 8)}}
        curve = tuple(CurvePoint(step, {KIND: nll / step}, {}) for step in (1, 2))
        runs.append(FinishedRun(arm, run, Result(1.0, 10, curve, measured)))
    return runs


def test_a_study_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    runs, folder = made(), tmp_path / "lab" / "made-up"
    page.state_hypotheses(STUDY, folder)
    page.write(STUDY, runs, folder, "evalkit study made-up")
    assert study_folders(tmp_path) == study_folders(tmp_path / "lab") == study_folders(folder)
    (read,), faults = load_studies(tmp_path)
    assert (read.name, read.question, faults) == ("made-up", "Does it matter, or not?", [])
    assert read.sentences == (
        "Held: It does. An effect of more than 0.5: -1.100 [-1.348, -0.852] nats. "
        'Right on "needle", trained sizes: 3D, new 52 %; 1D 25 %.',
        "Controls: no condition shuffles the squares, so that what is about positions "
        "is not known.",
        "Ceiling, everything shown, all right: no arm reaches it on needle (0.53, 3D, new).",
    )
    (heads, row), (test,) = read.hypotheses, analysis.test_hypotheses(STUDY, runs)
    assert (heads[0], heads[-1], row[0], row[1], row[-1]) == (
        *("hypothesis", "verdict", "H1", "It does.", test.verdict),
    )
    assert read.as_stated == "Hypotheses, stated before the run"
    base, other = STUDY.arms()
    e = analysis.effect(runs, other, base, AT, KIND)
    assert e is not None
    low, high = round(e.low, 4), round(e.high, 4)
    assert read.effects == (StoredEffect("3D, new", "1D", AT, KIND, -1.1, low, high, 3),)
    # the runs at other learning rates are no part of a mean
    assert [(s.arm, round(s.right, 4), s.seeds) for s in read.scores] == [
        ("1D", 0.25, 3),
        ("3D, new", 0.525, 3),
    ]
    assert [(p.arm, p.step, p.nll) for p in read.curves] == [
        ("1D", 1, 2.0),
        ("1D", 2, 1.0),
        ("3D, new", 1, 0.9),
        ("3D, new", 2, 0.45),
    ]


def test_a_study_without_learning_curves_is_read(tmp_path: Path) -> None:
    page.write(STUDY, made(), tmp_path, "evalkit study made-up")
    (tmp_path / CURVES).unlink()
    assert load_study(tmp_path).curves == ()


@pytest.mark.parametrize("text", ["", "arm\n1D\n", "arm,condition,kind,rate,right\n1D,a,b,1,x\n"])
def test_a_damaged_study_is_said_and_costs_no_other(tmp_path: Path, text: str) -> None:
    for name in ("a", "b"):
        page.write(STUDY, made(), tmp_path / name, "evalkit study made-up")
    before = stamp(tmp_path)
    (tmp_path / "a" / SCORES).write_text(text, encoding="utf-8")
    (tmp_path / "a" / "README.md").write_text("# made-up\n", encoding="utf-8")
    with pytest.raises(DataError, match="is not as `evalkit study` writes it"):
        load_study(tmp_path / "a")
    found, (fault,) = load_studies(tmp_path)
    assert len(found) == 1 and str(tmp_path / "a") in fault
    page.write(STUDY, made(), tmp_path / "a", "evalkit study made-up")
    assert stamp(tmp_path) != before and stamp(tmp_path / "a" / "nothing") == ""


def test_a_study_without_hypotheses_has_no_section_of_them(tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"hypotheses": ()})
    page.write(study, made(), tmp_path / "made-up", "evalkit study made-up")
    text = (tmp_path / "made-up" / page.PAGE).read_text(encoding="utf-8")
    assert "states none" in text and "Bonferroni" not in text
    (read,), faults = load_studies(tmp_path)
    assert not faults and read.hypotheses == () and read.curves
