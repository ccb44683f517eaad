"""Runs what is missing of a study: models side by side over workers, one thread each, kept as each
ends; or in stacks on a device, kept as each stack ends.

``runs.jsonl`` in the study's folder has one line a finished run, by the digests of everything that
decides it (``Keys``). A killed study loses the runs in hand and nothing else, and gives the same
numbers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.executor.pieces import done, workers_for
from evalkit.lab.batches import Condition
from evalkit.lab.stacked import InStacks, Job, order, stackable, stacks, train_job
from evalkit.lab.study import Arm, Study
from evalkit.lab.trainer import Result, Run, train
from evalkit.nano.train import begin_worker

RUNS = "runs.jsonl"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, and the arm it belongs to."""

    arm: Arm
    run: Run
    result: Result


class Trainer(Protocol):
    """What trains one model of a study: ``trainer``, or a checkpoint to start from."""

    def key(self, run: Run, conditions: Mapping[str, Condition], source: bool = False) -> str:
        """The identity of a run and of what is measured, as ``Run.key``."""
        ...

    def train(self, run: Run, conditions: Mapping[str, Condition]) -> Result: ...


class Movable(Trainer, Protocol):
    """One that workers may have."""

    @property
    def device(self) -> str: ...

    def on(self, device: str) -> Trainer:
        """The same on a worker's device. Raises UsageError for one that it can't be on."""
        ...


@dataclass(frozen=True)
class FromNothing:
    """Models of the lab's own."""

    device: str = "cpu"

    def key(self, run: Run, conditions: Mapping[str, Condition], source: bool = False) -> str:
        return run.key(conditions, source)

    def train(self, run: Run, conditions: Mapping[str, Condition]) -> Result:
        return train(run, conditions)

    def on(self, device: str) -> FromNothing:
        if device != "cpu":
            raise UsageError(
                f"{device}: small models are trained on the CPU, or by --device in stacks"
            )
        return self


OWN = FromNothing()


def results(study: Study, folder: Path, trainer: Trainer = OWN) -> list[FinishedRun]:
    """The runs of the study that have ended, in the study's order. Raises DataError for a file of
    runs that can't be read.
    """
    looked_up = _looked_up(study, folder, trainer)
    return [FinishedRun(arm, run, found) for arm, run, found in looked_up if found]


def missing(study: Study, folder: Path, trainer: Trainer = OWN) -> list[tuple[Arm, Run]]:
    """The runs of the study that are not there yet. Raises DataError as ``results``."""
    return [(arm, run) for arm, run, found in _looked_up(study, folder, trainer) if not found]


def _looked_up(
    study: Study, folder: Path, trainer: Trainer
) -> Iterator[tuple[Arm, Run, Result | None]]:
    """The study's runs in its order, with their results where they have ended."""
    stored = {key: result for keys, result in _read(folder / RUNS) for key in keys}
    for arm, run in study.runs():
        keys = _keys(trainer, run, study.conditions)
        yield arm, run, stored.get(keys.release) or stored.get(keys.source)


def others(study: Study, folder: Path, trainer: Trainer = OWN) -> int:
    """How many runs lie there that are none of the study's as it is now: of other code, or of what
    its file said before. Raises DataError as ``results``.
    """
    own = {key for _, run in study.runs() for key in _keys(trainer, run, study.conditions)}
    return sum(own.isdisjoint(keys) for keys, _ in _read(folder / RUNS))


def adopt(study: Study, folder: Path, trainer: Trainer = OWN) -> None:
    """Keeps the runs that were made with this very source before it was recorded as what they are
    since then, so that they count after the next recorded edit too. Raises EvalkitError as
    ``run_missing``.
    """
    releases = {keys.release for keys, _ in _read(folder / RUNS)}
    found = [
        (keys, f)
        for f in results(study, folder, trainer)
        if (keys := _keys(trainer, f.run, study.conditions)).release not in releases
    ]
    if found:
        with _locked(folder / RUNS) as file:
            _append(file, found)


class Keys(NamedTuple):
    """The identities of a run, by either of which it is known again: by the version of the code
    that was recorded, and by the code's very source.
    """

    release: str
    source: str


def _keys(trainer: Trainer, run: Run, conditions: Mapping[str, Condition]) -> Keys:
    return Keys(trainer.key(run, conditions), trainer.key(run, conditions, source=True))


@dataclass(frozen=True)
class Trainings:
    """Runs as pieces of work for ``executor.pieces``: by their places."""

    runs: tuple[Run, ...]
    conditions: Mapping[str, Condition]
    trainer: Movable

    def __call__(self, device: str) -> Callable[[str], str]:
        begin_worker()
        trainer = self.trainer.on(device)
        return lambda name: json.dumps(
            trainer.train(self.runs[int(name)], self.conditions).to_json()
        )


def run_missing(
    study: Study,
    folder: Path,
    workers: int = 1,
    trainer: Movable = OWN,
    devices: str = "",
    executor: str = "",
) -> Iterator[FinishedRun]:
    """Trains what is missing and gives each run as it is kept: a model on each of ``devices`` (of
    an ``executor``) at a time, or ``workers`` on the trainer's own device. A worker that dies costs
    the run that it had in hand, which another begins anew.

    Raises EvalkitError when another process works on the same study, the disk refuses, or a run
    kills its workers again and again: the others are then kept.
    """
    to_go = missing(study, folder, trainer)
    if not to_go:
        return
    with _locked(folder / RUNS) as file:
        alone = executor.startswith("ray")  # there are as many as the cluster has room for
        devices = devices or ",".join([trainer.device] * (1 if alone else workers))
        work = Trainings(tuple(run for _, run in to_go), study.conditions, trainer)
        lost = []
        for end in done(workers_for(work, devices, executor), map(str, range(len(to_go)))):
            arm, run = to_go[int(end.id)]
            if end.error:
                lost.append(f"{arm.name}, seed {run.seed}: {end.error}")
                continue
            finished = FinishedRun(arm, run, Result.from_json(json.loads(end.text)))
            _append(file, [(_keys(trainer, run, study.conditions), finished)])
            yield finished
        if lost:
            raise EvalkitError("; ".join(lost))


def run_stacked(
    studies: Sequence[tuple[Study, Path]], workers: int, trainer: InStacks
) -> Iterator[tuple[Study, FinishedRun]]:
    """Trains what is missing of several studies in stacks on the trainer's device, one after the
    other, while ``workers`` processes draw what they read and train the runs that no stack takes.

    Raises EvalkitError as ``run_missing`` does.
    """
    with (
        ExitStack() as files,
        ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=begin_worker
        ) as pool,
    ):
        jobs: list[tuple[Study, FileIO, list[tuple[Arm, Run]], Job]] = []
        alone: list[tuple[Study, FileIO, tuple[Arm, Run]]] = []
        for study, folder in studies:
            to_go = missing(study, folder, trainer)
            if not to_go:
                continue
            file = files.enter_context(_locked(folder / RUNS))
            fit = [pair for pair in to_go if stackable(pair[1])]
            for group in stacks([run for _, run in fit]):
                members = [fit[i] for i in group]
                job = order(pool, [run for _, run in members], study.conditions)
                jobs.append((study, file, members, job))
            alone += [(study, file, pair) for pair in to_go if not stackable(pair[1])]
        under_way = {
            pool.submit(trainer.train, run, study.conditions): (study, file, [(arm, run)])
            for study, file, (arm, run) in alone
        }

        def kept(
            study: Study, file: FileIO, members: list[tuple[Arm, Run]], given: Sequence[Result]
        ) -> Iterator[tuple[Study, FinishedRun]]:
            done = [FinishedRun(arm, run, r) for (arm, run), r in zip(members, given)]
            _append(file, [(_keys(trainer, f.run, study.conditions), f) for f in done])
            yield from ((study, f) for f in done)

        try:
            for study, file, members, job in jobs:
                yield from kept(study, file, members, train_job(job, trainer.device))
                for future in [f for f in under_way if f.done()]:
                    yield from kept(*under_way.pop(future), [future.result()])
            for future in as_completed(under_way):
                yield from kept(*under_way[future], [future.result()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _append(file: FileIO, runs: Sequence[tuple[Keys, FinishedRun]]) -> None:
    """Keeps finished runs, by their keys, in one write."""
    lines = [
        {
            "schema_version": SCHEMA_VERSION,
            "key": keys.release,
            "source": keys.source,
            "arm": f.arm.name,
            "seed": f.run.seed,
            "rate": f.run.rate,
            "result": f.result.to_json(),
        }
        for keys, f in runs
    ]
    try:
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        rest = memoryview(text.encode())
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except (OSError, ValueError) as e:
        raise EvalkitError(f"{file.name}: a run can't be kept ({e}); repeat the command") from e


def _locked(path: Path) -> FileIO:
    """The file, open for appending by this process alone, its torn last line cut off. Raises
    EvalkitError when another process has it, or it can't be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise EvalkitError(
            f"{path}: another process works on this study; wait for it to end"
        ) from None
    try:
        content = path.read_bytes()
        file.truncate(content.rfind(b"\n") + 1)
    except OSError as e:
        file.close()
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
    return file


def _read(path: Path) -> list[tuple[Keys, Result]]:
    """Results with their keys; lines that are damaged count as absent, and their runs are made
    again.
    """
    out: list[tuple[Keys, Result]] = []
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return out
    except OSError as e:
        raise DataError(f"{path}: can't be read ({e.strerror})") from e
    for line in lines:
        try:
            raw: Mapping[str, Any] = json.loads(line)
            keys = Keys(raw["key"], raw.get("source", raw["key"]))
            out.append((keys, Result.from_json(raw["result"])))
        except (ValueError, KeyError, TypeError):
            continue
    return out
