"""``evalkit switches``: the ablation switches of a model, with values, meaning and source."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, talk_options
from evalkit.cli.output import print_json

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("switches", help="list a model's ablation switches (--switch K=V)")
    parser.add_argument("--model", type=name_or_path, default="nano", help="of this model (nano)")
    parser.add_argument("--adapter", type=name_or_path, default="reference", help="(reference)")
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.adapter import adapter_class
    from evalkit.models.switch import switch_table

    switches = adapter_class(args.adapter).switches(args.model)
    if args.json:
        print_json(
            asdict(s) | {"kind": s.kind.__name__, "values": s.values()} for s in switches.values()
        )
    elif switches:
        print(switch_table(switches))
    else:
        print(f"adapter {args.adapter} has no switches for {args.model}")
    return 0
