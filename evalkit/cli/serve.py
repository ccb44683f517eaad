"""``evalkit serve``: a model behind the OpenAI protocol."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from evalkit.cli.options import adapter_arguments, model_options, port, talk_options, whole
from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs

KEY = "EVALKIT_SERVE_API_KEY"


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "serve", help="offer a model to OpenAI clients and in the browser", epilog=(
            f"{KEY}, if it is set, is the key that requests need."
        ),
    )  # fmt: skip
    model_options(parser)
    where = parser.add_argument_group("the server")
    where.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks (127.0.0.1)")
    where.add_argument("--port", type=port, default=8000, help="0 for a free one (8000)")
    where.add_argument("--name", metavar="LABEL", help="what requests call the model")
    where.add_argument(
        "--max-waiting", type=whole, default=256, help="requests that may wait; then 429 (256)"
    )
    where.add_argument(
        "--max-body", type=whole, default=64 << 20, metavar="BYTES", help="of a request (64 MiB)"
    )
    where.add_argument(
        "--max-tokens", type=whole, default=2048, help="of an answer, at most (2048)"
    )
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    try:
        from evalkit.serve.app import Settings, make_app, serve, warm
    except ImportError as e:
        raise EvalkitError(f"evalkit serve needs {e.name}: pip install 'evalkit[serve]'") from e
    from evalkit.malloc import staying
    from evalkit.names import model_name
    from evalkit.plan import build_adapter
    from evalkit.serve.protocol import Limits

    key = os.environ.get(KEY, "")
    if not key and args.host not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(f"--host {args.host}: open to others; set a key in {KEY} first")
    with staying():
        adapter = build_adapter(args.adapter, args.model, adapter_arguments(args))
    warm(adapter)
    settings = Settings(
        args.name or model_name(args.model),
        key,
        args.max_waiting,
        args.max_body,
        Limits(args.max_tokens),
    )
    app = make_app(adapter, settings)

    def announce(at: str) -> None:
        print(f"{settings.model} at {at} (page), {at}/v1 (API); Ctrl-C ends it", flush=True)

    with suppress(KeyboardInterrupt):  # also a signal to end: there is nothing to go on with
        serve(app, args.host, args.port, announce)
    return 0
