"""Rows beyond memory: what a run holds while it goes through a parquet file: `python
benchmarks/rows.py [--rows N] [--save FILE]`.

Each row has a picture of its own among 2 kB of bytes, so a million rows are 2 GB of data; the model
costs nothing. The memory of the run's process is looked at after each tenth of the rows. What grows
with the rows are the ids and records of a cell (metrics and intervals need all of them), not the
data.
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

ADAPTER = """
from evalkit.adapter import ModelAdapter
from evalkit.types import Completion

class Zero(ModelAdapter):
    name = "zero"

    def __init__(self, model):
        self.model = model

    @property
    def fingerprint(self):
        return {"adapter": self.name}

    def generate(self, requests):
        for request in requests:
            yield Completion(request.id, "4")
"""
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


def lines_in(journal: Path, seen: int, at: int) -> tuple[int, int]:
    """Lines of a growing file, and its bytes, from what was counted before."""
    with journal.open("rb") as file:
        file.seek(at)
        while block := file.read(1 << 20):
            seen, at = seen + block.count(b"\n"), at + len(block)
    return seen, at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    held: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, adapter = Path(folder) / "rows.parquet", Path(folder) / "zero.py"
        adapter.write_text(ADAPTER)
        write(data, args.rows)
        size = data.stat().st_size
        began, seen, at = time.perf_counter(), 0, 0
        how = ["--adapter", str(adapter), "--metric", "exact_match", "--output", f"{folder}/out"]
        run = subprocess.Popen(
            [sys.executable, "-m", "evalkit", "run", str(data), *how, "-q"],
            stdout=subprocess.DEVNULL,
        )
        while run.poll() is None:
            time.sleep(0.1)
            for journal in Path(folder).glob("out/runs/*/*/journal.jsonl"):
                seen, at = lines_in(journal, seen, at)
                tenth = 10 * seen // args.rows
                if 0 < tenth <= 10 and tenth not in held and run.poll() is None:
                    held[tenth] = resident(run.pid)
        seconds = time.perf_counter() - began
    if run.returncode:
        raise SystemExit(run.returncode)
    first, last = min(held), max(held)
    each = (held[last] - held[first]) / ((last - first) / 10 * args.rows)
    lines = [
        "# Rows beyond memory",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU: {args.rows:,} rows of a parquet "
        f"file of {size / 1e6:,.0f} MB with an adapter that costs nothing, {seconds:.0f} s.",
        "",
        f"| rows | {' | '.join(f'{k * args.rows // 10:,}' for k in held)} |",
        f"|---|{'---|' * len(held)}",
        f"| MB in memory | {' | '.join(f'{v / 1e6:.0f}' for v in held.values())} |",
        "",
        f"{each:,.0f} bytes a sample: 10 million would hold "
        f"{(held[first] + each * 1e7) / 1e9:.1f} GB, of data of "
        f"{size / args.rows * 1e7 / 1e9:.0f} GB.",
    ]
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
