"""The argument parser that every verb uses: argparse, with a suggestion for a misspelt word."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["Parser"]


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
