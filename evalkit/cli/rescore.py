"""``evalkit rescore``: recorded answers scored with the tasks as they are now."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "rescore", help="score recorded answers with the tasks as they are now; no model needed"
    )
    parser.add_argument(
        "cells", type=name_or_path, nargs="*", help="cell folders or models; all if none is given"
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.results import find_cells, some_cells, write_leaderboard
    from evalkit.results.rescore import rescore as rescore_cell

    cells = (
        [c for name in args.cells for c in find_cells(name, args.output)]
        if args.cells
        else some_cells(args.output)
    )
    for cell in cells:
        new, changed = rescore_cell(cell)
        print(f"{cell.task}: {changed} scores changed; {new.folder}")
    write_leaderboard(args.output)
    return 0
