"""Sweeps: files are checked, cells are run once, and tables say what could be told and what could
not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results.sweep_tables import COLUMNS
from evalkit.results.sweep_values import Kind
from evalkit.sweeps import Sweep, find_sweep, findings, load_sweep, outlook, plan, run_sweep


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
    frame = pd.read_csv(folder / "table.csv")
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
    found = findings(config, planned).rows
    assert [f.kind for f in found] == [Kind.BASELINE, Kind.BASELINE, Kind.PROBE]
    assert [f.against for f in found] == ["as trained", "fps=1", "fps=1"]
    wrong = sweep(groups=[group | {"baseline": {"rope": 1}}])
    with pytest.raises(UsageError, match="unknown argument rope"):
        plan(wrong, tmp_path)
