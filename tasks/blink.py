"""BLINK: fourteen tasks of seeing that people solve at a glance, with one to four pictures.

Data: `BLINK-Benchmark/BLINK` on the hub, a configuration for each subtask (val, 1,901 questions in
all; the answers of the test split are hidden). Columns: idx, question, prompt (the question as the
authors ask it, options included), choices, answer (a letter in brackets), image_1 to image_4.
Licence: Apache 2.0. Paper: Fu et al., "BLINK: Multimodal Large Language Models Can See but Not
Perceive" (ECCV 2024). Metrics: the mean of the subtasks' accuracies, as the authors' script has it
(they have GPT-3.5 read what a rule can't; here that is unparsed), and the accuracy over questions,
the headline under the protocols of lmms-eval and VLMEvalKit. Prompt: the authors', pictures first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    QWEN2_VL_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
    letter_answer,
    listed_options,
)
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, Protocol
from evalkit.rows import identifier, numbered_images, string
from evalkit.sources import Hub, Joined
from evalkit.task import Metric, Row, Subset

SUBTASKS = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test"),
    *("Jigsaw", "Multi-view_Reasoning", "Object_Localization", "Relative_Depth"),
    *("Relative_Reflectance", "Semantic_Correspondence", "Spatial_Relation"),
    *("Visual_Correspondence", "Visual_Similarity"),
)
PICTURES = tuple(f"image_{i}" for i in range(1, 5))
COLUMNS = ("idx", "question", "prompt", "choices", "answer", *PICTURES)
TOTAL = (Metric("accuracy_by_subtask", group="subtask"), Metric("accuracy"))
OVERALL = TOTAL[::-1]
UNSEEN = "its table of BLINK was not seen, so the question is the column of that name"
PROTOCOLS = {
    DEFAULT: Protocol(origin="the data set's column prompt", prompt="{asked}"),
    "qwen2-vl": replace(QWEN2_VL_CHOICE, metrics=OVERALL, note=f"{QWEN2_VL_CHOICE.note}; {UNSEEN}"),
    "lmms-eval": replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7.3, tasks/blink",
        prompt="Note: You only need to respond with {listed} without providing any additional "
        "information.\n{asked}",
        max_new_tokens=1024,
        reader="blink",
        metrics=OVERALL,
    ),
    "vlmevalkit": replace(
        VLMEVALKIT_CHOICE, metrics=OVERALL, note=f"{VLMEVALKIT_CHOICE.note}; {UNSEEN}"
    ),
    "evalscope": replace(
        EVALSCOPE_CHOICE,
        origin="EvalScope 1.x, benchmarks/blink",
        prompt="Answer the following multiple choice question. The last line of your response "
        "should be of the following format:\n'ANSWER: [LETTER]' (without quotes) where [LETTER] is "
        "one of {letters}.\n\n{asked}",
    ),
}


def subtasks(*names: str, size: int | None = None) -> Subset:
    sources = {
        name: Hub(repository="BLINK-Benchmark/BLINK", config=name, split="val", columns=COLUMNS)
        for name in names
    }
    return Subset(Joined(sources), budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS, size=size)


class BLINK(MultipleChoice):
    """Questions about the same first picture are one cluster."""

    name = "blink"
    description = "fourteen tasks of seeing at a glance, several pictures (mean accuracy)"
    metrics = TOTAL
    subsets: ClassVar = {
        "val": subtasks(*SUBTASKS, size=1901),
        **{name.lower().replace("-", "_"): subtasks(name) for name in SUBTASKS},
    }

    def question(self, row: Row) -> Question:
        pictures, options = numbered_images(row, PICTURES), listed_options(row, "choices")
        return Question(
            id=identifier(row, "idx"),
            media=pictures,
            text=string(row, "question").strip(),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=pictures[0].digest[:16],
            fields={"asked": string(row, "prompt"), "listed": ", ".join(LETTERS[: len(options)])},
            metadata={"subtask": row["part"], "pictures": len(pictures)},
        )
