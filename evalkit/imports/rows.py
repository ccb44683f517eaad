"""What the readers of all harnesses share: rows of a file, and what a cell of one holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from evalkit.errors import DataError
from evalkit.sources.own import lines_of

T = TypeVar("T")
ID_NAMES = ("questionId", "question_id", "id", "qid")
"""What data sets call the name of a question."""


def rows_of(file: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows, and what is said of those that can't be read."""
    rows, remarks = [], []
    for line in lines_of(file):
        if isinstance(line, Mapping):
            rows.append(line)
        else:
            remarks.append(str(line))
    return rows, remarks


def json_object(file: Path) -> Mapping[str, Any]:
    """What stands in a file beside the answers; nothing where it can't be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def unless_scored(
    read: Callable[[], T], theirs: Mapping[str, float], where: str, remarks: list[str]
) -> T | None:
    """What is read of a row's right answer. Where it can't be, None if the file scored the row
    itself, and a remark: its score counts all the same. Raises DataError otherwise.
    """
    try:
        return read()
    except DataError as e:
        if not theirs:
            raise
        remarks.append(f"{where}: {e}: only the file's own score counts")
        return None


def as_number(value: Any) -> float | None:
    """A finite number, or yes and no as 1 and 0; None for anything else."""
    if isinstance(value, str):
        try:
            value = float({"true": 1, "false": 0}.get(value.lower(), value))
        except ValueError:
            return None
    if hasattr(value, "item"):
        value = value.item()
    is_number = isinstance(value, bool | int | float) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None
