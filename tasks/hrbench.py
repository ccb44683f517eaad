"""HR-Bench: questions about pictures of 4K and 8K, each asked with its options in several orders.

Data: `DreamMr/HR-Bench` on the hub, configuration ``hrbench_version_split``, splits ``hrbench_4k``
and ``hrbench_8k`` (200 questions each, a row for each order of the options). Columns: index,
question, A to D, answer, category (single or cross), cycle_category (which order), image (base64).
Licence: "other", without a text. Paper: Wang et al., "Divide, Conquer and Combine" (2024).
Metrics: ``accuracy``, the mean over the orders, as the authors' script has it; ``circular``, the
share of questions that are answered rightly in every order; ``--by category`` shows the two kinds.
Prompt: VLMEvalKit's for Qwen2-VL, in its pixels: up to 12.8 million of a picture, so that those of
8K are scaled down. lmms-eval's wrapper shows 0.6 million.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import ClassVar

from evalkit.multiple_choice import (
    LMMS_CHOICE,
    MultipleChoice,
    Question,
    choice_protocols,
    letter_answer,
    letter_columns,
)
from evalkit.protocols import QWEN2_VL_PIXELS
from evalkit.rows import identifier, packed_image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset

COLUMNS = (
    *("index", "question", "A", "B", "C", "D", "answer", "category", "cycle_category"),
    "image",
)
PROTOCOLS = {
    name: protocol
    for name, protocol in choice_protocols(
        lmms=replace(
            LMMS_CHOICE,
            origin="lmms-eval 0.7.3, tasks/hrbench",
            prompt="{question}\n{options}\nAnswer the option letter directly.",
            reader="hrbench",
            note="published with GPT as a judge of what the rule can't read; here it is unparsed",
        )
    ).items()
    if name != "evalscope"
}


def subset(size: str) -> Subset:
    source = Hub(
        repository="DreamMr/HR-Bench",
        config="hrbench_version_split",
        split=f"hrbench_{size}",
        files=f"hr_bench_{size}.parquet",
        columns=COLUMNS,
    )
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS)


class HRBench(MultipleChoice):
    """All questions about a picture are one cluster."""

    name = "hrbench"
    description = "questions about pictures of 4K and 8K, options rotated (mean accuracy)"
    metrics = (Metric("accuracy", group="cycle"), Metric("circular", units=("question",)))
    subsets: ClassVar = {"4k": subset("4k"), "8k": subset("8k")}

    def question(self, row: Row) -> Question:
        options, picture, text = letter_columns(row), packed_image(row), string(row, "question")
        cluster = picture.digest[:16]
        return Question(
            id=identifier(row, "index"),
            media=[picture],
            text=text.strip(),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=cluster,
            metadata={
                "cycle": identifier(row, "cycle_category"),
                "category": string(row, "category"),
                "question": f"{cluster}-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
                **sides(picture),
            },
        )
