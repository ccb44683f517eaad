"""VisuLogic: puzzles in pictures that are hard to put into words, of six kinds.

Data: `VisuLogic/VisuLogic` on the hub (``data.jsonl``, 1,000 questions, with their pictures in
``images.zip``). Columns: image_path, question (with options ``A: A``, ``B: B``, ... that stand in
the picture), label (A to D), tag (the kind). Licence: Apache 2.0, by the card. Paper: Xu et al.,
"VisuLogic: A Benchmark for Evaluating Visual Reasoning in Multi-modal Large Language Models"
(2025). Metric: accuracy; ``--by tag`` shows the six. Prompt: the question and lmms-eval's
instruction, for a letter at once; the authors' (``vlmevalkit``) asks for reasoning and a box.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
    letter_answer,
    own,
)
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset

LMMS = replace(
    LMMS_CHOICE,
    origin="lmms-eval 0.7.3, tasks/visulogic",
    prompt="{question}\nAnswer with the option letter only.",
    max_new_tokens=64,
    reader="visulogic-lmms-eval",
)
PROTOCOLS = {
    DEFAULT: replace(own(LMMS), budget=None, stop=()),
    "lmms-eval": LMMS,
    "vlmevalkit": replace(
        VLMEVALKIT_CHOICE,
        origin="VLMEvalKit, VisuLogic.build_prompt",
        prompt="{asked}\nSolve the complex visual logical reasoning problem through step-by-step "
        "reasoning.Think about the reasoning process first and answer the question following this "
        "format: Answer: \\boxed{{$LETTER}}",
        reader="visulogic-vlmevalkit",
        note="",
    ),
    "evalscope": replace(
        EVALSCOPE_CHOICE,
        origin="EvalScope 1.x, benchmarks/visu_logic",
        prompt="Answer the following multiple choice question. The last line of your response "
        "should be of the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is "
        "one of A, B, C, D. Think step by step before answering.\n\n{question}",
    ),
}


class VisuLogic(MultipleChoice):
    """Every picture is a cluster."""

    name = "visulogic"
    description = "puzzles in pictures that words hardly tell (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="VisuLogic/VisuLogic",
                split="train",
                files="data.jsonl",
                columns=("image_path", "question", "label", "tag"),
                clips="image_path",
                pictures=True,
                archives=("images.zip",),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=1000,
        )
    }

    def question(self, row: Row) -> Question:
        picture, asked = image(row, "clip"), string(row, "question")
        return Question(
            media=[picture],
            text=asked.strip(),
            options="ABCD",
            answer=letter_answer(row, 4, column="label"),
            cluster=picture.digest[:16],
            fields={"asked": asked},
            metadata={"tag": string(row, "tag"), **sides(picture)},
        )
