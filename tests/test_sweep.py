"""Sweeps: files are checked, cells are run once, and tables say what could be told and what could
not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results.sweep_tables import COLUMNS, latex, table, words, write
from evalkit.stats import compare, detectable, holm
from evalkit.sweeps import Sweep, find_sweep, load_sweep, outlook, plan, run_sweep


def sweep(**changes: Any) -> Sweep:
    base: dict[str, Any] = {"name": "s", "question": "Which?", "tasks": ("docvqa",), "limit": 4}
    return Sweep.model_validate(base | changes)


def test_grid_combines_axes_paired_walks_along_them() -> None:
    axes = {"position": ["mrope", "rope1d"], "vision_gate": [1.0, 0.0]}
    assert len(sweep(axes=axes, baseline={"position": "mrope", "vision_gate": 1.0}).cells()) == 4
    paired = sweep(
        axes=axes, mode="paired", baseline={"position": "mrope", "vision_gate": 1.0}
    ).cells()
    assert paired == [
        {"position": "mrope", "vision_gate": 1.0},
        {"position": "rope1d", "vision_gate": 0.0},
    ]
    chosen = sweep(axes=axes, exclude=({"vision_gate": 0.0},), include=({"fps": 1},)).cells()
    assert chosen == [
        {},
        {"position": "mrope", "vision_gate": 1.0},
        {"position": "rope1d", "vision_gate": 1.0},
        {"fps": 1},
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("schema_version: 1\nname: x\nquestion: y\ntasks: []\n", "line 4: tasks"),
        ("name: x\nquestion: y\ntasks: [docvqa]\naxis: {}\n", "line 4: axis"),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes: {rope: [1]}\n",
            "unknown argument rope .*position",
        ),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes: {position: [sideways]}\n",
            "expected one of mrope",
        ),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\nmode: paired\naxes: "
            "{fps: [1], max_frames: [2, 4]}\n",
            "as many values",
        ),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes: {cross_modal: [off]}\n",
            "cross_modal=False: .*with quotes",
        ),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes: {position: [2020-01-01]}\n",
            "expected one of mrope",
        ),
        ("name: x\nquestion: y\ntasks: [docvqa]\naxes: {model: [5]}\n", "model: 5 is not a name"),
        ("- name\n", "expected a mapping"),
        ("name: [\n", "not YAML"),
    ],
)
def test_a_fault_in_a_file_is_named_with_file_line_and_field(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"sweep\.yaml: .*{fault}"):
        load_sweep(path)


def test_shipped_sweeps_are_valid_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError, match="shipped sweeps: .*dynamic_resolution.*mrope.*seed_claims"
    ):
        find_sweep("nothing")
    for path in find_sweep("mrope").parent.glob("*.yaml"):
        assert load_sweep(path).name == path.stem
    assert load_sweep(find_sweep("mrope"), model="twin-rope1d").model == "twin-rope1d"


def test_a_sweep_runs_writes_its_folder_and_is_not_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "schema_version: 1\nname: s\nquestion: Does seeing help?\ntasks: [docvqa, "
        "multilingual_ocr]\nlimit: 6\n"
        "include: [{vision_gate: 0.0}, {vision_gate: 1.0}]\n"
    )
    assert main(["sweep", str(path), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "vision_gate=1.0" in said and "every score the same on docvqa:mini" in said
    folder = tmp_path / "out" / "s"
    page = (folder / "README.md").read_text()
    assert (
        "evalkit sweep s --model nano" in page
        and "never quote" in page
        and "inference probe" in page
    )
    frame = pd.read_csv(folder / "table.csv", comment="#")
    assert list(frame.columns) == COLUMNS and len(frame) == 6
    assert (folder / "differences.png").stat().st_size > 5000 and r"\toprule" in (
        folder / "table.tex"
    ).read_text()
    assert "anls" in (tmp_path / "out" / "report.html").read_text()
    planned = plan(load_sweep(path), tmp_path / "out")
    journals = {p: p.read_bytes() for p in (tmp_path / "out").rglob("journal.jsonl")}
    assert run_sweep(load_sweep(path), planned, say=lambda _: None) == []
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("journal.jsonl")} == journals
    assert {row[3] for row in outlook(load_sweep(path), planned, tmp_path / "out")} == {"0"}


def test_a_group_is_compared_with_its_own_baseline_on_its_own_tasks(tmp_path: Path) -> None:
    group = {
        "baseline": {"fps": 1},
        "include": [{"fps": 1, "vision_gate": 0.0}],
        "tasks": ["video_qa"],
    }
    config = sweep(groups=[group], limit=3)
    planned = plan(config, tmp_path)
    assert [(p.cell.name, p.settings, p.baseline) for p in planned] == [
        ("docvqa:mini", {}, {}),
        ("video_qa:mini", {"fps": 1}, {"fps": 1}),
        ("video_qa:mini", {"fps": 1, "vision_gate": 0.0}, {"fps": 1}),
    ]
    assert run_sweep(config, planned, say=lambda _: None) == []
    frame = table(config, planned)
    assert frame.kind.tolist() == ["baseline", "baseline", "inference probe"]
    assert frame.against.tolist() == ["as trained", "fps=1", "fps=1"]
    wrong = sweep(groups=[group | {"baseline": {"rope": 1}}])
    with pytest.raises(UsageError, match="unknown argument rope"):
        plan(wrong, tmp_path)


def row(**changes: Any) -> dict[str, Any]:
    base = dict.fromkeys(COLUMNS) | {
        "task": "t:all",
        "settings": "x=1",
        "kind": "inference probe",
        "metric": "m",
        "n": 50,
        "against": "as trained",
    }
    return base | {"value": 40.0, "visual_tokens": 10.0} | changes


def test_words_tell_a_finding_from_what_could_not_be_told(tmp_path: Path) -> None:
    rows = [
        row(settings="as trained", kind="baseline", value=50.0),
        row(
            difference=-10.0,
            ci_low=-15.0,
            ci_high=-5.0,
            p_value=0.001,
            p_holm=0.002,
            detectable=6.0,
        ),
        row(
            settings="y=<b>",
            difference=-2.0,
            ci_low=-9.0,
            ci_high=5.0,
            p_value=0.5,
            p_holm=0.9,
            detectable=9.5,
        ),
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    found, untold = words(frame)
    assert (
        found
        == "x=1 (inference probe, against as trained): lower on t:all -10.0 [-15.0, -5.0] (n = 50, p = 0.0020)."
    )
    assert "can't be told on t:all -2.0 [-9.0, 5.0] (n = 50, 9.5 would show)" in untold
    page = (write(sweep(question="<b>?"), frame, [], tmp_path) / "README.md").read_text()
    assert (
        "| x=1 | inference probe | **-10.0 [-15.0, -5.0]** |" in page
        and "| inference probe | -2.0 [-9.0, 5.0] |" in page
    )
    assert "y=&lt;b&gt;" in page and "<b>" not in page


def test_latex_is_escaped() -> None:
    text = latex(pd.DataFrame({"doc_vqa:mini": [12.34]}, index=["a&b_c=50%"]))
    assert r"a\&b\_c=50\% & 12.3 \\" in text and r"doc\_vqa:mini" in text


def test_a_sweep_over_nothing_finds_something_as_rarely_as_the_level_says() -> None:
    """200 simulated sweeps of 4 arms on 60 clustered samples, none of them different: the share
    with any finding after Holm.
    """
    rng = np.random.default_rng(5)
    clusters = list(np.arange(60) // 3)
    false = 0
    for _ in range(200):
        page = rng.beta(1.2, 1.2, 20)[np.arange(60) // 3]
        base = (rng.random(60) < page).astype(float)
        p = [
            compare((rng.random(60) < page).astype(float), base, clusters).p_value for _ in range(4)
        ]
        false += min(holm([v for v in p if v is not None])) < 0.05
    assert false / 200 <= 0.09


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    clusters = list(np.arange(120) // 2)
    noise = rng.normal(0, 1, 60)[np.arange(120) // 2] + rng.normal(0, 1, 120)
    effect = detectable(noise, clusters)
    assert effect is not None
    hits = 0
    for _ in range(150):
        d = rng.normal(0, 1, 60)[np.arange(120) // 2] + rng.normal(0, 1, 120) + effect
        p = compare(d, np.zeros(120), clusters).p_value
        hits += p is not None and p < 0.05
    assert 0.68 <= hits / 150 <= 0.92


def test_no_results_make_an_empty_table(tmp_path: Path) -> None:
    planned = plan(sweep(), tmp_path)
    assert table(sweep(), planned).empty
