"""``evalkit twins``: models trained alike but for one choice."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options, whole

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "twins",
        help="train models alike but for one choice, and tell what it was worth; repeat to resume",
    )
    parser.add_argument(
        "twins",
        type=name_or_path,
        help="the name of shipped twins (position, resolution, stages), or a YAML file",
    )
    output_option(parser, "results/twins")
    parser.add_argument("--threads", type=whole, default=2)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    import torch

    from evalkit.nano.twins import find_twins, load_twins, run_twins

    torch.set_num_threads(args.threads)
    config = load_twins(find_twins(args.twins))
    run_twins(config, args.output)
    print((args.output / config.name / "README.md").read_text(encoding="utf-8").split("```yaml")[0])
    return 0
