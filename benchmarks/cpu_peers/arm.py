"""What every arm's process does: it loads, answers one row to warm up, about a picture that no
other row has, so that no cache gains; says that it is ready, waits for its start, answers its rows,
and writes what it took. No part of evalkit is imported here: the rivals run this in an environment
of their own.

``python arm_X.py MODEL_FOLDER ROWS.json OUT.json OPTIONS`` (options as JSON).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from PIL import Image

PAD = "<|image_pad|>"
STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """The most memory that this process had resident since it was last cleared; 0 where the system
    does not say.
    """
    if not STATUS.is_file():
        return 0
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)


def same_tokens(rows, encode) -> None:
    """Refuses rows that a rival's own tokenizer reads otherwise, so that it would be asked
    something else.
    """
    for row in rows:
        frames, height, width = row["grid"]
        ids = encode(row["prompt"].replace(PAD, PAD * (frames * height * width // 4)))
        if ids != row["ids"]:
            at = next((i for i, (a, b) in enumerate(zip(ids, row["ids"])) if a != b), len(ids))
            raise SystemExit(f"{row['id']}: other token ids from {at} on: ask in other words")


def run(prepare) -> None:
    """``prepare(model, rows, options)`` gives a function from rows to their answers by id."""
    model, rows_file, out, options = sys.argv[1:5]
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    warm = {**rows[0], "image": f"{out}.png", "new": 2}
    Image.open(rows[0]["image"]).rotate(180).save(warm["image"])
    answer = prepare(model, [warm, *rows], json.loads(options))
    answer([warm])
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
