"""SEED-Bench: multiple-choice questions about photographs, of nine kinds; its image part.

Data: `lmms-lab/SEED-Bench` on the hub (test, about 18,000 rows). Rows whose data_type is not
``image`` (three kinds of questions about clips, of which the table has frames) are passed over.
Columns: question_id, question, choice_a to choice_d, answer, data_type, image (a list). Licence: CC
BY-NC 4.0 by the authors' card (`AILab-CVC/SEED-Bench`). Paper: Li et al., "SEED-Bench" (CVPR 2024),
which ranks the options by likelihood. Metric: accuracy. Prompt: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
)
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import identifier, images, sides, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset
from evalkit.types import Sample

CHOICES = tuple(f"choice_{c}" for c in "abcd")
COLUMNS = ("question_id", "question", *CHOICES, "answer", "data_type", "image")
PROTOCOLS = {
    name: protocol
    for name, protocol in choice_protocols(
        lmms=replace(
            LMMS_CHOICE,
            origin="lmms-eval 0.7.3, tasks/seedbench (seed_image)",
            stop=("ASSISTANT:",),
            reader="seedbench",
        )
    ).items()
    if name != "evalscope"
}


class SEEDBench(MultipleChoice):
    """Questions about the same photograph are one cluster."""

    name = "seedbench"
    description = "nine kinds of questions about photographs (accuracy)"
    subsets: ClassVar = {
        "image": Subset(
            Hub(repository="lmms-lab/SEED-Bench", split="test", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
        )
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        return super().samples(row) if string(row, "data_type") == "image" else ()

    def question(self, row: Row) -> Question:
        pictures = images(row, "image")
        return Question(
            id=identifier(row, "question_id"),
            media=pictures,
            text=string(row, "question"),
            options=[string(row, c) for c in CHOICES],
            answer=letter_answer(row, len(CHOICES)),
            cluster=pictures[0].digest[:16],
            metadata=sides(pictures[0]),
        )
