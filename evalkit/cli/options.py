"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError


def model_options(parser: argparse.ArgumentParser) -> None:
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


def adapter_of(args: argparse.Namespace) -> Any:
    from evalkit.adapter import adapter_class

    given = [p for p in args.model_args.split(",") if p.strip()]
    given += args.switch
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{text!r}: expected name=value")
        if name.strip() in arguments:
            raise UsageError(f"{name.strip()} is given twice")
        arguments[name.strip()] = convert(value.strip())
    for name in ("batch_size", "batch_tokens", "device", "dtype"):
        if getattr(args, name) is not None:
            arguments[name] = getattr(args, name)
    cls = adapter_class(args.adapter)
    try:
        inspect.signature(cls).bind(args.model, **arguments)
    except TypeError as e:
        raise UsageError(f"adapter {args.adapter!r}: {e}") from e
    return cls(args.model, **arguments)


def convert(text: str) -> Any:
    """``4`` -> 4, ``0.5`` -> 0.5, ``true`` -> True, ``none`` -> None, anything else stays text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def data_paths(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    out = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in names:
            raise UsageError(
                f"--data {text}: expected TASK:SUBSET=PATH with one of {', '.join(names)}"
            )
        if not Path(path).exists():
            raise UsageError(f"--data {text}: {path} does not exist")
        out[name] = Path(path)
    return out
