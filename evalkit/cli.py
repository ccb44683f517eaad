"""The command line. Nothing heavy is imported before a verb needs it; exit codes are 0 (all
scored), 1 (something failed), 2 (usage).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from evalkit import commands
from evalkit.errors import EvalkitError, UsageError

EXAMPLES = """examples:
  evalkit run --tasks docvqa,refcoco                          the embedded data and model, no network
  evalkit run --tasks docvqa:val --model Qwen/Qwen2-VL-2B-Instruct --device cuda
  evalkit run --tasks docvqa --switch position=rope1d         an ablation
  evalkit run --tasks docvqa:val --data docvqa:val=FOLDER --model FOLDER --limit 100
  evalkit compare nano other-model                            paired differences on common samples
  evalkit ask photo.jpg "What is written on the sign?"
"""


class Parser(argparse.ArgumentParser):
    """argparse, with a suggestion for a misspelt word."""

    def error(self, message: str) -> NoReturn:
        known = set(self._words())
        for word in (
            w.strip("',") for w in message.split() if w.startswith("-") or "choice" in message
        ):
            close = difflib.get_close_matches(word, known, 1, 0.7)
            if close and word not in known:
                message += f"; did you mean {close[0]}?"
                break
        self.print_usage(sys.stderr)
        self.exit(2, f"evalkit: error: {message}\n")

    def _words(self) -> Iterator[str]:
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action.choices, dict):
                for name, verb in action.choices.items():
                    yield name
                    yield from verb._words()


def build_parser() -> Parser:
    parser = Parser(
        prog="evalkit",
        description=(
            "Evaluate vision-language models, and measure what their architecture is worth."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)

    run = verbs.add_parser("run", help="score a model on tasks; repeat the command to resume")
    run.add_argument(
        "--tasks",
        required=True,
        help="NAME[:SUBSET],... or ./my_task.py[:SUBSET]; the subset is mini if not given",
    )
    _model_options(run)
    data = run.add_argument_group("data")
    data.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK:SUBSET=PATH",
        help="a local copy of a subset's data",
    )
    data.add_argument(
        "--limit",
        metavar="N|A-B",
        help="the first N samples, or those from A to B; never quote such a score",
    )
    data.add_argument("--seed", type=int, help="with --limit N: draw the N samples at random")
    data.add_argument(
        "--sample-id",
        action="append",
        default=[],
        metavar="ID",
        help="only this sample (repeatable)",
    )
    how = run.add_argument_group("the run")
    how.add_argument(
        "--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results"
    )
    how.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    how.add_argument(
        "--fail-on-error",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="exit 1 when more than this share of samples failed (0)",
    )

    ask = verbs.add_parser("ask", help="ask a model one question about an image or a video")
    ask.add_argument("media", type=Path, metavar="IMAGE_OR_VIDEO")
    ask.add_argument("question")
    ask.add_argument(
        "--save",
        type=Path,
        metavar="PNG",
        help="draw the box of the answer into a copy of the image",
    )
    ask.add_argument("--max-new-tokens", type=int, default=256)
    _model_options(ask)

    board = verbs.add_parser(
        "leaderboard", help="write leaderboard.csv and leaderboard.md from all results"
    )
    board.add_argument(
        "--by",
        metavar="FIELD",
        help="instead, headline scores by a property of the samples: tier, lang, ...",
    )
    board.add_argument(
        "--paper",
        action="store_true",
        help="instead, beside the published scores: write paper.csv and paper.md",
    )
    board.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER")

    comparison = verbs.add_parser(
        "compare",
        help="paired differences between two cells or models, with intervals and p-values",
    )
    comparison.add_argument("a", help="a cell folder, or a model's name")
    comparison.add_argument("b")
    comparison.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER")

    sweep = verbs.add_parser(
        "sweep", help="run an ablation sweep, or go on with it, and write its tables and pictures"
    )
    sweep.add_argument("sweep", help="the name of a shipped sweep, or a YAML file")
    sweep.add_argument("--model", help="instead of the sweep's own")
    sweep.add_argument(
        "--output",
        type=Path,
        default=Path("results/ablations"),
        metavar="FOLDER",
        help="default: results/ablations",
    )
    sweep.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, what is journaled, and an estimate of the rest",
    )

    report = verbs.add_parser(
        "report", help="write one HTML page of all results, with a browser for the samples"
    )
    report.add_argument(
        "--output",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="where the results are (results)",
    )
    report.add_argument(
        "--save", type=Path, metavar="HTML", help="default: report.html in the output folder"
    )
    report.add_argument(
        "--media",
        default="auto",
        choices=("auto", "embed", "folder", "none"),
        help="pictures inside the page, beside it, or none",
    )
    report.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK:SUBSET=PATH",
        help="local copies, as in the run",
    )

    again = verbs.add_parser(
        "rescore", help="score recorded answers with the tasks as they are now; no model needed"
    )
    again.add_argument("cells", nargs="*", help="cell folders or models; all if none is given")
    again.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER")

    verbs.add_parser("tasks", help="list tasks and their subsets")
    verbs.add_parser("models", help="list the models that ship inside, and the adapters")

    bench = verbs.add_parser(
        "bench", help="measure the engine on this device, beside transformers, against the floor"
    )
    bench.add_argument(
        "--model",
        default="nano",
        help="a shipped name, a checkpoint folder, or 2B, 7B with random weights (nano)",
    )
    bench.add_argument(
        "--load",
        default="images",
        choices=("images", "documents", "questions", "decode"),
        help="what is asked (images)",
    )
    bench.add_argument("--items", type=int, default=32, metavar="N", help="questions (32)")
    bench.add_argument(
        "--peer",
        default="1,8,16",
        metavar="N,...",
        help="batch sizes of transformers, or none (1,8,16)",
    )
    bench.add_argument("--rounds", type=int, default=3)
    bench.add_argument("--threads", type=int, default=2)
    bench.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    bench.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    bench.add_argument("--save", type=Path, metavar="FILE", help="write the table there too")

    train = verbs.add_parser(
        "train", help="train a nano model from a recipe; repeat the command to resume"
    )
    train.add_argument("recipe", help="the name of a shipped recipe (nano, smoke), or a YAML file")
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    train.add_argument(
        "--start",
        metavar="MODEL",
        help=(
            "begin with the weights of this shipped model or checkpoint folder, not with drawn ones"
        ),
    )
    train.add_argument("--threads", type=int, default=2)
    train.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that draw batches; a GPU wants a dozen (1)",
    )

    twins = verbs.add_parser(
        "twins",
        help="train models alike but for one choice, and tell what it was worth; repeat to resume",
    )
    twins.add_argument(
        "twins", help="the name of shipped twins (position, resolution, stages), or a YAML file"
    )
    twins.add_argument(
        "--out",
        type=Path,
        default=Path("results/twins"),
        metavar="FOLDER",
        help="default: results/twins",
    )
    twins.add_argument("--threads", type=int, default=2)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="nano", help="a shipped name, a checkpoint folder, or a hub id (nano)"
    )
    group.add_argument(
        "--adapter",
        default="reference",
        help="reference, transformers, another installed one, or ./my_adapter.py",
    )
    group.add_argument(
        "--model-args", default="", metavar="K=V,...", help="further arguments of the adapter"
    )
    group.add_argument(
        "--switch",
        action="append",
        default=[],
        metavar="K=V",
        help="an ablation switch (repeatable)",
    )
    for name in commands.SWITCHES:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"switch_{name}",
            metavar="V",
            help=argparse.SUPPRESS,
        )
    group.add_argument(
        "--batch-size", type=int, help="sequences at a time; never changes an answer in fp32"
    )
    group.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="prompt tokens at a time; chosen from free memory; never changes an answer",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    group.add_argument(
        "--dtype",
        help="float32, bfloat16, float16; the checkpoint's own, float32 on a CPU without bfloat16",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(version("evalkit"))
        return 0
    if args.verb is None:
        parser.print_help()
        return 2
    try:
        done: int = getattr(commands, args.verb)(args)
        return done
    except UsageError as e:
        print(f"evalkit: error: {e}", file=sys.stderr)
        return 2
    except EvalkitError as e:
        print(f"evalkit: error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        from evalkit.provenance import command

        print(
            f"\nevalkit: interrupted; what was scored is kept. Resume with:\n  {command(argv)}",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
