"""TextVQA: questions about photographs whose answers are written in them.

Data: `lmms-lab/textvqa` on the hub (validation, 5,000 questions, ten human answers each). Paper:
Singh et al., "Towards VQA Models That Can Read" (CVPR 2019). Metric: VQA accuracy as the challenge
cleans up texts (lmms-eval copies it), and as VLMEvalKit does, whose numbers the Qwen2-VL paper
reports. Prompt and pixel limits: VLMEvalKit's for Qwen2-VL; no OCR tokens are given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.vqa import vqa_accuracy
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, QWEN2_VL_WORDS
from evalkit.rows import identifier, image, sides, string, strings
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("image_id", "question_id", "question", "image", "answers")
PROTOCOLS = {DEFAULT: QWEN2_VL_WORDS, "qwen2-vl": QWEN2_VL_WORDS}


class TextVQA(Task):
    """One sample per row; questions on the same photograph are one cluster."""

    name = "textvqa"
    description = "questions about text in photographs (VQA accuracy)"
    metrics = (Metric("vqa_accuracy"), Metric("vqa_accuracy_vlmevalkit"))
    subsets: ClassVar = {
        "val": Subset(
            Hub(repository="lmms-lab/textvqa", split="validation", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=5000,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        answers = strings(row, "answers")
        if len(answers) < 2:
            raise DataError(f"'answers' has {len(answers)}: each is compared with the others")
        picture = image(row)
        yield Sample(
            id=identifier(row, "question_id"),
            messages=self.ask(picture, question=string(row, "question")),
            target=answers,
            cluster=identifier(row, "image_id"),
            metadata=sides(picture),
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        values = {
            "vqa_accuracy": vqa_accuracy(text, sample.target) if text else 0.0,
            "vqa_accuracy_vlmevalkit": vqa_accuracy(text, sample.target, "fixed") if text else 0.0,
        }
        return Score(values, parsed=text, unparsed=not text)
