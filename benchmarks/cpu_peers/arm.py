"""What every arm's process does: it loads, answers one row to warm up, says that it is ready, waits
for its start, answers its rows, and writes what it took. No part of evalkit is imported here: the
rivals run this in an environment of their own.

``python arm_X.py MODEL_FOLDER ROWS.json OUT.json OPTIONS`` (options as JSON).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """The most memory that this process had resident since it was last cleared; 0 where the system
    does not say.
    """
    if not STATUS.is_file():
        return 0
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)


def run(prepare) -> None:
    """``prepare(model, rows, options)`` gives a function from rows to their answers by id."""
    model, rows_file, out, options = sys.argv[1:5]
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    answer = prepare(model, rows, json.loads(options))
    answer([{**rows[0], "new": 2}])
    if REFS.is_file():
        REFS.write_text("5", encoding="ascii")  # the peak counts from here
    print("ready", flush=True)
    sys.stdin.readline()
    started, used = time.perf_counter(), time.process_time()
    answers = answer(rows)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - used,
        "peak": peak_bytes(),
        "answers": answers,
    }
    Path(out).write_text(json.dumps(took), encoding="utf-8")
