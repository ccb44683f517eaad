"""What verbs print: tables, JSON for scripts, and log messages on standard error."""

from __future__ import annotations

import codecs
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

from evalkit.safe_text import harmless, mask, without_keys

PLAIN = {"–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "≥": ">=", "≤": "<="}
"""What stands for a sign that a terminal's encoding lacks."""


def print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON list of objects; what is no number there (NaN) is null."""
    print(json.dumps([_plain(row) for row in rows], ensure_ascii=False, indent=1, default=str))


def print_error(text: str) -> None:
    """One line of standard error that begins ``evalkit: error:``."""
    print(f"evalkit: error: {harmless(text)}", file=sys.stderr)


@contextmanager
def output_for_people() -> Iterator[None]:
    """Lets standard output and error replace what their encoding lacks, be closed, or lose their
    reader (``| head -1``): none of it ends a run or changes its exit code.

    Whatever is written to them has its secrets masked and its control characters shown, also the
    traceback of an error that nobody expected.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="evalkit_plain")
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123 - a device, not a path
        redirect_stdout(cast(TextIO, _Pipe(sys.stdout or nowhere, _answer))) as out,
        redirect_stderr(cast(TextIO, _Pipe(sys.stderr or nowhere, _message))),
    ):
        try:
            yield
        except SystemExit as e:
            if isinstance(e.code, int | None):
                raise
            print(e.code, file=sys.stderr)  # which the interpreter would print as it is
            raise SystemExit(1) from None
        except Exception:
            sys.stderr.write(traceback.format_exc())
            raise SystemExit(1) from None
        finally:
            out.flush()


def _answer(text: str) -> str:
    """What verbs print is data, and stays as it is but for keys."""
    return harmless(without_keys(text))


def _message(text: str) -> str:
    return harmless(mask(text), allowed="\r")  # with which a bar is drawn anew


class _Pipe:
    """A stream that writes what is ``safe`` of a text. It may stop taking what is written; what
    comes afterwards goes nowhere.
    """

    def __init__(self, stream: TextIO, safe: Callable[[str], str]) -> None:
        self.stream, self.safe = stream, safe

    def write(self, text: str) -> int:
        try:
            self.stream.write(self.safe(text))
        except OSError as e:
            self._to_nowhere(e)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as e:
            self._to_nowhere(e)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _to_nowhere(self, e: OSError) -> None:
        # what the stream still buffers would fail again, also when Python closes it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        if not isinstance(e, BrokenPipeError):
            print(f"evalkit: standard output can't be written ({e.strerror})", file=sys.stderr)


@contextmanager
def log_to_terminal(verbosity: int) -> Iterator[None]:
    """Shows evalkit's log on standard error: warnings at -1, progress at 0, everything at 1."""
    logger, handler = logging.getLogger("evalkit"), _Terminal()
    before = logger.level, logger.propagate
    logger.setLevel(
        {-1: logging.WARNING, 0: logging.INFO}.get(max(-1, min(verbosity, 1)), logging.DEBUG)
    )
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Terminal(logging.Handler):
    """Writes ``evalkit: message`` lines, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"evalkit: {harmless(record.getMessage())}"
        if tqdm := sys.modules.get("tqdm"):
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value  # numpy's numbers


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    text = "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return text, error.end


codecs.register_error("evalkit_plain", _replace)


def _here() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


START = _here()
"""The folder in which the command was given, whatever an adapter makes of the present one."""


def near(path: Path) -> Path:
    """A path as people write it where the command was given: without that folder, if it lies in
    it.
    """
    return path.relative_to(START) if START and path.is_relative_to(START) else path
