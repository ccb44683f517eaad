"""Whether two output folders hold the same answers: `python benchmarks/answers.py BEFORE AFTER`.

Every task that both hold is compared sample by sample, answers and scores; the exit code is 1 where
any differs. Folders written by older versions are read too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import evalkit

KEYS = ["task", "model", "adapter", "settings", "id"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    before, after = (
        evalkit.load_samples(folder).drop_duplicates(KEYS, keep="last").set_index(KEYS)
        for folder in (args.before, args.after)
    )
    compared = [
        c
        for c in before.columns.intersection(after.columns)
        if c in ("text", "unparsed") or c.startswith("score_")
    ]
    different = 0
    for (task, model), ours in before.groupby(level=KEYS[:2]):
        theirs = after[after.index.isin(ours.index)]
        if theirs.empty:
            continue
        both, theirs = ours.loc[theirs.index, compared], theirs[compared]
        # a task has no score of another task's metric: two absent values are equal
        unlike = ((both != theirs) & ~(both.isna() & theirs.isna())).any(axis=1)
        different += int(unlike.sum())
        print(f"{task}  {model}: {len(both)} of {len(ours)} compared, {int(unlike.sum())} differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
