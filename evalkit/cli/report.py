"""``evalkit report``: one HTML page of all results."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from evalkit.cli.options import data_option, data_paths, new_file, output_option, talk_options

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "report", help="write one HTML page of all results, with a browser for the samples"
    )
    output_option(parser)
    parser.add_argument(
        "--save", type=new_file, metavar="HTML", help="default: report.html in the output folder"
    )
    parser.add_argument(
        "--media",
        default="auto",
        choices=("auto", "embed", "folder", "none"),
        help="pictures inside the page, beside it, or none",
    )
    data_option(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.plan import check_data
    from evalkit.results import write_report
    from evalkit.results.cells import inventory_if_any

    file = args.save or args.output / "report.html"
    there = inventory_if_any(args.output)
    data = check_data(data_paths(args.data), [c.task for c in there.cells])
    for fault in write_report(there, file, args.media, data):
        print(f"evalkit: {fault}", file=sys.stderr)
    print(f"written: {file}")
    return 1 if there.damaged else 0
