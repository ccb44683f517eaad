"""``evalkit export``: scores for a model card, a paper, a data frame, a tracker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, new_file, output_option, talk_options
from evalkit.cli.output import near

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs

FORMS = ("csv", "parquet", "model-index", "latex", "wandb", "mlflow")


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "export", help="scores for a model card, LaTeX, CSV, parquet, W&B or MLflow"
    )
    parser.add_argument(
        "cell", nargs="*", type=name_or_path, help="cells or models; all if not given"
    )
    parser.add_argument("--format", required=True, choices=FORMS)
    parser.add_argument(
        "--samples", action="store_true", help="csv, parquet: a row a sample, not a row a score"
    )
    parser.add_argument(
        "--save", type=new_file, metavar="FILE", help="default: in the output folder"
    )
    parser.add_argument(
        "--project", default="evalkit", help="W&B project or MLflow experiment (evalkit)"
    )
    output_option(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.errors import UsageError
    from evalkit.results import find_cells, some_cells
    from evalkit.results.export import FILES, FRAMES, TRACKERS

    there = some_cells(args.output)
    named = [cell for name in args.cell for cell in find_cells(name, there)]
    cells = list(dict.fromkeys(named)) if args.cell else list(there.cells)
    if args.samples and args.format not in FRAMES:
        raise UsageError(f"--samples goes with --format {' or '.join(FRAMES)}")
    if args.format in TRACKERS:
        print(f"logged: {TRACKERS[args.format](cells, args.project)}")
        return 1 if there.damaged else 0
    suffix = FILES[args.format][1] if args.format in FILES else args.format
    name = "samples" if args.samples else "scores"
    file: Path = args.save or args.output / f"{name}.{suffix}"
    if args.format in FRAMES:
        FRAMES[args.format](cells, file, args.samples)
    else:
        FILES[args.format][0](cells, file)
    print(f"written: {near(file)}")
    return 1 if there.damaged else 0
