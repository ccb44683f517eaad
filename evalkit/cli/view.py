"""``evalkit view``: the page of all results, live, in the browser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import data_option, data_paths, path, port, talk_options

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "view", help="look at results in the browser, also while they grow; Ctrl-C ends it"
    )
    parser.add_argument(
        "folder", nargs="?", type=path, default=Path("results"), help="the output folder (results)"
    )
    parser.add_argument("--port", type=port, default=0, help="a free one if not given")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open nothing"
    )
    data_option(parser)
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    import webbrowser

    from evalkit.errors import UsageError
    from evalkit.results.report.live import Live
    from evalkit.results.report.server import Server

    if not args.folder.is_dir():
        raise UsageError(f"{args.folder}: no such folder")
    server = Server(Live(args.folder, data_paths(args.data)), args.port)
    print(f"{server.address} (this machine only; Ctrl-C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        server.server_close()
    return 0
