"""``evalkit train``: trains a nano model from a recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options, whole
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "train", help="train a nano model from a recipe; repeat the command to resume"
    )
    parser.add_argument(
        "recipe",
        type=name_or_path,
        help="the name of a shipped recipe (nano, smoke), or a YAML file",
    )
    output_option(parser, None)
    parser.add_argument(
        "--start",
        type=name_or_path,
        metavar="MODEL",
        help=(
            "begin with the weights of this shipped model or checkpoint folder, not with drawn ones"
        ),
    )
    parser.add_argument("--threads", type=whole, default=2)
    parser.add_argument(
        "--workers",
        type=whole,
        default=1,
        metavar="N",
        help="processes that draw batches; a GPU wants a dozen (1)",
    )
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if args.output is None:
        raise UsageError("--output FOLDER is required: where the model and its state are kept")
    import torch

    from evalkit.nano import checkpoint_folder
    from evalkit.nano.recipe import find_recipe, load_recipe
    from evalkit.nano.train import train as train_recipe

    torch.set_num_threads(args.threads)
    start = checkpoint_folder(args.start) if args.start else None
    print(
        train_recipe(
            load_recipe(find_recipe(args.recipe)), args.output, start, workers=args.workers
        )
    )
    return 0
