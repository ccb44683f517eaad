"""POPE: is an object in a photograph? Half of the objects are not, drawn in three ways.

Data: `lmms-lab/POPE` on the hub (test, 9,000 questions about 500 photographs of COCO; in the
configuration ``Full`` the splits random, popular and adversarial, 3,000 each). Columns: question_id
(unique in its category), question, answer (yes or no), image_source, category, image. Licence: MIT
(questions), the photographs Flickr's. Paper: Li et al., "Evaluating Object Hallucination in Large
Vision-Language Models" (EMNLP 2023). Metrics: F1, precision and recall of "yes", accuracy, and the
share of answers that are yes. An answer that is neither is not a yes, and is wrong. Prompt:
VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from evalkit.multiple_choice import LMMS_PIXELS
from evalkit.protocols import LMMS_EVAL_STOP, QWEN2_VL_PIXELS, Protocol
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset
from evalkit.types import Sample
from evalkit.yes_no import YesNo, yes_no_protocols, yes_or_no

COLUMNS = ("question_id", "question", "answer", "image_source", "category", "image")
PROTOCOLS = yes_no_protocols(
    lmms_eval=Protocol(
        origin="lmms-eval 0.7, tasks/pope",
        prompt="{question}\nAnswer the question using a single word or phrase.",
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        reader="exact",
        max_new_tokens=128,
    ),
    benchmark="pope",
)


def subset(split: str, size: int, config: str | None = None) -> Subset:
    source = Hub(repository="lmms-lab/POPE", config=config, split=split, columns=COLUMNS)
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS, size=size)


class POPE(YesNo):
    """Questions about the same photograph are one cluster."""

    name = "pope"
    description = "is an object in the photograph? (F1 of yes, accuracy)"
    metrics = (
        Metric("f1", weight="f1_weight"),
        Metric("accuracy"),
        Metric("precision", weight="yes_ratio"),
        Metric("recall", weight="is_yes"),
        Metric("yes_ratio"),
    )
    subsets: ClassVar = {
        "test": subset("test", 9000),
        "random": subset("random", 3000, "Full"),
        "popular": subset("popular", 3000, "Full"),
        "adversarial": subset("adversarial", 3000, "Full"),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        picture, category = image(row), string(row, "category")
        yield Sample(
            id=f"{category}-{identifier(row, 'question_id')}",
            messages=self.ask(picture, question=string(row, "question").strip()),
            target=yes_or_no(row, "answer"),
            cluster=string(row, "image_source"),
            metadata={"category": category, **sides(picture)},
        )

    def values(self, sample: Sample, said: bool | None) -> Mapping[str, float]:
        """F1 is 2 TP / (2 TP + FP + FN): the mean of what is right among answers that say yes or
        should, a right one counting twice.
        """
        yes, should = said is True, bool(sample.target)
        hit = float(yes and should)
        return {
            "f1": hit,
            "f1_weight": float(yes) + float(should),
            "accuracy": float(said == sample.target),
            "precision": hit,
            "recall": hit,
            "yes_ratio": float(yes),
            "is_yes": float(should),
        }
