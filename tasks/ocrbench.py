"""OCRBench: a thousand questions on reading text: words, scenes, documents, key information and
handwritten formulas.

Data: `echo840/OCRBench` on the hub (test, 1,000 questions from 29 data sets). Paper: Liu et al.,
"OCRBench: On the Hidden Mystery of OCR in Large Multimodal Models" (2024). Metric: how many answers
hold one of the right ones, of 1,000. Prompt and pixel limits: VLMEvalKit's for Qwen2-VL, with its
lower bound for this data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics import lmms_eval as of_lmms_eval
from evalkit.metrics.ocr import ocrbench
from evalkit.protocols import QWEN2_VL_PIXELS, Protocol, evalscope, lmms_eval, words
from evalkit.rows import image, sides, string, strings
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("dataset", "question", "question_type", "answer", "image")
PROTOCOLS = words(
    lmms_eval=lmms_eval("ocrbench", "{question:strip}"),
    vlmevalkit=Protocol(origin="VLMEvalKit, ImageBaseDataset.build_prompt"),
    evalscope=evalscope("ocr_bench", "{question}"),
)
FORMULAS = "HME100k"
"""The data set of handwritten formulas, whose answers are compared with case and without blanks."""


class OCRBench(Task):
    """One sample per row, numbered by it; questions on the same picture are one cluster."""

    name = "ocrbench"
    description = "reading text of many kinds (right answers of 1,000)"
    metrics = (Metric("ocrbench", scale=1000.0),)
    subsets: ClassVar = {
        "test": Subset(
            Hub(repository="echo840/OCRBench", split="test", columns=COLUMNS),
            budget=replace(QWEN2_VL_PIXELS, min_pixels=10 * 10 * 28 * 28),
            protocols=PROTOCOLS,
            size=1000,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        answers = strings(row, "answer")
        if not any(a.strip() for a in answers):
            raise DataError("'answer' is empty")
        picture = image(row)
        yield Sample(
            messages=self.ask(picture, question=string(row, "question")),
            target=answers,
            cluster=picture.digest[:16],
            metadata={
                "question_type": string(row, "question_type"),
                "dataset": string(row, "dataset"),
                **sides(picture),
            },
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        formula = sample.metadata["dataset"] == FORMULAS
        exact = self.protocol.reader == "lmms-eval"
        right = of_lmms_eval.ocrbench if exact else ocrbench
        value = right(text, sample.target, formula) if text else 0.0
        return Score({"ocrbench": value}, parsed=text, unparsed=not text)
