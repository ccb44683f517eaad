"""MathVista: mathematical questions about figures, plots, photographs and tables.

Data: `AI4Math/MathVista` on the hub (testmini, 1,000 questions; test, 5,141, answers hidden).
Columns: pid, question, query (the question with the authors' hint of the form of its answer),
choices, unit, precision, answer, question_type, answer_type, metadata, decoded_image. Licence: CC
BY-SA 4.0. Paper: Lu et al., "MathVista" (ICLR 2024). Metric: accuracy. The published evaluation has
GPT-4 extract the answer; here a rule does (boxed, behind "answer is", the last number), so scores
of long answers may differ from published ones. Prompt: the authors' query, with VLMEvalKit's suffix
for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.metrics.mathematics import mathvista_option, mathvista_value, nearest_option
from evalkit.metrics.readers import READERS
from evalkit.multiple_choice import (
    EVALSCOPE_CHOICE,
    LMMS_PIXELS,
    MultipleChoice,
    Question,
    texts,
)
from evalkit.protocols import DEFAULT, LMMS_EVAL_STOP, QWEN2_VL_PIXELS, SHORT_ANSWER, Protocol
from evalkit.rows import identifier, image, sides, string, strings
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Row, Subset
from evalkit.types import Completion, MediaBudget, Sample, Score

COLUMNS = (
    *("pid", "question", "query", "choices", "unit", "precision", "answer", "question_type"),
    *("answer_type", "metadata", "decoded_image"),
)
JUDGED = "published with an answer extracted by a language model; a rule extracts it here"
LMMS = Protocol(
    origin="lmms-eval 0.7, tasks/mathvista/mathvista_testmini_format.yaml",
    prompt="{asked}\n{options}\n{form}",
    budget=LMMS_PIXELS,
    stop=LMMS_EVAL_STOP,
    max_new_tokens=16384,
    reader="nearest",
    note=JUDGED,
)
OPEN_EVALSCOPE = (
    "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}} without "
    "units."
)
PROTOCOLS = {
    DEFAULT: Protocol(
        origin="the authors' query; VLMEvalKit, Qwen2VLPromptMixin._build_vqa_prompt",
        prompt="{query}" + SHORT_ANSWER,
    ),
    "qwen2-vl": Protocol(
        origin="the authors' query; VLMEvalKit, Qwen2VLPromptMixin._build_vqa_prompt",
        prompt="{query}" + SHORT_ANSWER,
        max_new_tokens=2048,
        reader="vlmevalkit",
        note=JUDGED,
    ),
    "lmms-eval": LMMS,
    "vlmevalkit": Protocol(
        origin="VLMEvalKit, vlmeval/dataset/image_vqa.py, MathVista",
        prompt="{query}",
        budget=MediaBudget(),
        max_new_tokens=2048,
        reader="vlmevalkit",
        note=JUDGED,
    ),
    "evalscope": replace(EVALSCOPE_CHOICE, origin="EvalScope 1.x, benchmarks/math_vista"),
}
FORMS = {
    "text": "Answer with the option's letter from the given choices directly.",
    "integer": "Answer the question using a single integer number.",
    "float1": "Answer the question using a single floating-point number with one decimal place.",
    "float2": "Answer the question using a single floating-point number with two decimal places.",
    "list": "Answer the question using a Python list.",
}


class MathVista(MultipleChoice):
    """Questions about the same picture are one cluster; the target of a free-form one is the right
    value as text.
    """

    name = "mathvista"
    version = 3  # 2 did not read "the answer should be"
    description = "mathematics in pictures (accuracy, answers extracted by rule)"
    max_new_tokens = 1024
    subsets: ClassVar = {
        split: Subset(
            Hub(repository="AI4Math/MathVista", split=split, columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            hidden=split == "test",
            size=size,
        )
        for split, size in (("testmini", 1000), ("test", 5141))
    }
    open_prompts: ClassVar = {
        DEFAULT: "{query}" + SHORT_ANSWER,
        "lmms-eval": "{asked}\n{form}",
        "vlmevalkit": "{query}",
        "evalscope": OPEN_EVALSCOPE,
    }

    def question(self, row: Row) -> Question:
        kind, answer_type = string(row, "question_type"), string(row, "answer_type")
        if kind not in ("multi_choice", "free_form") or answer_type not in ANSWER_TYPES:
            raise DataError(f"'question_type' is {kind!r} and 'answer_type' {answer_type!r}")
        picture = image(row, "decoded_image")
        options = strings(row, "choices") if kind == "multi_choice" else []
        if kind == "multi_choice" and len(options) < 2:
            raise DataError(f"'choices' has {len(options)} options")
        precision, text = whole(row["precision"]), string(row, "question")
        unit = row["unit"] if isinstance(row["unit"], str) and row["unit"] else ""
        form = f"float{precision}" if answer_type == "float" else answer_type
        return Question(
            id=identifier(row, "pid"),
            media=[picture],
            text=text,
            options=options,
            answer=self.answer(row, options),
            cluster=picture.digest[:16],
            fields={
                "query": string(row, "query").strip(),
                "asked": text + (f" (Unit: {unit})" if unit else ""),
                "form": FORMS.get(form, ""),
            },
            metadata={
                "answer_type": answer_type,
                "precision": precision,
                **properties(row["metadata"]),
                **sides(picture),
            },
        )

    def answer(self, row: Row, options: list[str]) -> int | str | None:
        if self.subset.hidden and row["answer"] in (None, ""):
            return None
        answer = string(row, "answer")
        if not options:
            return answer
        if answer not in options:
            raise DataError(f"'answer' is {answer!r:.80}, none of the choices")
        return options.index(answer)

    def score(self, sample: Sample, completion: Completion) -> Score:
        if not sample.choices:
            return super().score(sample, completion)
        options, text = texts(sample.choices), completion.text
        index: int | None
        if self.protocol.reader == "nearest":
            index = nearest_option(text, options) if text.strip() else None
        else:
            index = mathvista_option(text, options, READERS[self.protocol.reader])
        right = float(index is not None and index == sample.target)
        values = {} if sample.target is None else self.values(sample, right)
        parsed = None if index is None else LETTERS[index]
        return Score(values, parsed=parsed, unparsed=index is None)

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        about = sample.metadata
        read = mathvista_value(text, about["answer_type"], about["precision"])
        if self.protocol.reader == "vlmevalkit":
            read = number(text, about["answer_type"])
            same = read is not None and read == number(str(sample.target), about["answer_type"])
            return float(same), read
        return float(read is not None and read == str(sample.target).strip()), read

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        values = {
            sample.id: {
                "extraction": as_text(sample, parsed),
                "prediction": as_text(sample, parsed),
            }
            for sample, parsed in answers
        }
        return Submission.json("mathvista_test.json", values, "https://mathvista.github.io")


ANSWER_TYPES = ("text", "integer", "float", "list")


def as_text(sample: Sample, parsed: Any) -> str:
    """What was read; of an option its text."""
    if sample.choices and parsed:
        return texts(sample.choices)[LETTERS.index(parsed)]
    return parsed or ""


def number(text: str, answer_type: str) -> str | None:
    """VLMEvalKit's rule without its judge: the whole answer is the number, as Python reads one."""
    try:
        if answer_type == "integer":
            return str(int(text))
        return str(float(text)) if answer_type == "float" else text.strip() or None
    except (ValueError, OverflowError):
        return None


def whole(value: object) -> int:
    """Decimals of a right answer; 0 where the row has none. Raises DataError."""
    if value is None or value != value:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise DataError(f"'precision' is {value!r:.80}, not a whole number")
    return int(value)


def properties(value: object) -> dict[str, Any]:
    """What the authors say of a question: task, category, context, grade, skills, source."""
    if not isinstance(value, dict):
        return {}
    names = ("task", "category", "context", "grade", "skills", "source", "language")
    return {k: value[k] for k in names if isinstance(value.get(k), str | list)}
