"""A task without media, for tests: additions, four to a cluster. Row 13 is broken when
EVALKIT_TEST_BROKEN is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Message, Sample, Score, Text


class Numbers:
    def rows(self, override: Path | None = None) -> Iterator[Row]:
        broken = os.environ.get("EVALKIT_TEST_BROKEN")
        for i in range(40):
            yield {"n": i, "answers": [] if broken and i == 13 else [2 * i]}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        return {"kind": "test"}


class Sums(Task):
    name = "sums"
    metrics = (Metric("exact"), Metric("digits"))
    subsets = {"all": Subset(Numbers())}

    def samples(self, row: Row) -> Iterable[Sample]:
        n = row["n"]
        question = Message("user", (Text(f"{n} + {n} ="),))
        yield Sample(
            f"sum/{n}",
            (question,),
            row["answers"][0],
            cluster=str(n // 4),
            metadata={"parity": n % 2},
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        values = {
            "exact": float(text == str(sample.target)),
            "digits": float(len(text) == len(str(sample.target))),
        }
        return Score(values if text else dict.fromkeys(values, 0.0), parsed=text, unparsed=not text)
