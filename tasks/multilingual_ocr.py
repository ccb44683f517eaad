"""Reading text in many scripts: MTVQA, and lines of text drawn in Latin, Cyrillic, Greek, Arabic,
Devanagari, Chinese, Japanese, Korean.

Data: `ByteDance/MTVQA` on the hub (test, 2,116 images in nine languages, several questions on
each). ``mini``: about 200 questions on lines of text drawn by evalkit, in the same columns. Paper:
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
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.ocr import character_error_rate, exact_match, mtvqa
from evalkit.sources import Embedded, Hub, image, sides, tier
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, MediaBudget, Message, Sample, Score, Text

COLUMNS = ("image", "qa_pairs", "lang", "id")
BUDGET = MediaBudget(min_pixels=1280 * 28 * 28, max_pixels=16384 * 28 * 28)


def prompt(question: str) -> str:
    return f"{question}\nPlease try to answer the question with short words or phrases if possible."


def qa_pairs(value: Any) -> list[tuple[str, str]]:
    """(question, answer) of each pair of a list of dicts, written as JSON or as a Python literal.
    Raises ValueError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value.strip())
            except (SyntaxError, MemoryError, RecursionError, TypeError) as e:
                raise ValueError(f"neither JSON nor a Python literal ({e})") from e
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(pair, Mapping) for pair in value)
    ):
        raise ValueError("not a list of {'question', 'answer'}")
    return [(str(pair["question"]), str(pair["answer"])) for pair in value]


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
        "mini": Subset(Embedded(folder="multilingual_ocr", split="test", columns=COLUMNS)),
        "mtvqa": Subset(
            Hub(repository="ByteDance/MTVQA", split="test", columns=COLUMNS),
            metrics=(Metric("mtvqa", group="lang"), Metric("mtvqa_micro")),
            budget=BUDGET,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        image_id = f"{row['lang']}-{row['id']}"
        try:
            pairs = qa_pairs(row["qa_pairs"])
        except (ValueError, KeyError) as e:
            raise DataError(f"image {image_id}: 'qa_pairs' can't be read: {e}") from e
        picture, level = image(row, f"image {image_id}"), tier(str(row["id"]))
        size = sides(picture)
        for i, (question, answer) in enumerate(pairs):
            if not answer.strip():
                raise DataError(f"image {image_id}: the answer to question {i} is empty")
            yield Sample(
                id=f"{image_id}-{i}",
                messages=(Message("user", (picture, Text(prompt(question)))),),
                target=answer,
                cluster=image_id,
                metadata={"lang": row["lang"], **({"tier": level} if level else {}), **size},
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
