"""Twins differ in one choice alone, are trained once, and their table says what can be told."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.nano import twins
from evalkit.nano.batches import make_batch
from evalkit.nano.train import config, initialised
from evalkit.nano.twins import Twins, differences, find_twins, load_twins, run_twins
from tests.tiny import TINY_MODEL


def pair(**changes: object) -> Twins:
    base = {
        "name": "t",
        "question": "Which?",
        "seeds": (0, 1),
        "baseline": "mrope",
        "arms": {
            "mrope": {"switches": {"position": "mrope"}},
            "flat": {"switches": {"position": "rope1d"}},
        },
        "recipe": {
            "batch": 2,
            "warmup": 1,
            "bfloat16": False,
            "model": TINY_MODEL,
            "families": {
                "clips": {"start": 0.1, "gate": None, "seconds": (2, 3)},
                "grids": {"gate": None},
            },
            "stages": [{"name": "all", "steps": 2, "weights": {"clips": 1.0, "grids": 1.0}}],
        },
        "conditions": {
            "clips of 4 s": {"family": "clips", "difficulty": 0.1, "seconds": 4, "scenes": 2},
            "pages": {"family": "grids", "difficulty": 0.1, "scenes": 3},
        },
    }
    return Twins.model_validate(base | changes)


def test_arms_of_a_seed_share_initial_weights_and_data() -> None:
    weights, batches = [], []
    for arm in ("mrope", "flat"):
        recipe = pair().arm(arm, 1)
        torch.manual_seed(recipe.seed)
        weights.append(initialised(Qwen2VL(config(recipe))).state_dict())
        batches.append(
            [make_batch(recipe, step, {"clips": 0.1, "grids": 0.0}) for step in range(2)]
        )
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    for a, b in zip(*batches):
        assert (
            torch.equal(a.ids, b.ids)
            and torch.equal(a.patches, b.patches)
            and torch.equal(a.labels, b.labels)
        )
        assert not torch.equal(a.positions, b.positions)


@pytest.mark.slow
def test_a_run_writes_its_page_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run_twins(pair(), tmp_path)
    assert list(table["arm"]) == ["flat", "flat"] and list(table["seeds"]) == [2, 2]
    page = (tmp_path / "t" / "README.md").read_text()
    assert (
        "Which?" in page
        and "mrope run as flat (inference probe)" in page
        and "flat - mrope" in page
    )
    scores = pd.read_csv(tmp_path / "t" / "scores.csv")
    assert set(zip(scores.arm, scores.run_as)) == {
        ("mrope", "mrope"),
        ("mrope", "flat"),
        ("flat", "flat"),
    }
    assert len(list((tmp_path / "runs").iterdir())) == 4
    monkeypatch.setattr(twins, "train", lambda *_: pytest.fail("trained again"))
    assert run_twins(pair(), tmp_path).equals(table)


def test_the_interval_over_seeds_is_student_s() -> None:
    rows = []
    for seed, (a, b) in enumerate([(50.0, 40.0), (60.0, 52.0), (55.0, 43.0)]):
        for arm, value in (("mrope", a), ("flat", b)):
            rows.append(
                {"condition": "pages", "arm": arm, "run_as": arm, "seed": seed, "accuracy": value}
            )
    config_ = pair(seeds=(0, 1, 2), conditions={"pages": {"family": "grids", "difficulty": 0.1}})
    row = differences(pd.DataFrame(rows), config_).to_dict("records")[0]
    assert row["difference"] == pytest.approx(-10.0)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        (-10 - 4.3027 * 2 / 3**0.5, -10 + 4.3027 * 2 / 3**0.5), abs=1e-3
    )


def test_what_would_not_be_twins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clips: twins need gate: null"):
        pair(recipe=pair().recipe | {"families": {"clips": {}, "grids": {"gate": None}}})
    longer = {"stages": [{"name": "all", "steps": 3, "weights": {"clips": 1.0}}]}
    with pytest.raises(ValueError, match="not the same compute"):
        pair(arms={"mrope": {}, "longer": longer})
    with pytest.raises(ValueError, match="only clips have a length, grids have none"):
        pair(conditions={"x": {"family": "grids", "difficulty": 0.1, "seconds": 4}})
    with pytest.raises(ValueError, match="seeds"):
        pair(seeds=[-1])
    with pytest.raises(ValueError, match="baseline: release is not among the arms"):
        pair(baseline="release")
    path = tmp_path / "twins.yaml"
    path.write_text("schema_version: 1\nname: x\narms: {a: {}}\n")
    with pytest.raises(UsageError, match="question: Field required"):
        load_twins(path)
    with pytest.raises(
        UsageError, match="shipped twins: position, position_short, resolution, stages"
    ):
        find_twins("nothing")


@pytest.mark.parametrize("name", ["position", "position_short", "resolution", "stages"])
def test_shipped_twins_are_valid(name: str) -> None:
    found = load_twins(find_twins(name))
    assert found.name == name and len(found.seeds) >= 3
