"""LVBench: questions about videos of an hour and more, for which details have to be found again.

Data: `lmms-lab/LVBench` on the hub (train, 1,549 questions on 103 videos), columns uid, video_path,
question (with its four options, ``(A) ...``, a line each), answer (a letter), question_type (one or
more of six abilities); clips in zip files. Licence: CC BY-NC-SA 4.0, by the authors' page (their
own release has no clips). Paper: Wang et al., "LVBench" (2024). Metric: accuracy over all
questions; a question of several abilities counts once. Prompt: the question and options as they are
and the last line of lmms-eval's other multiple-choice tasks; the prompts behind the scores of the
Qwen papers are not published in full. Video is read at 2 frames per second up to the model's own
limit; for Qwen2.5-VL its paper states at most 768 frames of 24,576 tokens, and an author
(QwenLM/Qwen3-VL, issue 715) 48 to 128 times 28 x 28 pixels a frame.
"""

from __future__ import annotations

from typing import ClassVar

from evalkit.multiple_choice import MultipleChoice, Question, inline_options, letter_answer
from evalkit.protocols import DEFAULT, LETTERED, VIDEO_BUDGET, lmms_eval
from evalkit.rows import identifier, string, strings, video
from evalkit.sources import Hub
from evalkit.task import Row, Subset

PROTOCOLS = {
    DEFAULT: LETTERED,
    "lmms-eval": lmms_eval("lvbench", "{asked}\nAnswer the question with the option letter", 16),
}


class LVBench(MultipleChoice):
    """One sample per row; a video is a cluster."""

    name = "lvbench"
    description = "questions about videos of an hour and more (accuracy)"
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/LVBench",
                split="train",
                columns=("uid", "video_path", "question", "answer", "question_type"),
                clips="video_path",
                archives=("video_chunks/*.zip",),
            ),
            budget=VIDEO_BUDGET,
            protocols=PROTOCOLS,
            size=1549,
        )
    }

    def question(self, row: Row) -> Question:
        text, options = inline_options(row)
        return Question(
            media=[video(row)],
            text=text,
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=identifier(row, "video_path"),
            id=identifier(row, "uid"),
            fields={"asked": string(row, "question")},
            metadata={"abilities": ", ".join(sorted(strings(row, "question_type")))},
        )
