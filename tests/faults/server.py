"""Forks a child for each line of JSON on standard input and runs one evalkit command in it."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def child(library: Any, asked: dict[str, Any], out: Path, err: Path, calls: Path) -> None:
    """Runs the command with its fault armed; never returns."""
    for number, path in ((1, out), (2, err)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, number)
    os.setsid()
    os.chdir(out.parent)  # out of the repository: a busy machine's git may not say its state
    code = 70
    try:
        from evalkit.cli.main import main

        sys.argv = ["evalkit", *asked["argv"]]
        library.faults_arm(
            os.fsencode(asked["folder"]), asked["n"], asked["action"], asked["error"]
        )
        code = main(asked["argv"])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        seen = library.faults_seen()
        library.faults_arm(b"", -1, 0, 0)
        calls.write_text(str(seen))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    library.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    library.faults_seen.restype = ctypes.c_long
    for name in ("evalkit.cli.main", *filter(None, sys.argv[2].split(","))):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        out, err, calls = (Path(scratch) / name for name in ("out", "err", "calls"))
        for line in sys.stdin:
            for path in (out, err, calls):
                path.unlink(missing_ok=True)
            pid = os.fork()
            if pid == 0:
                child(library, json.loads(line), out, err, calls)
            _, status = os.waitpid(pid, 0)
            answer = {
                "code": os.waitstatus_to_exitcode(status),
                "out": out.read_text(errors="replace") if out.exists() else "",
                "err": err.read_text(errors="replace") if err.exists() else "",
                "calls": int(calls.read_text()) if calls.exists() else -1,
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
