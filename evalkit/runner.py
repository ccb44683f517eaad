"""Running one task with one adapter: plan, skip what the journal has, stream, score, journal, summarise.

A cell is one task subset and one model fingerprint; its folder is named by both, so the same command finds the same cell and goes on where
the last one stopped. Rows become samples only when the adapter is ready for them, and leave memory when they are scored.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import ModelAdapter, digest
from evalkit.errors import EvalkitError, UsageError
from evalkit.journal import SCHEMA_VERSION, Journal, Record, write_json
from evalkit.provenance import command, git_state, versions
from evalkit.summary import summarise
from evalkit.task import Task
from evalkit.types import Completion, Image, Request, Sample, Text, Video

Say = Callable[[str], None]


@dataclass(frozen=True)
class Selection:
    """Which samples of a subset a run takes: all, ``first`` (start, stop) in dataset order, ``drawn`` at random by ``seed``, or by id."""

    first: tuple[int, int] | None = None
    drawn: int | None = None
    seed: int = 0
    ids: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        return self.first is not None or self.drawn is not None or bool(self.ids)

    def describe(self) -> dict[str, Any]:
        """JSON of what is set, empty for everything."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v}
        return given if self.partial else {}


@dataclass(frozen=True)
class Cell:
    """One task subset under one adapter, and the folder that belongs to them."""

    task: Task
    adapter: ModelAdapter
    model: str
    output: Path
    data: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, task: Task, adapter: ModelAdapter, model: str, output: Path, data: Path | None = None) -> Cell:
        """Works out the identity. Raises DataError when the data can't be found."""
        subset = task.subsets[task.subset]
        identity = {
            "task": task.name,
            "subset": task.subset,
            "task_version": task.version,
            "data": dict(subset.source.describe(data)),
            "budget": asdict(subset.budget),
            "max_new_tokens": subset.max_new_tokens or task.max_new_tokens,
            "rank": task.rank,
            "fingerprint": dict(adapter.fingerprint),
        }
        return cls(task, adapter, model, output, data, identity)

    @property
    def name(self) -> str:
        return f"{self.task.name}:{self.task.subset}"

    @property
    def folder(self) -> Path:
        return (
            self.output / "runs" / slug(self.model) / f"{slug(self.task.name)}-{slug(self.task.subset)}-{digest(self.identity)[:8]}"
        )


@dataclass(frozen=True)
class Outcome:
    """What a run of one cell left behind: its results (as in results.json), what it reused and made, and why it stopped early if it did."""

    cell: Cell
    results: Mapping[str, Any]
    reused: int
    made: int
    stopped: str | None = None


def slug(text: str) -> str:
    """A folder name for a model or task: the last part of a path, hub ids with ``--`` for ``/``."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not Path(text).exists():
        text = text.replace("/", "--")
    return re.sub(r"[^\w.+-]+", "_", Path(text).name).strip(".") or "model"


def run_cell(cell: Cell, selection: Selection = Selection(), say: Say = print, progress: bool = True) -> Outcome:
    """Runs what is missing of a cell and writes its results. What goes wrong with a sample is journaled with it, and the rest goes on.

    Raises EvalkitError when the journal can't be written; an adapter that breaks ends the cell, and the outcome says so.
    """
    folder = cell.folder
    with Journal(folder / "journal.jsonl", {"cell": cell.name, "folder": folder.name}) as journal:
        for fault in journal.contents.faults:
            say(fault)
        begun = len(journal.contents.scored)
        finished = finished_results(folder, selection, journal.contents.scored)
        if finished is not None:
            return Outcome(cell, finished, begun, 0)
        write_json(folder / "run.json", run_record(cell, selection))
        stream = _Stream(cell, selection, journal)
        stopped, started = None, time.perf_counter()
        with _bar(cell.name, progress) as bar:
            try:
                serve = cell.adapter.rank if cell.task.rank else cell.adapter.generate
                for completion in serve(stream.requests()):
                    stream.finish(completion)
                    bar.update(stream)
            except (EvalkitError, KeyboardInterrupt):
                write_json(folder / "results.json", stream.results(selection, time.perf_counter() - started, complete=False))
                raise
            except Exception as e:
                stopped = f"{type(e).__name__}: {e}"
        complete = stopped is None and not stream.pending
        if stopped is None and stream.pending:
            stopped = f"the adapter left {len(stream.pending)} requests unanswered, the first {next(iter(stream.pending))!r}"
        results = stream.results(selection, time.perf_counter() - started, complete)
        write_json(folder / "results.json", results)
        return Outcome(cell, results, stream.reused, stream.made, stopped)


def finished_results(folder: Path, selection: Selection, scored: Mapping[str, Record]) -> Mapping[str, Any] | None:
    """The results of a cell that already has all that is asked for, without a look at the data or the model."""
    import json

    try:
        results: Mapping[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = results.get("selection") == selection.describe() and results.get("schema_version") == SCHEMA_VERSION
    whole = results.get("complete") and not results.get("errors") and len(scored) >= results.get("n", 0) > 0
    return results if same and whole else None


def run_record(cell: Cell, selection: Selection) -> dict[str, Any]:
    """run.json: what was asked, of what, by which code, and how to repeat it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": cell.model,
        "identity": dict(cell.identity),
        "details": dict(cell.adapter.details),
        "box_space": cell.adapter.box_space,
        "selection": selection.describe(),
        "versions": versions(),
        "git": git_state(),
        "command": command(),
    }


class _Stream:
    """Samples out as requests, completions in as records."""

    def __init__(self, cell: Cell, selection: Selection, journal: Journal) -> None:
        self.cell, self.selection, self.journal = cell, selection, journal
        self.pending: dict[str, Sample] = {}
        self.chosen: list[str] = []
        self.prompts: dict[str, str] = {}
        self.reused = self.made = 0
        self.running: dict[str, list[float]] = {}
        metrics = cell.task.subsets[cell.task.subset].metrics or cell.task.metrics
        self.metrics, self.headline = metrics, metrics[0]

    def requests(self) -> Iterator[Request]:
        identity, done = self.cell.identity, self.journal.contents.scored
        subset = self.cell.task.subsets[self.cell.task.subset]
        seen: set[str] = set()
        for id, sample in self._selected():
            if id in seen:
                raise EvalkitError(f"{self.cell.name}: two samples have the id {id!r}; the task must make ids unique")
            seen.add(id)
            self.chosen.append(id)
            if not isinstance(sample, Sample):
                self._fail({"id": id, "error": sample})
            elif id in done and done[id]["prompt"] == prompt_hash(sample):
                self.reused += 1
                self._count(done[id])
            else:
                self.pending[id] = replace(sample, messages=())
                self.prompts[id] = prompt_hash(sample)
                yield Request(id, sample.messages, identity["max_new_tokens"], subset.budget, sample.choices)

    def finish(self, completion: Completion) -> None:
        sample = self.pending.pop(completion.id, None)
        if sample is None:
            raise EvalkitError(f"the adapter answered {completion.id!r}, which was not asked or was answered before")
        record: dict[str, Any] = {
            "id": sample.id,
            "cluster": sample.cluster or sample.id,
            "metadata": dict(sample.metadata),
            "target": sample.target,
            "choices": list(sample.choices),
            "prompt": self.prompts.pop(sample.id),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": asdict(completion.tokens),
            "seconds": round(completion.seconds, 4),
            "logprobs": list(completion.logprobs),
            "box_space": completion.box_space,
        }
        if completion.error is not None:
            self._fail({**record, "error": completion.error})
            return
        try:
            record |= scored(self.cell.task, sample, completion)
        except EvalkitError:
            raise
        except Exception as e:
            self._fail({**record, "error": f"scoring failed: {type(e).__name__}: {e}"})
            return
        self.journal.append(record)
        self.made += 1
        self._count(record)

    def results(self, selection: Selection, seconds: float, complete: bool) -> dict[str, Any]:
        records = [self.journal.contents.records[id] for id in self.chosen if id in self.journal.contents.records]
        fingerprint = self.cell.identity["fingerprint"]
        return {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "selection": selection.describe(),
            "complete": complete,
            "inference_probe": bool(fingerprint.get("inference_probe")),
            "switches": fingerprint.get("switches", {}),
            "seconds": round(seconds, 3),
            **summarise(records, self.metrics),
        }

    def _selected(self) -> Iterator[tuple[str, Sample | str]]:
        """(id, sample) of what is selected, or (id, reason) where a row can't be used."""
        chosen = self.selection
        if chosen.ids:
            wanted = set(chosen.ids)
            for id, sample in self._all():
                if id in wanted:
                    wanted.discard(id)
                    yield id, sample
            if wanted:
                raise UsageError(f"{self.cell.name} has no sample with id {', '.join(map(repr, sorted(wanted)))}")
        elif chosen.drawn is not None:
            total = sum(1 for _ in self._all())
            keep = set(np.random.default_rng(chosen.seed).permutation(total)[: chosen.drawn].tolist())
            yield from (pair for i, pair in enumerate(self._all()) if i in keep)
        else:
            start, stop = chosen.first or (0, None)
            for i, pair in enumerate(self._all()):
                if stop is not None and i >= stop:
                    return
                if i >= start:
                    yield pair

    def _all(self) -> Iterator[tuple[str, Sample | str]]:
        task = self.cell.task
        for number, row in enumerate(task.subsets[task.subset].source.rows(self.cell.data)):
            made: Sequence[Sample]
            try:
                made = list(task.samples(row))
            except Exception as e:
                reason = str(e) if isinstance(e, EvalkitError) else f"{type(e).__name__}: {e}"
                yield f"row-{number}", f"row {number}: {reason}"
                continue
            for sample in made:
                yield sample.id, sample

    def _fail(self, record: dict[str, Any]) -> None:
        self.journal.append({"cluster": record["id"], "metadata": {}, **record})
        self.made += 1

    def _count(self, record: Record) -> None:
        value = record.get("scores", {}).get(self.headline.name)
        if value is not None:
            group = str(record["metadata"].get(self.headline.group)) if self.headline.group else ""
            self.running.setdefault(group, []).append(value)


def scored(task: Task, sample: Sample, completion: Completion) -> dict[str, Any]:
    """The part of a record that scoring makes. Raises what the task raises, and ValueError for values that are not finite."""
    score = task.score(sample, completion)
    values = {k: float(v) for k, v in score.values.items()}
    if bad := [k for k, v in values.items() if not np.isfinite(v)]:
        raise ValueError(f"{', '.join(bad)} is not a finite number")
    return {"scores": values, "parsed": score.parsed, "unparsed": score.unparsed}


def prompt_hash(sample: Sample) -> str:
    """The first 12 hex digits of SHA-256 over roles, texts, and the kind, name and size of media (tables of images are hashed whole)."""
    parts = [[m.role, *(p.text if isinstance(p, Text) else _media_name(p) for p in m.content)] for m in sample.messages]
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _media_name(part: Image | Video) -> str:
    kind = type(part).__name__
    if isinstance(part.source, bytes):
        return f"<{kind} of {len(part.source)} bytes>"
    size = part.source.stat().st_size if part.source.is_file() else 0
    return f"<{kind} {part.source.name} of {size} bytes>"


class _bar:
    """A tqdm line with the running headline score; silent when there is no terminal or none is wanted."""

    def __init__(self, name: str, wanted: bool) -> None:
        self.name, self.wanted = name, wanted

    def __enter__(self) -> _bar:
        from tqdm import tqdm

        self.tqdm = tqdm(desc=self.name, unit="sample", disable=None if self.wanted else True, dynamic_ncols=True)
        return self

    def update(self, stream: _Stream) -> None:
        if stream.running:
            mean = sum(sum(v) / len(v) for v in stream.running.values()) / len(stream.running)
            self.tqdm.set_postfix_str(f"{stream.headline.name} {mean * stream.headline.scale:.1f}", refresh=False)
        self.tqdm.update()

    def __exit__(self, *_: object) -> None:
        self.tqdm.close()
