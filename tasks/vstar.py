"""V* Bench: small objects in large photographs, what they are like and how they lie.

Data: `lmms-lab/vstar-bench` on the hub (test, 191 questions), a table of the authors'
`craigwu/vstar_bench`, which names its pictures by path. Columns: question_id, text (the question,
its options in brackets, an instruction), label (a letter), category (direct_attributes, 115
questions with four options, or relative_position, 76 with two), image (up to 5,759 pixels wide).
Licence: not stated by the authors' card; their code is MIT. Paper: Wu and Xie, "V*: Guided Visual
Search as a Core Mechanism in Multimodal LLMs" (CVPR 2024), which ranks the options by likelihood.
Metric: accuracy; ``--by category`` shows the two. Prompt: VLMEvalKit's for Qwen2-VL, in its pixels
(up to 12.8 million of a picture); lmms-eval's wrapper shows 0.6 million.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    inline_options,
    letter_answer,
)
from evalkit.protocols import LETTER_ANSWER, QWEN2_VL_PIXELS
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset

PROTOCOLS = choice_protocols(
    lmms=replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/vstar_bench (the data set's instruction, and its own)",
        prompt="{question}\n{options}{told}" + LETTER_ANSWER,
        max_new_tokens=16,
        reader="vstar",
    ),
    evalscope=replace(
        EVALSCOPE_CHOICE,
        origin="EvalScope 1.x, benchmarks/vstar_bench",
        prompt="Answer the following multiple choice question. The last line of your response "
        "should be of the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is "
        "one of A, B, C, D. Think step by step before answering.\n\n{asked}",
    ),
)


class VStar(MultipleChoice):
    """Questions about the same photograph are one cluster."""

    name = "vstar"
    description = "small objects in large photographs (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/vstar-bench",
                split="test",
                columns=("question_id", "text", "label", "category", "image"),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=191,
        )
    }

    def question(self, row: Row) -> Question:
        picture, (text, options) = image(row), inline_options(row, "text")
        options[-1], _, told = options[-1].partition("\n")
        return Question(
            id=identifier(row, "question_id"),
            media=[picture],
            text=text,
            options=options,
            answer=letter_answer(row, len(options), column="label"),
            cluster=picture.digest[:16],
            fields={"asked": string(row, "text").strip(), "told": f"\n{told}" if told else ""},
            metadata={"category": string(row, "category"), **sides(picture)},
        )
