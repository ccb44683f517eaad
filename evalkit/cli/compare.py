"""``evalkit compare``: paired differences between cells."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options
from evalkit.cli.output import print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "compare",
        help="paired differences between two cells or models, with intervals and p-values",
    )
    parser.add_argument("a", type=name_or_path, help="a cell folder, or a model's name")
    parser.add_argument("b", type=name_or_path)
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.results import compare_cells, find_cells
    from evalkit.results.cells import inventory_if_any
    from evalkit.results.pairs import comparison_frame, comparison_text

    there = inventory_if_any(args.output)
    pairs = compare_cells(find_cells(args.a, there), find_cells(args.b, there))
    if args.json:
        print_json(comparison_frame(pairs).to_dict("records"))
    else:
        print(comparison_text(pairs))
    return 1 if there.damaged else 0
