"""Colours: name the colour of a picture. Data: `colours/` beside this file. Metric: exact match.

Run it: ``evalkit run --tasks examples/task.py``
"""

from collections.abc import Iterable
from pathlib import Path

from evalkit.sources import JsonLines
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Image, Message, Sample, Score, Text

QUESTIONS = Path(__file__).parent / "colours" / "questions.jsonl"


class Colours(Task):
    name = "colours"
    description = "the colour of a picture (exact match)"
    metrics = (Metric("exact_match"),)
    subsets = {"all": Subset(JsonLines(QUESTIONS))}

    def samples(self, row: Row) -> Iterable[Sample]:
        question = Text(f"{row['question']}\nAnswer the question using a single word.")
        yield Sample(
            messages=(Message("user", (Image(row["image"]), question)),),
            target=row["answer"],
            cluster=row["image"].name,
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        answer = completion.text.strip().lower()
        return Score(
            {"exact_match": float(answer == sample.target)}, parsed=answer, unparsed=not answer
        )
