"""Reading text in many scripts: MTVQA, and lines of text drawn in Latin, Cyrillic, Greek, Arabic,
Devanagari, Chinese, Japanese, Korean.

Data: `ByteDance/MTVQA` on the hub (test, 2,116 images in nine languages, several questions on
each). ``mini``: some 340 questions on lines of text drawn by evalkit, in the same columns;
``mini_large``: some 1,000, Devanagari (Hindi) among them, which ``mini`` does not have. Paper:
Tang et al., "MTVQA: Benchmarking Multilingual Text-Centric Visual Question Answering" (2024).
Metrics: ``mini`` has exact match after NFC (headline: mean of the languages' means; and over all
questions) and character error rate. ``mtvqa`` has the containment metric of the official script
(mean of the languages' means) and VLMEvalKit's (over all questions). Prompt and pixel limits of the
official subset: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.ocr import character_error_rate, exact_match, mtvqa
from evalkit.protocols import QWEN2_VL_PIXELS, Protocol, lmms_eval, words
from evalkit.rows import identifier, image, sides, string, tier
from evalkit.sources import Drawn, Embedded, Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("image", "qa_pairs", "lang", "id")
SUFFIX = "\nAnswer the question using a word or phrase in the language of the question."
LANGUAGES, ALL = Metric("mtvqa", group="lang"), Metric("mtvqa_micro")
PROTOCOLS = words(
    lmms_eval=lmms_eval("mtvqa", "{question:strip}" + SUFFIX, 64),
    vlmevalkit=Protocol(
        origin="VLMEvalKit, MTVQADataset.build_prompt", prompt="{question}" + SUFFIX
    ),
)
MTVQA_PROTOCOLS = PROTOCOLS | {
    name: replace(PROTOCOLS[name], metrics=(ALL, LANGUAGES)) for name in ("lmms-eval", "vlmevalkit")
}


def qa_pairs(value: Any) -> list[Mapping[str, Any]]:
    """The ``{"question", "answer"}`` of an image: a list of dicts, or one written as JSON or as a
    Python literal. Raises DataError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as e:
                raise DataError(
                    f"'qa_pairs' can't be read: neither JSON nor a Python literal ({e})"
                ) from e
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(pair, Mapping) for pair in value)
    ):
        raise DataError("'qa_pairs' is not a list of {'question', 'answer'}")
    return value


class MultilingualOCR(Task):
    """One sample per question; questions on the same image are one cluster."""

    name = "multilingual_ocr"
    version = 1
    description = "reading text in many scripts (exact match, macro mean over languages)"
    metrics = (
        Metric("exact_match", group="lang"),
        Metric("exact_match_micro"),
        Metric("cer", group="lang", higher_is_better=False),
    )
    subsets: ClassVar = {
        "mini": Subset(
            Embedded(folder="multilingual_ocr", split="test", columns=COLUMNS), protocols=PROTOCOLS
        ),
        "mini_large": Subset(
            Drawn(folder="multilingual_ocr", split="test", columns=COLUMNS),
            protocols=PROTOCOLS,
            size=600,
        ),
        "mtvqa": Subset(
            Hub(repository="ByteDance/MTVQA", split="test", columns=COLUMNS),
            metrics=(LANGUAGES, ALL),
            budget=QWEN2_VL_PIXELS,
            protocols=MTVQA_PROTOCOLS,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample | DataError]:
        language = string(row, "lang")
        image_id = f"{language}-{identifier(row, 'id')}"
        picture = image(row)
        metadata = {"lang": language, **tier(str(row["id"])), **sides(picture)}
        for i, pair in enumerate(qa_pairs(row["qa_pairs"])):
            try:
                question, answer = (string(Row(pair), c) for c in ("question", "answer"))
            except DataError as e:  # costs this question, not the others on the image
                yield DataError(f"question {i} of image {image_id}: {e}")
                continue
            yield Sample(
                id=f"{image_id}-{i}",
                messages=self.ask(picture, question=question),
                target=answer,
                cluster=image_id,
                metadata=metadata,
            )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text, answer = completion.text.strip(), sample.target
        if self.subset_name == "mtvqa":
            values = {
                "mtvqa": mtvqa(text, answer),
                "mtvqa_micro": mtvqa(text, answer, "vlmevalkit"),
            }
        else:
            match = exact_match(text, answer)
            values = {
                "exact_match": match,
                "exact_match_micro": match,
                "cer": character_error_rate(text, answer),
            }
        return Score(values, parsed=text, unparsed=not text)
