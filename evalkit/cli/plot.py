"""``evalkit plot``: figures for papers, from the same values as the page's charts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, path, talk_options
from evalkit.cli.output import near

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "plot", help="figures for papers: scores by group, overlap and length, as PDF, SVG or PNG"
    )
    parser.add_argument(
        "cell", nargs="*", type=name_or_path, help="cells or models; all if not given"
    )
    parser.add_argument("--task", metavar="NAME:SUBSET", help="only this task")
    parser.add_argument("--format", default="pdf", choices=("pdf", "svg", "png"))
    parser.add_argument(
        "--save", type=path, metavar="FOLDER", help="default: figures in the output folder"
    )
    output_option(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.errors import UsageError
    from evalkit.results import find_cells, some_cells
    from evalkit.results.plots import write_figures

    there = some_cells(args.output)
    named = [cell for name in args.cell for cell in find_cells(name, there)]
    cells = list(dict.fromkeys(named)) if args.cell else list(there.cells)
    if args.task:
        known = sorted({c.task for c in cells})
        cells = [c for c in cells if c.task == args.task]
        if not cells:
            raise UsageError(f"no cell of {args.task}; there are: {', '.join(known)}")
    folder = args.save or args.output / "figures"
    for file in write_figures(cells, folder, args.format):
        print(f"written: {near(file)}")
    return 1 if there.damaged else 0
