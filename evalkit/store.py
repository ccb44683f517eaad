"""Where cells lie on disk. This module alone knows the names of a cell's folder and files.

``output/runs/<model>/<task>-<subset>-<digest>/`` holds a journal (one record a sample, appended
while the cell runs), one more for each shard that runs or was cut off, run.json (what was run),
results.json (what came out) and, with many samples, columns.jsonl (the records by column). The
journal is the truth: where one of the last three is lost, damaged or not of this journal, what the
journal says counts. docs/formats.md describes them for people who read them with other tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

from evalkit import columns
from evalkit.adapter import digest
from evalkit.cell_results import CellResults
from evalkit.columns import Columns, Writer
from evalkit.contents import (
    CUT,
    Contents,
    Header,
    check_owner,
    merged,
    read,
    read_header,
    unreadable,
)
from evalkit.digests import content_hash
from evalkit.errors import DataError, EvalkitError
from evalkit.files import regular, remove_parts, replace_json
from evalkit.journal import Journal
from evalkit.names import slug
from evalkit.records import READABLE, Record
from evalkit.run_info import Identity, RunInfo
from evalkit.safe_text import MASK, digest_of
from evalkit.task import Metric

JOURNAL, RUN, RESULTS = "journal.jsonl", "run.json", "results.json"
SHARDS = "shard-*-of-*.jsonl"
COLUMNS = "columns.jsonl"
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON of another shape than is expected may raise."""


class NewerSchema(DataError):
    """A file that a later evalkit wrote: it is not damaged, and never written over."""


@dataclass(frozen=True)
class CellFolder:
    """One cell on disk. What it holds is read when first asked for, and then kept."""

    path: Path

    @classmethod
    def of(cls, output: Path, model: str, identity: Identity) -> CellFolder:
        """The folder of a cell under an output folder; it may not exist yet. ``model`` as tables
        name it.
        """
        task, subset = slug(identity.task, 100), slug(identity.subset, 100)
        name = f"{task}-{subset}-{digest(identity.to_json())[:8]}"
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
        """What was run: run.json, or what the journal says where that is lost or damaged. Raises
        DataError when neither can be read.
        """
        stored = self._stored_run()
        if isinstance(stored, RunInfo):
            return stored
        if (kept := self.contents().run) and self._is_own(kept):
            return kept
        raise stored

    @cached_property
    def results(self) -> CellResults:
        """What came out: results.json, or the same worked out from the journal where that is lost,
        damaged, or not of the journal as it is now. Raises DataError when the journal can't be
        read.
        """
        return self._stored_results() or self.derived(self.contents())

    def derived(self, contents: Contents) -> CellResults:
        """The results by what the journal holds."""
        run, ending = contents.run or self.run, contents.ending
        metrics = run.metrics or _metrics_in(contents.records.values())
        if ending:
            return ending.results_of(contents.records, metrics)
        return CellResults.of(
            contents.records.values(),
            metrics,
            created=run.created,
            selection=run.selection,
            complete=False,
            inference_probe=bool(run.identity.fingerprint.get("inference_probe")),
            switches=dict(run.identity.fingerprint.get("switches", {})),
        )

    def finished(self, contents: Contents | None = None) -> CellResults | None:
        """The results of a run that came to its end, whether or not it asked everything; None when
        there is none. ``contents``: what the journal holds, where that was read.
        """
        try:
            if stored := self._stored_results():
                return stored
            contents = contents or self.contents()
            return self.derived(contents) if contents.ending else None
        except DataError:
            return None

    @property
    def intact(self) -> bool:
        """Whether run.json and results.json are there and are those of the journal."""
        try:
            return isinstance(self._stored_run(), RunInfo) and self._stored_results() is not None
        except DataError:
            return False

    def mend(self, journal: Journal) -> None:
        """Makes run.json and results.json again from the journal where they are not those of it.
        Raises EvalkitError when they can't be written.
        """
        contents = journal.contents
        if journal.read_only:
            return
        if contents.run and not isinstance(self._stored_run(), RunInfo):
            self.write_run(contents.run)
        if contents.ending and not self._stored_results():
            self.write_results(self.derived(contents))

    def _stored_run(self) -> RunInfo | DataError:
        """run.json, or what is wrong with it. Raises DataError for one of a newer schema."""
        try:
            run = RunInfo.from_json(self._read(self.run_path))
        except NewerSchema:
            raise
        except DataError as e:
            return e
        except MALFORMED as e:
            return _damaged(self.run_path, e)
        if self._is_own(run):
            return run
        return DataError(f"{self.run_path}: is that of another cell; remove {self.path}")

    def _is_own(self, run: RunInfo) -> bool:
        identity = run.identity.to_json()
        if self.name.endswith(digest(identity)[:8]):
            return True
        return MASK in json.dumps(identity)  # the digest was of what is masked now

    def _stored_results(self) -> CellResults | None:
        """results.json, if it is of the journal as it is now. Raises DataError for one of a newer
        schema, and when the journal can't be read.
        """
        try:
            value = self._read(self.results_path)
            results = CellResults.from_json(value)
        except NewerSchema:
            raise
        except (DataError, *MALFORMED):
            return None
        if isinstance(value.get("journal"), str):
            return results if value["journal"] == self._journal_digest() else None
        contents = self.contents()  # evalkit 0.1 kept no digest
        n, total = len(contents.scored), len(contents.records)
        fits = results.n <= n and results.n_total <= total
        if not results.selection.partial:
            fits = (results.n, results.n_total) == (n, total)
        return results if fits and not contents.ending and not contents.faults else None

    def _journal_digest(self) -> str:
        """SHA-256 of the journal, or of its digest and those of shards. Raises DataError when there
        is none, or one can't be read.
        """
        try:
            return content_hash((self.journal_path, *self.shard_paths))
        except OSError as e:
            raise unreadable(Path(e.filename or self.journal_path), e) from e

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
        """The step of a training run, what was set away from the defaults, and the dtype, in one
        line.
        """
        return " ".join(filter(None, (self.model_settings, self.asked)))

    @property
    def asked(self) -> str:
        """How the task was asked, where not as it is by default: ``protocol=lmms-eval``,
        ``control=blind``.
        """
        identity = self.run.identity
        asked = {"protocol": identity.protocol_name, "control": identity.control}
        return " ".join(f"{k}={v}" for k, v in asked.items() if v)

    @property
    def model_settings(self) -> str:
        """The part of ``settings`` that is the model's."""
        step = self.run.identity.fingerprint.get("step")
        parts = [] if step is None else [f"step={step}"]
        parts += [f"{k}={v}" for k, v in self.results.switches.items()]
        parts += [
            f"{k}={digest_of(v) if k == 'system' else v}"
            for k, v in self.run.identity.asking.items()
            if k != "fewshot_data"
        ]
        if dtype := self.run.identity.fingerprint.get("dtype"):
            parts.append(str(dtype))
        return " ".join(parts)

    def contents(self) -> Contents:
        """All that the journal holds, and those of shards, with what is damaged in it. Raises
        DataError when one can't be read, or is another cell's.
        """
        # in this order: what a shard's end moves from the one to the other is seen at least once
        shards = [self._contents_of(path) for path in self.shard_paths]
        whole = self._contents_of(self.journal_path)
        return merged([whole, *shards]) if shards else whole

    def _contents_of(self, path: Path) -> Contents:
        contents = read(path)
        check_owner(path, contents.header, self.name)
        return contents

    def check(self) -> None:
        """Raises DataError when the cell can't be read: its journal can't, or is another cell's, or
        neither run.json nor the journal says what was run.
        """
        check_owner(self.journal_path, read_header(self.journal_path), self.name)
        _ = self.run, self.results

    def columns(self) -> Columns:
        """The records by column: those kept beside the journal, where they are of it as it is now,
        or made again, and kept where that saves time. Raises DataError as ``contents``.
        """
        if kept := self._kept_columns():
            return kept
        before = self._journal_digest() if self._is_large else ""
        contents = self.contents()
        faults, ended = len(contents.faults), contents.ending is not None
        if before and before == self._journal_digest():  # no run has written to it meanwhile
            with closing(self.columns_of(contents.records.values())) as writer:
                writer.write(self.columns_path, before, faults, ended)
        return Columns.of(contents.records, faults, ended)

    @property
    def _is_large(self) -> bool:
        """Whether there is so much in the journal that its columns save time."""
        return self.journal_path.is_file() and self.journal_path.stat().st_size >= columns.LEAST

    def _kept_columns(self) -> Columns | None:
        """The columns beside the journal; None where there are none, or not of it as it is now."""
        if not self.columns_path.is_file() or not self.journal_path.is_file():
            return None
        header = read_header(self.journal_path)
        check_owner(self.journal_path, header, self.name)
        return columns.read(self.columns_path, self._journal_digest())

    def write_columns(self, journal: Journal, made: Writer | None = None) -> None:
        """Keeps the columns of a journal that is open for writing; ``made`` has its records."""
        if journal.read_only or self.shard_paths or not self._is_large:
            return
        contents = journal.contents
        faults = sum(not f.endswith(CUT) for f in contents.faults)  # which was removed
        with closing(made or self.columns_of(contents.records.values())) as writer:
            writer.write(
                self.columns_path, self._journal_digest(), faults, contents.ending is not None
            )

    def columns_of(self, records: Iterable[Record]) -> Writer:
        """The records, ready to be written as columns."""
        writer = Writer(self.path)
        for record in records:
            writer.add(record)
        return writer

    def records(self) -> dict[str, Record]:
        """The last record of each sample, by id, in order of first appearance."""
        kept = self._kept_columns()
        return kept.records() if kept else dict(self.contents().records)

    def scored(self) -> dict[str, Record]:
        """The records that have a score, by id."""
        return {id: r for id, r in self.records().items() if r.scored}

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.path / JOURNAL

    @property
    def shard_paths(self) -> list[Path]:
        """The journals of shards that run, or did not come to their end."""
        return sorted(self.path.glob(SHARDS))

    @property
    def run_path(self) -> Path:
        """The file of ``run``."""
        return self.path / RUN

    @property
    def results_path(self) -> Path:
        """The file of ``results``."""
        return self.path / RESULTS

    @property
    def columns_path(self) -> Path:
        """The file of ``columns``; there for a journal of some size."""
        return self.path / COLUMNS

    def open_journal(self, task: str, seen: Callable[[Record], None] | None = None) -> Journal:
        """The journal, open for writing, with what shards left that did not come to their end;
        ``task`` (``name:subset``) goes into its header, ``seen`` is given each record. Raises
        EvalkitError when another run is writing to one of them, DataError when it is another
        cell's.
        """
        header = Header(task, self.name)
        opened = Journal(self.journal_path, header, seen=seen)
        if not opened.read_only:
            try:
                for path in self.shard_paths:
                    with Journal(path, header):
                        opened.take_in(path)
            except BaseException:
                opened.close()
                raise
            remove_parts(self.path)
        return opened

    def open_shard(
        self, task: str, shard: str, seen: Callable[[Record], None] | None = None
    ) -> Journal:
        """The journal of a shard (``2/3``), open for writing; it holds what all of the cell's hold.
        Raises as ``open_journal`` does.
        """
        path = self.path / f"shard-{shard.replace('/', '-of-')}.jsonl"
        # in this order: what a shard's end moves from the one to the other is seen at least once
        beside = [*self._shards_but(path), self.journal_path]
        return Journal(path, Header(task, self.name), beside, seen=seen)

    def gathered(
        self, task: str, shard: Journal, seen: Callable[[Record], None] | None = None
    ) -> Journal:
        """The cell's journal, open for writing, with a shard's in it, whose file is no more. It
        holds what those of other shards hold. Waits for a run that is writing to it. Raises as
        ``open_journal`` does.
        """
        shard.flush()
        others = self._shards_but(shard.path)
        opened = Journal(self.journal_path, Header(task, self.name), others, wait=True, seen=seen)
        try:
            opened.take_in(shard.path)
        except BaseException:
            opened.close()
            raise
        return opened

    def _shards_but(self, own: Path) -> list[Path]:
        return [path for path in self.shard_paths if path != own]

    def set_aside(self) -> None:
        """Puts the journal under a name with the present time, and removes what was derived from
        it, so that the next run begins anew. Raises EvalkitError when another run is writing, or
        the journal can't be moved.
        """
        if not self.journal_path.exists() and not self.shard_paths:
            return
        with self.open_journal(""):
            stem = f"journal.{datetime.now(UTC):%Y%m%dT%H%M%S}"
            names = (f"{stem}{end}.jsonl" for end in chain([""], (f"-{i}" for i in count(2))))
            aside = next(p for name in names if not (p := self.path / name).exists())
            try:
                self.journal_path.rename(aside)
                self.results_path.unlink(missing_ok=True)
                self.columns_path.unlink(missing_ok=True)
            except OSError as e:
                raise EvalkitError(f"{self.path}: can't be written ({e.strerror})") from e
        self._forget("run", "results")

    def remove(self) -> None:
        """Removes a cell that holds no answer, and its model's folder when nothing else is there;
        journals that were set aside stay.
        """
        with suppress(OSError):  # not empty, or not to be written
            for path in (self.journal_path, self.run_path, self.results_path, self.columns_path):
                path.unlink(missing_ok=True)
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
        """Writes results.json as that of the journal as it is now. Raises EvalkitError when it
        can't be written, DataError when the journal can't be read.
        """
        replace_json(self.results_path, results.to_json() | {"journal": self._journal_digest()})
        self._forget("results")

    def _forget(self, *names: str) -> None:
        """Makes cached properties look at the disk again."""
        for name in names:
            self.__dict__.pop(name, None)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with regular(path) as file:
                value = json.load(file)
            json.dumps(value, ensure_ascii=False).encode()  # half a character is none
            version = value["schema_version"]
        except (OSError, *MALFORMED) as e:
            raise _damaged(path, e) from e
        if version not in READABLE:
            raise NewerSchema(
                f"{path}: schema {version!r}, this evalkit reads {', '.join(map(str, READABLE))}; "
                "update evalkit to read it"
            )
        return value


def cells(output: Path = Path("results")) -> list[CellFolder]:
    """All cells under an output folder, in the order of their folders, also those of runs that
    were killed. Only what has nothing but a journal is read: it is no cell yet where a run was
    killed before it said what it is. A damaged one raises when it is looked at.
    """
    found: dict[Path, set[str]] = {}
    for name in (JOURNAL, RUN, RESULTS):
        for path in (output / "runs").glob(f"*/*/{name}"):
            found.setdefault(path.parent, set()).add(name)
    there = [(CellFolder(path), names) for path, names in sorted(found.items())]
    return [c for c, names in there if names != {JOURNAL} or not _is_empty(c.journal_path)]


def _is_empty(path: Path) -> bool:
    """Whether a journal can be read and says nothing."""
    try:
        contents = read(path)
    except DataError:
        return False
    return not contents.records and not contents.run


def _metrics_in(records: Iterable[Record]) -> tuple[Metric, ...]:
    """Metrics by the names that scores have, for a killed run of evalkit 0.1, which did not write
    down what they are.
    """
    return tuple(map(Metric, dict.fromkeys(name for r in records for name in r.scores)))


def _damaged(path: Path, e: Exception) -> DataError:
    return DataError(
        f"{path}: can't be read ({e}); repeat the run's command to make it again, or remove "
        f"{path.parent}"
    )
