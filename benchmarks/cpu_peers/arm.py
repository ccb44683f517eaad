"""What every arm's process does: it loads, answers one row to warm up, about a picture that no
other row has, so that no cache gains; says that it is ready, waits for its start, answers its rows,
and writes what it took. No part of evalkit is imported here: the rivals run this in an environment
of their own.

``python arm_X.py MODEL_FOLDER ROWS.json OUT.json OPTIONS`` (options as JSON).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from PIL import Image

PAD = "<|image_pad|>"
counted = ["self"]
"""The processes whose memory and processor time count; an arm adds a server that it starts."""


def peak_bytes() -> int:
    """The most memory that the processes had resident since this was last cleared; 0 where the
    system does not say.
    """
    status = [Path(f"/proc/{process}/status") for process in counted]
    lines = [x for s in status if s.is_file() for x in s.read_text(encoding="ascii").splitlines()]
    return sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


def cpu_seconds() -> float:
    """Of this process and the others that count."""
    ticks = 0
    for process in counted[1:]:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


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
    for process in counted:
        if (refs := Path(f"/proc/{process}/clear_refs")).is_file():
            refs.write_text("5", encoding="ascii")  # the peak counts from here
    print("ready", flush=True)
    sys.stdin.readline()
    started, used = time.perf_counter(), cpu_seconds()
    answers = answer(rows)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu": cpu_seconds() - used,
        "peak": peak_bytes(),
        "answers": answers,
    }
    Path(out).write_text(json.dumps(took), encoding="utf-8")
