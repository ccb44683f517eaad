"""TextVQA: questions about photographs whose answers are written in them.

Data: `lmms-lab/textvqa` on the hub (validation, 5,000 questions, ten human answers each). Paper:
Singh et al., "Towards VQA Models That Can Read" (CVPR 2019). Metric: VQA accuracy as the challenge
cleans up texts (lmms-eval copies it), and as VLMEvalKit does, whose numbers the Qwen2-VL paper
reports. Prompt and pixel limits: VLMEvalKit's for Qwen2-VL; no OCR tokens are given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.vqa import Variant, vqa_accuracy
from evalkit.protocols import (
    QWEN2_VL_PIXELS,
    VLMEVALKIT_WORDS,
    WORD_OR_PHRASE,
    lmms_eval,
    words,
)
from evalkit.rows import identifier, image, sides, string, strings
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("image_id", "question_id", "question", "image", "answers")
EVALAI, FIXED = Metric("vqa_accuracy"), Metric("vqa_accuracy_vlmevalkit")
PROTOCOLS = words(
    lmms_eval=lmms_eval(
        "textvqa", "{question:capitalize}" + WORD_OR_PHRASE, stop=("ASSISTANT:",), metrics=(EVALAI,)
    ),
    vlmevalkit=replace(VLMEVALKIT_WORDS, metrics=(FIXED, EVALAI)),
)
PROTOCOLS["qwen2-vl"] = replace(PROTOCOLS["qwen2-vl"], metrics=(FIXED, EVALAI))


class TextVQA(Task):
    """One sample per row; questions on the same photograph are one cluster."""

    name = "textvqa"
    description = "questions about text in photographs (VQA accuracy)"
    metrics = (EVALAI, FIXED)
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
        variants: dict[str, Variant] = {EVALAI.name: "evalai", FIXED.name: "fixed"}
        values = {
            m.name: vqa_accuracy(text, sample.target, variants[m.name]) if text else 0.0
            for m in self.metrics
        }
        return Score(values, parsed=text, unparsed=not text)
