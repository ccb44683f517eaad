"""``evalkit agree``: whether two back ends give the same answers."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from evalkit.cli.options import data_option, data_paths, output_option, share, talk_options
from evalkit.cli.output import print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs

SIDE = "ADAPTER:MODEL[,NAME=VALUE,...]; a model alone is the reference adapter's"


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "agree",
        help="whether two back ends, or a server and the reference, give the same answers",
        epilog="evalkit agree nano openai:nano,url=http://localhost:8000/v1 --tasks docvqa",
    )
    parser.add_argument("a", help=SIDE)
    parser.add_argument("b", help="the other one")
    parser.add_argument("--tasks", required=True, help="as of evalkit run")
    parser.add_argument("--protocol", default="", metavar="NAME", help="as of evalkit run")
    data_option(parser)
    parser.add_argument("--limit", metavar="N|A-B|SHARE", help="as of evalkit run")
    parser.add_argument("--seed", type=int, help="with --limit: draw the samples at random")
    output_option(parser)
    parser.add_argument(
        "--at-least",
        type=share,
        metavar="SHARE",
        help="exit 1 when fewer answers of a task are equal",
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit import api
    from evalkit.results.agreement import agreement_text

    found = api.agree(
        args.a,
        args.b,
        args.tasks,
        protocol=args.protocol,
        output=args.output,
        limit=args.limit,
        seed=args.seed,
        data=data_paths(args.data),
        progress=args.verbosity >= 0,
    )
    if args.json:
        print_json(x.to_json() for x in found)
    else:
        print(agreement_text(found, args.a, args.b))
    if args.at_least is None:
        return 0
    short = [x for x in found if x.equal < args.at_least]
    for x in short:
        print(f"evalkit: {x.task}: {x.equal:.1%} equal, under {args.at_least:.1%}", file=sys.stderr)
    return int(bool(short))
