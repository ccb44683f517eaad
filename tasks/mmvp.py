"""MMVP: pairs of pictures that CLIP takes for alike, with the same question and two answers.

Data: `lmms-lab-eval/MMVP` on the hub (train, 300 questions, 150 pairs), the authors' questions
beside their pictures, which `MMVP/MMVP` has in a folder of their own; the answers of two pairs,
which are swapped there, are mended (rows 99 and 100, 279 and 280). Columns: Index (from 1; a pair
is an odd one and the next), Question, Options (``(a) one (b) two``), Correct Answer (``(a)``),
image. Licence: MIT, of the authors' repository. Paper: Tong et al., "Eyes Wide Shut? Exploring the
Visual Shortcomings of Multimodal LLMs" (CVPR 2024), where GPT-4 grades the answers. Metrics: the
share of pairs of which both are right, as the paper has it, and the accuracy over questions.
Prompt: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import (
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
)
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset

RIGHT = "Correct Answer"
PROTOCOLS = {
    name: protocol
    for name, protocol in choice_protocols(
        lmms=replace(
            LMMS_CHOICE, origin="lmms-eval 0.7.3, tasks/mmvp", max_new_tokens=16, reader="mmvp"
        )
    ).items()
    if name != "evalscope"
}


class MMVP(MultipleChoice):
    """A pair is one cluster."""

    name = "mmvp"
    description = "pairs of pictures that look alike to CLIP (both right)"
    metrics = (Metric("pair_accuracy", units=("pair",)), Metric("accuracy"))
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab-eval/MMVP",
                split="train",
                columns=("Index", "Question", "Options", RIGHT, "image"),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=300,
        )
    }

    def question(self, row: Row) -> Question:
        number, picture = row["Index"], image(row)
        if type(number) is not int or number < 1:
            raise DataError(f"'Index' is {number!r:.80}, not a whole number from 1")
        _, *parts = re.split(r"\(([a-z])\)", listed := string(row, "Options"))
        if parts[::2] != ["a", "b"]:
            raise DataError(f"'Options' is {listed!r:.80}, not (a) and (b)")
        options = [text.strip() for text in parts[1::2]]
        pair = str((number + 1) // 2)
        return Question(
            id=str(number),
            media=[picture],
            text=string(row, "Question"),
            options=options,
            answer=letter_answer({RIGHT: string(row, RIGHT).upper()}, len(options), column=RIGHT),
            cluster=pair,
            metadata={"pair": pair, **sides(picture)},
        )
