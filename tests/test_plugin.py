"""Plugins given as a file."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from evalkit import plugin as plugin_module
from evalkit.adapter import make_adapter
from evalkit.cli.main import main
from evalkit.errors import UsageError
from evalkit.plugin import classes_in
from evalkit.task import load_task

TASK = """
from evalkit import Metric, Subset, Task
from evalkit.sources import JsonLines

class Mine(Task):
    name = "mine"
    metrics = (Metric("m"),)
    subsets = {"all": Subset(JsonLines("rows.jsonl"))}

    def samples(self, row):
        yield

    def score(self, sample, completion):
        pass
"""
ADAPTER = """
from evalkit import ModelAdapter

class Mine(ModelAdapter):
    name = "mine"

    def __init__(self, model, *, url="x"):
        pass

    @property
    def fingerprint(self):
        return {}

    def generate(self, requests):
        yield
"""


def plugin(folder: Path, value: int) -> Path:
    """A file with a class ``A`` whose ``value`` comes from a file beside it."""
    folder.mkdir()
    (folder / "helpers.py").write_text(f"import json\nvalue = {value}\n")
    (folder / "plugin.py").write_text("import helpers\nclass A:\n    value = helpers.value\n")
    return folder / "plugin.py"


def test_two_plugins_may_each_import_a_file_of_one_name_beside_them(tmp_path: Path) -> None:
    (a,) = classes_in(plugin(tmp_path / "one", 1), object)
    (b,) = classes_in(plugin(tmp_path / "two", 2), object)
    assert (a.value, b.value) == (1, 2)
    assert "helpers" not in sys.modules and "json" in sys.modules
    assert str(tmp_path / "one") not in sys.path


def test_a_file_that_imports_what_there_is_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UsageError, match=r"p\.py: can't be imported: ModuleNotFoundError"):
        classes_in(tmp_path / "p.py", object)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("class Mine(Task):", "class Mine:", "expected one class derived from evalkit.Task"),
        ("def score", "def scores", "Mine lacks score"),
        ('name = "mine"', "", "Mine lacks name"),
        ("subsets = ", "subset = ", "Mine lacks subsets"),
        ("metrics = ", "metric = ", "mine:all: expected metrics such as"),
        ('(Metric("m"),)', '(Metric("m"))', "mine:all: expected metrics such as"),
        ('(Metric("m"),)', '("m",)', "mine:all: expected metrics such as"),
        ('Subset(JsonLines("rows.jsonl"))', 'JsonLines("rows.jsonl")', "expected a Subset of a"),
        ('JsonLines("rows.jsonl")', '"rows.jsonl"', "expected a Subset of a source"),
        ('{"all": Subset(JsonLines("rows.jsonl"))}', "{}", "it has: none"),
    ],
)
def test_a_task_that_is_declared_wrongly_is_told_what_it_lacks(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    file = tmp_path / "task.py"
    file.write_text(TASK)
    assert load_task(str(file)).full_name == "mine:all"
    file.write_text(TASK.replace(old, new))
    with pytest.raises(UsageError, match=told):
        load_task(str(file))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("(ModelAdapter)", "", "expected one class derived from evalkit.ModelAdapter, found none"),
        ("def fingerprint", "def print", "Mine lacks fingerprint"),
        ('name = "mine"', "", "Mine lacks name"),
        ('url="x"', "url", "missing a required argument: 'url'"),
        ('model, *, url="x"', "", "too many positional arguments"),
    ],
)
def test_an_adapter_that_is_declared_wrongly_is_told_what_it_lacks(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    file = tmp_path / "adapter.py"
    file.write_text(ADAPTER)
    assert make_adapter(str(file), "m", {}).name == "mine"
    file.write_text(ADAPTER.replace(old, new))
    with pytest.raises(UsageError, match=told):
        make_adapter(str(file), "m", {})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("nothing_of_that_name:Mine", "can't be imported: ModuleNotFoundError"),
        ("json:Mine", "can't be imported: AttributeError"),
        ("json:JSONDecoder", "expected a class derived from evalkit."),
    ],
)
def test_a_broken_plugin_of_a_package_costs_the_others_nothing(
    value: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    groups = [f"[evalkit.{g}]\nmine = {value}\n" for g in ("tasks", "model_adapters")]
    (about / "entry_points.txt").write_text("".join(groups))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugin_module, "_entries", entry_points)
    said = f"mine ({value} of broken): {why}"
    assert main(["tasks"]) == 1
    shown = capsys.readouterr()
    assert "docvqa" in shown.out and said in shown.err
    for command in (["run", "mine"], ["run", "docvqa", "--adapter", "mine", "--limit", "1"]):
        assert main(command) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["task.samples", "task.score", "adapter.generate"])
def test_an_error_in_a_file_of_ones_own_names_its_line(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, _, method = broken.partition(".")
    (tmp_path / "rows.jsonl").write_text('{"question": "?"}\n')
    task = TASK.replace("rows.jsonl", str(tmp_path / "rows.jsonl"))
    task = task.replace("import Metric", "import Message, Metric, Sample, Text")
    task = task.replace(
        "yield", 'yield Sample(messages=(Message("user", (Text("?"),)),), target="?")'
    )
    answers = 'yield from (Completion(r.id, "x") for r in requests)'
    adapter = ADAPTER.replace("import Model", "import Completion, Model").replace("yield", answers)
    files = {"task": task, "adapter": adapter}
    lines = files[where].splitlines()
    at = next(i for i, line in enumerate(lines) if f"def {method}" in line) + 1
    lines[at] = "        yield len(1)" if method != "score" else "        return len(1)"
    files[where] = "\n".join(lines)
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    run = ["run", str(tmp_path / "task.py"), "--adapter", str(tmp_path / "adapter.py")]
    assert main([*run, "--model", "m", "--output", str(tmp_path / "results")]) == 1
    assert f"has no len() ({where}.py, line {at + 1})" in capsys.readouterr().err
