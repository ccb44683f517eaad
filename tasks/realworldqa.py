"""RealWorldQA: questions about photographs, many from vehicles.

Data: `lmms-lab/RealWorldQA` on the hub (test, 765 questions). Columns: question (with its options,
if any, and its own instruction), answer (a letter, or a word or number), image. Licence: CC BY-ND
4.0, by xAI. Source: xAI, "Grok-1.5 Vision Preview" (2024). Metric: accuracy, the option that is
named, or the same word but for case, blanks and a full stop at the end. Prompt: the question as it
is, with its instruction; under ``qwen2-vl`` and ``vlmevalkit`` question and options as VLMEvalKit's
table has them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import (
    LMMS_PIXELS,
    QWEN2_VL_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
)
from evalkit.protocols import (
    DEFAULT,
    LMMS_EVAL_STOP,
    QWEN2_VL_PIXELS,
    Protocol,
    evalscope,
    last_answer,
)
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.task import Row, Subset
from evalkit.types import Completion, Sample, Score

AS_IS = Protocol(origin="the question's own instruction", prompt="{asked}")
EVALSCOPE = evalscope(
    "real_world_qa",
    "Read the picture and solve the following problem step by step."
    "The last line of your response should be of the form"
    ' "ANSWER: [ANSWER]" (without quotes) where [ANSWER] is the answer to the problem.\n\n'
    "{asked}\n\n"
    "Remember to put your answer on its own line at the end in the form"
    ' "ANSWER: [ANSWER]" (without quotes) where [ANSWER] is the answer to the problem,'
    " and you do not need to use a \\boxed command.",
    reader="evalscope",
)
PROTOCOLS = {
    DEFAULT: AS_IS,
    "qwen2-vl": QWEN2_VL_CHOICE,
    "lmms-eval": replace(
        AS_IS,
        origin="lmms-eval 0.7, tasks/realworldqa",
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        max_new_tokens=16,
        reader="lmms-eval",
    ),
    "vlmevalkit": VLMEVALKIT_CHOICE,
    "evalscope": EVALSCOPE,
}
INSTRUCTION = re.compile(r"\s*Please answer directly with[^\n]*\Z")
OPTION = re.compile(r"^\s*([A-Z])[.)]\s+(.*\S)\s*$", re.MULTILINE)


class RealWorldQA(MultipleChoice):
    """The target is the index of the right option, or the right word; a photograph is a cluster."""

    name = "realworldqa"
    version = 2  # 1 read letters within an answer under evalscope
    description = "questions about photographs of streets and rooms (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/RealWorldQA",
                split="test",
                columns=("question", "answer", "image"),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=765,
        )
    }
    open_prompts: ClassVar = {
        DEFAULT: "{asked}",
        "qwen2-vl": "Question: {question}",
        "vlmevalkit": "Question: {question}\n",
        "evalscope": EVALSCOPE.prompt,
    }

    def question(self, row: Row) -> Question:
        picture, asked, answer = image(row), string(row, "question"), string(row, "answer").strip()
        options = listed_options(asked)
        lone = len(answer) == 1 and answer in LETTERS[: len(options)]
        text = INSTRUCTION.sub("", asked)
        return Question(
            media=[picture],
            text=(OPTION.sub("", text) if lone else text).strip(),
            options=options if lone else (),
            answer=LETTERS.index(answer) if lone else answer,
            cluster=picture.digest[:16],
            fields={"asked": asked.strip()},
            metadata=sides(picture),
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        if self.protocol.reader != "evalscope":
            return super().score(sample, completion)
        # EvalScope takes questions with options as the others: what was said is the letter alone
        said = (last_answer(completion.text) or "").lower()
        right = LETTERS[sample.target] if sample.choices else sample.target
        value = float(said == right.lower())
        return Score(self.values(sample, value), parsed=said or None, unparsed=not said)

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        said = text.lower().strip().rstrip(".")
        return float(said == sample.target.lower().rstrip(".")), said or None


def listed_options(question: str) -> list[str]:
    """The options that a question lists line by line, A first; empty where it lists none."""
    found = OPTION.findall(question)
    in_order = len(found) > 1 and [c for c, _ in found] == list(LETTERS[: len(found)])
    return [text for _, text in found] if in_order else []
