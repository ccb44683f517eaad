"""The command line. Nothing heavy is imported before a verb needs it; exit codes are 0 (all
scored), 1 (something failed), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM) and 129 (SIGHUP).
"""

from __future__ import annotations

import argparse
import atexit
import gc
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evalkit.cli import (
    agree,
    ask,
    bench,
    compare,
    data,
    export,
    imports,
    leaderboard,
    models,
    plot,
    report,
    rescore,
    run,
    serve,
    show,
    study,
    submission,
    sweep,
    switches,
    tasks,
    train,
    twins,
    view,
)
from evalkit.cli.output import log_to_terminal, output_for_people, print_error
from evalkit.cli.parser import Parser
from evalkit.errors import EvalkitError, Stopped, UsageError, reason

EXAMPLES = """examples:
  evalkit run --tasks docvqa,refcoco                          the embedded data and model
  evalkit run --tasks docvqa:val --model Qwen/Qwen2-VL-2B-Instruct --device cuda
  evalkit run --tasks docvqa --switch position=rope1d         an ablation
  evalkit run --tasks docvqa:val --data docvqa:val=FOLDER --model FOLDER --limit 100
  evalkit compare nano other-model                            paired differences on common samples
  evalkit ask photo.jpg "What is written on the sign?"
"""
VERBS = (
    run,
    ask,
    leaderboard,
    compare,
    agree,
    sweep,
    view,
    report,
    show,
    export,
    plot,
    rescore,
    imports,
    submission,
    tasks,
    data,
    models,
    switches,
    bench,
    serve,
    train,
    twins,
    study,
)
"""The modules of the verbs, in the order of the help."""


def build_parser() -> Parser:
    parser = Parser(
        prog="evalkit",
        description=(
            "Evaluate vision-language models, and measure what their architecture is worth."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    with output_for_people():
        parser = build_parser()
        words = sys.argv[1:] if argv is None else argv
        if words and words[0].startswith("-") and words[0] not in parser.option_strings:
            parser.error(f"options stand behind the verb: evalkit VERB {words[0]} ...")
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            (parser.verb(args.verb) if args.verb else parser).refuse(unknown)
        if args.version:
            from importlib.metadata import version

            print(version("evalkit"))
            return 0
        if args.verb is None:
            parser.print_help()
            return 0
        atexit.register(gc.freeze)  # the memory goes back at once: no last search for garbage
        args.argv = list(words)
        with log_to_terminal(args.verbosity), stopped_by_signals():
            return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.main(args)
        return code
    except UsageError as e:
        print_error(str(e))
        return 2
    except EvalkitError as e:
        print_error(str(e))
        return 1
    except OSError as e:  # a disk that is full or broken, a folder that may not be written
        print_error(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else reason(e))
        return 1
    except SystemExit as e:
        print_error(f"a task or an adapter ended the program: {reason(e)}")
        return 1
    except KeyboardInterrupt as e:
        from evalkit.cli.options import command_of

        number = e.signal if isinstance(e, Stopped) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        print(
            f"\nevalkit: {how}; what was scored is kept. Resume with:\n  {command_of(args)}",
            file=sys.stderr,
        )
        return 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end a verb as Ctrl-C does: what is in hand is kept. A signal that is
    ignored (``nohup``) stays so, and only the main thread may set what a signal does.
    """

    def stop(number: int, _: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # a second one shall not end the ending
        raise Stopped(signal.Signals(number))

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
