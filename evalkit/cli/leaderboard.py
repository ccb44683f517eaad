"""``evalkit leaderboard``: all results as tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import output_option, talk_options
from evalkit.cli.output import aligned

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "leaderboard", help="write leaderboard.csv and leaderboard.md from all results"
    )
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="instead, headline scores by a property of the samples: tier, lang, ...",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="instead, beside the published scores: write paper.csv and paper.md",
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.results import interval_text, some_cells, write_leaderboard

    some_cells(args.output)
    if args.by:
        from evalkit.results import load_breakdown

        rows = [
            (
                r["task"],
                r["model"],
                r["settings"],
                r["metric"],
                r[args.by],
                f"{r['value']:.1f}",
                interval_text(r["ci_low"], r["ci_high"]),
                str(r["n"]),
            )
            for r in load_breakdown(args.output, args.by).to_dict("records")
        ]
        print(
            aligned(
                ("task", "model", "settings", "metric", args.by, "value", "95 % interval", "n"),
                rows,
            )
        )
        return 0
    if args.paper:
        from evalkit.results import write_paper_table

        csv, markdown = write_paper_table(args.output)
    else:
        csv, markdown = write_leaderboard(args.output)
    print(markdown.read_text(encoding="utf-8"))
    print(f"written: {csv}, {markdown}")
    return 0
