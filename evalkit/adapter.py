"""Model adapters: requests in, completions out, in any order.

One shape, ``generate(requests) -> completions``, carries continuous batching, concurrent API calls
and remote replicas. Adapters are found by entry point (group ``evalkit.model_adapters``) or given
as a file.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import UsageError
from evalkit.plugin import classes_in
from evalkit.types import BoxSpace, Completion, Request


class ModelAdapter(ABC):
    """Base class of adapters. Built with a model name, folder or hub id, and the ``--model-args``
    as keyword arguments (already converted: ``4`` is an int, ``true`` a bool); an unknown argument
    raises UsageError.

    A request that can't be answered (unreadable media, too long a prompt) comes back as a
    completion with ``error``; only what makes every further answer impossible raises.
    """

    name: ClassVar[str]
    box_space: BoxSpace | None = None

    def __init__(self, model: str, **arguments: Any) -> None:  # noqa: B027 - an adapter may need no arguments
        """``model`` as given on the command line. Raises UsageError for an argument that the
        adapter does not know.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON of everything that can change an answer: weights hash, switches, dtype, pixels,
        generation. What can't change an answer (batch size, device count, worker count) is not in
        it."""

    @property
    def details(self) -> Mapping[str, Any]:
        """JSON of what people want to read beside a result and what does not change it (device,
        batch size, parameters).
        """
        return {}

    @property
    def stats(self) -> Mapping[str, Any]:
        """JSON of what the last call of ``generate`` or ``rank`` did (tokens, reuse, seconds by
        stage), kept with the results.
        """
        return {}

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answers each request once. May read ahead of what it has answered, by a bounded
        number.
        """

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Log-likelihood of each of ``request.choices`` as the answer, in ``Completion.logprobs``;
        text is the best one.
        """
        raise UsageError(
            f"adapter {self.name!r} can't rank choices; use one that can, or a task that generates"
        )


def digest(fingerprint: Mapping[str, Any]) -> str:
    """The first 12 hex digits of SHA-256 over the canonical JSON of a fingerprint."""
    return hashlib.sha256(
        json.dumps(fingerprint, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()[:12]


def registered() -> dict[str, str]:
    """Names of the installed adapters and where each lives (``module:Class``), without importing
    any.
    """
    return {e.name: e.value for e in entry_points(group="evalkit.model_adapters")}


def adapter_class(name: str) -> type[ModelAdapter]:
    """The adapter of that name, or the one that a file ``./my_adapter.py`` defines. Raises
    UsageError with the known names.
    """
    if name.endswith(".py"):
        found = classes_in(Path(name), ModelAdapter)
        if len(found) != 1:
            raise UsageError(f"{name}: expected one ModelAdapter class, found {len(found)}")
        return found[0]
    for entry in entry_points(group="evalkit.model_adapters"):
        if entry.name == name:
            return entry.load()
    known = sorted(registered())
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"unknown adapter {name!r}; {hint}known: {', '.join(known)}; or give a file: "
        "./my_adapter.py"
    )
