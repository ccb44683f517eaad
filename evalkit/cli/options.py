"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.cli.parser import HIDDEN
from evalkit.errors import EvalkitError, UsageError


def path(text: str) -> Path:
    """A path as typed, ``~`` expanded."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text).expanduser()


def new_file(text: str) -> Path:
    """The path of a file that is to be written."""
    if (whole := path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: a folder; name a file")
    return whole


def name_or_path(text: str) -> str:
    """A name (of a model, task, sweep, ...) or a path, whose ``~`` is expanded."""
    return str(path(text)) if text.startswith("~") else text


def output_option(parser: argparse._ActionsContainer, default: str | None = "results") -> None:
    """--output, and hidden what it was or is called elsewhere; no default when ``None``."""
    parser.add_argument(
        "--output",
        type=path,
        default=default and Path(default),
        metavar="FOLDER",
        help=f"where the results are ({default})" if default else "where to write",
    )
    parser.add_argument(
        "--output-path", "--out", type=path, dest="output", default=HIDDEN, help=HIDDEN
    )


def talk_options(parser: argparse.ArgumentParser, table: bool = True) -> None:
    """-q, -v, and --json for a verb that prints a table."""
    if table:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "-q", "--quiet", action="store_const", const=-1, dest="verbosity", help="warnings only"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_const", const=1, dest="verbosity", help="say more"
    )
    parser.set_defaults(verbosity=0)


def data_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK:SUBSET=PATH",
        help="a local copy of a subset's data (repeatable)",
    )


def reading_options(parser: argparse._ActionsContainer) -> None:
    """How tasks that are given as data are read, where their columns don't tell."""
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="ROLE=COLUMN,...",
        help="what columns of a data file are: image, video, question, answer, options, box, id",
    )
    parser.add_argument("--metric", default="", help="how a data file's answers are scored")
    parser.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="what is asked of a data file: {question}, {options}, or any of its columns",
    )


def reading_of(args: argparse.Namespace) -> dict[str, Any]:
    """``columns``, ``metric`` and ``prompt`` as ``evaluate`` takes them. Raises UsageError."""
    columns: dict[str, str] = {}
    for text in filter(str.strip, ",".join(args.columns).split(",")):
        role, equals, column = (part.strip() for part in text.partition("="))
        if not equals or not role or not column:
            raise UsageError(f"--columns {text!r}: expected ROLE=COLUMN, such as question=prompt")
        if role in columns:
            raise UsageError(f"--columns: {role} is given twice")
        columns[role] = column
    return {"columns": columns, "metric": args.metric, "prompt": args.prompt}


def spread_options(parser: argparse._ActionsContainer) -> None:
    """Workers: --executor and --devices."""
    parser.add_argument(
        "--executor",
        default="",
        metavar="local|ray[:HOST:PORT]",
        help="workers: processes on this machine, one for each of --devices; or the nodes of a Ray "
        "cluster, one of --devices (cpu, cuda) each",
    )
    parser.add_argument(
        "--devices",
        default="",
        metavar="LIST",
        help="cuda:0-3, cpu:2 (two workers), cuda:0,cuda:2, auto; implies --executor local",
    )


def model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=name_or_path,
        default="nano",
        help="a shipped name, a checkpoint folder, or a hub id (nano)",
    )
    group.add_argument(
        "--adapter",
        type=name_or_path,
        default="reference",
        help="reference, transformers, openai, another installed one, or ./my_adapter.py",
    )
    group.add_argument(
        "--model-args", default="", metavar="K=V,...", help="further arguments of the adapter"
    )
    group.add_argument(
        "--switch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an ablation switch (repeatable); evalkit switches lists them",
    )
    group.add_argument(
        "--batch-size",
        type=auto_or_whole,
        metavar="N|auto",
        help="sequences at a time; chosen from free memory",
    )
    group.add_argument(
        "--batch-tokens",
        type=auto_or_whole,
        metavar="N|auto",
        help="prompt tokens at a time; chosen from free memory",
    )
    group.add_argument(
        "--max-cost",
        type=float,
        metavar="AMOUNT",
        help="of the openai adapter: ask nothing more once so much is spent (with price_in, "
        "price_out in --model-args)",
    )
    group.add_argument(
        "--chat-template",
        type=path,
        metavar="FILE",
        help="a Jinja template for the checkpoint's own",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    group.add_argument(
        "--dtype",
        help="float32, bfloat16, float16; the checkpoint's own, float32 on a CPU without bfloat16",
    )


def whole(text: str) -> int:
    """A whole number above 0, also as ``1e3`` or ``1_000``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 1e15 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(number)


def port(text: str) -> int:
    """A port of this machine; 0 for a free one."""
    if not text.isdecimal() or not int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


def share(text: str) -> float:
    """A share between 0 and 1, also as ``10%``."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share between 0 and 1")
    return number


def points(text: str) -> float:
    """Points of a score, at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected points of a score, 0 or more")
    return number


def auto_or_whole(text: str) -> int | None:
    """A whole number, or None for ``auto``."""
    return None if text.lower() == "auto" else whole(text)


def adapter_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The adapter's arguments from --model-args, --switch, --batch-size, --device and the like,
    as values. Raises UsageError.
    """
    from evalkit.adapter import adapter_class, convert, read_switches, refuse_secret

    out: dict[str, Any] = {}
    for text in filter(str.strip, args.model_args.split(",")):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError(f"--model-args {text!r}: expected name=value")
        if name == "pretrained":
            raise UsageError(f"--model-args pretrained={value}: write --model {value}")
        if name in out:
            raise UsageError(f"--model-args: {name} is given twice")
        out[name] = convert(value)
        refuse_secret(name, out[name])
    adapter = adapter_class(args.adapter)
    if given := sorted(set(out) & set(adapter.switches(args.model) if out else ())):
        raise UsageError(
            f"--model-args {given[0]}: this is a switch; write --switch {given[0]}={out[given[0]]}"
        )
    out |= read_switches(adapter, args.model, args.switch)
    for name in ("batch_size", "batch_tokens", "max_cost", "chat_template", "device", "dtype"):
        if (value := getattr(args, name)) is not None:
            if name in out:
                raise UsageError(f"{name} is given twice")
            out[name] = str(value) if isinstance(value, Path) else value
    return out


def command_of(args: argparse.Namespace) -> str:
    """The command line that repeats a verb, to be shown and kept: no secrets, and of adapter
    arguments that the adapter's signature does not name a digest.
    """
    from evalkit.provenance import command

    given: str = getattr(args, "model_args", "")
    if not given:
        return command(args.argv)
    shown = ",".join(_recordable(part, args) for part in given.split(","))
    return command(
        w.removesuffix(given) + shown if w == given or w.endswith(f"={given}") else w
        for w in args.argv
    )


def _recordable(text: str, args: argparse.Namespace) -> str:
    """``name=value`` of --model-args, the value as a digest where it may be anything."""
    from evalkit.adapter import adapter_class, convert, unnamed_arguments
    from evalkit.safe_text import digest_of

    name, _, value = (part.strip() for part in text.partition("="))
    try:
        known = not unnamed_arguments(adapter_class(args.adapter), args.model, {name: value})
    except EvalkitError:
        known = False
    if known or not isinstance(convert(value), str):
        return text
    return f"{name}={digest_of(value)}"


def data_paths(texts: Sequence[str]) -> dict[str, Path]:
    """``{"docvqa:val": Path}`` from --data. Raises UsageError."""
    out = {}
    for text in texts:
        name, equals, where = text.partition("=")
        if not equals or not name or not where:
            raise UsageError(f"--data {text}: expected TASK:SUBSET=PATH")
        if name in out:
            raise UsageError(f"--data {name} is given twice")
        out[name] = path(where)
    return out
