"""``evalkit ask``: one question, about images and videos or about nothing but its text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import adapter_arguments, model_options, path, talk_options, whole
from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.types import BoxSpace, Image, Video

ANIMATED = ("GIF", "WEBP", "PNG")
"""Picture formats whose frames follow each other in time; those of a TIFF are pages."""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "ask",
        usage="evalkit ask [FILE ...] QUESTION [options]",
        help="ask a model one question about images or videos",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[FILE ...] QUESTION",
        help="images and videos, in order (-: one from standard input), and the question last",
    )
    parser.add_argument(
        "--save",
        type=path,
        metavar="PNG",
        help="draw the box of the answer into a copy of the image",
    )
    parser.add_argument("--max-new-tokens", type=whole, default=256)
    model_options(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.malloc import staying
    from evalkit.nano import shipped
    from evalkit.plan import build_adapter
    from evalkit.types import Image, Message, Request, Text

    *files, question = args.words
    media = _media(files, question)
    if args.save:
        _check_save(args.save, media)
    message = Message("user", (*media, Text(question)))
    with staying():
        adapter = build_adapter(args.adapter, args.model, adapter_arguments(args))
    if args.model in shipped() and args.verbosity >= 0:
        print(
            f"evalkit: {args.model} knows evalkit's own drawn data only; for photographs and "
            "scans give --model",
            file=sys.stderr,
        )
    answer = next(iter(adapter.generate([Request("ask", (message,), args.max_new_tokens)])))
    if answer.error is not None:
        raise EvalkitError(answer.error)
    print(answer.text)
    if not answer.text.strip():
        print("evalkit: the answer is empty", file=sys.stderr)
    if args.save:
        picture = next(m for m in media if isinstance(m, Image))
        _draw(picture, answer.text, answer.box_space or adapter.box_space, args.save)
    return 0


def _media(files: Sequence[str], question: str) -> list[Image | Video]:
    if not files and path(question).is_file():
        raise UsageError(f"ask about {question} what? The question comes last")
    if not question.strip():
        raise UsageError("an empty question; it comes last, in quotes")
    for file in files:
        if "://" in file:
            raise UsageError(
                f"{file}: addresses are not fetched; download the file first (or: curl -L {file} | "
                "evalkit ask - ...)"
            )
        if path(file).is_dir():
            raise UsageError(f"{file}: a folder; name its files, or run it as a task (--tasks)")
        if file != "-" and not path(file).is_file():
            raise UsageError(f"{file}: no such file (a question of several words needs quotes)")
    return [_medium(file) for file in files]


def _medium(file: str) -> Image | Video:
    """An image or a video by what the file holds, not by its name; a GIF of one frame is an image.
    Raises EvalkitError for what is neither.
    """
    import io

    from PIL import Image as Pillow

    from evalkit.formats import HEAD, media_type
    from evalkit.types import Image, Video

    source: Path | bytes = sys.stdin.buffer.read() if file == "-" else path(file)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError as e:
        raise EvalkitError(f"{file}: can't be read ({e.strerror})") from e
    kind = media_type(head)
    if not head:
        raise EvalkitError(f"{file}: empty")
    if head.startswith(b"%PDF"):
        raise EvalkitError(f"{file}: a PDF; make pictures of its pages (pdftoppm -png {file} page)")
    if kind is None:
        raise EvalkitError(f"{file}: neither an image nor a video in a known format")
    if kind == "video":
        return Video(source)
    try:
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            moves = picture.format in ANIMATED and getattr(picture, "n_frames", 1) > 1
    except Exception:  # damaged: decoding says how
        moves = False
    return Video(source) if moves else Image(source)


def _check_save(save: Path, media: Sequence[Image | Video]) -> None:
    """Everything that can be wrong with --save, before a model is loaded."""
    from PIL import Image as Pillow

    from evalkit.types import Image

    if len(media) != 1 or not isinstance(media[0], Image):
        raise UsageError("--save draws into one image")
    if save.suffix.lower() not in {
        s for s, f in Pillow.registered_extensions().items() if f in Pillow.SAVE
    }:
        raise UsageError(
            f"--save {save}: not the suffix of an image format that can be written; .png"
        )
    if not save.absolute().parent.is_dir():
        raise UsageError(f"--save {save}: {save.absolute().parent} is no folder")
    if save.is_dir() or not os.access(save if save.exists() else save.absolute().parent, os.W_OK):
        raise UsageError(f"--save {save}: can't be written")


def _draw(media: Image, text: str, space: BoxSpace | None, save: Path) -> None:
    from PIL import ImageDraw

    from evalkit.media import decode_image
    from evalkit.metrics.boxes import parse_box

    picture = decode_image(media).convert("RGB")
    box = parse_box(text, space, picture.width, picture.height) if space else None
    if box is None:
        raise EvalkitError("the answer holds no box to draw")
    pen, width = ImageDraw.Draw(picture), max(2, picture.width // 200)
    corners = tuple(box)
    # black under red: the box shows on a red object too
    pen.rectangle(corners, outline=(0, 0, 0), width=2 * width)
    pen.rectangle(corners, outline=(230, 30, 30), width=width)
    picture.save(save)
    print(f"box drawn into {save}")
