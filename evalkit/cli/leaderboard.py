"""``evalkit leaderboard``: all results as tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import output_option, talk_options
from evalkit.cli.output import print_json

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
    parser.add_argument(
        "--notes",
        action="store_true",
        help="instead, headline scores with and without the samples that people flagged",
    )
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.files import locked

    with locked(args.output):
        return _written(args)


def _written(args: argparse.Namespace) -> int:
    from evalkit.results.cells import some_cells

    there = some_cells(args.output)
    write: Callable[[], tuple[Path, Path]] | None = None
    if args.by:
        from evalkit.results.breakdown import breakdown_rows, breakdown_text

        rows = breakdown_rows(there, args.by)
        text = breakdown_text(rows, args.by)
    elif args.notes:
        from evalkit.results.flagged import flagged_text, load_flagged

        frame = load_flagged(there)
        rows, text = frame.to_dict("records"), flagged_text(frame)
    elif args.paper:
        from evalkit.results.published import beside_published, paper_text, write_paper_table

        frame = beside_published(there.cells)
        rows, text = frame.to_dict("records"), paper_text(frame)
        write = partial(write_paper_table, there)
    else:
        from evalkit.results.leaderboard import Leaderboard

        board = Leaderboard.of(there)
        rows, text = board.rows, board.text()
        write = partial(board.write, args.output)
    if args.json:
        print_json(rows)
    else:
        print(text)
    if write:  # after the table is shown: others' results may lie where nothing can be written
        written = write()
        if not args.json:
            print("written: {}, {}".format(*written))
    return 1 if there.damaged else 0
