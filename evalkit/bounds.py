"""Bounds on what comes from outside: data, checkpoints, files that users write.

Small files can stand for any amount of memory, disk or time. Each bound has a default far above
what data sets and models have; whoever has more sets the environment variable that the error names,
``EVALKIT_MAX_`` and the field in capitals. A bound changes no answer: it decides what is refused.
"""

from __future__ import annotations

import math
import os
from dataclasses import Field, dataclass, field, fields
from functools import lru_cache
from typing import Any

from evalkit.errors import UsageError

PREFIX = "EVALKIT_MAX_"


def _bound(default: float, unit: str, about: str) -> Any:
    return field(default=default, metadata={"unit": unit, "about": about})


@dataclass(frozen=True)
class Bounds:
    """The most that is taken of each kind."""

    image_bytes: int = _bound(2**30, "bytes", "of a picture's file")
    image_pixels: int = _bound(178_956_970, "pixels", "of a picture")
    frame_pixels: int = _bound(7680 * 4320, "pixels", "of a frame of a clip")
    clip_frames: int = _bound(1_000_000, "frames", "of a clip, shown or not")
    clip_bytes: int = _bound(8 * 2**30, "bytes", "of a clip when it is unpacked")
    cache_bytes: int = _bound(256 * 2**30, "bytes", "of unpacked clips in the cache folder")
    unpack_ratio: int = _bound(
        100, "times", "the packed size, for what unpacks to over 64 MiB: a clip, a column"
    )
    prompt_chars: int = _bound(1_000_000, "characters", "of a prompt, before it is made tokens")
    template_seconds: float = _bound(10, "seconds", "that a chat template may take for a prompt")
    template_bytes: int = _bound(512 * 2**20, "bytes", "of memory that a chat template may take")
    json_bytes: int = _bound(
        64 * 2**20, "bytes", "of a JSON file or template of a checkpoint, of a line of JSON lines"
    )
    yaml_bytes: int = _bound(2**20, "bytes", "of a YAML file")
    sweep_cells: int = _bound(2_000, "cells", "of a sweep, for each task")


def setting(name: str) -> str:
    """The environment variable that sets a bound."""
    return PREFIX + name.upper()


def bounds() -> Bounds:
    """The bounds as the environment sets them. Raises UsageError for a variable with the prefix
    that names none, or holds no number above 0.
    """
    return _read(tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(PREFIX))))


def over(name: str) -> str:
    """How an error says that a bound was passed: which, and what sets another."""
    most, unit = getattr(bounds(), name), _by_name()[name].metadata["unit"]
    return f"over the limit of {most:,} {unit} ({setting(name)} sets another)"


def reference() -> str:
    """A markdown table of all bounds."""
    lines = ["| variable | default | of what |", "|---|---|---|"]
    for name, f in _by_name().items():
        unit, about = f.metadata["unit"], f.metadata["about"]
        lines.append(f"| `{setting(name)}` | {f.default:,} | {unit} {about} |")
    return "\n".join(lines)


def _by_name() -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(Bounds)}


@lru_cache(maxsize=8)
def _read(given: tuple[tuple[str, str], ...]) -> Bounds:
    known = _by_name()
    values: dict[str, Any] = {}
    for variable, text in given:
        name = variable.removeprefix(PREFIX).lower()
        if name not in known:
            names = ", ".join(map(setting, known))
            raise UsageError(f"{variable}: there is no such bound; there are {names}")
        kind: type[int] | type[float] = float if name.endswith("seconds") else int
        try:
            values[name] = kind(text)
        except ValueError:
            values[name] = 0
        if not 0 < values[name] < math.inf:
            what = "number" if kind is float else "whole number"
            raise UsageError(f"{variable}={text!r}: expected a {what} above 0")
    return Bounds(**values)
