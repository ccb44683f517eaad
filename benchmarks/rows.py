"""Rows beyond memory: what a run holds while it goes through a parquet file: `python
benchmarks/rows.py [--rows N,N,...] [--save FILE]`.

Each row has a picture of its own among 2 kB of bytes, so a million rows are 2 GB of data; the model
costs nothing. The memory of the run's process is looked at ten times a second: at the last answer,
and at its highest, which is when intervals are worked out at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ADAPTER = str(Path(__file__).with_name("stand_in.py"))
GROUP = 10_000
"""Rows of a row group."""
PICTURE = bytes.fromhex("89504e470d0a1a0a")
PAGE = os.sysconf("SC_PAGE_SIZE")


def write(path: Path, rows: int) -> None:
    """The data, a row group at a time."""
    rng = np.random.default_rng(0)
    media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", media), ("question", pa.string()), ("answer", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, rows, GROUP):
            numbers = range(start, min(start + GROUP, rows))
            noise = rng.bytes(2000 * len(numbers))
            images = [
                {"bytes": PICTURE + noise[2000 * i : 2000 * (i + 1)], "path": None}
                for i in range(len(numbers))
            ]
            columns = {
                "image": images,
                "question": [f"What is {n} + 4?" for n in numbers],
                "answer": [str(n % 7) for n in numbers],
            }
            writer.write_table(pa.table(columns, schema))


def resident(pid: int) -> int:
    """Bytes of a process in memory, without pages of files."""
    size, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(size) - int(shared)) * PAGE


def held(rows: int) -> tuple[int, int, float]:
    """Bytes in memory when the last answer was written, and at most; seconds of the run."""
    last = most = seen = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.parquet"
        write(data, rows)
        began = time.perf_counter()
        how = ["--adapter", ADAPTER, "--metric", "exact_match", "--output", f"{folder}/out"]
        run = subprocess.Popen(
            [sys.executable, "-m", "evalkit", "run", str(data), *how, "-q"],
            stdout=subprocess.DEVNULL,
        )
        while run.poll() is None:
            time.sleep(0.1)
            now = resident(run.pid)
            most = max(most, now)
            for journal in Path(folder).glob("out/runs/*/*/journal.jsonl"):
                size = journal.stat().st_size
                seen, last = size, now if size > seen else last
        if run.returncode:
            raise SystemExit(run.returncode)
        return last, most, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,300000,1000000")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    lines = [
        "# Rows beyond memory",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU: rows of a parquet file, 2 kB "
        "each, with an adapter that costs nothing. Bytes a row: what more rows add to those of the "
        "line before.",
        "",
        "| rows | data, MB | MB at the last answer | bytes a row | MB at most | bytes a row | s |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    before: tuple[int, ...] = ()
    for rows in map(int, args.rows.split(",")):
        last, most, seconds = held(rows)
        added = [
            f"{(now - then) / (rows - before[0]):,.0f}"
            for now, then in zip((last, most), before[1:])
        ] or ["", ""]
        lines.append(
            f"| {rows:,} | {rows * 2000 / 1e6:,.0f} | {last / 1e6:,.0f} | {added[0]} | "
            f"{most / 1e6:,.0f} | {added[1]} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
        before = rows, last, most
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
