"""The code that makes answers and scores, as a part of a cell's identity.

Released code is known by its version: ``code_versions.json`` holds the SHA-256 and the imports of
every module that can change an answer or a score, and a version of each adapter and model family (a
task has its own, ``Task.version``). While a module's file has the recorded hash, a cell's identity
carries that version alone, and nothing while it is 1. Where somebody edited a file, the identity
carries the hash, so that answers of other code are never taken for those of this one. A task or an
adapter that is given as a file is known by its bytes and those of the files that it imports from
its folder.

``python -m evalkit.code`` says which modules were changed since they were recorded;
``--same-answers`` records them as they are, ``--new-answers`` also raises the versions.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

from evalkit.errors import UsageError
from evalkit.files import replace_json

ANSWER_MAKING = tuple(
    f"evalkit.{name}"
    for name in (
        "models engine media video_files timeline subtitles model_adapters tasks metrics "
        "multiple_choice yes_no protocols own own_values sources rows clips archives formats nano "
        "probes lab pretrained controls integrations.lmms_tasks"
    ).split()
)
"""Modules and packages whose code can change an answer or a score."""
LAB = "evalkit.lab.trainer"
"""The module whose runs studies keep."""
STACKED = "evalkit.lab.stacked"
"""The module that trains them in stacks."""
FINETUNE = "evalkit.lab.finetune"
"""The module that trains those that start from a checkpoint."""
OWN = "evalkit.own"
"""The module of the tasks that are given as data."""
CONTROLS = "evalkit.controls"
"""The module that changes requests."""
LMMS_TASKS = "evalkit.integrations.lmms_tasks"
"""The module that runs lmms-eval's tasks."""
RECORDED = Path(__file__).with_name("code_versions.json")


def code_of(plugin: object, modules: Sequence[str] = ()) -> str:
    """What identifies the code of a task or an adapter beside its release: empty for unchanged code
    of version 1. ``modules`` are further ones that it runs, by their full names.
    """
    names = dict.fromkeys((type(plugin).__module__, *modules))
    parts: dict[str, str] = {}
    for name in names:
        if name.split(".")[0] == "evalkit":
            parts |= _changes(name)
        else:
            parts |= _unreleased(name, type(plugin))
    return _joined(parts)


def code_of_module(name: str) -> str:
    """The same for a module of evalkit and all that it imports."""
    return _joined(_changes(name))


@lru_cache(maxsize=8)
def source_of_module(name: str) -> str:
    """The source of a module of evalkit and of all that it imports, whatever was recorded of it: as
    it was when this process first asked.
    """
    files = sorted(closure([name]).items())
    text = "".join(f"{name}: {_hash(file)}\n" for name, file in files)
    return hashlib.sha256(text.encode()).hexdigest()


def _changes(name: str) -> dict[str, str]:
    """What is not as in the first version of a module of evalkit: hashes of edited files, and the
    version that was recorded.
    """
    version = _recorded()["versions"].get(name, 1)
    return _edited(closure([name])) | ({name: f"version {version}"} if version > 1 else {})


def _joined(parts: dict[str, str]) -> str:
    if len(parts) == 1:
        return next(iter(parts.values()))
    text = "".join(f"{name}: {value}\n" for name, value in sorted(parts.items()))
    return hashlib.sha256(text.encode()).hexdigest() if parts else ""


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """The answer-making modules of evalkit among these and all that they import, directly or not,
    with their files.
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files or not _makes_answers(name) or (file := module_file(name)) is None:
            continue
        files[name] = file
        waiting += _known_imports(file, name)
    return files


def _known_imports(file: Path, name: str) -> Iterable[str]:
    """What a module of evalkit imports of the answer-making ones: as it was recorded where the file
    is as it was then, since parsing some forty files would take most of a second of every run.
    """
    recorded = _recorded()
    if name in recorded["imports"] and recorded["files"].get(name) == _hash(file):
        return recorded["imports"][name]
    return filter(_makes_answers, _imports(file, name))


def module_file(name: str) -> Path | None:
    """The file of a module of evalkit, found without importing it; None when there is none."""
    package = next((p for p in _folders() if name == p or name.startswith(f"{p}.")), None)
    if package is None:
        return None
    path = _folders()[package].joinpath(*name.removeprefix(package).strip(".").split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@lru_cache(maxsize=1)
def _folders() -> dict[str, Path]:
    """Folders of evalkit's packages; tasks and adapters may lie elsewhere. Longest names first."""
    folders = {}
    for name in ("evalkit.model_adapters", "evalkit.tasks", "evalkit"):
        spec = find_spec(name)
        if spec and spec.submodule_search_locations:
            folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders


def _makes_answers(name: str) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in ANSWER_MAKING)


def _edited(files: dict[str, Path]) -> dict[str, str]:
    """The hashes of those files that are not as they were recorded."""
    known = _recorded()["files"]
    hashes = {name: _hash(file) for name, file in files.items()}
    return {name: value for name, value in hashes.items() if known.get(name) != value}


def _unreleased(name: str, cls: type) -> dict[str, str]:
    """Hashes of the code of a module outside evalkit: of its file, of what that imports from its
    folder or package, and of what is edited in the part of evalkit that it imports. Nothing for an
    installed package, which has releases. In a notebook, where there is no file, of what the class
    runs.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return {name: _hash_of_class(cls)}
    path = Path(file)
    if any(path.is_relative_to(sysconfig.get_path(key)) for key in ("purelib", "platlib")):
        return {}
    # The folder that the module's full name begins in: of `mine.parts.adapter` two above its own.
    root = path.parents[min(name.count(".") + (path.name == "__init__.py"), len(path.parents) - 1)]
    hashes: dict[str, str] = {}
    of_evalkit: set[str] = set()
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if (key := str(one.relative_to(root))) in hashes:
            continue
        hashes[key] = _hash(one)
        for imported in _imports(one, ".".join(one.relative_to(root).with_suffix("").parts)):
            if imported.split(".")[0] == "evalkit":
                of_evalkit.add(imported)
                continue
            base = root.joinpath(*imported.split("."))
            waiting += [f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()]
    return hashes | _edited(closure(of_evalkit))


def _hash_of_class(cls: type) -> str:
    """SHA-256 of the compiled methods of a class without a file, and of the functions of its module
    that they call.
    """
    classes = [c for c in cls.__mro__ if c.__module__ == cls.__module__]
    waiting = [m for c in classes for m in vars(c).values()]
    texts: dict[str, str] = {}
    while waiting:
        item = waiting.pop()
        function = getattr(item, "__func__", getattr(item, "fget", item))
        if not inspect.isfunction(function) or function.__qualname__ in texts:
            continue
        names: list[str] = []
        texts[function.__qualname__] = _text(function.__code__, names)
        called = (function.__globals__.get(name) for name in names)
        waiting += [f for f in called if getattr(f, "__module__", None) == cls.__module__]
    return hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()


def _text(code: CodeType, names: list[str]) -> str:
    """Compiled code as text that is the same in every process; ``names`` takes what it looks up."""
    names += code.co_names
    inner = [
        _text(c, names)
        if isinstance(c, CodeType)
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def _hash(file: Path) -> str:
    return hashlib.sha256(_source(str(file), *_state(file))).hexdigest()


def _imports(file: Path, module: str) -> Iterator[str]:
    """Full names of what a module imports; of ``from a import b`` both ``a`` and ``a.b``, since the
    second may be a module.
    """
    if file.name == "__init__.py":
        package = module.removesuffix("__init__").rstrip(".")
    else:
        package = module.rpartition(".")[0]
    for level, name in _import_statements(str(file), *_state(file)):
        if not level:
            yield name
        else:
            parents = package.split(".") if package else []
            yield ".".join((*parents[: len(parents) - level + 1], *filter(None, [name])))


def _state(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns, file.stat().st_size


@lru_cache(maxsize=4096)
def _source(file: str, mtime_ns: int, size: int) -> bytes:
    """The bytes of a source file, its line ends as on Unix."""
    return Path(file).read_bytes().replace(b"\r\n", b"\n")


@lru_cache(maxsize=4096)
def _import_statements(file: str, mtime_ns: int, size: int) -> tuple[tuple[int, str], ...]:
    """(dots, name) of what a source file imports."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(_source(file, mtime_ns, size))):
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names.append((node.level, base))
            names += [(node.level, f"{base}.{a.name}".strip(".")) for a in node.names]
    return tuple(dict.fromkeys(names))


def _recorded() -> dict[str, dict[str, Any]]:
    return _parsed(RECORDED, *_state(RECORDED))


@lru_cache(maxsize=1)
def _parsed(path: Path, mtime_ns: int, size: int) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def roots() -> tuple[list[str], dict[str, str]]:
    """The modules of the installed adapters, the model families, the lab's training, controls, and
    the modules of the installed tasks by the tasks' names; evalkit's own only.
    """
    from evalkit.models.registry import FAMILIES

    def own(group: str) -> dict[str, str]:
        found = {e.name: e.value.partition(":")[0] for e in entry_points(group=group)}
        return {k: v for k, v in sorted(found.items()) if v.startswith("evalkit.")}

    adapters = own("evalkit.model_adapters").values()
    others = [*FAMILIES.values(), LAB, STACKED, FINETUNE, OWN, CONTROLS, LMMS_TASKS]
    return list(dict.fromkeys([*adapters, *others])), own("evalkit.tasks")


def _own_plugins() -> set[str]:
    """The modules of evalkit's tasks and adapters that there are, installed or not."""
    packages = {name: folder for name, folder in _folders().items() if name != "evalkit"}
    return {
        f"{name}.{file.stem}"
        for name, folder in packages.items()
        for file in folder.glob("*.py")
        if file.stem != "__init__"
    }


def changed() -> list[str]:
    """The modules that are not as they were recorded, or are recorded and gone."""
    adapters, tasks = roots()
    files = closure([*adapters, *tasks.values()])
    return sorted({*_edited(files), *(_recorded()["files"].keys() - files.keys())})


def renew(new_answers: bool) -> None:
    """Records the code as it is. With ``new_answers`` the version of every adapter and family that
    imports a changed module is raised; the tasks that do must have raised theirs. Raises UsageError
    with those that have not, and where the installation does not know every task and adapter.
    """
    adapters, tasks = roots()
    if hidden := sorted(_own_plugins() - closure([*adapters, *tasks.values()]).keys()):
        raise UsageError(
            f"not among the installed plugins: {', '.join(hidden)}; the installation is older than "
            "the source, and its record would leave them out: install evalkit again first"
        )
    before, affected = _recorded(), set(changed())
    versions = {name: before["versions"].get(name, 1) for name in adapters}
    installed = entry_points(group="evalkit.tasks")
    task_versions = {e.name: e.load().version for e in installed if e.name in tasks}
    if new_answers:
        for name in versions:
            versions[name] += bool(affected & closure([name]).keys())
        stale = [
            name
            for name, module in tasks.items()
            if affected & closure([module]).keys()
            and task_versions[name] <= before["tasks"].get(name, 0)
        ]
        if stale:
            raise UsageError(f"raise `version` of these tasks first: {', '.join(stale)}")
    files = closure([*adapters, *tasks.values()])
    replace_json(
        RECORDED,
        {
            "versions": versions,
            "tasks": task_versions,
            "files": {name: _hash(file) for name, file in sorted(files.items())},
            "imports": {
                name: sorted(i for i in _imports(file, name) if i in files)
                for name, file in sorted(files.items())
            },
        },
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m evalkit.code``. Exit code 1 when there are changes that were not recorded."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.code", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--same-answers", action="store_true", help="record the code as it is")
    group.add_argument("--new-answers", action="store_true", help="record it and raise versions")
    args = parser.parse_args(argv)
    names = changed()
    for name in names:
        print(name)
    if not names:
        print("the code is as it was recorded")
    if args.same_answers or args.new_answers:
        try:
            renew(args.new_answers)
        except UsageError as e:
            print(e, file=sys.stderr)
            return 1
    elif names:
        print(
            "changed since they were recorded: say `python -m evalkit.code --same-answers` when "
            "every answer and score stays as it was, --new-answers when one may differ"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
