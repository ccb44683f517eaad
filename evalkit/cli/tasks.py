"""``evalkit tasks``: the installed tasks and their subsets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import talk_options
from evalkit.cli.output import aligned

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("tasks", help="list tasks and their subsets")
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.task import registered, task_class

    rows = []
    for name in sorted(registered()):
        cls = task_class(name)
        rows.append((name, ", ".join(cls.subsets), cls.metrics[0].name, cls.description))
    print(aligned(("task", "subsets", "headline", ""), rows))
    return 0
