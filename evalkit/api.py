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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapter import ModelAdapter, adapter_class, unnamed_arguments
from evalkit.arguments import checked
from evalkit.asking import Asking
from evalkit.errors import EvalkitError, UsageError
from evalkit.evaluation import Evaluation
from evalkit.plan import expanded, module_of, path_of, plan
from evalkit.safe_text import digest_of, mapped, mask, masked
from evalkit.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from evalkit.results.agreement import Agreement
    from evalkit.results.report.server import Server
    from evalkit.results.sweep_values import Findings
    from evalkit.store import CellFolder

logger = logging.getLogger("evalkit")


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


@checked
def evaluate(
    tasks: str | Path | Task | type[Task] | Sequence[str | Path | Task | type[Task]],
    model: str | Path | nn.Module = "nano",
    *,
    adapter: str | type[ModelAdapter] | ModelAdapter = "reference",
    protocol: str = "",
    system: str = "",
    num_fewshot: int = 0,
    fewshot_from: str = "",
    temperature: float = 0.0,
    repeats: int = 1,
    thinking: int = 0,
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
    thinking: so many tokens more than the task's for what a model thinks before its answer, which
        is not scored.
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
            asking=Asking(
                system, num_fewshot, fewshot_from, temperature, seed or 0, repeats, thinking
            ),
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


@checked
def compare(
    a: Evaluation | str | Path, b: Evaluation | str | Path, output: str | Path = "results"
) -> pd.DataFrame:
    """Paired differences between two evaluations, cells (their folders) or models (their names),
    one row per task and metric.

    Columns: task, metric, model_a, model_b, adapter_a, adapter_b, settings_a, settings_b, a and b
    (values on the common samples), difference (a - b), ci_low, ci_high (its 95 % interval),
    p_value (of sign flips of images and clips), p_holm (corrected for all rows), mde (the true
    difference that so many samples would show at p < 0.05, uncorrected, four times in five), n,
    clusters, verdict (in words), remarks, cell_a, cell_b (folders). Raises UsageError when nothing
    can be paired.
    """
    from evalkit.results import compare_cells, comparison_frame, find_cells

    def cells(side: Evaluation | str | Path) -> Sequence[CellFolder]:
        if isinstance(side, Evaluation):
            return side.cells
        return find_cells(str(path_of(side)), path_of(output))

    return comparison_frame(compare_cells(cells(a), cells(b)))


@checked
def agree(
    a: str,
    b: str,
    tasks: str | Path | Task | type[Task] | Sequence[str | Path | Task | type[Task]],
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


@checked
def leaderboard(output: str | Path = "results") -> pd.DataFrame:
    """Models down, tasks across, headline scores; ``load_results`` has everything behind it."""
    frame = load_results(output)
    heads = frame[frame["headline"].astype(bool)]
    return heads.pivot_table(
        index=["model", "adapter", "settings"], columns="task", values="value", aggfunc="last"
    )


@checked
def load_results(output: str | Path = "results") -> pd.DataFrame:
    """One row per cell and metric; of cells with repetitions pass@k and the majority's score are
    metrics, too.

    Columns: model, adapter, task (``name:subset``), metric, value, ci_low, ci_high (95 %, over
    clusters; empty when there is none), n (scored), n_total, errors, unparsed, clusters, complete
    (every sample of the subset was asked: False for a selection too), selection (in words; empty:
    all samples), data (official, local or mini), arm (inference probe, trained arm or
    empty), step (of a training run), inference_probe, settings (step, switches and dtype in one
    line), switches (as JSON; each also in a column ``switch_<name>``), protocol, control,
    prompt_digest, task_version, data_digest, weights, fingerprint, tokens_text_in,
    tokens_vision_in, tokens_out, seconds, created, rescored, evalkit_version, git_commit,
    git_dirty, command, cell (the folder), headline (True for the task's first metric),
    higher_is_better, scale, schema_version.

    A damaged cell is logged and left out. Raises UsageError when there is no such folder.
    """
    from evalkit.results import load_results

    return load_results(path_of(output))


@checked
def load_samples(output: str | Path = "results", errors: bool = True) -> pd.DataFrame:
    """One row per sample of every cell.

    Columns: cell (the folder), model, adapter, task, settings, each switch as ``switch_<name>``,
    data, selection, id, cluster, question (as sent; empty in results of evalkit 0.1), target,
    choices, text (the answer), thought (before it), parsed, unparsed, error, failed_in (row,
    adapter, scoring), finish_reason, prompt (a hash), seconds, tokens_text_in, tokens_vision_in,
    tokens_out, then ``metadata_*`` and ``score_*`` as the tasks name them. Where the values of a
    column are of several kinds (targets of one task are lists of texts, of another boxes), they are
    JSON texts (a text among them stands in quotes), so that the frame can be written to parquet.
    ``errors=False`` leaves out samples without a score. Raises UsageError when there is no such
    folder.
    """
    from evalkit.results import load_samples

    return load_samples(path_of(output), errors)


@checked
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
    cells side by side as there are workers. Raises UsageError for what can't be run as it is
    written; cells that fail do not stop the others.
    """
    from evalkit.executor.pieces import workers_for
    from evalkit.provenance import command
    from evalkit.results import sweep_tables, write_report
    from evalkit.sweeps import Cells, arms, find_sweep, findings, load_sweep, plan, run_sweep

    where = path_of(output)
    config = load_sweep(find_sweep(expanded(sweep)), model and expanded(model), data)
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


@contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """Keeps a model in memory in eval mode, and gives every part of it back its own mode."""
    modules = list(module.modules()) if (module := module_of(model)) else []
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
        cls = adapter_class(expanded(adapter)) if isinstance(adapter, str) else adapter
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


@checked
def view(output: str | Path = "results") -> Server:
    """The page of all results, served to this machine: in a notebook it shows itself below the
    cell, elsewhere its ``address`` opens in a browser. It ends with the process, or with
    ``shutdown()``. Raises UsageError when there is no such folder.
    """
    from evalkit.results.report.live import Live
    from evalkit.results.report.server import Server

    folder = path_of(output)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return Server(Live(folder)).start()
