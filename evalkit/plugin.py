"""Plugins: those of installed packages, by entry point, and those given as a Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import TypeVar

from evalkit.errors import PLUGIN, UsageError, reason

T = TypeVar("T")


_entries = cache(entry_points)
"""Read once a process: each reading opens a file of every installed package."""


def installed(group: str) -> EntryPoints:
    """The entry points of a group, of what was installed when they were first asked for."""
    return _entries().select(group=group)


def load(entry: EntryPoint, base: type[T]) -> type[T]:
    """The subclass of ``base`` that an installed package offers. Raises UsageError that names the
    package where it can't be imported, or is none.
    """
    package = f" of {entry.dist.name}" if entry.dist else ""
    where = f"{entry.name} ({entry.value}{package})"
    try:
        loaded = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # also an exit
        raise UsageError(f"{where}: can't be imported: {reason(e)}") from e
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UsageError(f"{where}: expected a class derived from evalkit.{base.__name__}")
    return loaded


def unknown(kind: str, name: str, known: Iterable[str], file: str) -> UsageError:
    """The error for a name that no plugin of this kind has: the nearest of those that there are,
    all of them, and what a ``file`` in place of a name looks like.
    """
    there = sorted(known)
    close = get_close_matches(name.lower(), there, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return UsageError(
        f"unknown {kind} {name!r}; {hint}known: {', '.join(there)}; or give a file: {file}"
    )


def classes_in(path: Path, base: type[T]) -> list[type[T]]:
    """The subclasses of ``base`` that a file defines. Raises UsageError when there is no such file,
    or it can't be imported.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    name = PLUGIN + hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with _beside(path.resolve().parent):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # also an exit
        raise UsageError(f"{path}: can't be imported: {reason(e)}") from e
    return [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, base) and v.__module__ == spec.name
    ]


def class_in(path: Path, base: type[T]) -> type[T]:
    """The one subclass of ``base`` that a file defines, with all that a subclass must define.
    Raises UsageError where there is none, or several.
    """
    found = classes_in(path, base)
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found)
        raise UsageError(
            f"{path}: expected one class derived from evalkit.{base.__name__}, found "
            f"{names or 'none'}"
        )
    missing = sorted(getattr(found[0], "__abstractmethods__", ()))
    missing += [] if hasattr(found[0], "name") else ["name"]
    if missing:
        raise UsageError(f"{path}: {found[0].__name__} lacks {', '.join(missing)}")
    return found[0]


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Lets a plugin import, at its top, the files that lie beside it.

    They are forgotten by name afterwards: another plugin's ``helpers.py`` is another module.
    """
    if str(folder) in sys.path:
        yield
        return
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            place = folder / name.split(".")[0]
            file = Path(getattr(sys.modules[name], "__file__", None) or "")
            if file == place.with_suffix(".py") or file.is_relative_to(place):
                del sys.modules[name]


def file_of(plugin: object) -> Path | None:
    """The file that the plugin was given as; None for an installed one. Such a file has no release,
    so its bytes are its version.
    """
    module = sys.modules[type(plugin).__module__]
    return Path(str(module.__file__)) if module.__name__.startswith(PLUGIN) else None
