"""docs/formats.md says what the code does, field by field, and what evalkit 0.1 wrote is read.

``python -m tests.test_formats`` writes the tables of the document anew.
"""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit import cell_results, provenance, records, run_info, types
from evalkit.adapter import make_adapter
from evalkit.cell import Cell, identity_of_0_1
from evalkit.results import load_results, load_samples
from evalkit.results.rescore import rescore
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.sources import EMBEDDED
from evalkit.store import CellFolder, cells
from evalkit.task import load_task
from tests.runs import run

DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"
MARKED = re.compile(r"<!-- fields of (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
OLD = Path(__file__).parent / "data" / "results_0_1"


def field_table(name: str) -> str:
    """A dataclass's own fields, with their types and docstrings, as a markdown table."""
    for module in (records, run_info, cell_results, provenance, types):
        for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return "\n".join(["| field | type | meaning |", "|---|---|---|", *_rows(node)])
    raise AssertionError(f"no class {name}")


def _rows(node: ast.ClassDef) -> list[str]:
    rows = []
    for item, after in zip(node.body, [*node.body[1:], None]):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            kind = ast.unparse(item.annotation).replace("|", "\\|")
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), (
                f"{node.name}.{item.target.id} has no docstring"
            )
            meaning = " ".join(str(after.value.value).split()).replace("|", "\\|")
            rows.append(f"| `{item.target.id}` | `{kind}` | {meaning} |")
    return rows


def renewed(text: str) -> str:
    return MARKED.sub(
        lambda m: f"<!-- fields of {m[1]} -->\n\n{field_table(m[1])}\n\n<!-- end -->", text
    )


def test_the_document_lists_the_fields_as_the_code_describes_them() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renewed(text) == text, "write it anew: python -m tests.test_formats"
    listed = {m[1] for m in MARKED.finditer(text)}
    assert listed == {
        "Record",
        "RunInfo",
        "Session",
        "Identity",
        "GitState",
        "Selection",
        "CellResults",
        "MetricResult",
    }


def test_what_is_written_has_the_fields_of_the_document_and_no_others(tmp_path: Path) -> None:
    folder = run(tmp_path).cell.stored
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, values in {
        "Record": next(iter(folder.records().values())).to_json(),
        "CellResults": folder.results.to_json(),
        "MetricResult": folder.results.metrics[0].to_json(),
    }.items():
        table = next(m[2] for m in MARKED.finditer(text) if m[1] == name)
        assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [
            key for key in values if key != "schema_version"
        ]


@pytest.fixture
def old(tmp_path: Path) -> CellFolder:
    """A copy of a cell that evalkit 0.1 left: four scored, one failed in each way."""
    shutil.copytree(OLD, tmp_path / "out")
    (cell,) = cells(tmp_path / "out")
    return cell


def test_results_of_0_1_are_read(old: CellFolder) -> None:
    records_ = old.records()
    assert [r.failed_in for r in records_.values() if not r.scored] == ["row", "scoring", "adapter"]
    assert len(old.scored()) == 4 and all(r.scores["anls"] == 1.0 for r in old.scored().values())
    assert (old.task, old.model, old.adapter) == ("docvqa:mini", "nano", "reference")
    assert old.results.partial and old.results.selection == Selection(first=(0, 6))
    frame = load_results(old.path.parents[2])
    assert frame["value"].tolist() == [100.0, 100.0]
    assert len(load_samples(old.path.parents[2])) == 7


def test_results_of_0_1_are_rescored_where_there_is_an_answer(
    old: CellFolder,
    recorded: Path,
) -> None:
    new, changed = rescore(old)
    assert (new.path, changed) == (old.path, 1)
    assert len(new.scored()) == 5 and new.results.n == 5


@pytest.fixture
def nano_cell(old: CellFolder, recorded: Path) -> Cell:
    adapter = make_adapter("reference", "nano", {})
    return Cell.make(load_task("docvqa"), adapter, "nano", old.path.parents[2])


def test_a_run_goes_on_with_a_cell_of_0_1(
    old: CellFolder, nano_cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nano_cell.stored.path == old.path
    monkeypatch.setattr(type(nano_cell.adapter), "generate", lambda *_: pytest.fail("asked"))
    ids = tuple(list(old.scored())[:3])
    outcome = run_cell(nano_cell, Selection(ids=ids), progress=False)
    assert (outcome.reused, outcome.made, outcome.stopped) == (3, 0, None)


def test_a_cell_of_0_1_is_not_taken_when_its_code_was_edited(nano_cell: Cell) -> None:
    edited = replace(nano_cell, identity=replace(nano_cell.identity, code={"adapter": "edited"}))
    assert not edited.stored.exists


def test_local_data_had_their_folder_in_the_identity_of_0_1(nano_cell: Cell) -> None:
    local = {"kind": "local", "config": None, "split": "val", "files": ["a"], "sha256": "ab"}
    identity = replace(nano_cell.identity, data={**local, "media": "cd"})
    before = identity_of_0_1(identity, Path("there/mine"))
    assert before is not None and before.data == {**local, "name": "mine"}
    task = load_task("docvqa")
    copy = EMBEDDED / "docvqa"  # files had names in the identity, too
    cell = Cell.make(task, nano_cell.adapter, "nano", nano_cell.output, copy)
    before = identity_of_0_1(cell.identity, copy)
    assert "files" not in cell.identity.data
    assert before is not None
    assert before.data["files"] == ["validation-00000-of-00001.parquet"]
    cut = replace(nano_cell.identity, data={**local, "rows": 5})
    assert identity_of_0_1(cut, None) is None


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
