"""``evalkit models``: the shipped models and the adapters."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import talk_options
from evalkit.cli.output import print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("models", help="list the models that ship inside, and the adapters")
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.adapter import registered
    from evalkit.models.registry import FAMILIES
    from evalkit.nano import shipped

    if args.json:
        rows = [{"name": n, "kind": "model", "where": str(p)} for n, p in shipped().items()]
        rows += [{"name": n, "kind": "adapter", "where": w} for n, w in registered().items()]
        print_json(rows)
        return 0
    for name, folder in shipped().items():
        print(f"{name:<14} shipped, {folder}")
    for name, where in sorted(registered().items()):
        print(f"{name:<14} adapter, {where}")
    types = ", ".join(sorted(FAMILIES))
    print(
        f"--model: any folder or hub id of a checkpoint of type {types}; other image-text-to-text "
        "models with --adapter transformers"
    )
    return 0
