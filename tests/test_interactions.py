"""Two settings together: whether their effects add up, and sentences that agree with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.results.interactions import Interaction, Quartet, interaction, quartets
from evalkit.results.pairs import Verdict
from evalkit.results.sweep_tables import FINDINGS, compare_arms, sentences, write_page
from evalkit.results.sweep_values import Arm, Findings
from evalkit.store import CellFolder
from evalkit.types import Metric
from tests.stored import cell, record

N = 120
BASE = (np.arange(N) % 10 < 8).astype(float)
"""Right on 8 of 10."""


def stored(output: Path, scores: Sequence[float], settings: Mapping[str, Any]) -> CellFolder:
    records = [record(i, s, tokens=64) for i, s in enumerate(scores)]
    return cell(output, records, fingerprint=dict(settings), switches=dict(settings))


def grid(output: Path, both: Sequence[float]) -> list[tuple[Mapping[str, Any], CellFolder]]:
    """x=1 and y=1 lose one sample of ten each, together ``both``."""
    lost = np.arange(N) % 10
    scores: dict[tuple[int, int], Sequence[float]] = {
        (0, 0): list(BASE),
        (1, 0): list(BASE * (lost != 0)),
        (0, 1): list(BASE * (lost != 1)),
        (1, 1): both,
    }
    cells = {k: stored(output, s, {"x": k[0], "y": k[1]}) for k, s in scores.items()}
    # the plan names the baseline once without settings and once by its values: one folder
    return [({}, cells[0, 0]), *(({"x": x, "y": y}, c) for (x, y), c in cells.items())]


def test_effects_that_add_up_are_no_interaction(tmp_path: Path) -> None:
    lost = np.arange(N) % 10
    (four,) = quartets("quiz:all", grid(tmp_path, list(BASE * (lost > 1))), {})
    assert (four.first, four.second, four.against) == ("x=1", "y=1", "as trained")
    found = interaction(four)
    assert found and found.difference == 0 and found.p_value is None and found.n == N


def test_what_is_lost_only_together_is_an_interaction(tmp_path: Path) -> None:
    cells = grid(tmp_path, [0.0] * N)
    (four,) = quartets("quiz:all", cells, {})
    arms = [Arm(f"{s}", "{}", c, cells[0][1]) for s, c in cells[1:]]
    findings = compare_arms("s", "?", "evalkit sweep s.yaml", arms, quartets=[four])
    (found,) = findings.interactions
    # (0 - 70) - (70 - 80) points
    assert found.difference == pytest.approx(-60) and found.p_holm is not None
    assert found.ci_low is not None and found.ci_low < -60 < (found.ci_high or 0)
    assert findings.tests == 4, "three differences and one interaction are corrected together"
    assert (
        "x=1 with y=1 (against as trained), quiz:all: less than the sum" in sentences(findings)[-1]
    )
    page = write_page(findings, [], tmp_path / "page")
    assert "less than the sum of each alone, -60.0" in (page / "README.md").read_text()
    assert Findings.load(page / FINDINGS) == findings


def test_without_all_four_cells_nothing_is_said(tmp_path: Path) -> None:
    cells = grid(tmp_path, [0.0] * N)
    assert quartets("quiz:all", cells[:4], {}) == []
    assert quartets("quiz:all", cells, {"x": 7}) == [], "the baseline was not run"


def quartet(output: Path, metric: Metric) -> Quartet:
    """Answers that are right or wrong at random, two of an item, items in four kinds."""
    rng = np.random.default_rng(5)
    cells = []
    for i, share in enumerate((0.9, 0.8, 0.7, 0.3)):
        records = [
            record(
                k,
                0.0,
                scores={"accuracy": float(rng.random() < share), "w": 1.0 + k % 3},
                cluster=f"{k // 2}",
                metadata={"item": k // 2, "kind": k // 2 % 4},
            )
            for k in range(N)
        ]
        cells.append(cell(output, records, metrics=(metric,), fingerprint={"i": i}))
    neither, first, second, both = cells
    return Quartet("quiz:all", "a", "b", "c", (neither, first, second, both))


@pytest.mark.parametrize(
    ("metric", "n"),
    [
        (Metric("accuracy"), N),
        (Metric("accuracy", "kind"), N),
        (Metric("accuracy", units=("item",)), N // 2),
        (Metric("accuracy", units=("", "item")), N + N // 2),
        (Metric("accuracy", "kind", units=("", "item"), total=True), N + N // 2),
    ],
)
def test_an_interaction_is_of_the_scores_that_tables_have(
    metric: Metric, n: int, tmp_path: Path
) -> None:
    four = quartet(tmp_path, metric)
    neither, first, second, both = (c.results.metrics[0].value for c in four.cells)
    found = interaction(four)
    assert found and found.n == n
    assert found.difference == pytest.approx((both - first) - (second - neither))


def test_weighted_means_have_no_interaction(tmp_path: Path) -> None:
    assert interaction(quartet(tmp_path, Metric("accuracy", weight="w"))) is None


def test_findings_of_the_layout_before_are_read(tmp_path: Path) -> None:
    cells = grid(tmp_path, [0.0] * N)
    findings = compare_arms("s", "?", "", [Arm("x=1", "", c, cells[0][1]) for _, c in cells[2:3]])
    findings.save(tmp_path / FINDINGS)
    text = (tmp_path / FINDINGS).read_text()
    import json

    old = json.loads(text)
    old["schema_version"] = 2
    del old["interactions"]
    (tmp_path / FINDINGS).write_text(json.dumps(old))
    assert asdict(Findings.load(tmp_path / FINDINGS)) == asdict(findings)


def test_a_sentence_says_when_an_interval_alone_excludes_nothing_lost(tmp_path: Path) -> None:
    """Significant by itself and not among twenty tests: neither hidden nor claimed."""
    rng = np.random.default_rng(3)
    base = stored(tmp_path, list(BASE), {})
    lost = np.zeros(N)
    lost[:8] = 1  # some p of 0.01 alone
    near = stored(tmp_path, list(BASE * (1 - lost)), {"s": 0})
    others = [stored(tmp_path, list(rng.permutation(BASE)), {"s": i}) for i in range(1, 20)]
    arms = [Arm(f"s={i}", "base", c, base) for i, c in enumerate([near, *others])]
    first = compare_arms("s", "?", "", arms).rows[0]
    assert first.scores and first.scores.ci_high is not None and first.scores.ci_high < 0
    assert first.verdict is Verdict.ALONE and not first.significant
    (line, *_) = sentences(compare_arms("s", "?", "", arms))
    assert "significant alone, not after correction, on quiz:all" in line and "MDE" in line
    assert not any("not significant on quiz:all -" in s and "s=0" in s for s in (line,))


def test_an_interaction_is_not_claimed_on_an_interval_that_holds_0() -> None:
    findings = Findings(
        "s",
        "?",
        "",
        None,
        (),
        (Interaction("t:all", "a=1", "b=1", "base", "m", 3.0, -1.0, 7.0, 0.001, 24, 0.001),),
    )
    assert "no interaction found, +3.0" in sentences(findings)[0]
