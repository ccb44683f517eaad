"""Tables of sweeps say what was found and what could not be; values, not files, carry it on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalkit.errors import DataError
from evalkit.results.pairs import PairedScores, Verdict, mde_of
from evalkit.results.report.page import write_report
from evalkit.results.sweep_tables import (
    COLUMNS,
    FINDINGS,
    at_a_glance,
    compare_arms,
    load_findings,
    sentences,
    table,
    write,
)
from evalkit.results.sweep_values import Arm, Finding, Findings, Kind
from evalkit.results.tables import latex_table
from evalkit.store import CellFolder
from tests.stored import cell, record


def scores_of(rng: np.random.Generator, share: float) -> list[float]:
    return (rng.random(80) < share).astype(float).tolist()


def arm_cell(output: Path, scores: Sequence[float], **fingerprint: object) -> CellFolder:
    probe = {"inference_probe": True} if fingerprint else {}
    records = [
        record(i, s, metadata={"tier": ("easy", "hard")[i % 2]}, tokens=64 + i)
        for i, s in enumerate(scores)
    ]
    return cell(output, records, fingerprint=fingerprint, switches=fingerprint, **probe)


@pytest.fixture
def arms(tmp_path: Path) -> list[Arm]:
    """A baseline, one arm far below it, one about as good, and one with the same answers."""
    rng = np.random.default_rng(0)
    base = scores_of(rng, 0.8)
    values = {"": base, "s=1": [0.0] * 80, "s=2": scores_of(rng, 0.75), "s=3": base}
    cells = {
        name: arm_cell(tmp_path / "out", scores, **({"s": name} if name else {}))
        for name, scores in values.items()
    }
    return [Arm(n or "as trained", "as trained", c, cells[""]) for n, c in cells.items()]


@pytest.fixture
def findings(arms: list[Arm]) -> Findings:
    return compare_arms("s", "Which <b>?", "evalkit sweep s.yaml", arms)


def test_each_arm_gets_its_verdict(findings: Findings) -> None:
    assert [f.verdict for f in findings.compared] == [Verdict.LOWER, Verdict.OPEN, Verdict.SAME]
    assert [f.kind for f in findings.rows] == [Kind.BASELINE, *[Kind.PROBE] * 3]
    lower, not_significant, same = sentences(findings)
    assert lower.startswith("s=1 (inference probe, against as trained): lower on quiz:all -")
    assert "p = <0.0001" in lower or "p = 0.000" in lower
    assert "not significant on quiz:all " in not_significant and "MDE " in not_significant
    assert same.endswith("every score the same on quiz:all (n = 80).")


def test_arms_that_cannot_differ_are_no_tests(findings: Findings, arms: list[Arm]) -> None:
    """A copy of the baseline raises nobody's p-value."""
    assert findings.tests == 2
    fewer = compare_arms("s", "?", "", arms[:3])
    assert [f.p_holm for f in fewer.compared] == [f.p_holm for f in findings.compared[:2]]


def test_no_difference_beyond_its_mde_is_called_not_significant(findings: Findings) -> None:
    """The MDE is at the level of the verdict: corrected for all tests of the sweep."""
    for f in findings.compared:
        if f.scores and f.mde is not None and abs(f.scores.difference) > 1.3 * f.mde:
            assert f.verdict in (Verdict.LOWER, Verdict.HIGHER)
        if f.scores and f.mde is not None and f.scores.mde is not None:
            assert f.mde > f.scores.mde
            assert f.mde == mde_of(f.scores, 2)


def test_bold_needs_an_interval() -> None:
    scores = PairedScores("m", 10.0, 41.3, -31.3, None, None, 0.001, None, 24, 1)
    one = Finding(
        "t:all",
        "x=1",
        Kind.PROBE,
        "base",
        "m",
        10.0,
        None,
        None,
        24,
        scores,
        0.001,
        None,
        1.0,
        0.0,
        "",
    )
    assert "| -31.3 – |" in at_a_glance(Findings("s", "?", "", None, (one,)))


def test_a_page_is_written_whole_and_read_back(findings: Findings, arms: list[Arm]) -> None:
    output = arms[0].cell.path.parents[2]
    folder = write(findings, arms, output)
    page = (folder / "README.md").read_text()
    assert "Which &lt;b&gt;?" in page and "<b>" not in page
    assert "| s=1 | inference probe | **-" in page and "| s=3 | inference probe | same |" in page
    assert "made by: evalkit sweep s.yaml" in page and "MDE, the minimum detectable" in page
    for name in ("differences", "tokens", "quiz-all-by-tier", "quiz-all-length"):
        assert f"({name}.png)" in page or name == "tokens"
        assert name == "tokens" or (folder / f"{name}.png").stat().st_size > 4000
    assert load_findings(output) == ([findings], [])
    frame = pd.read_csv(folder / "table.csv")
    assert list(frame.columns) == COLUMNS and len(frame) == 4
    assert frame["settings"].tolist() == ["as trained", "s=1", "s=2", "s=3"]
    pd.testing.assert_frame_equal(frame, table(findings), check_dtype=False)
    assert list(pd.read_csv(folder / "wide.csv").columns) == ["settings", "quiz:all"]


def test_a_sweep_cut_short_while_writing_costs_the_report_its_part_only(
    findings: Findings, arms: list[Arm]
) -> None:
    output = arms[0].cell.path.parents[2]
    findings.save(output / "s" / FINDINGS)
    (output / "s" / FINDINGS).write_text("{")
    faults = write_report(output, output / "page.html")
    assert any(FINDINGS in f and "repeat the sweep" in f for f in faults)
    with pytest.raises(DataError, match="can't be read"):
        Findings.load(output / "s" / FINDINGS)
    findings.save(output / "s" / FINDINGS)
    assert not any(FINDINGS in f for f in write_report(output, output / "page.html"))
    assert "lower on quiz:all" in (output / "page.html").read_text()


def test_an_arm_that_was_not_run_is_left_out(arms: list[Arm], tmp_path: Path) -> None:
    missing = Arm("s=9", "as trained", CellFolder(tmp_path / "none"), arms[0].cell)
    assert len(compare_arms("s", "?", "", [*arms, missing]).rows) == 4
    assert compare_arms("s", "?", "", [missing]).rows == ()


def test_latex_is_escaped() -> None:
    text = latex_table(["", "doc_vqa:mini"], [["a&b_c=50%", "12.3"]])
    assert r"a\&b\_c=50\% & 12.3 \\" in text and r"doc\_vqa:mini" in text
