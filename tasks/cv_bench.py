"""CV-Bench: counting and places in two dimensions, depth and distance in three.

Data: `nyu-visionx/CV-Bench` on the hub, configurations ``2D`` and ``3D`` (test, 2,638 questions
together). Columns: idx, task, source (ADE20K, COCO or Omni3D), image, question, choices, answer (a
letter in brackets), prompt (question and options as the authors ask). Licence: Apache 2.0. Paper:
Tong et al., "Cambrian-1" (NeurIPS 2024). Metrics: the mean over the sources, as the paper has it of
2D (3D has one), and the accuracy over questions, the headline under lmms-eval's protocol; the
paper's single score is the mean of those of ``2d`` and ``3d``. Prompt: the authors'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import (
    LMMS_CHOICE,
    QWEN2_VL_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
    letter_answer,
    listed_options,
)
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, Protocol
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset

COLUMNS = ("idx", "task", "source", "image", "question", "choices", "answer", "prompt")
BY_SOURCE = (Metric("accuracy_by_source", group="source"), Metric("accuracy"))
PROTOCOLS = {
    DEFAULT: Protocol(origin="the data set's column prompt", prompt="{asked}"),
    "qwen2-vl": QWEN2_VL_CHOICE,
    "lmms-eval": replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/cv_bench",
        prompt="Note: You only need to respond with {listed} without providing any additional "
        "information.\n\n{asked}",
        max_new_tokens=1024,
        reader="cv_bench",
        metrics=BY_SOURCE[::-1],
    ),
    "vlmevalkit": replace(
        VLMEVALKIT_CHOICE, origin="VLMEvalKit, CVBench.build_prompt", prompt="{asked}"
    ),
}


def subset(config: str) -> Subset:
    source = Hub(
        repository="nyu-visionx/CV-Bench",
        config=config,
        split="test",
        files=f"test_{config.lower()}.parquet",
        columns=COLUMNS,
    )
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS)


class CVBench(MultipleChoice):
    """Questions about the same picture are one cluster."""

    name = "cv_bench"
    description = "counts, places, depth and distance in photographs (mean accuracy)"
    metrics = BY_SOURCE
    subsets: ClassVar = {"2d": subset("2D"), "3d": subset("3D")}

    def question(self, row: Row) -> Question:
        picture, options = image(row), listed_options(row, "choices")
        return Question(
            id=identifier(row, "idx"),
            media=[picture],
            text=string(row, "question"),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=picture.digest[:16],
            fields={"asked": string(row, "prompt"), "listed": ", ".join(LETTERS[: len(options)])},
            metadata={
                "subtask": string(row, "task"),
                "source": string(row, "source"),
                **sides(picture),
            },
        )
