"""Plugins given as a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evalkit.errors import UsageError
from evalkit.plugin import classes_in


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
