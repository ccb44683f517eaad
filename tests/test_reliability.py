"""Each row of docs/reliability.md names a test, or a benchmark, that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_row_is_shown_by_a_test_or_a_benchmark_that_exists() -> None:
    for row in rows():
        named = re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", row[-1])
        assert len(row) == 8 and named, row
        for file, test in named:
            folder = ROOT if file.startswith("benchmarks/") else ROOT / "tests"
            source = (folder / file).read_text(encoding="utf-8")
            assert f"def {test}(" in source if test else source, f"{file}::{test}"


def test_nothing_that_was_scored_is_lost_or_doubled_in_any_row() -> None:
    assert {(row[3], row[4]) for row in rows()} == {("0", "0")}
