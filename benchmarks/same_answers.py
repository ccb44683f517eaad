"""Whether two output folders hold the same answers and scores, sample by sample.

    python benchmarks/same_answers.py BEFORE AFTER

Cells are matched by task, model, adapter and settings; each must be in both folders. Exit code 1 at
the first difference of any cell, with the sample and both values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from evalkit.records import Record
from evalkit.store import CellFolder, cells


def key(cell: CellFolder) -> tuple[str, str, str, str]:
    return cell.task, cell.model, cell.adapter, cell.settings


def outcome(record: Record) -> dict[str, object]:
    """What must not move."""
    names = ("text", "finish_reason", "tokens", "parsed", "unparsed", "scores", "error", "cluster")
    return {name: getattr(record, name) for name in names}


def differences(before: CellFolder, after: CellFolder) -> Iterator[str]:
    """One line a difference between two cells, in the order of the samples."""
    old, new = before.records(), after.records()
    for id in sorted(old.keys() ^ new.keys()):
        yield f"{id!r} is only in {before.path if id in old else after.path}"
    for id in (id for id in old if id in new):
        was, now = outcome(old[id]), outcome(new[id])
        yield from (f"{id!r}: {k} was {was[k]!r}, is {now[k]!r}" for k in was if was[k] != now[k])
    for was_, now_ in zip(before.results.metrics, after.results.metrics):
        if was_ != now_:
            yield f"{was_.metric}: was {was_.value}, is {now_.value}; or its interval moved"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    old, new = ({key(c): c for c in cells(p)} for p in (args.before, args.after))
    failed = False
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            lines = [f"only in {args.before if name in old else args.after}"]
        else:
            lines = list(differences(old[name], new[name]))
        failed |= bool(lines)
        same = f"{len(new[name].records())} samples, all the same" if not lines else ""
        print(
            ", ".join(filter(None, name)), same or f"{len(lines)} differences, the first:", sep=": "
        )
        print("".join(f"  {line}\n" for line in lines[:3]), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
