"""``evalkit ask``: one question about an image or a video."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import adapter_of, model_options, talk_options
from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("ask", help="ask a model one question about an image or a video")
    parser.add_argument("media", type=Path, metavar="IMAGE_OR_VIDEO")
    parser.add_argument("question")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PNG",
        help="draw the box of the answer into a copy of the image",
    )
    parser.add_argument("--max-new-tokens", type=int, default=256)
    model_options(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.types import Image, Message, Request, Text, Video

    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {args.max_new_tokens}: expected a number above 0")
    if not args.media.is_file():
        raise UsageError(f"{args.media}: no such file")
    kind = (
        Video
        if args.media.suffix.lower() in (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
        else Image
    )
    if args.save and kind is Video:
        raise UsageError("--save draws into an image; this is a video")
    message = Message("user", (kind(args.media), Text(args.question)))
    adapter = adapter_of(args)
    answer = next(iter(adapter.generate([Request("ask", (message,), args.max_new_tokens)])))
    if answer.error is not None:
        raise EvalkitError(answer.error)
    print(answer.text)
    if args.save:
        _draw(args.media, answer.text, answer.box_space, args.save)
    return 0


def _draw(media: Path, text: str, space: Any, save: Path) -> None:
    from PIL import ImageDraw

    from evalkit.media import decode_image
    from evalkit.metrics.boxes import parse_box
    from evalkit.types import Image

    picture = decode_image(Image(media)).convert("RGB")
    box = parse_box(text, space, picture.width, picture.height) if space else None
    if box is None:
        raise EvalkitError("the answer holds no box to draw")
    ImageDraw.Draw(picture).rectangle(
        tuple(box), outline=(230, 30, 30), width=max(2, picture.width // 200)
    )
    picture.save(save)
    print(f"box drawn into {save}")
