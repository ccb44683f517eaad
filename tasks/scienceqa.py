"""ScienceQA: school questions with a picture, of natural, social and language science.

Data: `lmms-lab/ScienceQA` on the hub, configuration ``ScienceQA-IMG`` (test, 2,017 questions: those
of the 4,241 that have a picture). Columns: image, question, choices, answer (the index of the right
one), hint (a context, often empty), grade, subject, topic. Licence: CC BY-NC-SA 4.0. Paper: Lu et
al., "Learn to Explain" (NeurIPS 2022). Metric: accuracy. Prompt: VLMEvalKit's for Qwen2-VL, with
the hint; EvalScope gives none, and reports over all 4,241.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    listed_options,
)
from evalkit.protocols import LETTER_ANSWER, QWEN2_VL_PIXELS
from evalkit.rows import image, index, sides, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset

COLUMNS = ("image", "question", "choices", "answer", "hint", "grade", "subject", "topic")
PROTOCOLS = choice_protocols(
    lmms=replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/scienceqa/scienceqa_img.yaml",
        prompt="{hint}{question}\n{options}" + LETTER_ANSWER,
        hint="Context: {hint}\n",
        max_new_tokens=16,
        reader="muirbench",
    ),
    evalscope=replace(
        EVALSCOPE_CHOICE,
        origin="EvalScope 1.x, benchmarks/science_qa",
        note="published over all questions, of which fewer than half have a picture",
    ),
)


class ScienceQA(MultipleChoice):
    """Questions about the same picture are one cluster."""

    name = "scienceqa"
    description = "school questions of three sciences that have a picture (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/ScienceQA",
                config="ScienceQA-IMG",
                split="test",
                columns=COLUMNS,
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=2017,
        )
    }

    def question(self, row: Row) -> Question:
        picture, options, hint = image(row), listed_options(row, "choices"), row["hint"]
        return Question(
            media=[picture],
            text=string(row, "question"),
            options=options,
            hint=hint if isinstance(hint, str) else "",
            answer=index(row, "answer", len(options)),
            cluster=picture.digest[:16],
            metadata={
                "grade": string(row, "grade"),
                "subject": string(row, "subject"),
                "topic": string(row, "topic"),
                **sides(picture),
            },
        )
