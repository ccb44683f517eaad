"""Sweeps: cells over switches, checkpoints and tasks from one YAML file, run or gone on with, and
compared with their baseline.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr, model_validator

from evalkit.adapter import ModelAdapter, adapter_class, check_arguments, make_adapter
from evalkit.asking import Asking
from evalkit.bounds import bounds, over
from evalkit.cell import Cell
from evalkit.config_files import Strict, find_shipped, read_yaml, yaml_quotes
from evalkit.errors import EvalkitError, UsageError
from evalkit.executor import Executor, on_device
from evalkit.executor.pieces import done
from evalkit.results.cells import take_inventory
from evalkit.results.interactions import quartets
from evalkit.results.sweep_tables import compare_arms
from evalkit.results.sweep_values import Arm, Findings
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.task import Task, load_task

logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]
"""What makes a cell: values of switches and of the adapter's other arguments; ``model`` and
``adapter`` where they are not the sweep's.
"""


SHIPPED = Path(__file__).parent


class Group(Strict):
    """Cells with a baseline and tasks of their own, as trained arms have: they are compared with
    each other, not with the sweep's.
    """

    baseline: dict[str, Any]
    """The settings that the others are compared with."""
    include: tuple[dict[str, Any], ...]
    """The settings of the others."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, as `evalkit run` takes them."""


class Sweep(Strict):
    """A sweep's file. Settings are switches, arguments of the adapter, `model` and `adapter`."""

    schema_version: Literal[1] = 1
    """Of this layout."""
    name: str = Field(pattern=r"^[\w-]+$")
    """Of the folder that the tables go to: letters, digits, `-` and `_`."""
    question: str
    """What the sweep is to answer, shown above its tables."""
    model: str = "nano"
    """A shipped name, a checkpoint folder or a hub id."""
    adapter: str = "reference"
    """An installed adapter, or a file `./my_adapter.py`."""
    protocol: str = ""
    """Whose prompt, settings and reading of answers, as `--protocol`."""
    control: str = ""
    """What is done to the pictures, as `--control`."""
    dtype: str | None = None
    """As `--dtype` of `evalkit run`."""
    device: str | None = None
    """As `--device` of `evalkit run`."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the adapter that all cells share, as `--model-args`."""
    data: dict[str, Path] = Field(default_factory=dict)
    """Local copies of subsets' data, `docvqa:val: folder`, as `--data`."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, as `evalkit run` takes them."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What the columns of data files are, as `--columns`."""
    metric: str = ""
    """How the answers of data files are scored, as `--metric`."""
    prompt: str = ""
    """What is asked of data files, as `--prompt`."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Settings by name, each with a list of values."""
    mode: Literal["grid", "paired"] = "grid"
    """`grid`: all combinations of the axes' values; `paired`: the first values of all axes, then
    the second, and so on."""
    baseline: dict[str, Any] = Field(default_factory=dict)
    """The settings that all others are compared with; none: as trained."""
    include: tuple[dict[str, Any], ...] = ()
    """Settings beside those of the axes."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations that have all settings of one of these are left out."""
    groups: tuple[Group, ...] = ()
    """Cells with a baseline and tasks of their own."""
    limit: int | None = Field(default=None, gt=0)
    """Only so many samples of each task, drawn at random; all by default."""
    system: str = ""
    """A system prompt, as `--system`."""
    temperature: float = 0.0
    """As `--temperature`: above 0 answers are drawn."""
    seed: int = 0
    """Of drawn answers, as `--seed`."""
    repeats: int = 1
    """Answers of each sample, as `--repeats`: the page has pass@k and the majority's score."""
    thinking: int = 0
    """Tokens for a thought before each answer, as `--thinking`."""
    _added_data: dict[str, Path] = PrivateAttr(default_factory=dict)
    _worker: str = PrivateAttr("")

    @property
    def command(self) -> str:
        """The command that repeats this sweep."""
        file = self.file(SHIPPED) or self.name
        added = [x for n, p in self._added_data.items() for x in ("--data", f"{n}={p}")]
        return shlex.join(["evalkit", "sweep", file, "--model", self.model, *added])

    @property
    def asking(self) -> Asking:
        """How every cell's samples are asked. Raises UsageError."""
        return Asking(self.system, 0, "", self.temperature, self.seed, self.repeats, self.thinking)

    @property
    def local_data(self) -> dict[str, Path]:
        """Local copies of subsets' data: the file's, and those added to it."""
        return {n: p.expanduser() for n, p in (self.data | self._added_data).items()}

    @model_validator(mode="after")
    def _fits(self) -> Sweep:
        axes = {name: len(values) for name, values in self.axes.items()}
        if self.mode == "grid" and (count := math.prod(axes.values())) > bounds().sweep_cells:
            raise ValueError(f"axes: {count:,} combinations: {over('sweep_cells')}")
        if self.mode == "paired" and len({len(v) for v in self.axes.values()}) > 1:
            raise ValueError("axes: paired mode needs as many values on every axis")
        for settings in self.every():
            for name in ("model", "adapter"):
                if not isinstance(settings.get(name, ""), str):
                    raise ValueError(f"{name}: {settings[name]!r} is not a name or a path")
        return self

    def every(self) -> list[Settings]:
        """The settings of all cells, those of the groups too."""
        return [*self.cells(), *(s for g in self.groups for s in (g.baseline, *g.include))]

    def task(self, name: str) -> Task:
        """One of the tasks. Raises UsageError."""
        reading = {"columns": self.columns, "metric": self.metric, "prompt": self.prompt}
        return load_task(name, self.protocol, {k: v for k, v in reading.items() if v})

    def built(self, settings: Settings) -> ModelAdapter:
        """The adapter of a cell. Raises UsageError."""
        shared = {"dtype": self.dtype, "device": self.device, **self.model_args}
        own = {k: v for k, v in settings.items() if k not in ("model", "adapter")}
        given = {k: v for k, v in shared.items() if v is not None} | own
        adapter = settings.get("adapter", self.adapter)
        if self._worker:
            given = on_device(adapter, given, self._worker)
        return make_adapter(adapter, settings.get("model", self.model), given)

    def on(self, device: str) -> Sweep:
        """The same sweep with its models on a worker's device. Raises UsageError for one that
        names devices itself.
        """
        if self.device or any("device" in s for s in (self.model_args, *self.every())):
            raise UsageError(f"{self.name}: give device in the sweep or devices, not both")
        moved = self.model_copy()
        moved._worker = device
        return moved

    def cells(self) -> list[Settings]:
        """The settings of all cells, the baseline first, none twice."""
        combine = itertools.product if self.mode == "grid" else zip
        swept = (
            [dict(zip(self.axes, values)) for values in combine(*self.axes.values())]
            if self.axes
            else []
        )
        chosen = [
            s
            for s in (*swept, *self.include)
            if not any(all(k in s and s[k] == v for k, v in e.items()) for e in self.exclude)
        ]
        out: dict[str, Settings] = {}
        for settings in (self.baseline, *chosen):
            out.setdefault(json.dumps(settings, sort_keys=True, default=str), settings)
        return list(out.values())


def find_sweep(name: str) -> Path:
    """The file of a shipped sweep, or the given file. Raises UsageError with the shipped names."""
    return find_shipped(name, SHIPPED, "sweeps")


def load_sweep(
    path: Path, model: str | None = None, data: Mapping[str, str | Path] | None = None
) -> Sweep:
    """Reads and checks a sweep's file; ``model`` replaces its own, ``data`` is added to its own.
    Raises UsageError that names file, line and field.
    """
    sweep = read_yaml(path, Sweep, {"model": model} if model else {})
    sweep._added_data = {name: Path(where) for name, where in (data or {}).items()}
    for settings in sweep.every():
        try:
            check_settings(sweep, settings)
        except UsageError as e:
            raise UsageError(f"{path}: {e}{yaml_quotes(settings)}") from None
    try:
        _ = sweep.asking
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None
    tasks = (*sweep.tasks, *(t for g in sweep.groups for t in g.tasks))
    names = dict.fromkeys(sweep.task(t).full_name for t in tasks)
    if strange := sorted(set(sweep.local_data) - set(names)):
        raise UsageError(
            f"{path}: data: {', '.join(strange)} is not among the sweep's tasks: {', '.join(names)}"
        )
    return sweep


def check_settings(sweep: Sweep, settings: Settings) -> None:
    """Raises UsageError for settings that the sweep's adapter does not take, or values that are
    none.
    """
    cls = adapter_class(settings.get("adapter", sweep.adapter))
    own = {k: v for k, v in settings.items() if k not in ("model", "adapter")}
    check_arguments(cls, settings.get("model", sweep.model), sweep.model_args | own)


@dataclass(frozen=True)
class Planned:
    """One cell of a sweep: its settings, the cell of the runner, and the settings of the cell that
    it is compared with.
    """

    settings: Settings
    cell: Cell
    baseline: Settings


def plan(sweep: Sweep, output: Path) -> list[Planned]:
    """All cells of a sweep, baseline first for each task. Raises UsageError for a model, task or
    switch that is not there.
    """

    def cells(
        tasks: Sequence[str], chosen: Sequence[Settings], axes: Collection[str] = ()
    ) -> list[Planned]:
        adapters = [
            (s, s.get("model", sweep.model), a)
            for s, a in zip(chosen, _adapters(sweep, chosen, axes))
        ]
        return [
            Planned(
                s,
                Cell.make(
                    task,
                    adapter,
                    m,
                    output,
                    data.get(task.full_name),
                    asking=sweep.asking,
                    control=sweep.control,
                ),
                chosen[0],
            )
            for task in map(sweep.task, tasks)
            for s, m, adapter in adapters
        ]

    data = sweep.local_data
    own = [p for g in sweep.groups for p in cells(g.tasks, (g.baseline, *g.include))]
    return [*cells(sweep.tasks, sweep.cells(), sweep.axes), *own]


def _adapters(
    sweep: Sweep, chosen: Sequence[Settings], axes: Collection[str]
) -> list[ModelAdapter]:
    """The adapters of cells, their baseline first. Raises UsageError, with what to add to the file
    where some combinations of the axes have no meaning and others do.
    """
    built: list[ModelAdapter | UsageError] = []
    for settings in chosen:
        try:
            built.append(sweep.built(settings))
        except UsageError as e:
            built.append(e)
    refused = [(s, e) for s, e in zip(chosen, built) if isinstance(e, UsageError)]
    kept = [s for s, e in zip(chosen, built) if not isinstance(e, UsageError)]
    if refused:
        first = refused[0][1]
        causes = [_cause(s, kept) for s, _ in refused if s.keys() == {*axes}]
        if chosen[0] not in kept or len(causes) < len(refused) or not all(causes):
            raise first
        lines = dict.fromkeys(
            yaml.safe_dump(cause, default_flow_style=True, sort_keys=False) for cause in causes
        )
        count = f"{len(refused)} combination{'s' if len(refused) > 1 else ''} of the axes"
        raise UsageError(
            f"{first}\nto leave {count} out, add to the sweep's file:\nexclude:\n"
            + "".join(f"  - {line}" for line in lines).rstrip()
        )
    return [a for a in built if not isinstance(a, UsageError)]


def _cause(settings: Settings, kept: Sequence[Settings]) -> dict[str, Any]:
    """The fewest settings, of several, that no kept combination has together; empty where a value
    is refused with all others, or all together have been kept.
    """
    for size in range(1, len(settings) + 1):
        for some in itertools.combinations(settings.items(), size):
            if not any(all(k in s and s[k] == v for k, v in some) for s in kept):
                return dict(some) if size > 1 else {}
    return {}


def selection(sweep: Sweep) -> Selection:
    """Which samples each cell takes."""
    return Selection(drawn=sweep.limit) if sweep.limit else Selection()


def outlook(
    sweep: Sweep, planned: Sequence[Planned], output: Path
) -> list[tuple[str, str, str, str]]:
    """What a run would do: (task, settings, samples journaled, seconds to go by the cell's speed,
    or its task's middle one).
    """
    speeds: dict[str, dict[str, float]] = {}
    totals: dict[str, int] = {}
    for stored in take_inventory(output).cells if output.is_dir() else ():
        if stored.results.n:
            speeds.setdefault(stored.task, {})[stored.name] = (
                stored.results.seconds / stored.results.n
            )
            totals[stored.task] = max(totals.get(stored.task, 0), stored.results.n_total)
    rows = []
    for p in planned:
        cell = p.cell.stored
        done = len(cell.scored())
        results = cell.finished()
        if results and results.complete and results.selection == selection(sweep):
            rest = "0"
        elif task_speeds := speeds.get(p.cell.name):
            asked = sweep.limit * sweep.repeats if sweep.limit else totals[p.cell.name]
            left = max(asked - done, 0)
            rest = f"{left * task_speeds.get(cell.name, median(task_speeds.values())):.0f}"
        else:
            rest = "unknown"
        rows.append((p.cell.name, describe(p.settings), str(done), rest))
    return rows


def describe(settings: Settings) -> str:
    """``position=rope1d resolution=tokens:64``; ``as trained`` for no settings."""
    return " ".join(f"{k}={v}" for k, v in settings.items()) or "as trained"


def run_sweep(
    sweep: Sweep, planned: Sequence[Planned], workers: Executor | None = None
) -> list[str]:
    """Runs what is missing of every cell; returns what went wrong, cell by cell. A cell that fails
    does not stop the others. ``workers``, which are for ``Cells``, run several side by side.
    """
    adapters = list(dict.fromkeys(id(p.cell.adapter) for p in planned))
    # All cells of an adapter one after the other, so that one model is in memory at a time.
    ordered = sorted(planned, key=lambda p: adapters.index(id(p.cell.adapter)))
    ended = (
        _in_turn(sweep, ordered) if workers is None else _side_by_side(planned, ordered, workers)
    )
    return [f"{_title(p)}: {fault}" for p, fault in ended if fault]


def _in_turn(sweep: Sweep, ordered: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    with closing(Turns(sweep)) as turns:
        for i, p in enumerate(ordered, 1):
            logger.info("%d of %d: %s", i, len(ordered), _title(p))
            yield p, turns.run(p)


def _side_by_side(
    planned: Sequence[Planned], ordered: Sequence[Planned], workers: Executor
) -> Iterator[tuple[Planned, str]]:
    # two that are one cell are one piece of work: nothing else writes to its journal
    places = {p.cell.folder: str(planned.index(p)) for p in ordered}
    for i, end in enumerate(done(workers, places.values()), 1):
        p = planned[int(end.id)]
        logger.info("%d of %d is done: %s", i, len(places), _title(p))
        yield p, end.error or end.text


def _title(p: Planned) -> str:
    return f"{p.cell.name}, {describe(p.settings)}"


class Turns:
    """Runs cells one after the other, with one adapter's model in memory."""

    def __init__(self, sweep: Sweep, command: str = "") -> None:
        self.sweep, self.command = sweep, command
        self.adapter: ModelAdapter | None = None

    def run(self, p: Planned, progress: bool = True) -> str:
        """What went wrong; empty where nothing did. Raises UsageError."""
        if self.adapter is not p.cell.adapter:
            self.close()
        self.adapter = p.cell.adapter
        try:
            outcome = run_cell(
                p.cell, selection(self.sweep), progress=progress, command=self.command
            )
        except UsageError:
            raise
        except EvalkitError as e:
            return str(e)
        if outcome.results.errors:
            return outcome.stopped or f"samples without a score: {outcome.results.errors}"
        return outcome.stopped or ""

    def close(self) -> None:
        if self.adapter:
            self.adapter.close()


@dataclass(frozen=True)
class Cells:
    """The cells of a sweep as pieces of work for ``executor.pieces``: by their places in its plan.
    ``command`` repeats the sweep.
    """

    sweep: Sweep
    output: Path
    command: str = ""

    def __call__(self, device: str) -> Callable[[str], str]:
        sweep = self.sweep.on(device)
        planned, turns = plan(sweep, self.output), Turns(sweep, self.command)
        return lambda name: turns.run(planned[int(name)], progress=False)


def arms(planned: Sequence[Planned]) -> list[Arm]:
    """Each planned cell on disk beside the one that it is compared with, for the sweep's tables."""
    bases = {(p.cell.name, describe(p.settings)): p.cell.stored for p in reversed(planned)}
    return [
        Arm(
            describe(p.settings),
            describe(p.baseline),
            p.cell.stored,
            bases[p.cell.name, describe(p.baseline)],
        )
        for p in planned
    ]


def findings(sweep: Sweep, planned: Sequence[Planned]) -> Findings:
    """What came out of the cells that were run."""
    groups: dict[tuple[str, str], list[Planned]] = {}
    for p in planned:
        groups.setdefault((p.cell.name, describe(p.baseline)), []).append(p)
    fours = [
        quartet
        for (task, _), of in groups.items()
        for quartet in quartets(task, [(p.settings, p.cell.stored) for p in of], of[0].baseline)
    ]
    return compare_arms(
        sweep.name, sweep.question, sweep.command, arms(planned), sweep.limit, fours
    )
