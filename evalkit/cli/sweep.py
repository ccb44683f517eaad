"""``evalkit sweep``: an ablation sweep, its tables and pictures."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options
from evalkit.cli.output import aligned

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
    output_option(parser, "results/ablations")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, what is journaled, and an estimate of the rest",
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.sweep import find_sweep, load_sweep, outlook, plan, run_sweep

    config = load_sweep(find_sweep(args.sweep), args.model)
    planned = plan(config, args.output)
    if args.dry_run:
        print(
            aligned(
                ("task", "settings", "journaled", "seconds to go"),
                outlook(config, planned, args.output),
            )
        )
        return 0
    failed = run_sweep(config, planned, say=lambda text: print(f"evalkit: {text}", file=sys.stderr))
    from evalkit.results.sweep_tables import table, words, write

    frame = table(config, planned)
    folder = write(config, frame, planned, args.output)
    print("\n".join(words(frame)))
    from evalkit.results import write_report

    page = args.output / "report.html"
    for fault in write_report(args.output, page):
        print(f"evalkit: {fault}", file=sys.stderr)
    print(f"written: {folder}, {page}")
    for fault in failed:
        print(f"evalkit: error: {fault}", file=sys.stderr)
    return 1 if failed else 0
