"""MMBench: multiple-choice questions of twenty abilities, each asked with its options rotated.

Data: `lmms-lab/MMBench` on the hub, configurations ``en`` and ``cn`` (dev: 4,329 rows for 1,164
questions; test: 6,666 rows, answers hidden) and ``cc`` (Chinese culture, test, 2,040 rows). A row
whose index is a million or more is a rotation of the question with that index below a million.
Columns: index, question, hint, A to D, answer, category, source, split, image. Licence: Apache 2.0.
Paper: Liu et al., "MMBench" (ECCV 2024). Metrics: ``circular``, the share of questions of which
every rotation is answered rightly, and ``vanilla``, the share of unrotated rows; both need all rows
of a question. The published evaluation asks GPT for what its rule can't read; here that is
unparsed. Prompt: VLMEvalKit's for Qwen2-VL, in Chinese where the question is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import (
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
    letter_columns,
    texts,
)
from evalkit.protocols import LMMS_EVAL_STOP, QWEN2_VL_PIXELS
from evalkit.rows import image, sides, string
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Metric, Row, Subset
from evalkit.types import Sample

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "source", "image")
ROTATION = 1_000_000
ENGLISH = replace(
    LMMS_CHOICE,
    origin="lmms-eval 0.7, tasks/mmbench",
    prompt="{hint}{question} There are several options:\n{options}\n"
    "\nAnswer with the option's letter from the given choices directly.",
    hint="{hint} ",
    reader="mmbench",
    max_new_tokens=1024,
    stop=("ASSISTANT:",),
    note="published with GPT as a judge; this is mmbench_en_dev_static, which has none",
)
CHINESE = replace(
    ENGLISH,
    prompt="{hint}{question} There are several options:\n{options}\n"
    "\n请直接使用所提供的选项字母作为答案回答。",
    max_new_tokens=256,
    stop=LMMS_EVAL_STOP,
)


def subset(config: str, split: str, size: int) -> Subset:
    source = Hub(repository="lmms-lab/MMBench", config=config, split=split, columns=COLUMNS)
    protocols = choice_protocols(lmms=ENGLISH if config == "en" else CHINESE)
    hidden = split == "test" and config != "cc"
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=protocols, hidden=hidden, size=size)


class MMBench(MultipleChoice):
    """The rotations of a question are one cluster."""

    name = "mmbench"
    description = "questions of twenty abilities with rotated options (circular accuracy)"
    metrics = (Metric("circular", units=("question",)), Metric("vanilla"))
    subsets: ClassVar = {
        "dev_en": subset("en", "dev", 4329),
        "dev_cn": subset("cn", "dev", 4329),
        "test_en": subset("en", "test", 6666),
        "test_cn": subset("cn", "test", 6666),
        "test_cc": subset("cc", "test", 2040),
    }

    def question(self, row: Row) -> Question:
        index = row["index"]
        if type(index) is not int or index < 0:
            raise DataError(f"'index' is {index!r:.80}, not a whole number")
        options, picture, hint = letter_columns(row), image(row), row["hint"]
        return Question(
            id=str(index),
            media=[picture],
            text=string(row, "question"),
            options=options,
            hint=hint if isinstance(hint, str) and hint.strip() not in ("", "nan") else "",
            answer=letter_answer(row, len(options), self.subset.hidden),
            cluster=str(index % ROTATION),
            metadata={
                "question": str(index % ROTATION),
                "rotation": index // ROTATION,
                "category": string(row, "category"),
                "text": row["question"],
                **sides(picture),
            },
        )

    def values(self, sample: Sample, right: float) -> Mapping[str, float]:
        vanilla = {} if sample.metadata["rotation"] else {"vanilla": right}
        return {"circular": right, **vanilla}

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        rows = [
            {
                "index": int(sample.id),
                "question": sample.metadata["text"],
                **dict(zip("ABCD", texts(sample.choices))),
                "prediction": parsed or "",
                "category": sample.metadata["category"],
            }
            for sample, parsed in answers
        ]
        return Submission.table(
            f"mmbench_{self.subset_name}.xlsx", rows, "https://mmbench.opencompass.org.cn"
        )
