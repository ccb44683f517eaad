"""``evalkit bench``: the engine measured on this device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, new_file, talk_options, whole
from evalkit.errors import UsageError
from evalkit.files import replace

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "bench", help="measure the engine on this device, beside transformers and its roofline"
    )
    parser.add_argument(
        "--model",
        type=name_or_path,
        default="nano",
        help="a shipped name, a checkpoint folder, or a released size with random weights, such as "
        "2B, Qwen2.5-VL-3B or Qwen3-VL-2B (nano)",
    )
    parser.add_argument(
        "--load",
        default="images",
        choices=("images", "documents", "questions", "decode", "video"),
        help="what is asked (images)",
    )
    parser.add_argument("--items", type=whole, default=32, metavar="N", help="questions (32)")
    parser.add_argument(
        "--peer",
        default="1,8,16",
        metavar="N,...",
        help="batch sizes of transformers, or none (1,8,16)",
    )
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--threads", type=whole, default=2)
    parser.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    parser.add_argument(
        "--dtype", type=dtype, default="float32", choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument(
        "--compile", action="store_true", help="measure evalkit with compiled layers, too"
    )
    parser.add_argument(
        "--quantisation",
        default="",
        metavar="SCHEME,...",
        help="measure evalkit with tower and decoder quantised, too: w8a8, fp8, w8a16, w4a16",
    )
    parser.add_argument("--save", type=new_file, metavar="FILE", help="write the table there too")
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def dtype(text: str) -> str:
    """``bf16`` -> ``bfloat16``; imported here, since the help of every verb waits for this file."""
    from evalkit.adapter import full_dtype

    return full_dtype(text)


def main(args: argparse.Namespace) -> int:
    import torch

    from evalkit.bench import Load
    from evalkit.bench_page import bench
    from evalkit.models.device import checked_device
    from evalkit.nano import shipped

    sizes = (
        []
        if args.peer == "none"
        else [int(n) for n in args.peer.split(",") if n.strip().isdigit() and int(n) > 0]
    )
    if not sizes and args.peer != "none":
        raise UsageError(f"--peer {args.peer!r}: expected batch sizes such as 1,8,16, or none")
    torch.set_num_threads(args.threads)
    device = checked_device(args.device)
    if args.save and not args.save.absolute().parent.is_dir():
        raise UsageError(f"--save {args.save}: no such folder")
    name = str(shipped().get(args.model, args.model))
    load, schemes = Load(args.load, args.items), args.quantisation.split(",")
    page = bench(
        name,
        load,
        args.dtype,
        device,
        args.rounds,
        sizes,
        args.compile,
        [s for s in schemes if s not in ("", "none")],
    )
    print(page)
    if args.save:
        replace(args.save, page)
    return 0
