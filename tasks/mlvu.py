"""MLVU: questions of seven and nine kinds about videos of three minutes to two hours.

Data: `sy1998/MLVU_dev` (test, the dev set with four options) and `sy1998/MLVU_Test` (test, 502
questions with six options), the benchmark's authors' copies of `MLVU/MVLU` and `MLVU/MLVU_Test` for
lmms-eval; columns video_name, question (with its options, ``(A) ...``, a line each), answer (a
letter), task_type; clips in zip files. The authors' files list 2,175 questions of the dev set, one
of them with four empty options. Licence: CC BY-NC-SA 4.0. Paper: Zhou et al., "MLVU" (CVPR 2025);
its two tasks of free text need a judge and are left out. Metrics: M-Avg, the mean over tasks of the
share of right answers, as the authors' script and lmms-eval have it; VLMEvalKit's M-Avg is over all
questions, ``accuracy`` here. Prompt: the authors', whose system's turn VLMEvalKit's Qwen2-VL
wrapper puts before the clip; the prompts behind the scores of the Qwen papers are not known. Video
is read at 2 frames per second up to the model's own limit; VLMEvalKit's configuration at 1
(``MLVU_1fps``), lmms-eval's wrapper 32 frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import (
    MultipleChoice,
    Question,
    inline_options,
    letter_answer,
    own,
)
from evalkit.protocols import DEFAULT, VIDEO_BUDGET, Protocol, lmms_eval
from evalkit.rows import identifier, string, video
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset
from evalkit.types import MediaBudget

COLUMNS = ("video_name", "question", "answer", "task_type")
KINDS = {
    "dev": ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning"),
    "test": (
        *("plotQA", "needleQA", "ego", "count", "order", "anomaly_reco", "topic_reasoning"),
        *("sportsQA", "tutorialQA"),
    ),
}
"""The tasks of each set: M-Avg is the mean over them."""
METRICS = (Metric("m_avg", group="task_type"), Metric("accuracy"))

VLMEVALKIT = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/mlvu.py (MLVU_MCQ), its configuration MLVU_1fps",
    prompt="Carefully watch this video and pay attention to every detail. Based on your "
    "observations, select the best option that accurately addresses the question.<video>"
    "Question: {question}\nOptions:\n{options}\nOnly give the best option.",
    option="({letter}) {text}",
    media="inline",
    budget=MediaBudget(fps=1.0),
    max_new_tokens=2048,
    reader="mlvu-vlmevalkit",
    metrics=METRICS[::-1],
    note="published with a judge for answers that name no option; here those are wrong",
)
PROTOCOLS = {
    DEFAULT: replace(own(VLMEVALKIT), budget=None, metrics=()),
    "lmms-eval": lmms_eval(
        "mlvu",
        "{asked}\nOnly give the best option.\nBest option: (",
        16,
        reader="lmms-eval-four",
        note="answers E and F are never read, though the test set has six options",
    ),
}


def questions(repository: str, size: int | None = None, **more: Protocol) -> Subset:
    source = Hub(
        repository=repository,
        split="test",
        columns=COLUMNS,
        clips="video_name",
        archives=("*.zip",),
    )
    return Subset(source, budget=VIDEO_BUDGET, protocols={**PROTOCOLS, **more}, size=size)


class MLVU(MultipleChoice):
    """One sample per row; a video is a cluster."""

    name = "mlvu"
    description = "questions about videos of minutes to hours (mean over tasks)"
    metrics = METRICS
    subsets: ClassVar = {
        "dev": questions("sy1998/MLVU_dev", vlmevalkit=VLMEVALKIT),
        "test": questions("sy1998/MLVU_Test", 502),
    }

    def question(self, row: Row) -> Question:
        text, options = inline_options(row)
        answer, kind = letter_answer(row, len(options)), row["task_type"]
        if kind not in KINDS[self.subset_name]:
            known = ", ".join(KINDS[self.subset_name])
            raise DataError(f"'task_type' is {kind!r:.80}, not one of {known}")
        if answer is not None and not options[answer]:
            raise DataError("'question' has nothing but the letter for its right option")
        return Question(
            media=[video(row)],
            text=text,
            options=options,
            answer=answer,
            cluster=identifier(row, "video_name"),
            fields={"asked": string(row, "question")},
            metadata={"task_type": kind},
        )
