"""What a sweep came to, as values: they go into the sweep's page, into its tables and pictures,
and, through a JSON file beside these, into the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.files import replace_json
from evalkit.results.interactions import Interaction
from evalkit.results.pairs import PairedScores, Verdict
from evalkit.store import CellFolder

SCHEMA_VERSION = 3
"""2 has no interactions, and is read."""


class Kind(StrEnum):
    """What a cell of a sweep is, beside the one that it is compared with."""

    BASELINE = "baseline"
    TRAINED = "trained arm"
    """Other weights, run as they were trained."""
    PROBE = "inference probe"
    """Weights run as they were not trained."""
    SAME = "same weights"
    """The baseline's weights, run as they were trained."""


@dataclass(frozen=True)
class Arm:
    """A cell of a sweep on disk, and the one that it is compared with."""

    settings: str
    """Its settings in words."""
    against: str
    """Those of its baseline."""
    cell: CellFolder
    baseline: CellFolder


@dataclass(frozen=True)
class Finding:
    """The headline score of one cell of a sweep, beside its baseline's."""

    task: str
    settings: str
    kind: Kind
    against: str
    """The baseline's settings in words."""
    metric: str
    value: float
    """The cell's score, over all of its samples."""
    ci_low: float | None
    """Lower end of the score's 95 % interval over clusters."""
    ci_high: float | None
    """Upper end of it."""
    n: int
    """Samples with a score."""
    scores: PairedScores | None
    """The two on their common samples; None for a baseline, and where there are none."""
    p_holm: float | None
    """The p-value by Holm's correction over the sweep; None where there is nothing to test."""
    mde: float | None
    """The minimum detectable effect at 0.05 corrected for the number of tests in the sweep."""
    visual_tokens: float | None
    """Mean of a sample's visual tokens."""
    seconds: float
    """Wall-clock time of the cell's last run."""
    cell: str
    """Name of the cell's folder."""

    @property
    def verdict(self) -> Verdict:
        return Verdict.NONE if self.scores is None else self.scores.verdict(self.p_holm)

    @property
    def significant(self) -> bool:
        """Whether a difference was found: by the corrected test, and by its interval."""
        return self.verdict in (Verdict.HIGHER, Verdict.LOWER)


@dataclass(frozen=True)
class Drawn:
    """A number over the several answers of each sample of a cell (``evalkit.results.repeats``)."""

    task: str
    settings: str
    metric: str
    """With what is made of the answers: ``accuracy, pass@4``."""
    value: float
    ci_low: float | None
    """Lower end of its 95 % interval over clusters."""
    ci_high: float | None
    """Upper end of it."""
    n: int
    """Samples."""


@dataclass(frozen=True)
class Findings:
    """A sweep's question and what came out of it."""

    name: str
    question: str
    command: str
    """What makes all this again."""
    limit: int | None
    """So many samples of each task, drawn at random; None for all."""
    rows: tuple[Finding, ...]
    """Tasks together, the baseline of each first."""
    interactions: tuple[Interaction, ...] = ()
    """Of each two settings that were also run together."""
    drawn: tuple[Drawn, ...] = ()
    """Where each sample has several answers."""

    @property
    def compared(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.rows if f.kind is not Kind.BASELINE)

    @property
    def tests(self) -> int:
        """Differences that Holm's correction is over."""
        values = [*(f.p_holm for f in self.rows), *(i.p_holm for i in self.interactions)]
        return sum(p is not None for p in values)

    def save(self, path: Path) -> None:
        """Writes the JSON that ``load`` reads. Raises EvalkitError."""
        value = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        replace_json(path, {k: v for k, v in value.items() if k != "drawn" or v})

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Raises DataError when the file is damaged or of another schema."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("schema_version") not in (2, SCHEMA_VERSION):
                raise ValueError("written by another evalkit")
            both = tuple(Interaction(**i) for i in value.get("interactions", ()))
            rows = tuple(map(_finding, value["rows"]))
            drawn = tuple(Drawn(**d) for d in value.get("drawn", ()))
            return cls(**value | {"rows": rows, "interactions": both, "drawn": drawn})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise DataError(f"{path}: can't be read ({e}); repeat the sweep's command") from e


def _finding(value: Mapping[str, Any]) -> Finding:
    scores = value["scores"]
    return Finding(
        **dict(value)
        | {"kind": Kind(value["kind"]), "scores": PairedScores(**scores) if scores else None}
    )
