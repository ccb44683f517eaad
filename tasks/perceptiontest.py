"""PerceptionTest: questions about memory, abstraction, physics and semantics in made-up scenes.

Data: `lmms-lab/PerceptionTest_Val` (configuration mc_question_val, split validation, 19,140
questions) and `lmms-lab/PerceptionTest` (mc_question, test, answers hidden), CC-BY 4.0 by the
authors' card; columns video_name, question, question_id, options (three), answer_id, area,
reasoning, tag; clips in zip files. Paper: Patraucean et al., "Perception Test" (NeurIPS 2023).
Metric: top-1 accuracy; chance is a third. Prompt: lmms-eval's; which one the Qwen2-VL paper used is
not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import MultipleChoice, Question, texts
from evalkit.protocols import DEFAULT, LETTERED, VIDEO_BUDGET, lmms_eval
from evalkit.rows import identifier, index, string, strings, video
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Row, Subset
from evalkit.types import Sample

COLUMNS = ("video_name", "question", "question_id", "options", "area", "reasoning", "tag")
PROTOCOLS = {
    DEFAULT: LETTERED,
    "lmms-eval": lmms_eval("perceptiontest", LETTERED.prompt, reader="perceptiontest"),
}


def questions(
    repository: str, config: str, split: str, *more: str, size: int | None = None
) -> Subset:
    source = Hub(
        repository=repository,
        config=config,
        split=split,
        columns=(*COLUMNS, *more),
        clips="video_name",
        archives=("*video*.zip",),
    )
    return Subset(source, budget=VIDEO_BUDGET, protocols=PROTOCOLS, size=size, hidden=not more)


class PerceptionTest(MultipleChoice):
    """One sample per row."""

    name = "perceptiontest"
    version = 2  # 1 read by an older rule of lmms-eval under its protocol
    description = "questions about memory, abstraction, physics and semantics (accuracy)"
    subsets: ClassVar = {
        "val": questions(
            "lmms-lab/PerceptionTest_Val", "mc_question_val", "validation", "answer_id", size=19140
        ),
        "test": questions("lmms-lab/PerceptionTest", "mc_question", "test"),
    }

    def question(self, row: Row) -> Question:
        options, name = strings(row, "options"), identifier(row, "video_name")
        if len(options) != 3 or not all(options):
            raise DataError(f"'options' has {len(options)} options, some of them empty, not three")
        return Question(
            media=[video(row)],
            text=string(row, "question"),
            options=options,
            answer=None if self.subset.hidden else index(row, "answer_id", 3),
            cluster=name,
            id=f"{name}-{identifier(row, 'question_id')}",
            metadata={
                "area": row["area"],
                "reasoning": row["reasoning"],
                "tag": ", ".join(strings(row, "tag")),
            },
        )

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        """By video; an unread answer is left out."""
        videos: dict[str, list[dict[str, Any]]] = {}
        for sample, parsed in answers:
            entries = videos.setdefault(sample.cluster, [])
            if parsed:
                chosen, number = LETTERS.index(parsed), sample.id.removeprefix(f"{sample.cluster}-")
                text = texts(sample.choices)[chosen]
                entries.append({"id": int(number), "answer_id": chosen, "answer": text})
        return Submission.json(
            "perceptiontest_test.json", videos, "https://eval.ai (Perception Test, mc_question)"
        )
