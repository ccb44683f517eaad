"""Sweeps: files are checked, cells are run once, and tables say what could be told and what could
not.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evalkit
from evalkit.cli import main
from evalkit.config_files import Strict
from evalkit.errors import UsageError
from evalkit.nano.mini import HERE
from evalkit.nano.recipe import Ladder, ModelSize, Recipe, Stage
from evalkit.nano.twins import Condition, Twins
from evalkit.results.repeats import repeated
from evalkit.results.sweep_tables import COLUMNS
from evalkit.results.sweep_values import Findings, Kind
from evalkit.store import cells
from evalkit.sweeps import Group, Sweep, find_sweep, findings, load_sweep, outlook, plan, run_sweep
from tests.yaml_reference import yaml_reference


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


def test_a_grid_with_combinations_of_no_meaning_says_which_lines_leave_them_out(
    tmp_path: Path,
) -> None:
    text = (
        "name: s\nquestion: q\ntasks: [docvqa]\nlimit: 1\naxes:\n"
        "  resolution: [dynamic, 'tokens:64']\n"
        "  quantisation: [none, w8a8]\n  quantised: [decoder, both]\n"
    )
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        plan(load_sweep(file), tmp_path)
    said = str(refused.value)
    assert said.startswith("quantised=both has no meaning under quantisation=none")
    assert "to leave 2 combinations of the axes out" in said
    lines = said[said.index("exclude:") :]
    assert lines == "exclude:\n  - {quantisation: none, quantised: both}"
    file.write_text(f"{text}{lines}\n")
    assert len(plan(load_sweep(file), tmp_path)) == 7, "six of eight, and the baseline"


@pytest.mark.parametrize(
    "changed",
    [
        {"baseline": {"quantised": "both"}},
        {"axes": {"quantised": ["decoder", "both"]}},
        {"include": ({"quantised": "both", "fps": 1},)},
        {"groups": ({"baseline": {}, "include": ({"quantised": "both"},), "tasks": ("docvqa",)},)},
    ],
)
def test_what_no_exclusion_mends_is_refused_without_one(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"quantised=both has no meaning [^\n]*$"):
        plan(sweep(**changed), tmp_path)


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
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes: {model: [5]}\n",
            "model: 5 is not a name or",
        ),
        ("name: x\nquestion: y\ntasks: docvqa\n", r"line 3: tasks: expected a list.*\[docvqa\]"),
        ("name: x\nquestion: y\ntasks: [docvqa]\naxes: {fps: 2}\n", r"axes.fps: expected a list"),
        ("name: x\nquestion: y\ntasks: [docvqa]\naxes: [fps]\n", "axes: expected a mapping"),
        ("name: x\nquestion: y\ntasks: [docvqa]\naxes: {fps: []}\n", "at least 1 item"),
        ("name: x\nquestion: y\ntasks: [docvqa]\nlimit: true\n", "line 4: limit: true is neither"),
        ("name: x\nquestion: y\nname: z\n", "line 3: 'name' is given twice"),
        ("name: x\nbaseline: {fps: 1, fps: 2}\n", "line 2: 'fps' is given twice"),
        ("name: &a x\nquestion: *a\n", "line 2: aliases are not read"),
        (f"name: {'[' * 5000}", "not YAML"),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\naxes:\n"
            + "".join(f"  {n}: [{', '.join(map(str, range(1, 101)))}]\n" for n in ("fps", "theta"))
            + "  max_frames: [2, 4]\n",
            "20,000 combinations: over the limit of 2,000 cells",
        ),
        (
            "name: x\nquestion: y\ntasks: [docvqa]\ndata: {refcoco:mini: .}\n",
            "data: refcoco:mini is not among the sweep's tasks: docvqa:mini",
        ),
        ("name: x\nquestion: y\ntasks: [docvqa]\nadapter: nothing\n", "unknown adapter 'nothing'"),
        ("name: x\nquestion: y\ntasks: [docvqa]\nmodel_args: {wrokers: 1}\n", "mean workers"),
        ("- name\n", "expected a mapping"),
        ("name: [\n", "not YAML"),
    ],
)
def test_a_fault_in_a_file_is_named_with_file_line_and_field(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"sweep\.yaml: (?s:.*){fault}"):
        load_sweep(path)


def test_shipped_sweeps_are_valid_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError, match="shipped sweeps: contested_claims, .*dynamic_resolution.*mrope"
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
        f"evalkit sweep {path} --model nano" in page
        and "never quote" in page
        and "inference probe" in page
    )
    frame = pd.read_csv(folder / "table.csv")
    assert list(frame.columns) == COLUMNS and len(frame) == 6
    assert (folder / "differences.png").stat().st_size > 5000
    table = (folder / "table.tex").read_text()
    assert r"\toprule" in table and "% * At most 6 samples" in table and table.count("* ") >= 6
    assert "anls" in (tmp_path / "out" / "report.html").read_text()
    planned = plan(load_sweep(path), tmp_path / "out")
    journals = {c.path: c.journal_path.read_bytes() for c in cells(tmp_path / "out")}
    assert run_sweep(load_sweep(path), planned) == []
    assert {c.path: c.journal_path.read_bytes() for c in cells(tmp_path / "out")} == journals
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
    assert run_sweep(config, planned) == []
    found = findings(config, planned).rows
    assert [f.kind for f in found] == [Kind.BASELINE, Kind.BASELINE, Kind.PROBE]
    assert [f.against for f in found] == ["as trained", "fps=1", "fps=1"]
    wrong = sweep(groups=[group | {"baseline": {"rope": 1}}])
    with pytest.raises(UsageError, match="unknown argument rope"):
        plan(wrong, tmp_path)


def test_an_adapter_of_ones_own_is_swept_over_its_own_arguments(tmp_path: Path) -> None:
    adapter = tmp_path / "parrot.py"
    adapter.write_text(PARROT)
    path = tmp_path / "parrot.yaml"
    path.write_text(
        f"name: parrot\nquestion: Which word?\ntasks: [docvqa]\nadapter: {adapter}\nlimit: 3\n"
        "model_args: {times: 2}\nbaseline: {word: 'no'}\naxes: {word: ['no', 'yes']}\n"
    )
    config = load_sweep(path)
    planned = plan(config, tmp_path / "out")
    assert [p.cell.adapter.fingerprint for p in planned] == [
        {"word": "no", "times": 2, "model": "nano"},
        {"word": "yes", "times": 2, "model": "nano"},
    ]
    assert run_sweep(config, planned) == []
    assert [len(p.cell.stored.scored()) for p in planned] == [3, 3]
    assert [f.kind for f in findings(config, planned).rows] == [Kind.BASELINE, Kind.SAME]
    path.write_text(path.read_text() + "include: [{word: 'no', model: other}]\n")
    config = load_sweep(path)
    planned = plan(config, tmp_path / "out")
    assert run_sweep(config, planned) == []
    assert [f.kind for f in findings(config, planned).rows][-1] is Kind.TRAINED
    path.write_text(path.read_text().replace("word", "wrod"))
    with pytest.raises(UsageError, match="unknown argument wrod .*mean word.*word, times"):
        load_sweep(path)


PARROT = """
from evalkit.adapter import ModelAdapter
from evalkit.types import Completion

class Parrot(ModelAdapter):
    name = "parrot"

    def __init__(self, model, *, word="", times=1):
        self.model, self.word, self.times = model, word, times

    @property
    def fingerprint(self):
        return {"word": self.word, "times": self.times, "model": self.model}

    def generate(self, requests):
        for r in requests:
            yield Completion(r.id, " ".join([self.word] * self.times))
"""


def test_several_drawn_answers_of_a_sample_are_taken_together_as_in_a_run(tmp_path: Path) -> None:
    file = tmp_path / "drawn.yaml"
    file.write_text(
        "name: drawn\nquestion: Does the view matter?\ntasks: [multilingual_ocr]\nlimit: 6\n"
        "temperature: 1.0\nseed: 3\nrepeats: 4\nbaseline: {resolution: 'tokens:64'}\n"
        "axes: {resolution: ['tokens:4']}\n"
    )
    found = evalkit.sweep(file, "nano", tmp_path / "out")
    drawn = Findings.load(found.folder / "findings.json").drawn
    names = [d.metric.partition(", ")[2] for d in drawn]
    assert names == ["pass@1", "pass@2", "pass@4", "majority@4"] * 2
    cell = next(c for c in cells(tmp_path / "out") if "tokens:64" in c.settings)
    expected = {m.metric: (m.value, m.ci_low, m.ci_high) for m in repeated(cell)}
    mine = {d.metric: (d.value, d.ci_low, d.ci_high) for d in drawn[:4]}
    assert mine == expected and all(d.n == 6 for d in drawn)
    page = (found.folder / "README.md").read_text()
    assert page.count("majority@4") == 2 and set(found.frame.n) == {24}
    file.write_text(file.read_text().replace("temperature: 1.0", "temperature: 0"))
    with pytest.raises(UsageError, match=r"drawn\.yaml: repeats: .*set a temperature"):
        load_sweep(file)


def test_one_model_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(tasks=["docvqa", "refcoco"], include=[{"fps": 1}, {"fps": 2}], limit=1)
    planned = plan(config, tmp_path)
    held = []

    def closing(adapter: Any) -> None:
        held.append(adapter)
        type(adapter).close(adapter)

    for p in planned:
        monkeypatch.setattr(p.cell.adapter, "close", partial(closing, p.cell.adapter))
    assert run_sweep(config, planned) == []
    assert held == [p.cell.adapter for p in planned[:3]]
    assert not any("engine" in vars(p.cell.adapter) for p in planned)


def test_the_command_of_a_sweep_repeats_it(tmp_path: Path) -> None:
    path = tmp_path / "my sweep.yaml"
    path.write_text("name: x\nquestion: y\ntasks: [docvqa]\n")
    assert load_sweep(path).command == f"evalkit sweep '{path}' --model nano"
    shipped = find_sweep("mrope")
    assert load_sweep(shipped).command == "evalkit sweep mrope --model nano"
    local = load_sweep(shipped, "twin-mrope", {"docvqa:mini": tmp_path})
    assert local.command == (
        f"evalkit sweep mrope --model twin-mrope --data docvqa:mini={tmp_path}"
    )


@pytest.mark.slow
def test_a_sweep_runs_on_local_data(tmp_path: Path) -> None:
    data = HERE / "docvqa"
    path = tmp_path / "local.yaml"
    path.write_text("name: x\nquestion: y\ntasks: [docvqa:val]\nlimit: 2\n")
    config = load_sweep(path, data={"docvqa:val": data})
    (planned,) = plan(config, tmp_path / "out")
    assert planned.cell.data == data
    assert run_sweep(config, [planned]) == []
    path.write_text(path.read_text() + f"data: {{'docvqa:val': {data}}}\n")
    assert plan(load_sweep(path), tmp_path / "out")[0].cell.folder == planned.cell.folder


@pytest.mark.parametrize(
    "kind",
    [Sweep, Group, Twins, Condition, Recipe, ModelSize, Ladder, Stage],
    ids=lambda k: k.__name__,
)
def test_the_keys_of_yaml_files_are_documented(kind: type[Strict]) -> None:
    """Otherwise put ``yaml_reference(kind)`` below the marker with its name."""
    assert all(field.description for field in kind.model_fields.values())
    page = (Path(__file__).parent.parent / "docs" / "sweeps.md").read_text()
    assert f"<!-- {kind.__name__} -->\n\n{yaml_reference(kind)}\n" in page
