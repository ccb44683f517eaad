"""AI2D: multiple-choice questions about diagrams of grade-school science.

Data: `lmms-lab/ai2d` on the hub (test, 3,088 questions), in whose pictures the labels that are
asked for are masked by letters; ``test_no_mask``: `Efficient-Large-Model/ai2d-no-mask`, the same
questions on the diagrams as they are. The two differ by points: a score names which. Columns:
question, options, answer (index of the right option), image. Licence: CC BY-SA 4.0, by the authors'
page. Paper: Kembhavi et al., "A Diagram Is Worth a Dozen Images" (ECCV 2016). Metric: accuracy.
Prompt: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import LMMS_CHOICE, MultipleChoice, Question, choice_protocols
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import image, sides, string, strings
from evalkit.sources import Hub
from evalkit.task import Row, Subset

COLUMNS = ("question", "options", "answer", "image")
PROTOCOLS = choice_protocols(
    lmms=replace(
        LMMS_CHOICE, origin="lmms-eval 0.7, tasks/ai2d/ai2d.yaml", reader="ai2d", max_new_tokens=16
    )
)


def subset(repository: str) -> Subset:
    source = Hub(repository=repository, split="test", columns=COLUMNS)
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS, size=3088)


class AI2D(MultipleChoice):
    """Questions about the same diagram are one cluster."""

    name = "ai2d"
    version = 2  # 1 read other marks than ASCII's off a letter under lmms-eval
    description = "questions about science diagrams, labels masked or not (accuracy)"
    subsets: ClassVar = {
        "test": subset("lmms-lab/ai2d"),
        "test_no_mask": subset("Efficient-Large-Model/ai2d-no-mask"),
    }

    def question(self, row: Row) -> Question:
        picture, options = image(row), strings(row, "options")
        answer = row["answer"]
        index = int(answer) if isinstance(answer, str) and answer.isdigit() else answer
        if type(index) is not int or index not in range(len(options)):
            raise DataError(f"'answer' is {answer!r:.80}, not one of 0 to {len(options) - 1}")
        return Question(
            media=[picture],
            text=string(row, "question"),
            options=options,
            answer=index,
            cluster=picture.digest[:16],
            metadata=sides(picture),
        )
