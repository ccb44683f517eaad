"""``evalkit compare``: paired differences between cells."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options
from evalkit.cli.output import aligned

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
    from evalkit.results import compare_cells, find_cells, interval_text

    rows = compare_cells(find_cells(args.a, args.output), find_cells(args.b, args.output))
    shown = []
    for r in rows:
        p, adjusted = ("–" if v is None else f"{v:.4f}" for v in (r["p_value"], r["p_holm"]))
        ci = interval_text(r["ci_low"], r["ci_high"])
        shown.append(
            (
                r["task"],
                r["metric"],
                f"{r['a']:.1f}",
                f"{r['b']:.1f}",
                f"{r['difference']:+.1f}",
                ci,
                p,
                adjusted,
                str(r["n"]),
            )
        )
    print(
        aligned(("task", "metric", "a", "b", "a - b", "95 % interval", "p", "p (Holm)", "n"), shown)
    )
    print("paired on common samples, resampled over clusters; p by sign flips of clusters")
    return 0
