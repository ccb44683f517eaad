"""MMStar: 1,500 multiple-choice questions chosen so that the picture is needed.

Data: `Lin-Chen/MMStar` on the hub (val, 1,500 questions, 250 of each of six categories). Columns:
index, question (options inside: ``Options: A: ..., B: ...``), answer, category, l2_category, image.
Licence: not stated, neither by its card nor by its repository (github.com/MMStar-Benchmark/MMStar).
Paper: Chen et al., "Are We on the Right Way for Evaluating Large Vision-Language Models?" (NeurIPS
2024). Metric: accuracy, the mean of the six categories; chance is 25 %. lmms-eval's is the
mean of the detailed axes (``l2_category``). Prompt: VLMEvalKit's for Qwen2-VL, whose table has the
options in columns.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
)
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset

COLUMNS = ("index", "question", "answer", "category", "l2_category", "image")
CATEGORIES = Metric("accuracy", group="category")
PROTOCOLS = choice_protocols(
    lmms=replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7, tasks/mmstar/mmstar.yaml",
        prompt="{asked}\nAnswer with the option's letter from the given choices directly",
        metrics=(Metric("accuracy_by_axis", group="l2_category"), CATEGORIES),
    ),
    evalscope=replace(
        EVALSCOPE_CHOICE,
        origin="EvalScope 1.x, benchmarks/mm_star",
        prompt="Answer the following multiple choice question.\nThe last line of your response "
        "should be of the following format:\n'ANSWER: [LETTER]' (without quotes)\nwhere [LETTER] "
        "is one of A,B,C,D. Think step by step before answering.\n\n{asked}",
    ),
)


class MMStar(MultipleChoice):
    """Every picture is a cluster."""

    name = "mmstar"
    version = 2  # 1 had no mean of the axes under lmms-eval
    description = "questions that need the picture, six categories (accuracy, mean of these)"
    metrics = (CATEGORIES,)
    subsets: ClassVar = {
        "val": Subset(
            Hub(repository="Lin-Chen/MMStar", split="val", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=1500,
        )
    }

    def question(self, row: Row) -> Question:
        picture, asked = image(row), string(row, "question")
        text, options = split_options(asked)
        return Question(
            id=identifier(row, "index"),
            media=[picture],
            text=text,
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=picture.digest[:16],
            fields={"asked": asked.strip()},
            metadata={
                "category": string(row, "category"),
                "l2_category": string(row, "l2_category"),
                **sides(picture),
            },
        )


def split_options(asked: str) -> tuple[str, list[str]]:
    """The question and its options, ``Options: A: ..., B: ..., C: ...``. Raises DataError where
    they are not so, A first, or fewer than two.
    """
    text, mark, listed = asked.rpartition("Options:")
    marks = [*re.finditer(r"(?:^|,?\s+)([A-Z]): ?", listed)]
    in_order: list[re.Match[str]] = []
    for found in marks:  # a letter with a colon may also be part of an option
        if len(in_order) < 26 and found[1] == LETTERS[len(in_order)]:
            in_order.append(found)
    if not mark or len(in_order) < 2:
        raise DataError(f"'question' lists no options A, B, ...: {asked!r:.80}")
    ends = [*(m.start() for m in in_order[1:]), len(listed)]
    options = [listed[m.end() : end].strip() for m, end in zip(in_order, ends)]
    return text.strip(), options
