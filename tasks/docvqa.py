"""DocVQA: short questions about scanned pages, answered with words of the page.

Data: `lmms-lab/DocVQA` on the hub, configurations DocVQA (val 5,349 questions; test 5,188, answers
hidden) and InfographicVQA (val 2,801; test 3,288, answers hidden). ``mini``: about 200 questions on
forms, receipts and tables drawn by evalkit, in the columns of DocVQA; ``mini_large``: some 1,300.
Papers: Mathew et al., "DocVQA" (WACV 2021); Mathew et al., "InfographicVQA" (WACV 2022). Metric:
ANLS with threshold 0.5; exact match beside it. Prompt and pixel limits of the official subsets:
VLMEvalKit's for Qwen2-VL. A question whose answers are hidden is answered and gets no score.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.anls import Lengths, anls, exact_match
from evalkit.protocols import (
    DEFAULT,
    QWEN2_VL_PIXELS,
    VLMEVALKIT_WORDS,
    WORD_OR_PHRASE,
    evalscope,
    last_answer,
    lmms_eval,
    words,
)
from evalkit.rows import identifier, image, sides, string, strings, tier
from evalkit.sources import Drawn, Embedded, Hub
from evalkit.submission import Submission
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

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

PROTOCOLS = words(
    lmms_eval=lmms_eval("docvqa, infovqa", "{question}" + WORD_OR_PHRASE, 32),
    vlmevalkit=VLMEVALKIT_WORDS,
    evalscope=evalscope(
        "docvqa",
        "Answer the question according to the image using a single word or phrase.\n{question}\n"
        'The last line of your response should be of the form "ANSWER: [ANSWER]" (without quotes) '
        "where [ANSWER] is the answer to the question.",
        reader="last answer",
        note="of InfographicVQA it words the last line a little otherwise",
    ),
)


def official(config: str, split: str, columns: tuple[str, ...], size: int) -> Subset:
    source = Hub(repository="lmms-lab/DocVQA", config=config, split=split, columns=columns)
    return Subset(
        source,
        budget=QWEN2_VL_PIXELS,
        protocols=PROTOCOLS,
        hidden=split == "test",
        size=size,
    )


class DocVQA(Task):
    """One sample per row; questions about the same page are one cluster."""

    name = "docvqa"
    version = 1
    description = "questions about document pages (ANLS)"
    metrics = (Metric("anls"), Metric("exact_match"))
    subsets: ClassVar = {
        "mini": Subset(
            Embedded(folder="docvqa", split="validation", columns=COLUMNS), protocols=PROTOCOLS
        ),
        "mini_large": Subset(
            Drawn(folder="docvqa", split="validation", columns=COLUMNS),
            protocols=PROTOCOLS,
            size=1273,
        ),
        "val": official("DocVQA", "validation", COLUMNS, 5349),
        "test": official("DocVQA", "test", COLUMNS, 5188),
        "infovqa_val": official("InfographicVQA", "validation", INFO_COLUMNS, 2801),
        "infovqa_test": official("InfographicVQA", "test", INFO_COLUMNS, 3288),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        answers = strings(row, "answers")
        if not answers and not self.subset.hidden:
            raise DataError("'answers' is empty")
        picture = image(row)
        yield Sample(
            id=identifier(row, "questionId"),
            messages=self.ask(picture, question=string(row, "question")),
            target=answers or None,
            cluster=page(row),
            metadata=metadata(row) | sides(picture),
        )

    @property
    def lengths(self) -> Lengths:
        """Of what texts ANLS takes the lengths: lmms-eval and VLMEvalKit as the competition's
        script, in upper case.
        """
        return "raw" if self.protocol_name == DEFAULT else "upper"

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        if self.protocol.reader == "last answer":
            text = last_answer(text) or text
        if sample.target is None:
            return Score({}, parsed=text, unparsed=not text)
        values = {
            "anls": anls(text, sample.target, lengths=self.lengths),
            "exact_match": exact_match(text, sample.target),
        }
        return Score(values if text else dict.fromkeys(values, 0.0), parsed=text, unparsed=not text)

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        entries = [
            {"questionId": int(s.id) if s.id.isdigit() else s.id, "answer": parsed or ""}
            for s, parsed in answers
        ]
        return Submission.json(
            f"docvqa_{self.subset_name}.json", entries, "https://rrc.cvc.uab.es/?ch=17"
        )


def page(row: Row) -> str:
    """What the questions of one page share; empty where the row doesn't say (pages without a name
    are not one page).
    """
    columns = ["image_url"] if "image_url" in row else ["ucsf_document_id", "ucsf_document_page_no"]
    if any(row[c] is None for c in columns):
        return ""
    return "-p".join(identifier(row, c) for c in columns)


def metadata(row: Row) -> dict[str, Any]:
    if "image_url" in row:
        return {"answer_type": strings(row, "answer_type")}
    return {"question_types": strings(row, "question_types"), **tier(str(row["ucsf_document_id"]))}
