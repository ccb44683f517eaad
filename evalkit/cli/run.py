"""``evalkit run``: scores a model on tasks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import (
    adapter_arguments,
    command_of,
    data_option,
    data_paths,
    model_options,
    output_option,
    reading_of,
    reading_options,
    share,
    spread_options,
    talk_options,
    whole,
)
from evalkit.cli.output import near, print_error, print_json
from evalkit.cli.tasks import shown_samples
from evalkit.errors import EvalkitError
from evalkit.results.tables import aligned, interval_note, interval_text, lower_note

if TYPE_CHECKING:
    from evalkit.cell_results import MetricResult
    from evalkit.cli.parser import Verbs
    from evalkit.evaluation import Evaluation
    from evalkit.plan import Plan
    from evalkit.runner import Outcome

MANY_CUT = 0.1
"""The share of answers at their limit that is said."""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("run", help="score a model on tasks; repeat the command to resume")
    parser.add_argument("task", nargs="*", metavar="TASK", help="as with --tasks")
    parser.add_argument(
        "--tasks",
        default="",
        help="NAME[:SUBSET],... or ./my_task.py[:SUBSET], or a file or folder of data (my.jsonl); "
        "refcoco*; all. The subset is the task's first if not given",
    )
    parser.add_argument(
        "--protocol",
        default="",
        metavar="NAME",
        help="whose prompt, settings and reading of answers: qwen2-vl, lmms-eval, vlmevalkit, "
        "evalscope; evalkit tasks NAME shows those that a task has",
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument("--system", default="", metavar="TEXT", help="a system prompt")
    asking.add_argument(
        "--num-fewshot", type=whole, default=0, metavar="N", help="examples before each question"
    )
    asking.add_argument(
        "--fewshot-from", default="", metavar="SUBSET", help="the task's subset that they are of"
    )
    asking.add_argument(
        "--temperature", type=float, default=0.0, help="above 0 answers are drawn (0: greedy)"
    )
    asking.add_argument(
        "--repeats", type=whole, default=1, metavar="N", help="drawn answers of each sample (1)"
    )
    asking.add_argument(
        "--thinking",
        type=whole,
        default=0,
        metavar="N",
        help="for models that think before they answer: up to N tokens more, which are not scored",
    )
    parser.add_argument(
        "--control",
        default="",
        metavar="NAME",
        help="what is done to the pictures, to see how much of a score needs them: blind, "
        "text-only, single-frame, shuffled-frames, image-swapped",
    )
    model_options(parser)
    data = parser.add_argument_group("data")
    data_option(data)
    reading_options(data)
    data.add_argument(
        "--limit",
        metavar="N|A-B|SHARE",
        help="the first N samples, those from A up to B, or a share (10%%, 0.1); never quote such "
        "a score",
    )
    data.add_argument(
        "--seed",
        type=int,
        help="with --limit: draw the samples at random; also of examples and drawn answers (0)",
    )
    data.add_argument(
        "--sample-id",
        action="append",
        default=[],
        metavar="ID",
        help="only this sample (repeatable)",
    )
    how = parser.add_argument_group("the run")
    output_option(how)
    how.add_argument("--name", metavar="LABEL", help="what tables call the model")
    how.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="the checkpoint's step of a training run: with one --name, its results are a curve",
    )
    spread_options(how)
    how.add_argument(
        "--shard",
        default="",
        metavar="I/N",
        help="ask part I of N, beside runs of the others into the same --output (job arrays)",
    )
    how.add_argument("--fresh", action="store_true", help="ask again what was answered before")
    how.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    how.add_argument(
        "--fail-on-error",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="exit 1 when more than this share of samples failed (0)",
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.asking import Asking
    from evalkit.malloc import staying
    from evalkit.plan import plan as planned

    output = args.output.absolute()
    with staying():
        plan = planned(
            ",".join([*args.task, args.tasks]),
            args.model,
            adapter=args.adapter,
            protocol=args.protocol,
            asking=Asking(
                args.system,
                args.num_fewshot,
                args.fewshot_from,
                args.temperature,
                args.seed or 0,
                args.repeats,
                args.thinking,
            ),
            control=args.control,
            output=args.output,
            limit=args.limit,
            seed=args.seed,
            ids=args.sample_id,
            data=data_paths(args.data),
            **reading_of(args),
            name=args.name,
            step=args.step,
            fresh=args.fresh,
            shard=args.shard,
            executor=args.executor,
            devices=args.devices,
            arguments=adapter_arguments(args),
        )
    if args.dry_run:
        return _dry_run(plan, args.json)
    line = command_of(args)
    evaluation = plan.run(progress=args.verbosity >= 0, command=line)
    written = _write_leaderboard(output) if evaluation.outcomes else None
    if args.json:
        print_json(evaluation.frame.to_dict("records"))
    else:
        _show(evaluation)
        if evaluation.outcomes and written:
            print(f"leaderboard: {near(written)}")
    failed = evaluation.failed(args.fail_on_error)
    if failed:
        print(
            f"evalkit: not everything was scored; repeat to try the rest again:\n  {line}",
            file=sys.stderr,
        )
    return int(failed)


def _dry_run(plan: Plan, as_json: bool) -> int:
    outlook = plan.outlook()
    if as_json:
        print_json(
            {
                "task": o.task,
                "scored": o.scored,
                "total": o.total,
                "cell": str(o.cell),
                "error": o.why or None,
            }
            for o in outlook
        )
    else:
        for o in (o for o in outlook if not o.why):
            to_go = "" if o.total is None else f" of {o.total}; {o.total - o.scored} to go"
            print(f"{o.task}: {o.scored}{to_go}; {near(o.cell)}")
        if plan.executor:
            each = plan.cells[0].adapter.weight_bytes if plan.cells else None
            held = f"; {each / 1e9:.1f} GB of weights in each process" if each else ""
            print(f"workers: {plan.executor.outlook}{held}")
        for cell in plan.cells:
            if cell.task.file:
                print("\n\n".join([f"\n{cell.name}:", *shown_samples(cell.task, cell.data)]))
    faults = {**plan.unable, **{o.task: o.why for o in outlook if o.why}}
    for task, why in faults.items():
        print_error(f"{task}: {why}")
    return int(bool(faults))


def _write_leaderboard(output: Path) -> Path | None:
    """The leaderboard with the new results, written before a word is printed."""
    from evalkit.results import write_leaderboard

    try:
        _, markdown = write_leaderboard(output)
        return markdown
    except EvalkitError as e:
        print(f"evalkit: the leaderboard was not written: {e}", file=sys.stderr)
        return None


def _show(evaluation: Evaluation) -> None:
    from evalkit.results.repeats import repeated

    rows = []
    scores: list[MetricResult] = []
    for o in evaluation.outcomes:
        part = "" if o.results.complete and not o.results.selection.partial else " (partial)"
        counts = f"{o.results.n}{part}", str(o.results.errors), str(o.results.unparsed)
        drawn = repeated(o.cell.stored) if o.results.metrics else ()
        for m in (*o.results.metrics, *drawn):
            interval = interval_text(m.ci_low, m.ci_high)
            n = counts[0] if m in o.results.metrics else str(m.n)
            rows.append((o.cell.name, m.metric, f"{m.value:.1f}", interval, n, *counts[1:]))
            scores.append(m)
        if not o.results.metrics:
            rows.append((o.cell.name, "no score", "–", "–", *counts))
    if rows:
        columns = ("task", "metric", "value", "95 % interval", "n", "errors", "unparsed")
        print(aligned(columns, rows))
        lower = lower_note((m.metric, m.higher_is_better) for m in scores)
        for note in lower + interval_note((m.ci_low, m.ci_high) for m in scores):
            print(note)
    for o in evaluation.outcomes:
        _show_outcome(o)
        if o.cell.task.subset.hidden:
            print(f"a server scores {o.cell.name}: evalkit submission {o.cell.folder}")
    minis = [o for o in evaluation.outcomes if o.cell.task.subset_name.startswith("mini")]
    if any(not o.cell.data for o in minis):
        print("mini scores are evalkit's own data: never set them beside official ones")


def _show_outcome(o: Outcome) -> None:
    r = o.results
    how = f"{o.made} new, {o.reused} reused, {r.seconds:.1f} s"
    did = how if o.made or o.stopped else "reused, nothing to do"
    print(f"{o.cell.name}: {did}; {near(o.cell.folder)}")
    if r.missing_shards:
        print(f"{o.cell.name}: not yet whole; still to come: shards {', '.join(r.missing_shards)}")
    if r.inference_probe:
        switches = " ".join(f"{k}={v}" for k, v in r.switches.items())
        print(f"{o.cell.name}: inference probe, {switches}: the weights were not trained this way")
    stats = r.stats if o.made else {}  # else they are of an earlier run
    if cost := stats.get("cost"):
        print(f"{o.cell.name}: cost {cost:.4g}")
    if uncounted := stats.get("uncounted"):
        print(f"{o.cell.name}: {uncounted} answers whose tokens the server did not count")
    _show_cut(o)
    if r.errors:
        _show_errors(o)
    if r.n and r.unparsed == r.n:
        print(
            f"{o.cell.name}: no answer could be read. Look at some with `evalkit report`: a prompt "
            "or a format that the model does not know?"
        )


def _show_cut(o: Outcome) -> None:
    """How many answers ended at their limit, where it may be a tenth of them or more."""
    r = o.results
    if not r.n or r.tokens.out < MANY_CUT * r.n * o.cell.task.max_new_tokens:
        return
    ends = o.cell.stored.columns()["finish_reason"]
    if (cut := ends.count("length")) >= MANY_CUT * len(ends):
        thinks = "" if o.cell.asking.thinking else " (a model that thinks first wants --thinking N)"
        print(
            f"{o.cell.name}: {cut} of {len(ends)} answers are as long as they may be: cut off, or "
            f"without an end?{thinks}"
        )


def _show_errors(o: Outcome) -> None:
    """What went wrong, by kind, and how to look at it."""
    from collections import Counter

    from evalkit.results.report.documents import error_kind
    from evalkit.store import CellFolder

    try:
        records = CellFolder(o.cell.folder).records().values()
    except EvalkitError:
        return
    kinds = Counter(error_kind(r.error) for r in records if r.error is not None).most_common(3)
    said = "; ".join(f"{n} x {kind}" for kind, n in kinds)
    if said:  # of a task without a usable row nothing is kept
        print(f"{o.cell.name}: {said}; see them: evalkit show {near(o.cell.folder)} --errors")
