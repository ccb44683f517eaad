"""MME: two questions of yes or no about each picture, one of either answer.

Data: `lmms-lab/MME` on the hub (test, 2,374 questions of 1,187 pictures in fourteen categories).
Columns: question_id (that of the picture), question, answer (Yes or No), category, image. Licence:
the authors allow research only. Paper: Fu et al., "MME" (2023). Metrics: for each category the
accuracy over questions plus ``accuracy+``, the share of pictures of which both are right, each of
100: ``perception`` is their sum over ten categories (of 2,000), ``cognition`` over four (of 800),
``mme`` over all (of 2,800). Prompt: the question as it is, which asks for yes or no (VLMEvalKit's
for Qwen2-VL too).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import LMMS_PIXELS
from evalkit.protocols import DEFAULT, LMMS_EVAL_STOP, QWEN2_VL_PIXELS, Protocol
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset
from evalkit.types import Sample
from evalkit.yes_no import VLMEVALKIT, YesNo, yes_or_no

PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark"),
    *("artwork", "OCR"),
)
COGNITION = (
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
BOTH = ("", "picture")
PROTOCOLS = {
    DEFAULT: Protocol(origin="the question's own instruction"),
    "qwen2-vl": Protocol(
        origin="VLMEvalKit, Qwen2VLPromptMixin.use_custom_prompt (MME keeps its own)",
        max_new_tokens=2048,
        reader="vlmevalkit",
    ),
    "lmms-eval": Protocol(
        origin="lmms-eval 0.7, tasks/mme",
        prompt="{bare}\nAnswer the question using a single word or phrase.",
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        max_new_tokens=16,
        reader="beginning",
    ),
    "vlmevalkit": VLMEVALKIT,
}


class MME(YesNo):
    """The two questions about a picture are one cluster."""

    name = "mme"
    description = "pairs of questions of yes or no, fourteen categories (sum of accuracies)"
    metrics = (
        *(
            Metric(name, group="category", scale=200.0, units=BOTH, total=True)
            for name in ("mme", "perception", "cognition")
        ),
        Metric("accuracy"),
        Metric("accuracy+", units=("picture",)),
    )
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/MME",
                split="test",
                columns=("question_id", "question", "answer", "category", "image"),
            ),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=2374,
        )
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        question, category = string(row, "question").strip(), string(row, "category")
        if category not in PERCEPTION + COGNITION:
            raise DataError(f"'category' is {category!r}, not one of MME's fourteen")
        picture = image(row)
        shared = f"{category}/{identifier(row, 'question_id')}"
        yield Sample(
            messages=self.ask(
                picture, question=question, bare=question.replace(" Please answer yes or no.", "")
            ),
            target=yes_or_no(row, "answer"),
            cluster=shared,
            metadata={"category": category, "picture": shared, **sides(picture)},
        )

    def values(self, sample: Sample, said: bool | None) -> Mapping[str, float]:
        part = "perception" if sample.metadata["category"] in PERCEPTION else "cognition"
        return dict.fromkeys(("mme", part, "accuracy", "accuracy+"), float(said == sample.target))
