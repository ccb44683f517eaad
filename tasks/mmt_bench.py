"""MMT-Bench: multiple-choice questions of 162 subtasks, from recognition to driving.

Data: `lmms-lab/MMT-Benchmark` on the hub (val, 3,127 questions; test, answers hidden), and
`lmms-lab/MMT_MI-Benchmark` with several pictures a question (``val_mi``). Columns: index, question,
A to I, answer, category, l2-category, split, image. Licence: CC BY 4.0 by the card of the authors'
release (`OpenGVLab/MMT-Bench`); their older upload (`Kaining/MMT-Bench`) says MIT. Paper: Ying et
al., "MMT-Bench" (ICML 2024). Metrics: accuracy over questions, and the mean of the subtasks'.
Prompt: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.multiple_choice import (
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
    letter_columns,
)
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import identifier, image, images, sides, string
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Metric, Row, Subset
from evalkit.types import Sample

LETTERS = "ABCDEFGHI"
COLUMNS = ("index", "question", *LETTERS, "answer", "category", "l2-category", "image")
PROTOCOLS = choice_protocols(
    lmms=replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/mmt, models/simple/qwen2_vl.py (without marks)",
        prompt="Question: \n{question:unmarked}\n{options:unmarked}\n"
        "Answer the question using a single character from the given options.",
        option="{letter}: {text}",
        max_new_tokens=8,
        reader="mmt",
    )
)


def subset(repository: str, split: str, size: int | None = None) -> Subset:
    source = Hub(repository=repository, split=split, columns=COLUMNS)
    return Subset(
        source,
        budget=QWEN2_VL_PIXELS,
        protocols=PROTOCOLS,
        hidden=split == "test",
        size=size,
    )


class MMTBench(MultipleChoice):
    """Questions about the same picture are one cluster."""

    name = "mmt_bench"
    version = 2  # 1 read blanks at an answer's ends under lmms-eval
    description = "162 subtasks of seeing and planning (accuracy)"
    metrics = (Metric("accuracy"), Metric("accuracy_by_subtask", group="category"))
    subsets: ClassVar = {
        "val": subset("lmms-lab/MMT-Benchmark", "val", 3127),
        "test": subset("lmms-lab/MMT-Benchmark", "test"),
        "val_mi": subset("lmms-lab/MMT_MI-Benchmark", "val"),
    }

    def question(self, row: Row) -> Question:
        several = isinstance(row["image"], list | tuple)
        pictures = images(row, "image") if several else [image(row)]
        options = letter_columns(row, LETTERS)
        return Question(
            id=identifier(row, "index"),
            media=pictures,
            text=string(row, "question").strip(),
            options=options,
            answer=letter_answer(row, len(options), self.subset.hidden),
            cluster=pictures[0].digest[:16],
            metadata={
                "category": string(row, "category"),
                "l2_category": string(row, "l2-category"),
                **sides(pictures[0]),
            },
        )

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        entries = [{sample.id: parsed or ""} for sample, parsed in answers]
        return Submission.json(
            "mmt_bench_test.json", entries, "https://eval.ai (challenge MMT-Bench)"
        )
