"""Where cells lie on disk. This module alone knows the names of a cell's folder and files.

``output/runs/<model>/<task>-<subset>-<digest>/`` holds a journal (one record a sample, appended
while the cell runs), run.json (what was run) and results.json (what came out, derived from the
journal). docs/formats.md describes them for people who read them with other tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from evalkit import journal
from evalkit.adapter import digest
from evalkit.errors import DataError
from evalkit.files import remove_parts, replace_json
from evalkit.journal import Contents, Journal
from evalkit.provenance import GitState
from evalkit.records import (
    READABLE,
    SCHEMA_VERSION,
    CellResults,
    FailedIn,
    Identity,
    MetricResult,
    Record,
    RunInfo,
    Selection,
    Session,
    question_of,
)
from evalkit.task import Metric

__all__ = [
    "READABLE",
    "SCHEMA_VERSION",
    "CellFolder",
    "CellResults",
    "FailedIn",
    "GitState",
    "Identity",
    "MetricResult",
    "Record",
    "RunInfo",
    "Selection",
    "Session",
    "cells",
    "display_names",
    "model_name",
    "model_path",
    "question_of",
    "shown_path",
    "slug",
]

JOURNAL, RUN, RESULTS = "journal.jsonl", "run.json", "results.json"
T = TypeVar("T")


@dataclass(frozen=True)
class CellFolder:
    """One cell on disk. What it holds is read when first asked for, and then kept."""

    path: Path

    @classmethod
    def of(cls, output: Path, model: str, identity: Identity) -> CellFolder:
        """The folder of a cell under an output folder; it may not exist yet. ``model`` as tables
        name it.
        """
        name = f"{slug(identity.task)}-{slug(identity.subset)}-{digest(identity.to_json())[:8]}"
        return cls(output / "runs" / slug(model) / name)

    def sibling(self, identity: Identity) -> CellFolder:
        """The folder of the same model's cell of another identity."""
        output = self.path.parent.parent.parent
        name = self.of(output, "", identity).path.name
        return CellFolder(self.path.with_name(name))

    @property
    def name(self) -> str:
        """``docvqa-mini-1c33e18f``: task, subset and the identity's digest."""
        return self.path.name

    @property
    def exists(self) -> bool:
        return self.run_path.is_file() or self.journal_path.is_file()

    @cached_property
    def run(self) -> RunInfo:
        """What was run. Raises DataError when run.json is missing or damaged."""
        return self._read(self.run_path, RunInfo.from_json)

    @cached_property
    def results(self) -> CellResults:
        """What came out: results.json, or the same worked out from the journal when a killed run
        left none. Raises DataError when it is damaged.
        """
        if self.results_path.is_file():
            return self._read(self.results_path, CellResults.from_json)
        records = list(self.records().values())
        fingerprint = self.run.identity.fingerprint
        return CellResults.of(
            records,
            self.run.metrics or _metrics_in(records),
            created=self.run.created,
            selection=self.run.selection,
            complete=False,
            inference_probe=bool(fingerprint.get("inference_probe")),
            switches=dict(fingerprint.get("switches", {})),
        )

    def finished(self) -> CellResults | None:
        """results.json as it lies there; None when there is none, or none that can be read."""
        try:
            return self._read(self.results_path, CellResults.from_json)
        except DataError:
            return None

    @property
    def task(self) -> str:
        """``name:subset``."""
        return f"{self.run.identity.task}:{self.run.identity.subset}"

    @property
    def model(self) -> str:
        return self.run.model

    @property
    def adapter(self) -> str:
        return str(self.run.identity.fingerprint.get("adapter", ""))

    @property
    def settings(self) -> str:
        """What was set away from the defaults, and the dtype, in one line."""
        parts = [f"{k}={v}" for k, v in self.results.switches.items()]
        if dtype := self.run.identity.fingerprint.get("dtype"):
            parts.append(str(dtype))
        return " ".join(parts)

    def contents(self) -> Contents:
        """All that the journal holds, with what is damaged in it. Raises DataError when it can't
        be read.
        """
        contents = journal.read(self.journal_path)
        if contents.header.get("folder", self.name) != self.name:
            raise self._not_its_own(contents.header["folder"])
        return contents

    def check(self) -> None:
        """Raises DataError when run.json, results.json or the journal's first line is damaged, or
        is another cell's. The rest of the journal is not read.
        """
        _ = self.run, self.results
        header = journal.read_header(self.journal_path)
        if header.get("folder", self.name) != self.name:
            raise self._not_its_own(header["folder"])

    def _not_its_own(self, folder: object) -> DataError:
        return DataError(
            f"{self.journal_path}: is the journal of {folder}; put it back there, or remove "
            f"{self.path}"
        )

    def records(self) -> dict[str, Record]:
        """The last record of each sample, by id, in order of first appearance."""
        return self.contents().records

    def scored(self) -> dict[str, Record]:
        """The records that have a score, by id."""
        return self.contents().scored

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.path / JOURNAL

    @property
    def run_path(self) -> Path:
        """The file of ``run``."""
        return self.path / RUN

    @property
    def results_path(self) -> Path:
        """The file of ``results``."""
        return self.path / RESULTS

    def open_journal(self, task: str) -> Journal:
        """The journal, open for writing; ``task`` (``name:subset``) goes into its header. Raises
        EvalkitError when another run is writing to it.
        """
        if self.journal_path.exists():
            self.contents()  # refuses a journal that is another cell's
        opened = Journal(self.journal_path, {"cell": task, "folder": self.name})
        remove_parts(self.path)
        return opened

    def set_aside(self) -> None:
        """Puts the journal under a name with the present time, and removes what was derived from
        it, so that the next run begins anew. Raises EvalkitError when another run is writing.
        """
        if not self.journal_path.exists():
            return
        with self.open_journal(""):
            self.journal_path.rename(self.path / f"journal.{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl")
            self.results_path.unlink(missing_ok=True)
        self._forget("run", "results")

    def remove(self) -> None:
        """Removes a cell that holds no answer, and its model's folder when nothing else is there;
        journals that were set aside stay.
        """
        for path in (self.journal_path, self.run_path, self.results_path):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.path.rmdir()
            self.path.parent.rmdir()

    def write_run(self, run: RunInfo) -> None:
        """Raises EvalkitError when it can't be written."""
        replace_json(self.run_path, run.to_json())
        self._forget("run")

    def showing(self, results: CellResults) -> CellFolder:
        """The same folder, with these results instead of those in its file: a part of the samples
        that was run after all of them leaves the file as it is.
        """
        folder = CellFolder(self.path)
        folder.__dict__["results"] = results
        return folder

    def write_results(self, results: CellResults) -> None:
        """Raises EvalkitError when it can't be written."""
        replace_json(self.results_path, results.to_json())
        self._forget("results")

    def _forget(self, *names: str) -> None:
        """Makes cached properties look at the disk again."""
        for name in names:
            self.__dict__.pop(name, None)

    def _read(self, path: Path, from_json: Callable[[Mapping[str, Any]], T]) -> T:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            version = value["schema_version"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as e:
            raise _damaged(path, e) from e
        if version not in READABLE:
            raise DataError(
                f"{path}: schema {version!r}, this evalkit reads {', '.join(map(str, READABLE))}; "
                "update evalkit to read it"
            )
        try:
            return from_json(value)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise _damaged(path, e) from e


def cells(output: Path = Path("results")) -> list[CellFolder]:
    """All cells under an output folder, in the order of their folders, also those of runs that
    were killed. Nothing is read yet: a damaged one raises when it is looked at.
    """
    found = {p.parent for name in (RUN, RESULTS) for p in (output / "runs").glob(f"*/*/{name}")}
    return [CellFolder(path) for path in sorted(found)]


def model_name(text: str) -> str:
    """How tables call a model: a hub id or shipped name as it is, a path by its last part; by the
    one before it for the ``model`` folder of a training run.
    """
    if not _is_path(text):
        return text
    path = Path(text).resolve()
    return (path.parent.name if path.name == "model" else path.name) or "model"


def shown_path(path: str | Path) -> str:
    """A path as results keep it: resolved, the home folder as ``~``."""
    resolved = Path(path).resolve()
    home = Path.home()
    return f"~/{resolved.relative_to(home)}" if resolved.is_relative_to(home) else str(resolved)


def model_path(text: str) -> str:
    """``shown_path`` of a model that was given as a path; empty for a hub id or a shipped name."""
    return shown_path(text) if _is_path(text) else ""


def display_names(folders: Sequence[CellFolder]) -> list[str]:
    """What tables call the model of each cell: its name, or as many parts of its path as it takes
    to tell it from another model of the same name.
    """
    paths: dict[str, set[str]] = {}
    for f in folders:
        paths.setdefault(f.model, set()).add(f.run.model_path)
    return [_distinct(f.model, f.run.model_path, paths[f.model]) for f in folders]


def _distinct(name: str, path: str, others: set[str]) -> str:
    """The last parts of a path, so many that no other one ends like it."""
    if len(others) == 1 or not path:
        return name
    parts = Path(path).parts
    for n in range(1, len(parts)):
        ends = [Path(o).parts[-n:] for o in others if o != path]
        if name in parts[-n:] and parts[-n:] not in ends:
            return "/".join(parts[-n:])
    return path


def _is_path(text: str) -> bool:
    """Whether a model was named by its path; a hub id looks like one that is not there, and an
    address is none.
    """
    if "://" in text:
        return False
    hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.+)?", text)
    return ("/" in text or text.startswith((".", "~"))) and (not hub_id or Path(text).exists())


def slug(text: str) -> str:
    """A folder name for a model or task, hub ids with ``--`` for ``/``."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("/", "--")).strip(".") or "_"


def _metrics_in(records: list[Record]) -> tuple[Metric, ...]:
    """Metrics by the names that scores have, for a killed run of evalkit 0.1, which did not write
    down what they are.
    """
    return tuple(map(Metric, dict.fromkeys(name for r in records for name in r.scores)))


def _damaged(path: Path, e: Exception) -> DataError:
    return DataError(
        f"{path}: can't be read ({e}); repeat the run's command to make it again, or remove "
        f"{path.parent}"
    )
