"""Plugins given as a Python file instead of an installed package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TypeVar

from evalkit.errors import UsageError

T = TypeVar("T")


def classes_in(path: Path, base: type[T]) -> list[type[T]]:
    """The subclasses of ``base`` that a file defines. Raises UsageError when there is no such file, or it can't be imported."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"evalkit_plugin_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise UsageError(f"{path}: can't be imported: {type(e).__name__}: {e}") from e
    return [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == spec.name]
