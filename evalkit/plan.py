"""What a run will do: names of tasks, models and data become cells, which run in turn."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evalkit.adapter import ModelAdapter, make_adapter
from evalkit.asking import Asking, repetitions
from evalkit.bounds import bounds
from evalkit.errors import CheckpointError, EvalkitError, UsageError
from evalkit.evaluation import Evaluation
from evalkit.selection import Limit, Shard, describe, selected_ids
from evalkit.task import Task, is_there, load_task, registered

if TYPE_CHECKING:
    from torch import nn

    from evalkit.cell import Cell
    from evalkit.executor import Executor
    from evalkit.run_info import Selection
    from evalkit.runner import Outcome

logger = logging.getLogger("evalkit")


@dataclass(frozen=True)
class Plan:
    """An evaluation that is ready to begin: its cells, what each takes of its samples, and the
    tasks that have no cell, with the reason.
    """

    cells: tuple[Cell, ...]
    selections: tuple[Selection, ...]
    unable: Mapping[str, str]
    fresh: bool = False
    executor: Executor | None = None
    shard: Shard | None = None

    def run(self, progress: bool = True, command: str = "") -> Evaluation:
        """Runs what is missing of every cell, one after the other; one that fails does not stop
        the others. ``command`` repeats it, for run.json.
        """
        with closing(self.executor) if self.executor else nullcontext():
            return self._run(progress, command)

    def _run(self, progress: bool, command: str) -> Evaluation:
        from evalkit.runner import run_cell

        outcomes: list[Outcome] = []
        missing, errors = list(self.unable), [f"{k}: {v}" for k, v in self.unable.items()]
        for error in errors:
            logger.error("%s", error)
        for cell, selection in zip(self.cells, self.selections):
            if selection.partial:
                logger.warning("%s: %s", cell.name, describe(cell, selection))
            try:
                outcome = run_cell(
                    cell,
                    selection,
                    fresh=self.fresh,
                    progress=progress,
                    command=command,
                    executor=self.executor,
                    shard=self.shard,
                )
            except UsageError:
                raise
            except EvalkitError as e:
                missing.append(cell.name)
                errors.append(f"{cell.name}: {e}")
                logger.error("%s", errors[-1])
                continue
            outcomes.append(outcome)
            if outcome.stopped:
                errors.append(f"{cell.name} stopped: {outcome.stopped}")
                logger.error("%s", errors[-1])
            if outcome.results.errors:
                errors.append(f"{cell.name}: samples without a score: {outcome.results.errors}")
                logger.warning("%s:\n  %s", errors[-1], "\n  ".join(_lost(outcome)))
        return Evaluation(tuple(outcomes), tuple(errors), tuple(missing))

    def outlook(self) -> list[Outlook]:
        """What a run would do, cell by cell; no model is loaded."""
        out = []
        for cell, selection in zip(self.cells, self.selections):
            scored = cell.stored.scored() if cell.stored.exists else {}
            why = ""
            try:
                ids = selected_ids(cell, selection, self.shard)
            except UsageError:
                raise
            except EvalkitError as e:
                ids, why = [], str(e)
            if ids is not None:
                ids = [r for id in ids for r in repetitions(id, cell.asking.repeats)]
            done = len(scored) if ids is None else sum(id in scored for id in ids)
            total = None if ids is None else len(ids)
            out.append(Outlook(cell.name, cell.folder, done, total, why))
        return out


@dataclass(frozen=True)
class Outlook:
    """What a run of one cell would find: how many samples are scored already, of how many that are
    selected (None where the data would have to be fetched to be counted), and why there are none.
    """

    task: str
    cell: Path
    scored: int
    total: int | None
    why: str = ""


def plan(
    tasks: str | Path | Task | type[Task] | Sequence[str | Path | Task | type[Task]],
    model: str | Path | nn.Module = "nano",
    *,
    adapter: str | type[ModelAdapter] | ModelAdapter = "reference",
    protocol: str = "",
    asking: Asking = Asking(),
    control: str = "",
    output: str | Path = "results",
    limit: int | float | str | None = None,
    seed: int | None = None,
    ids: Sequence[str] = (),
    data: Mapping[str, str | Path] | None = None,
    columns: Mapping[str, str] | None = None,
    metric: str = "",
    prompt: str = "",
    name: str | None = None,
    step: int | None = None,
    fresh: bool = False,
    executor: str = "",
    devices: str = "",
    shard: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> Plan:
    """What ``evaluate`` would run. Raises UsageError for whatever can't be run as it is written; a
    task whose data can't be had is among the plan's ``unable``.
    """
    from evalkit.cell import Cell

    bounds()  # a mistyped one is an error of the command, not of every sample
    reading = {"columns": dict(columns or {}), "metric": metric, "prompt": prompt}
    chosen = tasks_of(tasks, protocol, {k: v for k, v in reading.items() if v})
    part = Shard.read(shard) if shard else None
    if part and fresh:
        raise UsageError(f"fresh and shard {part}: shards share a folder; choose a new output")
    limits = Limit.of(limit, None if limit is None and asking.draws else seed, ids)
    # made whole before an adapter is built: one that changes the present folder moves nothing
    shots = {t.full_name: f"{t.name}:{asking.shots_from}" for t in chosen if asking.shots}
    paths = check_data(data or {}, [*(t.full_name for t in chosen), *shots.values()])
    folder = path_of(output).absolute()
    workers = executor_of(adapter, model, arguments or {}, devices, executor)
    built = build_adapter(adapter, model, workers.arguments if workers else arguments or {})
    title = "in memory" if module_of(model) is not None else expanded(cast("str | Path", model))
    cells, selections, unable = [], [], {}
    for task in chosen:
        where = paths.get(task.full_name)
        try:
            others = paths.get(shots.get(task.full_name, ""))
            cell = Cell.make(
                task, built, title, folder, where, name or "", step, asking, others, control
            )
            selections.append(limits.selection(cell))
            cells.append(cell)
        except UsageError:
            raise
        except EvalkitError as e:
            unable[task.full_name] = str(e)
    return Plan(tuple(cells), tuple(selections), unable, fresh, workers, part)


def tasks_of(
    tasks: str | Path | Task | type[Task] | Sequence[str | Path | Task | type[Task]],
    protocol: str = "",
    reading: Mapping[str, Any] | None = None,
) -> list[Task]:
    """The tasks that are named, each once, under a protocol; those that are given as data by a
    ``reading``. Raises UsageError for one that there is not.
    """
    given = [tasks] if isinstance(tasks, str | Path | Task | type) else tasks
    items = [str(item) if isinstance(item, Path) else item for item in given]
    out: dict[str, Task] = {}
    for item in items:
        for task in (
            _named(item, protocol, reading) if isinstance(item, str) else [_object(item, protocol)]
        ):
            if (other := out.setdefault(task.full_name, task)).file != task.file:
                raise UsageError(
                    f"two tasks are called {task.full_name}: {other.file} and {task.file}; rename "
                    "one of the files, or run them one by one"
                )
    if reading and not any(task.file for task in out.values()):
        raise UsageError(
            f"{', '.join(reading)}: only for a task that is given as data, such as my.jsonl"
        )
    if not out:
        raise UsageError("no task is named: evalkit run docvqa, say; evalkit tasks lists them")
    return list(out.values())


def _named(text: str, protocol: str, reading: Mapping[str, Any] | None = None) -> Iterator[Task]:
    parts = [text] if is_there(text) else text.split(",")
    for part in filter(None, map(str.strip, parts)):
        name, colon, subset = part.partition(":")
        if name == "all" and name not in registered():
            name = "*"
        is_path = name.endswith(".py") or is_there(part)
        if not is_path and any(sign in name for sign in "*?["):
            matching = [known for known in sorted(registered()) if fnmatch(known, name)]
            if not matching:
                known = ", ".join(sorted(registered()))
                raise UsageError(f"no task is named like {name!r}; known: {known}")
            yield from (load_task(f"{known}{colon}{subset}", protocol) for known in matching)
        else:
            task = load_task(
                str(path_of(part)) if part.startswith("~") else part, protocol, reading
            )
            if task.file:
                logger.info("%s", task.description)
            yield task


def _object(item: object, protocol: str) -> Task:
    if isinstance(item, Task):
        same = protocol in ("", item.protocol_name)
        return item if same else type(item)(item.subset_name, protocol)
    if isinstance(item, type) and issubclass(item, Task):
        return item(protocol=protocol)
    raise UsageError(f"{item!r:.100} is not a task: expected a name, a Task or a class of one")


def build_adapter(
    adapter: str | type[ModelAdapter] | ModelAdapter,
    model: str | Path | nn.Module,
    arguments: Mapping[str, Any],
) -> ModelAdapter:
    """An adapter as ``evaluate`` takes it, ready for requests. Raises UsageError."""
    if isinstance(adapter, ModelAdapter):
        if arguments:
            raise UsageError(
                f"{', '.join(arguments)}: an adapter that is built already takes no arguments"
            )
        return adapter
    if isinstance(model, str | Path):
        model = expanded(model)
        if "," in model and not Path(model).exists():
            raise UsageError(
                f"model {model}: one model at a time; repeat for each, or sweep over the axis model"
            )
    if isinstance(adapter, str):
        adapter = expanded(adapter)
    try:
        return make_adapter(adapter, cast(str, model), arguments)
    except CheckpointError as e:
        raise UsageError(str(e)) from e


def executor_of(
    adapter: str | type[ModelAdapter] | ModelAdapter,
    model: str | Path | nn.Module,
    arguments: Mapping[str, Any],
    devices: str = "",
    executor: str = "",
) -> Executor | None:
    """Workers that answer as the adapter would; None for none. Raises UsageError for what can't be
    spread.
    """
    if not devices and not executor:
        return None
    from evalkit.executor import executor_for

    if isinstance(adapter, ModelAdapter) or not isinstance(model, str | Path):
        raise UsageError("devices: workers build adapter and model themselves; give their names")
    if "device" in arguments:
        raise UsageError("give device or devices, not both")
    name = expanded(adapter) if isinstance(adapter, str) else adapter
    return executor_for((name, expanded(model), arguments), devices, executor)


def check_data(data: Mapping[str, str | Path], names: Sequence[str]) -> dict[str, Path]:
    """Local copies of subsets' data as paths that exist, for the tasks of these names. Raises
    UsageError.
    """
    out = {}
    for name, where in data.items():
        if name not in names:
            raise UsageError(
                f"data {name}={where}: expected TASK:SUBSET=PATH with one of "
                f"{', '.join(dict.fromkeys(names))}"
            )
        if not path_of(where).exists():
            raise UsageError(f"data {name}={where}: {where} does not exist")
        out[name] = path_of(where).absolute()
    return out


def _lost(outcome: Outcome) -> Iterator[str]:
    """The first samples without a score, and why."""
    yield from (f"{r.id}: {r.error}" for r in outcome.failures)
    if outcome.results.errors > len(outcome.failures) and outcome.cell.stored.exists:
        yield f"... all in {outcome.cell.stored.journal_path}"


def path_of(path: str | Path) -> Path:
    """The path with ``~`` expanded."""
    return Path(path).expanduser()


def expanded(name_or_path: str | Path) -> str:
    """A name as it is, a path with ``~`` expanded."""
    text = str(name_or_path)
    return str(path_of(text)) if text.startswith("~") else text


def module_of(model: object) -> nn.Module | None:
    """The model, if it is one in memory; torch is not imported to tell."""
    torch = sys.modules.get("torch")
    return model if torch and isinstance(model, torch.nn.Module) else None
