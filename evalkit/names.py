"""How models, tasks and paths are called: in tables, and as folders."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def model_name(text: str) -> str:
    """How tables call a model: a hub id or shipped name as it is, a path by its last part; by the
    one before it for the ``model`` folder of a training run.
    """
    if not _is_path(text):
        return text
    path = Path(text).resolve()
    return (path.parent.name if path.name == "model" else path.name) or "model"


def shown_path(path: str | Path) -> str:
    """A path as results keep it: resolved, the home folder as ``~``."""
    resolved = Path(path).resolve()
    home = Path.home()
    return f"~/{resolved.relative_to(home)}" if resolved.is_relative_to(home) else str(resolved)


def model_path(text: str) -> str:
    """``shown_path`` of a model that was given as a path; empty for a hub id or a shipped name."""
    return shown_path(text) if _is_path(text) else ""


def _is_path(text: str) -> bool:
    """Whether a model was named by its path; a hub id looks like one that is not there, and an
    address is none.
    """
    if "://" in text:
        return False
    hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.+)?", text)
    there = os.path.exists(text)  # noqa: PTH110 - Path's raises for a name that is too long
    return ("/" in text or text.startswith((".", "~"))) and (not hub_id or there)


def slug(text: str, most: int = 200) -> str:
    """A folder name for a model or task, hub ids with ``--`` for ``/``; one of more than ``most``
    bytes is cut and ends in a digest of the whole (file systems take 255).
    """
    name = re.sub(r"[^\w.+-]+", "_", text.replace("/", "--")).strip(".") or "_"
    if len(name.encode()) <= most:
        return name
    start = name.encode()[: most - 13].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
