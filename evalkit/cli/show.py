"""``evalkit show``: samples of a cell in the terminal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import name_or_path, output_option, talk_options, whole
from evalkit.cli.output import near, print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.records import Record


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("show", help="print samples: what was asked, answered and scored")
    parser.add_argument("cell", type=name_or_path, help="a cell's folder or name, or a model's")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--wrong", action="store_true", help="below the best score")
    which.add_argument("--unparsed", action="store_true", help="answers that could not be read")
    which.add_argument("--errors", action="store_true", help="samples without a score")
    which.add_argument("--id", action="append", default=[], metavar="ID", help="(repeatable)")
    parser.add_argument("--limit", type=whole, default=10, metavar="N", help="at most N (10)")
    output_option(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.errors import UsageError
    from evalkit.results import find_cells

    found = find_cells(args.cell, args.output)
    if len(found) > 1:
        names = ", ".join(sorted(str(near(cell.path)) for cell in found))
        raise UsageError(f"{args.cell} has several cells; name one of them: {names}")
    (cell,) = found
    records = cell.records()
    if missing := [id for id in args.id if id not in records]:
        raise UsageError(f"{cell.name} has no sample {', '.join(map(repr, missing))}")
    metric = cell.results.metrics[0] if cell.results.metrics else None
    name = metric.metric if metric else ""
    scores = [r.scores[name] for r in records.values() if name in r.scores]
    best = (max if metric is None or metric.higher_is_better else min)([*scores, 1.0], default=1.0)
    chosen = [r for r in records.values() if _wanted(r, args, name, best)]
    shown = chosen[: args.limit]
    if args.json:
        print_json(r.to_json() for r in shown)
    else:
        print("\n\n".join(map(_text, shown)) or "no such sample")
        if len(shown) < len(chosen):
            print(f"\n{len(shown)} of {len(chosen)}; --limit {len(chosen)} prints all")
    return 0


def _wanted(record: Record, args: argparse.Namespace, metric: str, best: float) -> bool:
    if args.id:
        return record.id in args.id
    if args.errors:
        return not record.scored
    if args.unparsed:
        return record.unparsed
    return not args.wrong or (metric in record.scores and record.scores[metric] != best)


def _text(record: Record) -> str:
    target: Any = record.target
    if isinstance(target, int) and target in range(len(record.choices)):
        target = record.choices[target]
    scores = ", ".join(f"{k} {v:.3g}" for k, v in record.scores.items())
    lines = {
        "sample": record.id,
        "question": record.question,
        "target": target,
        "thought": record.thought,
        "answer": record.text,
        "read as": "unparsed" if record.unparsed else record.parsed,
        "scores": scores,
        "error": record.error and f"in {record.failed_in}: {record.error}",
    }
    return "\n".join(
        f"{key:<9} " + str(value).replace("\n", "\n" + " " * 10)
        for key, value in lines.items()
        if value not in (None, "")
    )
