"""HallusionBench: questions of yes or no about figures, some of which were edited to mislead.

Data: `lmms-lab/HallusionBench` on the hub (split ``image``, 951 questions about 346 figures;
``non_image``, 178 questions asked without one, is not part of the published scores). Columns:
category (VD or VS), subcategory, set_id, figure_id, question_id, question, gt_answer (1 for yes, 0
for no), image. Licence: BSD 3-clause. Paper: Guan et al., "HallusionBench" (CVPR 2024). Metrics:
``aAcc`` over questions, ``fAcc`` over figures of which all questions are right, ``qAcc`` over
questions that are right for every figure of their set; ``average`` is the mean of the three, which
the Qwen2-VL paper reports. The authors' evaluation, and lmms-eval's, asks GPT-4 whether an answer
is right; this is VLMEvalKit's rule, which reads yes or no. Prompt: VLMEvalKit's for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.multiple_choice import LMMS_PIXELS
from evalkit.protocols import LMMS_EVAL_STOP, QWEN2_VL_PIXELS, Protocol
from evalkit.rows import identifier, image, sides, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset
from evalkit.types import Sample
from evalkit.yes_no import YesNo, yes_no_protocols, yes_or_no

COLUMNS = (
    *("category", "subcategory", "set_id", "figure_id", "question_id", "question"),
    *("gt_answer", "image"),
)
PROTOCOLS = yes_no_protocols(
    lmms_eval=Protocol(
        origin="lmms-eval 0.7, tasks/hallusion_bench",
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        max_new_tokens=128,
        reader="says-yes",
        note="published with GPT-4 as a judge; this is its rule without one (evaluate_hb.py, "
        "hb_aggregation_result_intern): yes is in the answer, or it is taken for no",
    ),
    benchmark="hallusion_bench",
)


class HallusionBench(YesNo):
    """All questions of a set, about a figure and its edited versions, are one cluster."""

    name = "hallusionbench"
    version = 2  # 1 took sets of VD and of VS with one number for one
    description = "questions about misleading figures (mean of aAcc, fAcc and qAcc)"
    metrics = (
        Metric("average", units=("", "figure", "question")),
        Metric("aAcc"),
        Metric("fAcc", units=("figure",)),
        Metric("qAcc", units=("question",)),
    )
    subsets: ClassVar = {
        "image": Subset(
            Hub(repository="lmms-lab/HallusionBench", split="image", columns=COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            size=951,
        )
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        picture, category = image(row), string(row, "category")
        # sets are numbered anew in each category: VD and VS both have sets of "ocr"
        shared = f"{category}_{string(row, 'subcategory')}_{identifier(row, 'set_id')}"
        figure, question = identifier(row, "figure_id"), identifier(row, "question_id")
        yield Sample(
            id=f"{shared}_{figure}_{question}",
            messages=self.ask(picture, question=string(row, "question")),
            target=yes_or_no(row, "gt_answer"),
            cluster=shared,
            metadata={
                "category": category,
                "subcategory": row["subcategory"],
                "figure": f"{shared}_{figure}",
                "question": f"{shared}_{question}",
                **sides(picture),
            },
        )
