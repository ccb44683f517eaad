"""ChartQA: questions about charts, asked by people and made from their captions.

Data: `lmms-lab/ChartQA` on the hub (test, 2,500 questions, half ``human_test`` and half
``augmented_test``). Paper: Masry et al., "ChartQA" (Findings of ACL 2022). Metric: relaxed accuracy
(numbers may be off by five per cent), the mean of both halves, and over all questions. Prompt and
pixel limits: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.metrics import lmms_eval as of_lmms_eval
from evalkit.metrics.relaxed import relaxed_accuracy
from evalkit.protocols import (
    DEFAULT,
    QWEN2_VL_PIXELS,
    VLMEVALKIT_WORDS,
    evalscope,
    last_answer,
    lmms_eval,
    words,
)
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("type", "question", "answer", "image")
HALVES, ALL = Metric("relaxed_accuracy", group="type"), Metric("relaxed_accuracy_micro")
PROTOCOLS = words(
    lmms_eval=lmms_eval(
        "chartqa",
        "{question}\nAnswer the question with a single word.",
        16,
        metrics=(ALL, HALVES),
    ),
    vlmevalkit=VLMEVALKIT_WORDS,
    evalscope=evalscope(
        "chartqa",
        "\n{question}\n\nThe last line of your response should be of the form "
        '"ANSWER: [ANSWER]" (without quotes) where [ANSWER] is the a single word answer or number '
        "to the problem.\n",
        reader="last answer",
    ),
)


class ChartQA(Task):
    """One sample per row, numbered by it; questions on the same chart are one cluster."""

    name = "chartqa"
    version = 2  # 1 read plain decimals alone under qwen2-vl, vlmevalkit and evalscope
    description = "questions about charts (relaxed accuracy, mean of human and augmented)"
    metrics = (HALVES, ALL)
    subsets: ClassVar = {
        "test": Subset(
            Hub(repository="lmms-lab/ChartQA", split="test", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=2500,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        picture = image(row)
        yield Sample(
            messages=self.ask(picture, question=string(row, "question")),
            target=string(row, "answer"),
            cluster=picture.digest[:16],
            metadata={"type": string(row, "type"), **sides(picture)},
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        if self.protocol.reader == "last answer":
            text = last_answer(text) or ""
        # every harness has Pix2Struct's script
        right = relaxed_accuracy if self.protocol_name == DEFAULT else of_lmms_eval.relaxed_accuracy
        value = right(text, sample.target)
        return Score({m.name: value for m in self.metrics}, parsed=text, unparsed=not text)
