"""MATH-Vision: competition problems with a figure, of sixteen subjects and five levels.

Data: `MathLLMs/MathVision` on the hub (test, 3,040 problems; testmini, 304 of them). Columns: id,
question, options (empty for a free-form answer), answer (a letter or a formula), level, subject,
decoded_image. Licence: MIT. Paper: Wang et al., "Measuring Multimodal Mathematical Reasoning with
MATH-Vision" (NeurIPS 2024). Metric: accuracy. An option is right by its letter or its text;
formulas are compared as text and as numbers to two decimals. VLMEvalKit has a language model
extract the answer; here, as in the authors' script, a rule does. Prompt: VLMEvalKit's suffix for
Qwen2-VL behind the question and its options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.metrics.mathematics import mathvision_answer, mathvision_equal
from evalkit.metrics.readers import READERS
from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_PIXELS,
    MultipleChoice,
    Question,
    letter_answer,
    texts,
)
from evalkit.protocols import DEFAULT, LMMS_EVAL_STOP, QWEN2_VL_PIXELS, SHORT_ANSWER, Protocol
from evalkit.rows import identifier, image, sides, string, strings
from evalkit.sources import Hub
from evalkit.task import Row, Subset
from evalkit.types import Completion, Sample, Score

COLUMNS = ("id", "question", "options", "answer", "level", "subject", "decoded_image")
QWEN2_VL = Protocol(
    origin="VLMEvalKit, Qwen2VLPromptMixin._build_vqa_prompt (how its table lists options was not "
    "seen)",
    prompt="{question}\n{options}" + SHORT_ANSWER,
)
BOXED = 'Please solve the problem step by step and put your answer in one "\\boxed{{}}".'
PROTOCOLS = {
    DEFAULT: QWEN2_VL,
    "qwen2-vl": replace(
        QWEN2_VL, max_new_tokens=2048, reader="vlmevalkit", note="published with a judge"
    ),
    "lmms-eval": Protocol(
        origin="lmms-eval 0.7, tasks/mathvision/mathvision_test.yaml",
        prompt=BOXED + "{question}\nChoices: {options}\n"
        "Answer the question with the option's letter from the given choices directly.",
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        max_new_tokens=16384,
    ),
    "evalscope": replace(EVALSCOPE_CHOICE, origin="EvalScope 1.x, benchmarks/math_vision"),
}


class MathVision(MultipleChoice):
    """Problems with the same figure are one cluster; the target of a free-form one is a formula."""

    name = "mathvision"
    version = 3  # 2 did not read "the answer should be", 1,000, 1:2, and options behind "="
    description = "competition mathematics with figures (accuracy, answers extracted by rule)"
    max_new_tokens = 1024
    subsets: ClassVar = {
        split: Subset(
            Hub(repository="MathLLMs/MathVision", split=split, columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=size,
        )
        for split, size in (("test", 3040), ("testmini", 304))
    }
    open_prompts: ClassVar[Mapping[str, str]] = {
        DEFAULT: "{question}" + SHORT_ANSWER,
        "lmms-eval": BOXED + "{question}",
        "evalscope": "{question}\nPlease reason step by step, and put your final answer within "
        "\\boxed{{}} without units.",
    }

    def question(self, row: Row) -> Question:
        picture, options = image(row, "decoded_image"), strings(row, "options")
        if len(options) == 1:
            raise DataError("'options' has a single one")
        answer = letter_answer(row, len(options)) if options else string(row, "answer")
        return Question(
            id=identifier(row, "id"),
            media=[picture],
            text=string(row, "question"),
            options=options,
            answer=answer,
            cluster=picture.digest[:16],
            metadata={
                "level": row["level"],
                "subject": string(row, "subject"),
                **sides(picture),
            },
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        if not sample.choices or self.protocol.reader:
            return super().score(sample, completion)
        options = texts(sample.choices)
        said = mathvision_answer(completion.text)
        right = any(
            mathvision_equal(said, answer)
            for answer in (LETTERS[sample.target], options[sample.target])
        )
        if not right:
            right = READERS[""](completion.text, options) == sample.target
        return Score(self.values(sample, float(right)), parsed=said or None, unparsed=not said)

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        said = mathvision_answer(text)
        return float(mathvision_equal(said, sample.target)), said or None
