"""Edited code never gets the answers of other code: what code.py takes for a change."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evalkit import code
from evalkit.adapter import adapter_class, make_adapter
from evalkit.cell import Cell
from evalkit.code import changed, closure, code_of, module_file, renew
from evalkit.errors import UsageError
from evalkit.models.registry import FAMILIES
from evalkit.task import load_task

TASK = """
from evalkit.task import Metric, Subset, Task
from evalkit.metrics.anls import anls
from evalkit.sources import JsonLines
import helper
class Mine(Task):
    name = "mine"
    subsets = {"all": Subset(JsonLines("rows.jsonl"))}
    metrics = (Metric("a"),)
    def samples(self, row): return ()
    def score(self, sample, completion): return helper.x
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file that imports from its folder and from evalkit."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text("from deeper import x\n")
    (tmp_path / "deeper.py").write_text("x = 1\n")
    (tmp_path / "unrelated.py").write_text("")
    file = tmp_path / "mine.py"
    file.write_text(TASK)
    return file


def edit(path: Path, text: str = "# edited\n") -> None:
    path.write_text(path.read_text() + text)


def forget(recorded: Path, module: str) -> None:
    """Makes a module look edited."""
    value = json.loads(recorded.read_text())
    value["files"][module] = "another"
    recorded.write_text(json.dumps(value))


def test_the_recorded_versions_are_those_of_the_code() -> None:
    assert changed() == [], (
        "these modules can change an answer and were edited: "
        "run `python -m evalkit.code --same-answers` when all answers and scores stay as they "
        "were, --new-answers when one may differ"
    )


@pytest.mark.parametrize("file", ["mine.py", "helper.py", "deeper.py"])
def test_a_task_file_is_known_by_its_bytes_and_those_of_what_it_imports(
    plugin: Path, recorded: Path, file: str
) -> None:
    before = code_of(load_task(str(plugin)))
    edit(plugin.with_name("unrelated.py"))
    assert code_of(load_task(str(plugin))) == before
    edit(plugin.with_name(file))
    assert code_of(load_task(str(plugin))) != before


def test_a_task_file_is_another_one_when_what_it_uses_of_evalkit_was_edited(
    plugin: Path, recorded: Path
) -> None:
    before = code_of(load_task(str(plugin)))
    forget(recorded, "evalkit.metrics.anls")
    assert code_of(load_task(str(plugin))) != before


@pytest.mark.parametrize(
    ("file", "same"),
    [
        ("parts/adapter.py", False),
        ("parts/near.py", False),
        ("parts/again.py", False),
        ("far.py", False),
        ("unrelated.py", True),
    ],
)
def test_an_adapter_of_a_package_that_is_not_installed_is_known_by_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Path, file: str, same: bool
) -> None:
    package = tmp_path / "mine"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__.py", "far.py", "unrelated.py", "parts/again.py", "parts/__init__.py"):
        (package / name).write_text("")
    (package / "parts" / "near.py").write_text("from . import again\n")
    (package / "parts" / "adapter.py").write_text(
        "import mine.far\nfrom .near import again\nclass Mine: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    plugin = importlib.import_module("mine.parts.adapter").Mine()
    before = code_of(plugin)
    edit(package / file)
    assert (code_of(plugin) == before) is same


def test_a_task_file_beside_a_clone_of_evalkit_does_not_hash_the_clone(
    plugin: Path, recorded: Path
) -> None:
    before = code_of(load_task(str(plugin)))
    (plugin.parent / "evalkit").mkdir()
    (plugin.parent / "evalkit" / "task.py").write_text("")
    assert code_of(load_task(str(plugin))) == before


NOTEBOOK = """
def helper(text):
    return text.strip()
class Mine:
    rows = object()
    def score(self, sample, completion):
        return [helper(t) for t in completion]
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("text.strip()", "text.lower()", False),
        ("[helper(t)", "[2 * helper(t)", False),
        ("def score", "def scores", False),
        ("rows = object()", "rows = object()  # a comment", True),
    ],
)
def test_a_class_of_a_notebook_is_known_by_what_it_runs(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, same: bool
) -> None:
    def run(text: str) -> str:
        module = ModuleType("notebook")
        monkeypatch.setitem(sys.modules, "notebook", module)
        exec(text, vars(module))
        return code_of(module.Mine())

    assert (run(NOTEBOOK.replace(old, new)) == run(NOTEBOOK)) is same


def test_line_ends_are_no_change(plugin: Path, recorded: Path) -> None:
    before = code_of(load_task(str(plugin)))
    plugin.write_bytes(plugin.read_bytes().replace(b"\n", b"\r\n"))
    assert code_of(load_task(str(plugin))) == before


def test_released_code_of_the_first_version_adds_nothing(recorded: Path) -> None:
    assert code_of(load_task("docvqa")) == ""


@pytest.mark.parametrize(
    ("task", "module", "same"),
    [
        ("docvqa", "evalkit.metrics.anls", False),
        ("docvqa", "evalkit.sources", False),
        ("docvqa", "evalkit.tasks.docvqa", False),
        ("docvqa", "evalkit.metrics.boxes", True),
        ("refcoco", "evalkit.metrics.boxes", False),
        ("docvqa", "evalkit.engine.engine", True),
    ],
)
def test_an_edit_makes_another_task_only_where_it_can_change_a_score(
    recorded: Path, task: str, module: str, same: bool
) -> None:
    forget(recorded, module)
    assert (code_of(load_task(task)) == "") is same


def test_every_part_of_a_model_counts_for_its_adapter(recorded: Path) -> None:
    modules = [adapter_class("reference").__module__, *FAMILIES.values()]
    files = closure(modules)
    for name in ("engine.cache", "models.qwen2_vl.rope", "models.qwen2_vl.positions", "media"):
        assert f"evalkit.{name}" in files
    assert not any(name.startswith(("evalkit.tasks", "evalkit.results")) for name in files)


@pytest.mark.parametrize(
    "module", ["models.qwen2_vl.rope", "engine.decode", "media", "tasks.docvqa", "metrics.anls"]
)
def test_an_edit_of_what_makes_an_answer_or_a_score_makes_another_cell(
    tmp_path: Path, recorded: Path, module: str
) -> None:
    adapter = make_adapter("reference", "nano", {})
    before = Cell.make(load_task("docvqa"), adapter, "nano", tmp_path)
    forget(recorded, f"evalkit.{module}")
    after = Cell.make(load_task("docvqa"), adapter, "nano", tmp_path)
    assert before.identity.code == {} and after.folder != before.folder


def test_a_raised_version_is_part_of_the_identity(recorded: Path) -> None:
    value = json.loads(recorded.read_text())
    value["versions"]["evalkit.model_adapters.reference"] = 2
    recorded.write_text(json.dumps(value))
    assert code_of(object.__new__(adapter_class("reference"))) == "version 2"


def test_new_answers_raise_the_versions_of_what_imports_the_edited_module(recorded: Path) -> None:
    forget(recorded, "evalkit.engine.cache")
    assert changed() == ["evalkit.engine.cache"]
    renew(new_answers=True)
    versions = json.loads(recorded.read_text())["versions"]
    assert versions["evalkit.model_adapters.reference"] == 2
    assert versions["evalkit.model_adapters.transformers"] == 1
    assert changed() == []


def test_new_scores_need_a_raised_version_of_the_task(recorded: Path) -> None:
    forget(recorded, "evalkit.metrics.anls")
    with pytest.raises(UsageError, match="raise `version` of these tasks first: docvqa"):
        renew(new_answers=True)


def test_an_installation_that_misses_a_task_records_nothing(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, every = recorded.read_bytes(), code.entry_points
    monkeypatch.setattr(
        code, "entry_points", lambda group: [e for e in every(group=group) if e.name != "textvqa"]
    )
    with pytest.raises(UsageError, match=r"plugins: evalkit\.tasks\.textvqa; .* install evalkit"):
        renew(new_answers=False)
    assert recorded.read_bytes() == before


def test_the_command_says_what_was_edited(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code.main([]) == 0
    forget(recorded, "evalkit.media")
    assert code.main([]) == 1
    assert "evalkit.media\n" in capsys.readouterr().out
    assert code.main(["--same-answers"]) == 0
    assert code.main([]) == 0


def test_modules_are_found_without_being_imported() -> None:
    for name in ("evalkit.models.qwen2_vl.rope", "evalkit.tasks.docvqa", "evalkit.metrics"):
        file = module_file(name)
        assert file is not None and file.is_file()
    assert module_file("evalkit.nothing") is None and module_file("numpy") is None
