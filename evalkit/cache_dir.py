"""Where evalkit keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder of evalkit, by the XDG rule: ``$XDG_CACHE_HOME/evalkit``, or
    ``~/.cache/evalkit`` where that variable is empty or unset. It may not exist yet.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalkit"
