"""LongVideoBench: questions that refer to a moment of a video of seconds to an hour.

Data: `longvideobench/LongVideoBench` on the hub (validation, 1,337 questions; the test set's
answers are hidden), columns video_path, subtitle_path, question, option0 to option4 (``N/A`` where
there are fewer), correct_choice (an index), id, duration (seconds), duration_group (15, 60, 600,
3600), question_category, starting_timestamp_for_subtitles; clips in a tar of 31 parts, subtitles as
JSON in another. Licence: CC BY-NC-SA 4.0; access has to be asked for. Paper: Wu et al.,
"LongVideoBench" (NeurIPS 2024). Metric: accuracy; ``--by duration_group`` shows the paper's
columns. ``val`` shows the clip alone, as lmms-eval's ``longvideobench_val_v``;
``val_interleaved`` pictures with what is said between them, as the authors' loader and
``longvideobench_val_i``: evenly spaced, 16 of them, whose texts lmms-eval's Qwen2-VL wrapper puts
behind the pictures. Prompt: VLMEvalKit's and lmms-eval's (they end alike); the prompts behind the
scores of the Qwen papers are not known. VLMEvalKit shows Qwen2-VL the clip alone, at 1 frame per
second in its configuration ``LongVideoBench_1fps``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import MultipleChoice, Question
from evalkit.protocols import (
    DEFAULT,
    LETTERED,
    LMMS_EVAL_BUDGET,
    VIDEO_BUDGET,
    Protocol,
    lmms_eval,
)
from evalkit.rows import identifier, index, seconds, string, video
from evalkit.sources import Hub
from evalkit.subtitles import Cue, read_timed
from evalkit.task import Row, Subset
from evalkit.types import Interleaved, MediaBudget

OPTIONS = tuple(f"option{i}" for i in range(5))
COLUMNS = (
    *("video_path", "question", *OPTIONS, "correct_choice", "id"),
    *("duration_group", "question_category"),
)
SPOKEN = ("subtitle_path", "starting_timestamp_for_subtitles", "duration")

LMMS_EVAL = lmms_eval(
    "longvideobench",
    LETTERED.prompt + "\n",
    32,
    reader="longvideobench",
    note="where lmms-eval finds no letter it draws one; here such an answer is unparsed",
)
PROTOCOLS = {
    DEFAULT: LETTERED,
    "lmms-eval": LMMS_EVAL,
    "vlmevalkit": Protocol(
        origin="VLMEvalKit, vlmeval/dataset/longvideobench.py, its LongVideoBench_1fps",
        prompt=LETTERED.prompt,
        budget=MediaBudget(fps=1.0),
        max_new_tokens=2048,
        reader="longvideobench-vlmevalkit",
    ),
}
INTERLEAVED = {
    DEFAULT: Protocol(
        origin="LongVideoBench's loader (longvideobench_dataset.py)",
        prompt="Question: " + LETTERED.prompt,
        media="inline",
    ),
    "lmms-eval": replace(LMMS_EVAL, budget=replace(LMMS_EVAL_BUDGET, max_frames=16)),
}
DATA = Hub(
    repository="longvideobench/LongVideoBench",
    split="validation",
    columns=COLUMNS,
    clips="video_path",
    archives=("videos.tar*",),
)


class LongVideoBench(MultipleChoice):
    """One sample per row; a video is a cluster."""

    name = "longvideobench"
    description = "questions about moments of long videos, subtitles between frames (accuracy)"
    subsets: ClassVar = {
        "val": Subset(DATA, budget=VIDEO_BUDGET, protocols=PROTOCOLS, size=1337),
        "val_interleaved": Subset(
            replace(
                DATA,
                columns=(*COLUMNS, *SPOKEN),
                subtitles="subtitle_path",
                spoken=".json",
                archives=("videos.tar*", "subtitles.tar"),
            ),
            budget=MediaBudget(max_frames=16),
            protocols=INTERLEAVED,
            size=1337,
        ),
    }

    def question(self, row: Row) -> Question:
        options = [string(row, column) for column in OPTIONS]
        n = options.index("N/A") if "N/A" in options else len(options)
        if n < 2 or any(option != "N/A" for option in options[n:]):
            raise DataError(f"the options are {options!r:.200}: two at least, and then N/A")
        clip = video(row)
        if self.subset_name == "val_interleaved":
            clip = Interleaved(
                clip.source,
                upright=clip.upright,
                cues=cues(row),
                apart=self.protocol.media == "first",
            )
        return Question(
            media=[clip],
            text=string(row, "question"),
            options=options[:n],
            answer=index(row, "correct_choice", n),
            cluster=identifier(row, "video_path"),
            id=identifier(row, "id"),
            metadata={
                "duration_group": row["duration_group"],
                "question_category": row["question_category"],
            },
        )


def cues(row: Row) -> tuple[Cue, ...]:
    """What is said in a row's clip."""
    file = row["subtitles"]
    if isinstance(file, DataError):
        raise file
    if file is None:
        raise DataError(f"no subtitles {string(row, 'subtitle_path')!r:.80}")
    begin = seconds(row, "starting_timestamp_for_subtitles")
    return read_timed(file, begin, seconds(row, "duration"))
