"""DocVQA: short questions about scanned pages, answered with words of the page.

Data: `lmms-lab/DocVQA` on the hub, configurations DocVQA (val 5,349 questions; test 5,188, answers
hidden) and InfographicVQA (val 2,801). ``mini``: about 200 questions on forms, receipts and tables
drawn by evalkit, in the columns of DocVQA. Papers: Mathew et al., "DocVQA" (WACV 2021); Mathew et
al., "InfographicVQA" (WACV 2022). Metric: ANLS with threshold 0.5; exact match beside it. Prompt
and pixel limits of the official subsets: VLMEvalKit's for Qwen2-VL. A question whose answers are
hidden is answered and gets no score.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.anls import anls, exact_match
from evalkit.sources import Embedded, Hub, image, sides, strings, tier
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, MediaBudget, Message, Sample, Score, Text

COLUMNS = (
    "questionId",
    "question",
    "image",
    "ucsf_document_id",
    "ucsf_document_page_no",
    "answers",
    "question_types",
)
INFO_COLUMNS = ("questionId", "question", "image", "image_url", "answers", "answer_type")
BUDGET = MediaBudget(min_pixels=1280 * 28 * 28, max_pixels=16384 * 28 * 28)


def prompt(question: str) -> str:
    return f"{question}\nPlease try to answer the question with short words or phrases if possible."


class DocVQA(Task):
    """One sample per row; questions about the same page are one cluster."""

    name = "docvqa"
    version = 1
    description = "questions about document pages (ANLS)"
    metrics = (Metric("anls"), Metric("exact_match"))
    subsets: ClassVar = {
        "mini": Subset(Embedded(folder="docvqa", split="validation", columns=COLUMNS)),
        "val": Subset(
            Hub(repository="lmms-lab/DocVQA", config="DocVQA", split="validation", columns=COLUMNS),
            budget=BUDGET,
        ),
        "test": Subset(
            Hub(repository="lmms-lab/DocVQA", config="DocVQA", split="test", columns=COLUMNS),
            budget=BUDGET,
        ),
        "infovqa_val": Subset(
            Hub(
                repository="lmms-lab/DocVQA",
                config="InfographicVQA",
                split="validation",
                columns=INFO_COLUMNS,
            ),
            budget=BUDGET,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        where = f"question {row['questionId']}"
        answers = strings(row, where, "answers")
        if not answers and self.subset_name != "test":
            raise DataError(f"{where}: 'answers' is empty")
        picture = image(row, where)
        yield Sample(
            id=str(row["questionId"]),
            messages=(Message("user", (picture, Text(prompt(row["question"])))),),
            target=answers or None,
            cluster=page(row),
            metadata=metadata(row) | sides(picture),
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        if sample.target is None:
            return Score({}, parsed=text, unparsed=not text)
        values = {
            "anls": anls(text, sample.target),
            "exact_match": exact_match(text, sample.target),
        }
        return Score(values if text else dict.fromkeys(values, 0.0), parsed=text, unparsed=not text)


def page(row: Row) -> str:
    """What the questions of one page share."""
    return (
        str(row["image_url"])
        if "image_url" in row
        else f"{row['ucsf_document_id']}-p{row['ucsf_document_page_no']}"
    )


def metadata(row: Row) -> dict[str, Any]:
    if "image_url" in row:
        return {"answer_type": list(row["answer_type"] or ())}
    found = {"question_types": list(row["question_types"] or ())}
    level = tier(str(row["ucsf_document_id"]))
    return {**found, "tier": level} if level else found
