"""CountBenchQA: how many of an object are there in a picture, two to ten.

Data: `vikhyatk/CountBenchQA` on the hub (test, 491 questions: the pictures of CountBench that are
still there, with the questions of the PaliGemma paper). Columns: image, question, number, and text,
a caption that says the number and is not shown. Licence: not stated by the card. Papers: Paiss et
al., "Teaching CLIP to Count to Ten" (ICCV 2023); Beyer et al., "PaliGemma" (2024). Metric:
accuracy, the one number that an answer names, in digits or as a word. Prompt: VLMEvalKit's for
Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.image_readers import count, count_lmms_eval
from evalkit.multiple_choice import LMMS_PIXELS
from evalkit.protocols import (
    DEFAULT,
    LMMS_EVAL_STOP,
    QWEN2_VL_PIXELS,
    QWEN2_VL_WORDS,
    Protocol,
)
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, MediaBudget, Sample, Score

CONTAINED = "right where the number is anywhere in the answer: 12 for 2"
PROTOCOLS = {
    DEFAULT: QWEN2_VL_WORDS,
    "qwen2-vl": Protocol(
        origin=QWEN2_VL_WORDS.origin,
        prompt=QWEN2_VL_WORDS.prompt,
        max_new_tokens=2048,
        reader="vlmevalkit",
        note=CONTAINED,
    ),
    "lmms-eval": Protocol(
        origin="lmms-eval 0.7.3, tasks/countbench",
        prompt="Look at the image carefully and count the objects. Answer with just a number, "
        "without any additional text. {question:strip}",
        budget=LMMS_PIXELS,
        max_new_tokens=16,
        stop=LMMS_EVAL_STOP,
        reader="lmms-eval",
        note="its task countbenchqa shows the caption, which says the number; this one does not",
    ),
    "vlmevalkit": Protocol(
        origin="VLMEvalKit, CountBenchQA.build_prompt",
        prompt="{question} Note that: answer with a number directly e.g. 3. Do not include any "
        "additional text.",
        budget=MediaBudget(),
        max_new_tokens=2048,
        reader="vlmevalkit",
        note=CONTAINED,
    ),
}


class CountBenchQA(Task):
    """One sample a row; the target is the number, a picture is a cluster."""

    name = "countbenchqa"
    description = "how many of an object a picture shows (accuracy)"
    metrics = (Metric("accuracy"),)
    max_new_tokens = 64
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="vikhyatk/CountBenchQA",
                split="test",
                columns=("image", "question", "number"),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=491,
        )
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        picture, number = image(row), row["number"]
        if type(number) is not int or number < 0:
            raise DataError(f"'number' is {number!r:.80}, not a whole number")
        yield Sample(
            messages=self.ask(picture, question=string(row, "question")),
            target=number,
            cluster=picture.digest[:16],
            metadata={"number": number, **sides(picture)},
        )

    def right_answer(self, sample: Sample) -> str:
        return str(sample.target)

    def score(self, sample: Sample, completion: Completion) -> Score:
        said = completion.text.strip()
        if self.protocol.reader == "vlmevalkit":
            right = str(sample.target) in said
            return Score({"accuracy": float(right)}, parsed=said or None, unparsed=not said)
        number = (count_lmms_eval if self.protocol.reader else count)(said)
        right = number == sample.target
        return Score({"accuracy": float(right)}, parsed=number, unparsed=number is None)
