"""What a result needs beside it to be repeated: versions, the state of the code, the command. Never
a secret.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from evalkit.safe_text import mask

PACKAGES = (
    "evalkit",
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "pillow",
    "av",
    "tokenizers",
    "rapidfuzz",
    "scipy",
    "pandas",
)


@dataclass(frozen=True)
class GitState:
    """The repository around the current folder."""

    commit: str
    """Hash of the commit."""
    dirty: bool
    """Whether tracked files were edited since."""


def now() -> str:
    """The present time in UTC, ISO 8601, to the second: dates in results."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def git_state() -> GitState | None:
    """Commit and cleanness of the repository around the current folder, None outside of one."""
    try:
        commit = _git("rev-parse", "HEAD")
        return GitState(commit, bool(_git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None


def command(argv: Iterable[str] | None = None) -> str:
    """The command line that repeats this run, secrets masked."""
    given = sys.argv[1:] if argv is None else argv
    return mask(shlex.join(["evalkit", *given]))


def _git(*args: str) -> str:
    return subprocess.run(
        ["git", *args],  # noqa: S607 (the user's own git)
        capture_output=True,
        text=True,
        check=True,
        timeout=5,
    ).stdout.strip()
