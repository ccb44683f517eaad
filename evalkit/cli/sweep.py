"""``evalkit sweep``: an ablation sweep, its tables and pictures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import (
    data_option,
    data_paths,
    name_or_path,
    output_option,
    spread_options,
    talk_options,
)
from evalkit.cli.output import print_json
from evalkit.results.tables import aligned

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "sweep",
        help="run an ablation sweep, or go on with it, and write its tables and pictures",
    )
    parser.add_argument(
        "sweep", type=name_or_path, help="the name of a shipped sweep, or a YAML file"
    )
    parser.add_argument("--model", type=name_or_path, help="instead of the sweep's own")
    data_option(parser)
    output_option(parser, "results/ablations")
    spread_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, what is journaled, and an estimate of the rest",
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit import api
    from evalkit.sweeps import find_sweep, load_sweep, outlook, plan

    data = data_paths(args.data)
    if args.dry_run:
        config = load_sweep(find_sweep(args.sweep), args.model, data)
        columns = ("task", "settings", "journaled", "seconds to go")
        rows = outlook(config, plan(config, args.output), args.output)
        if args.json:
            print_json(dict(zip(columns, row)) for row in rows)
        else:
            print(aligned(columns, rows))
        return 0
    result = api.sweep(args.sweep, args.model, args.output, data, args.executor, args.devices)
    if args.json:
        print_json(result.frame.to_dict("records"))
    else:
        print(result)
        print(f"written: {result.folder}, {result.report}")
    return int(bool(result.errors))
