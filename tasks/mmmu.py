"""MMMU and MMMU-Pro: college-level questions of thirty subjects, with one to seven pictures.

Data: `lmms-lab/MMMU` on the hub (validation, 900 questions; test, 10,500, answers hidden; dev,
150), and `MMMU/MMMU_Pro` (test, 1,730 questions with up to ten options, with four, or shown as a
screenshot). Columns: id, question (with marks ``<image 1>``), options (a list, written as text),
answer, question_type, image_1 to image_7; of MMMU-Pro also subject, and no open questions. Licence:
Apache 2.0, by the cards. Papers: Yue et al., "MMMU" (CVPR 2024); Yue et al., "MMMU-Pro" (ACL 2025).
Metric: accuracy over all questions; an open one is right when the authors' rule finds the answer in
what was said. Prompt: VLMEvalKit's for Qwen2-VL (all pictures first); of MMMU-Pro, which is
younger, VLMEvalKit's for any model.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.open_answer import open_answer
from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_CHOICE,
    QWEN2_VL_CHOICE,
    VLMEVALKIT_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
    own,
)
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, last_answer
from evalkit.rows import image, numbered_images, string
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Row, Subset
from evalkit.types import Sample

PICTURES = tuple(f"image_{i}" for i in range(1, 8))
COLUMNS = ("id", "question", "options", "answer", "question_type", *PICTURES)
PRO_COLUMNS = ("id", "question", "options", "answer", "subject", *PICTURES)
VISION_COLUMNS = ("id", "image", "options", "answer", "subject")

INLINE = replace(VLMEVALKIT_CHOICE, origin="VLMEvalKit, MMMUDataset.build_prompt", media="inline")
EVALSCOPE = replace(EVALSCOPE_CHOICE, origin="EvalScope 1.x, benchmarks/mmmu", media="inline")
PROTOCOLS = choice_protocols(
    qwen2_vl=replace(
        QWEN2_VL_CHOICE,
        origin="VLMEvalKit, Qwen2VLPromptMixin._build_mmmu_prompt",
        prompt="{hint}Question: {question}\nOptions:\n{options}\n"
        "Please select the correct answer from the options above.",
    ),
    lmms=replace(
        LMMS_CHOICE,
        origin="lmms-eval 0.7, tasks/mmmu/mmmu_val.yaml",
        prompt="{question}\n{options}\n\n"
        "Answer with the option's letter from the given choices directly.",
        reader="mmmu",
        max_new_tokens=128,
        note="an option drawn by chance where none is read there; here it is unparsed",
    ),
    vlmevalkit=INLINE,
    evalscope=EVALSCOPE,
)
PRO = replace(
    INLINE,
    origin="VLMEvalKit, MMMUProDataset.build_prompt",
    prompt="Question: {question}\nOptions:\n{options}\n"
    "Answer directly with the option letter from the given choices. ",
)
LMMS_PRO = replace(
    LMMS_CHOICE,
    origin="lmms-eval 0.7, tasks/mmmu_pro",
    prompt="{question}\n{options}\n\n"
    "Answer with the option letter from the given choices directly.",
    reader="mmmu",
    max_new_tokens=256,
)
VISION = replace(
    PRO,
    prompt="Answer the following multiple-choice question in the image. "
    "Answer directly with the option letter from the given choices. ",
    media="first",
)


PRO_PROTOCOLS = {
    DEFAULT: own(PRO),
    "lmms-eval": LMMS_PRO,
    "vlmevalkit": PRO,
    "evalscope": replace(EVALSCOPE, origin="EvalScope 1.x, benchmarks/mmmu_pro"),
}
VISION_PROTOCOLS = {
    DEFAULT: own(VISION),
    "lmms-eval": replace(
        LMMS_PRO,
        prompt="Answer with the option letter from the given choices directly.",
        reader="mmmu-pro-vision",
    ),
    "vlmevalkit": VISION,
    "evalscope": replace(
        EVALSCOPE,
        origin="EvalScope 1.x, benchmarks/mmmu_pro",
        media="last",
        prompt="Answer the following multiple choice question in image. The last line of your "
        "response should be of the following format: 'ANSWER: [LETTER]' (without quotes) where "
        "[LETTER] is one of {letters}. Think step by step before answering.",
    ),
}


class MMMU(MultipleChoice):
    """Every question is a cluster; the target of an open one is the list of right answers."""

    name = "mmmu"
    version = 2  # 1 told capitals apart in open answers under evalscope
    description = "college-level questions of thirty subjects (accuracy)"
    subsets: ClassVar = {
        split: Subset(
            Hub(repository="lmms-lab/MMMU", split=hub, columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            hidden=split == "test",
            size=size,
        )
        for split, hub, size in (
            ("val", "validation", 900),
            ("test", "test", 10500),
            ("dev", "dev", 150),
        )
    }
    open_prompts: ClassVar = {
        DEFAULT: "Question: {question}",
        "lmms-eval": "{question}\n\nAnswer the question using a single word or phrase.",
        "vlmevalkit": "Question: {question}\n",
        "evalscope": "Solve the following problem step by step. The last line of your response "
        'should be of the form "ANSWER: [ANSWER]" (without quotes) where [ANSWER] is the answer '
        "to the problem.\n\n{question}\n\nRemember to put your answer on its own line at the end "
        'in the form "ANSWER: [ANSWER]" (without quotes) where [ANSWER] is the answer to the '
        "problem, and you do not need to use a \\boxed command.",
    }

    def question(self, row: Row) -> Question:
        kind, id = string(row, "question_type"), string(row, "id")
        if kind not in ("multiple-choice", "open"):
            raise DataError(f"'question_type' is {kind!r}, not multiple-choice or open")
        options = literal_list(row, "options") if kind == "multiple-choice" else []
        hidden = self.subset.hidden
        return Question(
            id=id,
            media=numbered_images(row, PICTURES),
            text=string(row, "question"),
            options=options,
            answer=letter_answer(row, len(options), hidden)
            if options
            else open_answers(row, hidden),
            cluster=id,
            metadata={"subject": subject(id), "question_type": kind},
        )

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        if self.protocol.reader == "evalscope":
            text = last_answer(text) or text
        said = text.strip()
        if sample.target is None:
            return 0.0, said or None
        value = open_answer(said, sample.target) if said else 0.0
        if self.protocol.reader == "evalscope":
            value = float(said.lower() in {answer.strip().lower() for answer in sample.target})
        return value, said or None

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        values = {sample.id: parsed or "" for sample, parsed in answers}
        return Submission.json("mmmu_test.json", values, "https://eval.ai (challenge MMMU)")


class MMMUPro(MultipleChoice):
    """Every question is a cluster."""

    name = "mmmu_pro"
    version = 2  # 1 read letters within an answer to a screenshot under lmms-eval
    description = "MMMU with ten options, with four, or as a screenshot (accuracy)"
    subsets: ClassVar = {
        name: Subset(
            Hub(repository="MMMU/MMMU_Pro", config=config, split="test", columns=columns),
            budget=QWEN2_VL_PIXELS,
            protocols=protocols,
            size=1730,
        )
        for name, config, columns, protocols in (
            ("standard_10", "standard (10 options)", PRO_COLUMNS, PRO_PROTOCOLS),
            ("standard_4", "standard (4 options)", PRO_COLUMNS, PRO_PROTOCOLS),
            ("vision", "vision", VISION_COLUMNS, VISION_PROTOCOLS),
        )
    }

    def question(self, row: Row) -> Question:
        options, id = literal_list(row, "options"), string(row, "id")
        vision = self.subset_name == "vision"
        return Question(
            id=id,
            media=[image(row)] if vision else numbered_images(row, PICTURES),
            text="" if vision else string(row, "question"),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=id,
            metadata={"subject": string(row, "subject")},
        )


def literal_list(row: Row, column: str) -> list[str]:
    """A list of texts that is written as Python writes one, or is one. Raises DataError for another
    value, and for fewer than two options.
    """
    value: Any = row[column]
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as e:
            raise DataError(f"{column!r} is no list of texts: {value!r:.80}") from e
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise DataError(f"{column!r} is {value!r:.80}, not a list of at least two")
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in value):
        raise DataError(f"{column!r} is {value!r:.80}, not a list of texts")
    return [str(v) for v in value]


def open_answers(row: Row, hidden: bool) -> Sequence[str] | None:
    """The right answers of an open question: one, or a list written as text."""
    value = row["answer"]
    if hidden and value in (None, "", "?"):
        return None
    answer = string(row, "answer").strip()
    return literal_list(row, "answer") if re.match(r"\[.*,.*\]\Z", answer) else [answer]


def subject(id: str) -> str:
    """Of the name of a question, ``validation_Art_Theory_7``."""
    match = re.fullmatch(r"[a-z]+_(.+)_\d+", id)
    return match[1] if match else "unknown"
