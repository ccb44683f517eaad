"""A study's folder, read back: what its page and tables say, for the page of results to draw.

Needs no torch: whoever looks at a study did not necessarily train it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import DataError
from evalkit.files import regular

PAGE, EFFECTS, SCORES, CURVES = "README.md", "effects.csv", "scores.csv", "curves.csv"


@dataclass(frozen=True)
class StoredEffect:
    """An arm against the baseline: NLL in nats an answer, with an interval at 95 % of its own."""

    arm: str
    baseline: str
    condition: str
    kind: str
    difference: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class StoredScore:
    """Share of right answers of an arm, the mean over seeds."""

    arm: str
    condition: str
    kind: str
    right: float
    seeds: int


@dataclass(frozen=True)
class StoredPoint:
    """NLL in training, in nats: the mean over seeds and over the steps since the point before."""

    arm: str
    kind: str
    step: int
    nll: float


@dataclass(frozen=True)
class StoredStudy:
    """What lies in a study's folder."""

    name: str
    question: str
    sentences: tuple[str, ...]
    """What came of it, a sentence a hypothesis, without markup."""
    hypotheses: tuple[tuple[str, ...], ...]
    """The table of hypotheses, its heads first, without markup; empty where none were stated."""
    as_stated: str
    """The heading of that table: whether they were stated before the run."""
    effects: tuple[StoredEffect, ...]
    scores: tuple[StoredScore, ...]
    curves: tuple[StoredPoint, ...]
    """Empty for a study whose page was written before evalkit kept them."""


def study_folders(output: Path) -> list[Path]:
    """The folders of studies that an output folder is, or holds, or that lie in its ``lab``."""
    found = (p for at in ("", "*/", "lab/*/") for p in output.glob(f"{at}{EFFECTS}"))
    return sorted({p.parent for p in found if (p.parent / SCORES).is_file()})


def stamp(output: Path) -> str:
    """What changes when a study's tables do; empty where there is no study."""
    folders = study_folders(output)
    newest = max(((f / EFFECTS).stat().st_mtime_ns for f in folders), default=0)
    return f"{len(folders)}/{newest}" if folders else ""


def load_studies(output: Path) -> tuple[list[StoredStudy], list[str]]:
    """The studies under an output folder, and why others can't be read."""
    found, faults = [], []
    for folder in study_folders(output):
        try:
            found.append(load_study(folder))
        except DataError as e:
            faults.append(str(e))
    return found, faults


def load_study(folder: Path) -> StoredStudy:
    """Raises DataError for a file that is missing or is not as ``evalkit study`` writes it."""
    try:
        page = _text(folder / PAGE).splitlines()
        effects = tuple(
            StoredEffect(
                row["arm"],
                row["baseline"],
                row["condition"],
                row["kind"],
                float(row["difference"]),
                float(row["ci_low"]),
                float(row["ci_high"]),
                int(row["seeds"]),
            )
            for row in _rows(folder / EFFECTS)
        )
        curves = tuple(
            StoredPoint(row["arm"], row["kind"], int(row["step"]), float(row["nll"]))
            for row in (_rows(folder / CURVES) if (folder / CURVES).is_file() else ())
        )
        name = next(line[2:] for line in page if line.startswith("# "))
        return _with_page(name, page, effects, _scores(folder / SCORES), curves)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, csv.Error) as e:
        raise DataError(f"{folder}: is not as `evalkit study` writes it: {e!r:.200}") from e


def _with_page(
    name: str,
    page: list[str],
    effects: tuple[StoredEffect, ...],
    scores: tuple[StoredScore, ...],
    curves: tuple[StoredPoint, ...],
) -> StoredStudy:
    """With what the page says above and below its first heading of the second level."""
    headings = [i for i, line in enumerate(page) if line.startswith("## ")]
    title = page.index(f"# {name}")
    above = page[title + 1 : headings[0]]
    below = page[headings[0] + 1 : headings[1]]
    said = [line.replace("**", "").strip() for line in above if line.strip()]
    cells = [line.strip("|").split("|") for line in below if line.startswith("|")]
    table = [tuple(cell.replace("**", "").strip() for cell in row) for row in cells]
    if table:  # a study may state no hypothesis
        heads, _, *rows = table
        table = [("hypothesis", *heads[1:-1], "verdict"), *rows]
    return StoredStudy(
        name,
        " ".join(line for line in said if not line.startswith("- ")),
        tuple(line[2:] for line in said if line.startswith("- ")),
        tuple(table),
        page[headings[0]][3:],
        effects,
        scores,
        curves,
    )


def _scores(path: Path) -> tuple[StoredScore, ...]:
    """The means over seeds, of the study's own learning rates."""
    right: dict[tuple[str, str, str], list[float]] = {}
    for row in _rows(path):
        if float(row["rate"]) == 1:
            key = (row["arm"], row["condition"], row["kind"])
            right.setdefault(key, []).append(float(row["right"]))
    return tuple(StoredScore(*key, sum(v) / len(v), len(v)) for key, v in right.items())


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return iter(csv.DictReader(_text(path).splitlines()))


def _text(path: Path) -> str:
    with regular(path) as file:
        return file.read().decode("utf-8", "replace")
