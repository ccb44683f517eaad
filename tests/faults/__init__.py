"""Faults on purpose: any verb, killed or failed at any system call on its output folder.

A small library (``faults.c``, built on first use) is preloaded into one Python, which imports
evalkit once and forks a child for each try, so that a try costs milliseconds instead of an import.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
Action = Literal["count", "kill before", "kill after", "kill half-way", "fail", "fail to read"]
CODES: dict[Action, int] = {
    "count": 0,
    "kill before": 1,
    "kill after": 2,
    "kill half-way": 3,
    "fail": 4,
    "fail to read": 5,
}
FULL, BROKEN, FORBIDDEN = errno.ENOSPC, errno.EIO, errno.EACCES


def build(folder: Path) -> Path:
    """The library, compiled into ``folder``; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "faults.so"
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-w",
        "-o",
        str(library),
        str(HERE / "faults.c"),
    ]
    subprocess.run([*command, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Try:
    """What came of a command: its exit code (negative: the signal), what it printed, and how many
    system calls on the folder there were (of a child that was killed: none known).
    """

    code: int
    out: str
    err: str
    calls: int


class Faults:
    """A server that runs evalkit's command line in forked children, with faults."""

    def __init__(self, library: Path, imports: str = "") -> None:
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(library), imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(
        self,
        argv: Sequence[str],
        folder: Path,
        n: int = -1,
        action: Action = "count",
        error: int = FULL,
    ) -> Try:
        """Runs ``evalkit argv``; the n-th call on ``folder`` meets with the fault."""
        asked = {
            "argv": list(argv),
            "folder": str(folder),
            "n": n,
            "action": CODES[action],
            "error": error,
        }
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return Try(**answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=10)


@contextmanager
def faults(folder: Path, imports: str = "") -> Iterator[Faults]:
    """A server whose Python has imported ``imports`` (comma-separated modules) beforehand."""
    server = Faults(build(folder), imports)
    try:
        yield server
    finally:
        server.close()
