"""MuirBench: multiple-choice questions about several pictures, some of which can't be answered.

Data: `MUIRBENCH/MUIRBENCH` on the hub (test, 2,600 questions about 11,264 pictures, 12 tasks).
Columns: idx, task, image_relation, image_type, question and options (with marks ``<image>``),
answer, image_list. Licence: CC BY 4.0. Paper: Wang et al., "MuirBench: A Comprehensive Benchmark
for Robust Multi-image Understanding" (2024). Metric: accuracy; ``--by subtask`` shows the twelve.
Prompt: VLMEvalKit's, each picture at its mark (its prompt for Qwen2-VL shows them all first and
leaves the marks in the text).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    LMMS_CHOICE,
    QWEN2_VL_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
    letter_answer,
    listed_options,
    own,
)
from evalkit.protocols import DEFAULT, LETTER_ANSWER, QWEN2_VL_PIXELS
from evalkit.rows import identifier, images, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset

COLUMNS = (
    *("idx", "task", "image_relation", "image_type", "question", "options", "answer"),
    "image_list",
)
VLMEVALKIT = replace(
    VLMEVALKIT_CHOICE,
    origin="VLMEvalKit, vlmeval/dataset/image_mcq.py, MUIRDataset.build_prompt",
    prompt="{question}\n{options}" + LETTER_ANSWER,
    media="inline",
)
PROTOCOLS = {
    DEFAULT: replace(own(VLMEVALKIT), budget=None),
    "qwen2-vl": QWEN2_VL_CHOICE,
    "lmms-eval": replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/muirbench",
        prompt="{question:unmarked}\n{options:unmarked}" + LETTER_ANSWER,
        max_new_tokens=16,
        reader="muirbench",
    ),
    "vlmevalkit": VLMEVALKIT,
}


class MuirBench(MultipleChoice):
    """Questions about the same first picture are one cluster."""

    name = "muirbench"
    description = "questions about several pictures, of twelve tasks (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(repository="MUIRBENCH/MUIRBENCH", split="test", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=2600,
        )
    }

    def question(self, row: Row) -> Question:
        pictures, options = images(row, "image_list"), listed_options(row, "options")
        return Question(
            id=identifier(row, "idx"),
            media=pictures,
            text=string(row, "question"),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=pictures[0].digest[:16],
            metadata={
                "subtask": string(row, "task"),
                "image_relation": row["image_relation"],
                "image_type": row["image_type"],
                "pictures": len(pictures),
            },
        )
