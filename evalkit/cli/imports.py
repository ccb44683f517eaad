"""``evalkit import``: answers that another harness collected, as cells."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import (
    command_of,
    data_option,
    data_paths,
    name_or_path,
    output_option,
    path,
    talk_options,
)
from evalkit.cli.output import near, print_error, print_json
from evalkit.errors import EvalkitError, UsageError
from evalkit.results.tables import aligned, interval_text, p_text, value_text

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.imports.answers import Answers
    from evalkit.imports.cells import Imported

SHOWN = 10
"""So many differing answers are printed; all are in the cell's ``differences.csv``."""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "import",
        help="answers of VLMEvalKit, lmms-eval, EvalScope or Inspect as cells: intervals, "
        "comparisons, our metric beside theirs",
    )
    parser.add_argument(
        "files",
        type=path,
        nargs="+",
        metavar="FILE",
        help="MODEL_DATASET.xlsx or .tsv of VLMEvalKit, *_samples_TASK.jsonl of lmms-eval, "
        "reviews/MODEL/DATASET_SUBSET.jsonl of EvalScope, a log of Inspect",
    )
    parser.add_argument(
        "--task",
        type=name_or_path,
        default="",
        metavar="NAME[:SUBSET]",
        help="whose questions these are: matched by id, scored by its metric",
    )
    parser.add_argument(
        "--protocol",
        default="",
        metavar="NAME",
        help="whose reading of answers the task has: evalscope, lmms-eval, vlmevalkit, ...",
    )
    data_option(parser)
    parser.add_argument(
        "--metrics-of", choices=("both", "ours", "theirs"), default="both", help="(both)"
    )
    parser.add_argument("--metric", default="", help="ours, where no task is named")
    parser.add_argument(
        "--highest",
        type=_named_value,
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="the highest value that a metric of theirs can have, where files don't say it: shown "
        "in per cent of it (repeatable)",
    )
    parser.add_argument("--model", default="", help="its name, where files don't say it")
    parser.add_argument(
        "--box-space",
        type=_box_space,
        metavar="UNIT[:FORM]",
        help="how the model writes corners of boxes: norm1000, norm1:list, pixel, ...",
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def _named_value(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        highest = float(value)
    except ValueError:
        highest = math.nan
    if not name or not 0 < highest < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected METRIC=VALUE, such as score=10")
    return name, highest


def _box_space(text: str) -> str:
    from evalkit.metrics.boxes import UNITS, is_space

    if not is_space(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected UNIT or UNIT:FORM, such as norm1:list; units: {', '.join(UNITS)}"
        )
    return text


def main(args: argparse.Namespace) -> int:
    from evalkit.imports.cells import import_answers
    from evalkit.imports.readers import read_answers
    from evalkit.imports.scales import with_scales
    from evalkit.results import write_leaderboard
    from evalkit.task import load_task

    if args.protocol and not args.task:
        raise UsageError("--protocol says how a task reads answers: name the task with --task")
    task = load_task(args.task, args.protocol) if args.task else None
    data = data_paths(args.data)
    if strange := sorted(data.keys() - {task.full_name if task else ""}):
        raise UsageError(f"--data {strange[0]}: expected the task that --task names")
    read: list[tuple[Path, Answers]] = []
    done: list[tuple[Path, Imported]] = []
    failed = False
    for file in args.files:
        try:
            read.append((file, read_answers(file)))
        except UsageError:
            raise
        except EvalkitError as e:
            print_error(f"{file}: {e}")
            failed = True
    scaled = with_scales([answers for _, answers in read], dict(args.highest))
    for (file, _), answers in zip(read, scaled):
        try:
            imported = import_answers(
                answers,
                args.output,
                task=task,
                data=data.get(task.full_name) if task else None,
                whose=args.metrics_of,
                metric=args.metric,
                model=args.model,
                box_space=args.box_space,
                command=command_of(args),
            )
        except UsageError:
            raise
        except EvalkitError as e:
            print_error(f"{file}: {e}")
            failed = True
            continue
        if all(imported.cell.path != other.cell.path for _, other in done):
            done.append((file, imported))  # reviews and predictions of a run are one cell
        _write_differences(imported)
    if done:
        write_leaderboard(args.output)
    if args.json:
        print_json(row for _, one in done for row in _rows(one))
    else:
        for file, one in done:
            _show(file, one)
    return int(failed)


def _rows(one: Imported) -> list[dict[str, Any]]:
    results = one.cell.results
    about = {"task": one.cell.task, "model": one.cell.model, "cell": str(one.cell.path)}
    return [
        about | m.to_json() | {"errors": results.errors, "unparsed": results.unparsed}
        for m in results.metrics
    ]


def _show(file: Path, one: Imported) -> None:
    results = one.cell.results
    lost = results.errors, results.unparsed
    rows = [
        (m.metric, value_text(m.value), interval_text(m.ci_low, m.ci_high), m.n, *lost)
        for m in results.metrics
    ]
    print(f"{file.name}: {one.cell.task}, {one.cell.model}; {near(one.cell.path)}")
    print(aligned(("metric", "value", "95 % interval", "n", "errors", "unparsed"), rows))
    for remark in one.remarks:
        print(remark)
    for ours, theirs in one.pairs():
        if (paired := one.agreement(ours, theirs)) is None:
            continue
        low, high = paired.difference.low, paired.difference.high
        interval = interval_text(low and 100 * low, high and 100 * high)
        print(
            f"{ours} - {theirs}: {value_text(100 * paired.difference.value, signed=True)} "
            f"{interval}, p {p_text(paired.p_value)}, {paired.n} answers"
        )
    if differing := one.differences():
        print(f"{len(differing)} answers are scored differently:")
        columns = tuple(differing[0])
        shown = [[_short(row.get(c)) for c in columns] for row in differing[:SHOWN]]
        print(aligned(columns, shown))
        print(f"all of them: {near(one.cell.path / 'differences.csv')}")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"


def _write_differences(one: Imported) -> None:
    import pandas as pd

    from evalkit.results.tables import write_csv

    if rows := one.differences():
        write_csv(one.cell.path / "differences.csv", pd.DataFrame(rows))
