"""``evalkit rescore``: recorded answers scored with the tasks as they are now."""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import name_or_path, output_option, talk_options
from evalkit.cli.output import print_error, print_json
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.task import Task


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
    from evalkit.malloc import staying

    with staying():
        from evalkit.code import code_of
        from evalkit.results import find_cells, some_cells, write_leaderboard
        from evalkit.results.cells import IMPORTED, data_kind, inventory_if_any
        from evalkit.results.rescore import rescore as rescore_cell

        there = inventory_if_any(args.output) if args.cells else some_cells(args.output)
    if args.cells:
        named = [c for name in args.cells for c in find_cells(name, there)]
        cells = list({c.path: c for c in named}.values())
    else:
        cells = [c for c in there.cells if data_kind(c) != IMPORTED]
    failed = bool(there.damaged)
    rows: list[dict[str, Any]] = []
    loaded: dict[str, Task] = {}
    code = cache(code_of)
    for cell in cells:
        try:
            new, changed = rescore_cell(cell, loaded, code)
            rows.append({"task": cell.task, "changed": changed, "cell": str(new.path)})
            if not args.json:
                print(f"{cell.task}: {changed} scores changed; {new.path}")
        except EvalkitError as e:
            print_error(f"{cell.path}: not rescored: {e}")
            failed = True
    if args.json:
        print_json(rows)
    write_leaderboard(args.output)
    return 1 if failed else 0
