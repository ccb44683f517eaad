"""Which module may import which: the arrows of docs/architecture.md, checked on the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "evalkit": ROOT / "evalkit",
    "evalkit.tasks": ROOT / "tasks",
    "evalkit.model_adapters": ROOT / "model_adapters",
}

# From the bottom up: a module imports its own layer and those above it in this list, never one
# further down. A name stands for the module and everything inside it.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "arguments",
        "errors",
        "bounds",
        "safe_text",
        "cache_dir",
        "digests",
        "formats",
        "timeline",
        "subtitles",
        "files",
        "index",
        "malloc",
        "names",
        "palette",
        "config_files",
        "stats",
        "metrics",
        "data",
        "probes",
    ),
    ("models", "engine"),
    ("types",),
    (
        *("media", "video_files", "prefetch", "patience", "pace"),
        *("plugin", "progress", "provenance", "code"),
    ),
    (
        *("task", "own", "own_values", "own_yaml", "adapter", "sources", "rows", "clips"),
        *("archives", "protocols"),
        *("multiple_choice", "yes_no", "submission", "asking", "controls"),
    ),
    ("tasks", "model_adapters", "nano", "pretrained"),
    (
        *("cell", "store", "journal", "contents", "places", "columns", "units", "gathering"),
        *("records", "run_info", "cell_results", "json_fields"),
    ),
    ("runner", "stream", "prompt_hash", "executor", "selection", "data_check", "lab", "imports"),
    ("results",),
    ("sweeps",),
    ("api", "plan", "evaluation", ""),
    ("cli", "serve", "__main__", "bench", "bench_page", "roofline", "integrations"),
)

# What else a package must not import, whatever the layers allow, and why.
BANS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("metrics", "stats"), ("files", "malloc", "config_files", "data"), "pure functions"),
    (("models", "engine"), ("config_files", "stats", "metrics"), "they know no harness"),
    (
        ("tasks", "task", "own", "own_values", "own_yaml", "sources", "rows", "clips"),
        ("adapter", "model_adapters", "models", "engine", "nano"),
        "a task never sees a model",
    ),
    (
        ("adapter", "model_adapters", "pretrained"),
        ("task", "tasks", "own", "own_values", "own_yaml", "sources", "rows", "clips", "metrics"),
        "an adapter never sees a metric or a task",
    ),
)
# who may import a model family by name
FAMILY_READERS = ("models", "model_adapters", "nano", "lab", "pretrained")
NO_TORCH = (
    "api cli engine.scheduler evaluation metrics models.switch plan results selection stats store "
    "sweeps task tasks types"
).split()


def sources() -> dict[str, str]:
    """The source of every module of evalkit, by its full name."""
    modules = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            modules[name] = path.read_text(encoding="utf-8")
    return modules


def imports(source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The full names of what a module imports, wherever in it; a name that is itself a module of
    ours counts as that module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module


def local(name: str) -> str:
    """``evalkit.metrics.anls`` -> ``metrics.anls``; the package itself is the empty name."""
    return name.removeprefix("evalkit").removeprefix(".")


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def layer(name: str) -> int | None:
    return next((i for i, packages in enumerate(LAYERS) if within(name, packages)), None)


def families(modules: Mapping[str, str]) -> tuple[str, ...]:
    """Packages under ``models`` that hold a configuration of their own."""
    names = [local(m) for m in modules]
    configs = [n for n in names if n.startswith("models.") and n.endswith(".config")]
    return tuple(n.removesuffix(".config") for n in configs)


def violations(modules: Mapping[str, str]) -> list[str]:
    """Each forbidden import, as ``importer imports imported: why``."""
    broken = []
    family = families(modules)
    for full, source in modules.items():
        name = local(full)
        here = layer(name)
        if here is None:
            broken.append(f"{name} is in no layer: name it in LAYERS")
            continue
        for imported in sorted(set(imports(source, modules))):
            heavy = within(imported, ("torch", "transformers")) and within(name, NO_TORCH)
            if heavy and not _waits(source, imported):
                broken.append(f"{name} imports {imported}: it is to start without it")
            if not within(imported, ("evalkit",)):
                continue
            target = local(imported)
            there = layer(target)
            if there is not None and there > here:
                broken.append(f"{name} imports {target}: a higher layer")
            for importers, banned, reason in BANS:
                if within(name, importers) and within(target, banned):
                    broken.append(f"{name} imports {target}: {reason}")
            if within(target, family) and not within(name, FAMILY_READERS):
                broken.append(f"{name} imports {target}: families go through the registry")
    return broken


def _waits(source: str, imported: str) -> bool:
    """Whether every import of ``imported`` waits inside a function or for a type checker."""
    top = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [a.name for n in top if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in top if isinstance(n, ast.ImportFrom)]
    return not any(within(n, (imported,)) for n in names)


def test_the_documented_layers_are_those_that_are_checked() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    columns = [re.findall(r"`(\S+?)(?:/|\.py)`", row.split("|")[2]) for row in table.splitlines()]
    assert [{n.replace("__init__", "") for n in names} for names in columns] == [
        set(names) for names in LAYERS
    ]


def test_no_module_imports_what_its_layer_must_not_know() -> None:
    assert violations(sources()) == []


@pytest.mark.parametrize(
    "importer, line",
    [
        ("metrics.new", "from evalkit.types import Sample"),
        ("metrics.new", "from evalkit import files"),
        ("stats", "import evalkit.results"),
        ("models.new.config", "from evalkit.task import Task"),
        ("engine.new", "from evalkit.models.qwen2_vl.model import Qwen2VL"),
        ("engine.new", "def late():\n    from evalkit.models.qwen2_vl import rope"),
        ("engine.scheduler", "import torch"),
        ("results.new", "from evalkit.models.qwen2_vl.switches import Switches"),
        ("cli.new", "import evalkit.models.qwen2_vl.config"),
        ("tasks.new", "from evalkit.adapter import ModelAdapter"),
        ("tasks.new", "from torch.nn import Module"),
        ("model_adapters.new", "from evalkit.metrics.anls import anls"),
        ("runner", "from evalkit.api import evaluate"),
        ("task", "if True:\n    from evalkit.runner import run_cell"),
        ("drawer.new", ""),
    ],
)
def test_a_forbidden_import_is_reported(importer: str, line: str) -> None:
    others = ("files", "results", "models.qwen2_vl.config", "models.qwen2_vl.rope")
    modules = {f"evalkit.{name}": "" for name in others} | {f"evalkit.{importer}": line}
    (reported,) = violations(modules)
    assert reported.startswith(importer)
