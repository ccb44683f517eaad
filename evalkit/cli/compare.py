"""``evalkit compare``: paired differences between cells."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, points, talk_options
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
    parser.add_argument(
        "--fail-if-worse",
        type=points,
        nargs="?",
        const=0.0,
        metavar="POINTS",
        help="exit 1 when a's headline score of a task is worse than b's by more than POINTS (0), "
        "and not by chance, or when a lacks a task that b has",
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.results import compare_cells, find_cells
    from evalkit.results.cells import inventory_if_any
    from evalkit.results.pairs import comparison_frame, comparison_text, worse
    from evalkit.results.tables import value_text

    there = inventory_if_any(args.output)
    theirs = find_cells(args.b, there)
    pairs = compare_cells(find_cells(args.a, there), theirs)
    if args.json:
        print_json(comparison_frame(pairs).to_dict("records"))
    else:
        print(comparison_text(pairs))
    faults = []
    if args.fail_if_worse is not None:
        faults = [
            f"{p.a.task}: {args.a} is worse than {args.b}: {p.scores.metric} "
            f"{value_text(p.scores.a)}, not {value_text(p.scores.b)}"
            for p in worse(pairs, args.fail_if_worse)
        ]
        lacking = {c.task for c in theirs} - {p.a.task for p in pairs if p.is_headline}
        faults += [f"{task}: {args.a} has no results like {args.b}'s" for task in sorted(lacking)]
    for fault in faults:
        print(f"evalkit: {fault}", file=sys.stderr)
    return int(bool(faults or there.damaged))
