"""ChartQA: questions about charts, asked by people and made from their captions.

Data: `lmms-lab/ChartQA` on the hub (test, 2,500 questions, half ``human_test`` and half
``augmented_test``). Paper: Masry et al., "ChartQA" (Findings of ACL 2022). Metric: relaxed accuracy
(numbers may be off by five per cent), the mean of both halves, and over all questions. Prompt and
pixel limits: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.metrics.relaxed import relaxed_accuracy
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, QWEN2_VL_WORDS
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("type", "question", "answer", "image")
PROTOCOLS = {DEFAULT: QWEN2_VL_WORDS, "qwen2-vl": QWEN2_VL_WORDS}


class ChartQA(Task):
    """One sample per row, numbered by it; questions on the same chart are one cluster."""

    name = "chartqa"
    description = "questions about charts (relaxed accuracy, mean of human and augmented)"
    metrics = (Metric("relaxed_accuracy", group="type"), Metric("relaxed_accuracy_micro"))
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
        value = relaxed_accuracy(text, sample.target)
        return Score({m.name: value for m in self.metrics}, parsed=text, unparsed=not text)
