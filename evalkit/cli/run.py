"""``evalkit run``: scores a model on tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import adapter_of, data_paths, model_options, talk_options
from evalkit.cli.output import aligned
from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("run", help="score a model on tasks; repeat the command to resume")
    parser.add_argument(
        "--tasks",
        required=True,
        help="NAME[:SUBSET],... or ./my_task.py[:SUBSET]; the subset is the first of the task if not given",
    )
    model_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK:SUBSET=PATH",
        help="a local copy of a subset's data",
    )
    data.add_argument(
        "--limit",
        metavar="N|A-B",
        help="the first N samples, or those from A to B; never quote such a score",
    )
    data.add_argument("--seed", type=int, help="with --limit N: draw the N samples at random")
    data.add_argument(
        "--sample-id",
        action="append",
        default=[],
        metavar="ID",
        help="only this sample (repeatable)",
    )
    how = parser.add_argument_group("the run")
    how.add_argument(
        "--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results"
    )
    how.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    how.add_argument(
        "--fail-on-error",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="exit 1 when more than this share of samples failed (0)",
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.cell import Cell, Selection
    from evalkit.runner import Outcome, run_cell
    from evalkit.task import load_task

    if not 0 <= args.fail_on_error <= 1:
        raise UsageError(f"--fail-on-error {args.fail_on_error}: expected a share between 0 and 1")
    specs = [t.strip() for t in args.tasks.split(",") if t.strip()]
    chosen = [load_task(t) for t in specs]
    if not chosen:
        raise UsageError("--tasks names no task")
    data = data_paths(args.data, [t.full_name for t in chosen])
    selection = _selection(args, Selection)
    adapter = adapter_of(args)
    cells = [Cell.make(t, adapter, args.model, args.output, data.get(t.full_name)) for t in chosen]
    if args.dry_run:
        return _dry_run(cells)
    if selection.partial:
        print(
            "evalkit: a part of the samples was selected: use the scores to try things out, "
            "never quote them",
            file=sys.stderr,
        )
    outcomes: list[Outcome] = []
    for cell in cells:
        try:
            outcome = run_cell(
                cell, selection, say=lambda text: print(f"evalkit: {text}", file=sys.stderr)
            )
        except UsageError:
            raise
        except EvalkitError as e:
            print(f"evalkit: error: {cell.name}: {e}", file=sys.stderr)
            continue
        outcomes.append(outcome)
        if outcome.stopped:
            print(f"evalkit: error: {cell.name} stopped: {outcome.stopped}", file=sys.stderr)
    return _report(args, outcomes, failed=len(outcomes) < len(cells))


def _report(args: argparse.Namespace, outcomes: Sequence[Any], failed: bool) -> int:
    from evalkit.provenance import command
    from evalkit.results import interval_text, write_leaderboard

    rows = []
    for o in outcomes:
        part = "" if o.results["complete"] and not o.results["selection"] else " (partial)"
        counts = str(o.results["errors"]), str(o.results["unparsed"])
        for m in o.results["metrics"]:
            ci = interval_text(m["ci_low"], m["ci_high"])
            rows.append(
                (o.cell.name, m["metric"], f"{m['value']:.1f}", ci, f"{m['n']}{part}", *counts)
            )
        if not o.results["metrics"]:
            rows.append((o.cell.name, "no score", "–", "–", f"{o.results['n']}{part}", *counts))
    print(aligned(("task", "metric", "value", "95 % interval", "n", "errors", "unparsed"), rows))
    for o in outcomes:
        r = o.results
        how = (
            "reused, nothing to do"
            if not o.made and not o.stopped
            else f"{o.made} new, {o.reused} reused, {r['seconds']:.1f} s"
        )
        print(f"{o.cell.name}: {how}; {o.cell.folder}")
        failed |= bool(o.stopped) or not r["n"] or r["errors"] > args.fail_on_error * r["n_total"]
        if r["errors"]:
            _show_errors(o.cell.folder, r["errors"])
        if r["inference_probe"]:
            print(
                f"{o.cell.name}: inference probe, {r['switches']}: the weights were not "
                "trained this way"
            )
    if any(":mini" in o.cell.name for o in outcomes):
        print("mini scores are evalkit's own data: never set them beside official ones")
    try:
        print("leaderboard: {}, {}".format(*write_leaderboard(args.output)))
    except EvalkitError as e:
        print(f"evalkit: the leaderboard was not written: {e}", file=sys.stderr)
    if failed:
        print(
            f"evalkit: not everything was scored; repeat to try the rest again:\n  {command()}",
            file=sys.stderr,
        )
    return int(failed)


def _show_errors(folder: Path, count: int) -> None:
    from evalkit.journal import read

    reasons = [
        r for r in read(folder / "journal.jsonl").records.values() if r.get("error") is not None
    ]
    print(f"  {count} without a score:", file=sys.stderr)
    for r in reasons[:5]:
        print(f"    {r['id']}: {r['error']}", file=sys.stderr)
    if len(reasons) > 5:
        print(f"    ... all in {folder / 'journal.jsonl'}", file=sys.stderr)


def _dry_run(cells: Sequence[Any]) -> int:
    from evalkit.journal import read

    for cell in cells:
        done = len(read(cell.folder / "journal.jsonl").scored)
        print(f"{cell.name}: {done} samples journaled; {cell.folder}")
    return 0


def _selection(args: argparse.Namespace, make: Any) -> Any:
    if args.sample_id:
        return make(ids=tuple(args.sample_id))
    if args.limit is None:
        if args.seed is not None:
            raise UsageError("--seed draws a random selection and needs --limit N")
        return make()
    start, dash, stop = args.limit.partition("-")
    try:
        first = (int(start), int(stop)) if dash else (0, int(start))
    except ValueError:
        first = (0, 0)
    if not 0 <= first[0] < first[1]:
        raise UsageError(f"--limit {args.limit}: expected N or A-B with A below B")
    if args.seed is not None:
        return make(drawn=first[1] - first[0], seed=args.seed)
    return make(first=first)
