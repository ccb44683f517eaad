"""The front door: evaluations, comparisons and sweeps as Python calls. The command line is one
caller of it.

    import evalkit

    evaluation = evalkit.evaluate("docvqa,refcoco", model="nano", limit=20)
    evaluation.frame            # one row per task and metric
    evaluation.samples          # one row per sample: question, answer, target, scores

Nothing is printed: what is worth knowing goes to the logger ``evalkit``, and a bar shows progress
unless it is not wanted.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evalkit.adapter import ModelAdapter, adapter_class, make_adapter, unnamed_arguments
from evalkit.asking import Asking, repetitions
from evalkit.bounds import bounds
from evalkit.errors import CheckpointError, EvalkitError, UsageError
from evalkit.safe_text import digest_of, harmless, mapped, mask, masked
from evalkit.selection import Limit, Shard, describe, selected_ids
from evalkit.task import Task, is_there, load_task, registered

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from evalkit.cell import Cell
    from evalkit.executor import Executor
    from evalkit.results.agreement import Agreement
    from evalkit.results.report.server import Server
    from evalkit.results.sweep_values import Findings
    from evalkit.runner import Outcome
    from evalkit.store import CellFolder, Selection

logger = logging.getLogger("evalkit")


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` came to. Iterating gives the rows of ``frame``; a notebook shows a table.

    outcomes: one for each task that could be begun, in the order of the tasks.
    errors: what went wrong, a line each; empty when every sample has a score.
    missing: the tasks that could not be begun.
    """

    outcomes: tuple[Outcome, ...]
    errors: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[CellFolder, ...]:
        """The folders that hold the results; none for a task in which nothing was answered."""
        stored = [(o.cell.stored, o.results) for o in self.outcomes]
        return tuple(cell.showing(results) for cell, results in stored if cell.exists)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per task and metric, with the columns of ``load_results``."""
        from evalkit.results.frames import results_frame

        return results_frame(self.cells)

    @property
    def samples(self) -> pd.DataFrame:
        """One row per sample that the cells hold, with the columns of ``load_samples``."""
        from evalkit.results.frames import samples_frame

        return samples_frame(self.cells)

    @property
    def scores(self) -> dict[str, float]:
        """The headline score of every task: ``{"docvqa:mini": 98.3}``."""
        return {o.cell.name: o.results.metrics[0].value for o in self.outcomes if o.results.metrics}

    def failed(self, tolerated: float = 0.0) -> bool:
        """Whether a task could not be run to its end, has no score at all, or has lost more than
        the ``tolerated`` share of its samples.
        """
        return bool(self.missing) or any(
            o.stopped
            or (not o.results.n and not o.results.missing_shards)
            or o.results.errors > tolerated * o.results.n_total
            for o in self.outcomes
        )

    def __iter__(self) -> Iterator[Any]:
        """Named tuples: ``row.task``, ``row.metric``, ``row.value``, ``row.ci_low``, ..."""
        return iter(self.frame.itertuples(index=False, name="Row"))

    def __len__(self) -> int:
        return sum(len(o.results.metrics) for o in self.outcomes)

    def __getitem__(self, column: str) -> pd.Series:
        """A column of ``frame``."""
        return self.frame[column]

    def __repr__(self) -> str:
        rows = [str(self._short().to_string(index=False)), *self.errors]
        return harmless("\n".join(rows))

    def _repr_html_(self) -> str:
        from html import escape

        errors = "".join(f"<p>{escape(e)}</p>" for e in self.errors)
        return str(self._short().to_html(index=False, notebook=True)) + errors

    def _short(self) -> pd.DataFrame:
        columns = "task model metric value ci_low ci_high n errors unparsed".split()
        return self.frame[columns].round(1)


@dataclass(frozen=True)
class SweepResult:
    """What ``sweep`` came to.

    findings: what came out of each cell and task, beside its baseline; frame: the same as a table.
    folder: its tables and pictures; report: the HTML page of everything under the output folder.
    errors: what went wrong, a line for each cell.
    """

    findings: Findings
    folder: Path
    report: Path
    errors: tuple[str, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        from evalkit.results.sweep_tables import table

        return table(self.findings)

    def __repr__(self) -> str:
        from evalkit.results.sweep_tables import sentences

        return "\n".join([*sentences(self.findings), *self.errors])

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False, notebook=True))


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
                errors.append(f"{cell.name}: {outcome.results.errors} samples have no score")
                logger.warning("%s:\n  %s", errors[-1], "\n  ".join(_lost(outcome)))
        return Evaluation(tuple(outcomes), tuple(errors), tuple(missing))

    def outlook(self) -> list[Outlook]:
        """What a run would do, cell by cell; no model is loaded."""
        out = []
        for cell, selection in zip(self.cells, self.selections):
            scored = cell.stored.scored() if cell.stored.exists else {}
            ids = selected_ids(cell, selection, self.shard)
            if ids is not None:
                ids = [r for id in ids for r in repetitions(id, cell.asking.repeats)]
            done = len(scored) if ids is None else sum(id in scored for id in ids)
            out.append(Outlook(cell.name, cell.folder, done, None if ids is None else len(ids)))
        return out


@dataclass(frozen=True)
class Outlook:
    """What a run of one cell would find: how many samples are scored already, of how many that are
    selected (None where the data would have to be fetched to be counted).
    """

    task: str
    cell: Path
    scored: int
    total: int | None


def evaluate(
    tasks: str | Task | type[Task] | Sequence[str | Task | type[Task]],
    model: str | Path | nn.Module = "nano",
    *,
    adapter: str | type[ModelAdapter] | ModelAdapter = "reference",
    protocol: str = "",
    system: str = "",
    num_fewshot: int = 0,
    fewshot_from: str = "",
    temperature: float = 0.0,
    repeats: int = 1,
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
    progress: bool = True,
    **arguments: Any,
) -> Evaluation:
    """Scores a model on tasks; repeated, it goes on where it stopped, and asks nothing twice.

    tasks: ``"docvqa"``, ``"docvqa:val,refcoco"``, ``"all"``, ``"refcoco*"``, ``"./my_task.py"``, a
        file or folder of data (``"my.jsonl"``), a list of those, or task objects.
    model: a shipped name, a checkpoint folder, a hub id; or a model of a family that evalkit knows,
        as it is in memory: it is evaluated without gradients and in eval mode, and given back in
        the mode it had.
    adapter: the name of one, a file, a class, or an object that is ready to use; ``model`` then
        only names it in tables.
    protocol: whose prompt, settings and reading of answers, ``"lmms-eval"``; the tasks' own default
        if not given.
    system: a system prompt, in place of the task's.
    num_fewshot, fewshot_from: so many examples before each question, from another subset of the
        task (a local copy of it may be in ``data``).
    temperature: above 0 answers are drawn instead of greedy, ``repeats`` of each sample.
    control: ``"blind"``, ``"text-only"``, ``"single-frame"``, ``"shuffled-frames"`` or
        ``"image-swapped"``: what is done to the pictures, to see how much of a score needs them.
    output: the folder where results are kept.
    limit: the first N samples (``100``), those from A up to B (``"50-100"``), or a share (``0.1``,
        ``"10%"``). Scores of a part are for trying things out.
    seed: draws the ``limit`` samples at random instead; also decides what examples and answers
        are drawn (0).
    ids: only the samples of these ids.
    data: local copies of subsets' data, ``{"docvqa:val": "folder"}``.
    columns, metric, prompt: how tasks that are given as data are read, where their columns don't
        tell: ``{"question": "prompt"}``, ``"anls"``, ``"{question} Answer in one word."``.
    name: what tables call the model.
    step: of a training run: results of each step are kept, and ``load_results`` has them in the
        column ``step``.
    fresh: asks again what was answered before; the old answers are set aside, not deleted.
    devices: a worker process for each: ``"cuda:0-3"``, ``"cpu:2"``, ``"auto"``; answers are those
        of one process.
    executor: ``"local"`` for those workers; ``"ray"``, ``"ray:HOST:PORT"`` for the nodes of a Ray
        cluster, of which ``devices`` says what one worker takes: ``"cuda"``, ``"cpu"``, or
        ``"cpu:8"`` for eight at most.
    shard: ``"2/3"``: asks the second of three parts, beside runs of the others into the same
        ``output``; the last of them to end completes the results.
    arguments: switches and the adapter's own settings, ``position="rope1d"``, ``dtype="bfloat16"``.

    Raises UsageError for what can't be run as it is written, before anything is run. What goes
    wrong later costs its task or its sample and is told in the result's ``errors``.
    """
    call = _call({k: v for k, v in locals().items() if k != "arguments"}, arguments)
    with _evaluating(model):
        return plan(
            tasks,
            model,
            adapter=adapter,
            protocol=protocol,
            asking=Asking(system, num_fewshot, fewshot_from, temperature, seed or 0, repeats),
            control=control,
            output=output,
            limit=limit,
            seed=seed,
            ids=ids,
            data=data,
            columns=columns,
            metric=metric,
            prompt=prompt,
            name=name,
            step=step,
            fresh=fresh,
            executor=executor,
            devices=devices,
            shard=shard,
            arguments=arguments,
        ).run(progress, call)


def plan(
    tasks: str | Task | type[Task] | Sequence[str | Task | type[Task]],
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
    folder = _path(output).absolute()
    workers = executor_of(adapter, model, arguments or {}, devices, executor)
    built = build_adapter(adapter, model, workers.arguments if workers else arguments or {})
    title = "in memory" if _module(model) is not None else _expanded(cast("str | Path", model))
    cells, selections, unable = [], [], {}
    for task in chosen:
        where = paths.get(task.full_name)
        try:
            others = paths.get(shots.get(task.full_name, ""))
            cell = Cell.make(
                task, built, title, folder, where, name or "", step, asking, others, control
            )
            selections.append(limits.selection(task, where))
            cells.append(cell)
        except UsageError:
            raise
        except EvalkitError as e:
            unable[task.full_name] = str(e)
    return Plan(tuple(cells), tuple(selections), unable, fresh, workers, part)


def tasks_of(
    tasks: str | Task | type[Task] | Sequence[str | Task | type[Task]],
    protocol: str = "",
    reading: Mapping[str, Any] | None = None,
) -> list[Task]:
    """The tasks that are named, each once, under a protocol; those that are given as data by a
    ``reading``. Raises UsageError for one that there is not.
    """
    items = [tasks] if isinstance(tasks, str | Task | type) else list(tasks)
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
        raise UsageError("no task is named")
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
            task = load_task(str(_path(part)) if part.startswith("~") else part, protocol, reading)
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


def compare(
    a: Evaluation | str | Path, b: Evaluation | str | Path, output: str | Path = "results"
) -> pd.DataFrame:
    """Paired differences between two evaluations, cells (their folders) or models (their names),
    one row per task and metric: values on the common samples, a - b, its 95 % interval, p-values.
    Raises UsageError when nothing can be paired.
    """
    from evalkit.results import compare_cells, comparison_frame, find_cells

    def cells(side: Evaluation | str | Path) -> Sequence[CellFolder]:
        if isinstance(side, Evaluation):
            return side.cells
        return find_cells(str(_path(side)), _path(output))

    return comparison_frame(compare_cells(cells(a), cells(b)))


def agree(
    a: str,
    b: str,
    tasks: str | Task | type[Task] | Sequence[str | Task | type[Task]],
    *,
    protocol: str = "",
    output: str | Path = "results",
    limit: int | float | str | None = None,
    seed: int | None = None,
    data: Mapping[str, str | Path] | None = None,
    progress: bool = True,
) -> list[Agreement]:
    """How far two back ends give the same answers, one entry a task: a checkpoint through two
    adapters, or a server against the reference. What was answered before is not asked again.

    a, b: ``"ADAPTER:MODEL"`` and, after commas, the adapter's arguments
    (``"openai:nano,url=http://localhost:8000/v1"``); a model alone is the reference adapter's. The
    other arguments are those of ``evaluate``. Raises UsageError for what can't be run as it is
    written, EvalkitError for a side that answers nothing.
    """
    from evalkit.results.agreement import Agreement

    sides = []
    for text in (a, b):
        adapter, model, arguments = _side(text)
        sides.append(
            evaluate(
                tasks,
                model,
                adapter=adapter,
                protocol=protocol,
                output=output,
                limit=limit,
                seed=seed,
                data=data,
                progress=progress,
                **arguments,
            )
        )
    cells = [{cell.task: cell for cell in side.cells} for side in sides]
    common = [task for task in cells[0] if task in cells[1]]
    if not common:
        errors = "; ".join(e for side in sides for e in side.errors)
        raise EvalkitError(f"no task was answered by both sides: {errors}")
    pieces = _pieces(_side(a)[1], _side(b)[1])
    return [Agreement.of_cells(cells[0][task], cells[1][task], pieces) for task in common]


def _side(text: str) -> tuple[str, str, dict[str, Any]]:
    """Adapter, model and arguments of ``ADAPTER:MODEL,NAME=VALUE``."""
    from evalkit.adapter import convert
    from evalkit.adapter import registered as adapters

    named, *given = text.split(",")
    adapter, colon, model = named.partition(":")
    if not colon or not (adapter in adapters() or adapter.endswith(".py")):
        adapter, model = "reference", named
    arguments = {}
    for part in given:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{text}: expected NAME=VALUE after the model, not {part!r}")
        arguments[name.strip()] = convert(value.strip())
    return adapter, model or "nano", arguments


def _pieces(*models: str) -> Callable[[str], list[str]]:
    """How answers are cut into tokens: by the first of the models whose tokenizer is at hand, else
    into words.
    """
    from evalkit.nano import shipped

    for model in models:
        path = shipped().get(model, Path(model)) / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(path))
            return lambda text: [
                text[start:end] for start, end in tokenizer.encode(text).offsets if end > start
            ]
    return re.compile(r"\w+|\W").findall


def leaderboard(output: str | Path = "results") -> pd.DataFrame:
    """Models down, tasks across, headline scores; ``load_results`` has everything behind it."""
    frame = load_results(output)
    heads = frame[frame["headline"].astype(bool)]
    return heads.pivot_table(
        index=["model", "adapter", "settings"], columns="task", values="value", aggfunc="last"
    )


def load_results(output: str | Path = "results") -> pd.DataFrame:
    """See ``evalkit.results.load_results``."""
    from evalkit.results import load_results

    return load_results(_path(output))


def load_samples(output: str | Path = "results", errors: bool = True) -> pd.DataFrame:
    """See ``evalkit.results.load_samples``."""
    from evalkit.results import load_samples

    return load_samples(_path(output), errors)


def sweep(
    sweep: str | Path,
    model: str | None = None,
    output: str | Path = "results/ablations",
    data: Mapping[str, str | Path] | None = None,
    executor: str = "",
    devices: str = "",
) -> SweepResult:
    """Runs an ablation sweep (a shipped name or a YAML file), or goes on with it, and writes its
    tables, pictures and report. ``model`` replaces the sweep's own, ``data`` (local copies of
    subsets' data) is added to its own. ``devices`` and ``executor`` as in ``evaluate``: as many
    cells side by side as there are workers. Raises UsageError for what
    can't be run as it is written; cells that fail do not stop the others.
    """
    from evalkit.executor.pieces import workers_for
    from evalkit.provenance import command
    from evalkit.results import sweep_tables, write_report
    from evalkit.sweeps import Cells, arms, find_sweep, findings, load_sweep, plan, run_sweep

    where = _path(output)
    config = load_sweep(find_sweep(_expanded(sweep)), model and _expanded(model), data)
    workers = None
    if devices or executor:
        workers = workers_for(
            Cells(config, where.absolute(), command()), devices, executor, config.dtype
        )
        config = config.on(workers.arguments["device"])
    planned = plan(config, where)
    errors = run_sweep(config, planned, workers)
    for error in errors:
        logger.error("%s", error)
    found = findings(config, planned)
    folder = sweep_tables.write(found, arms(planned), where)
    page = where / "report.html"
    for fault in write_report(where, page):
        logger.warning("%s", fault)
    return SweepResult(found, folder, page, tuple(errors))


def _lost(outcome: Outcome) -> Iterator[str]:
    """The first samples without a score, and why."""
    yield from (f"{r.id}: {r.error}" for r in outcome.failures)
    if outcome.results.errors > len(outcome.failures) and outcome.cell.stored.exists:
        yield f"... all in {outcome.cell.stored.journal_path}"


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
        model = _expanded(model)
        if "," in model and not Path(model).exists():
            raise UsageError(
                f"model {model}: one model at a time; repeat for each, or sweep over the axis model"
            )
    if isinstance(adapter, str):
        adapter = _expanded(adapter)
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
    name = _expanded(adapter) if isinstance(adapter, str) else adapter
    return executor_for((name, _expanded(model), arguments), devices, executor)


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
        if not _path(where).exists():
            raise UsageError(f"data {name}={where}: {where} does not exist")
        out[name] = _path(where).absolute()
    return out


def _path(path: str | Path) -> Path:
    return Path(path).expanduser()


def _expanded(name_or_path: str | Path) -> str:
    """A name as it is, a path with ``~`` expanded."""
    text = str(name_or_path)
    return str(_path(text)) if text.startswith("~") else text


def _module(model: object) -> nn.Module | None:
    """The model, if it is one in memory; torch is not imported to tell."""
    torch = sys.modules.get("torch")
    return model if torch and isinstance(model, torch.nn.Module) else None


@contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """Keeps a model in memory in eval mode, and gives every part of it back its own mode."""
    modules = list(module.modules()) if (module := _module(model)) else []
    modes = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m, training in zip(modules, modes):
            m.training = training


def _call(settings: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The Python expression that repeats a call of ``evaluate`` with its own settings and those of
    an adapter, without secrets; an object that has no literal is shown as ``<Adder>``.
    """
    adapter, model = settings["adapter"], settings["model"]
    try:
        cls = adapter_class(_expanded(adapter)) if isinstance(adapter, str) else adapter
        unnamed = unnamed_arguments(cls, model, own) if isinstance(cls, type) else own
    except EvalkitError:
        unnamed = own
    arguments = {**settings, **own, **mapped(unnamed, digest_of)}
    defaults = {k: p.default for k, p in inspect.signature(evaluate).parameters.items()}
    shown = [
        _literal(v) if k == "tasks" else f"{k}={_literal(masked({k: v})[k])}"
        for k, v in arguments.items()
        if k not in ("progress", "fresh", "arguments") and (k == "tasks" or v != defaults.get(k))
    ]
    return mask(f"evalkit.evaluate({', '.join(shown)})")


def _literal(value: object) -> str:
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_literal(v)}" for k, v in value.items()) + "}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return f"<{value.__name__ if isinstance(value, type) else type(value).__name__}>"


def view(output: str | Path = "results") -> Server:
    """The page of all results, served to this machine: in a notebook it shows itself below the
    cell, elsewhere its ``address`` opens in a browser. It ends with the process, or with
    ``shutdown()``. Raises UsageError when there is no such folder.
    """
    from evalkit.results.report.live import Live
    from evalkit.results.report.server import Server

    folder = Path(output)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return Server(Live(folder)).start()
