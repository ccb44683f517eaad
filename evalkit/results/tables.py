"""Tables as text: markdown, aligned columns, and intervals in words."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; what models and users wrote is escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(
        lines + ["| " + " | ".join(_escaped(str(v)) for v in row) + " |" for row in rows]
    )


def interval_text(low: float | None, high: float | None) -> str:
    """``[41.2, 55.0]``, or a dash when there is none."""
    return "–" if low is None or high is None or low != low else f"[{low:.1f}, {high:.1f}]"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the new one. Raises EvalkitError when it can't be
    written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
