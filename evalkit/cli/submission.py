"""``evalkit submission``: the file that a benchmark's server scores, from recorded answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, new_file, output_option, talk_options
from evalkit.cli.output import print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "submission", help="write the file of answers that a benchmark's server scores"
    )
    parser.add_argument(
        "cell", type=name_or_path, help="cell folder, or a model with one such cell"
    )
    parser.add_argument(
        "--to", type=new_file, metavar="FILE", help="where to; beside the cell if absent"
    )
    parser.add_argument(
        "--incomplete", action="store_true", help="write it although answers are missing"
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.results import find_cells
    from evalkit.results.submission import one_hidden, write_submission

    cell = one_hidden(find_cells(args.cell, args.output))
    path, site, n, missing = write_submission(cell, args.to, args.incomplete)
    if args.json:
        print_json([{"file": str(path), "site": site, "answers": n, "missing": missing}])
    else:
        lost = f", {missing} missing" if missing else ""
        print(f"{path}\n{n} answers{lost}; to be scored at {site}")
    return 0
