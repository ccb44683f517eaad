"""Multiple-choice questions about video: NExT-QA (five options) and Video-MME (four).

Data: `lmms-lab/NExTQA` (configuration MC, test, 8.56k questions) and `lmms-lab/Video-MME` (test,
2,700 questions on 900 videos, used without subtitles), with their clips in zip files. ``mini``:
about 200 questions on clips of 2 to 8 seconds drawn by evalkit, in the columns of NExT-QA; chance
is 20 %. Papers: Xiao et al., "NExT-QA" (CVPR 2021); Fu et al., "Video-MME" (CVPR 2025). Metric:
accuracy. An answer that names no option, or more than one, is wrong and counted as unparsed; no
option is drawn by chance. Prompts: lmms-eval's for NExT-QA, VLMEvalKit's for Video-MME. Video is
read at 2 frames per second, as in the Qwen2-VL paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS, parse_choice
from evalkit.sources import Embedded, Hub, tier
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, MediaBudget, Message, Sample, Score, Text, Video

NEXTQA_COLUMNS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
VIDEOMME_COLUMNS = (
    "videoID",
    "question_id",
    "question",
    "options",
    "answer",
    "duration",
    "domain",
    "task_type",
)
BUDGET = MediaBudget(fps=2.0)
MINI_BUDGET = MediaBudget(fps=2.0, min_pixels=4 * 28 * 28)
"""The official pipeline enlarges frames to at least 128 tokens each; the small drawn clips stay as
they are.
"""


def nextqa_prompt(question: str, choices: Sequence[str]) -> str:
    listed = "\n".join(choices)
    return f"{question}\n{listed}\nAnswer with the option's letter from the given choices directly."


def videomme_prompt(question: str, choices: Sequence[str]) -> str:
    listed = "\n".join(choices)
    return (
        "\nThese are the frames of a video. Select the best answer to the following "
        "multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\nQuestion: "
        f"{question}\n{listed}\nAnswer: "
    )


class VideoQA(Task):
    """One sample per row; the target is the index of the right option, questions on the same video
    are one cluster.
    """

    name = "video_qa"
    version = 1
    description = "multiple-choice questions about video (accuracy)"
    metrics = (Metric("accuracy"),)
    max_new_tokens = 64
    subsets: ClassVar = {
        "mini": Subset(
            Embedded(
                folder="video_qa", config="MC", split="test", columns=NEXTQA_COLUMNS, clips="video"
            ),
            budget=MINI_BUDGET,
        ),
        "nextqa": Subset(
            Hub(
                repository="lmms-lab/NExTQA",
                config="MC",
                split="test",
                columns=NEXTQA_COLUMNS,
                clips="video",
                archives=("videos.zip",),
            ),
            budget=BUDGET,
        ),
        "videomme": Subset(
            Hub(
                repository="lmms-lab/Video-MME",
                config="videomme",
                split="test",
                columns=VIDEOMME_COLUMNS,
                clips="videoID",
                archives=("videos_chunked_*.zip",),
            ),
            budget=BUDGET,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        yield videomme_sample(row) if self.subset_name == "videomme" else nextqa_sample(row)

    def score(self, sample: Sample, completion: Completion) -> Score:
        index = parse_choice(
            completion.text, [choice.split(". ", 1)[1] for choice in sample.choices]
        )
        parsed = None if index is None else LETTERS[index]
        return Score(
            {"accuracy": float(index == sample.target)}, parsed=parsed, unparsed=index is None
        )


def nextqa_sample(row: Row) -> Sample:
    sample_id = f"{row['video']}-{row['qid']}"
    target = row["answer"]
    if target not in range(5):
        raise DataError(f"question {sample_id}: 'answer' is {target!r}, not one of 0 to 4")
    choices = lettered([row[f"a{i}"] for i in range(5)])
    level = tier(str(row["video"]))
    metadata: dict[str, Any] = {
        "type": row["type"],
        "chance": 1 / 5,
        **({"tier": level} if level else {}),
    }
    return video_sample(
        sample_id,
        row["clip"],
        nextqa_prompt(row["question"], choices),
        target,
        choices,
        str(row["video"]),
        metadata,
    )


def videomme_sample(row: Row) -> Sample:
    sample_id = str(row["question_id"])
    choices = lettered([re.sub(r"^[A-D]\.\s*", "", option) for option in row["options"]])
    target = LETTERS.find(row["answer"] or "?")
    if target not in range(len(choices)):
        raise DataError(
            f"question {sample_id}: 'answer' is {row['answer']!r}, not the letter of one of "
            f"{len(choices)} options"
        )
    metadata = {k: row[k] for k in ("duration", "domain", "task_type")} | {
        "chance": 1 / len(choices)
    }
    prompt = videomme_prompt(row["question"], choices)
    return video_sample(
        sample_id, row["clip"], prompt, target, choices, str(row["videoID"]), metadata
    )


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))


def video_sample(
    sample_id: str,
    clip: Path,
    prompt: str,
    target: int,
    choices: tuple[str, ...],
    cluster: str,
    metadata: dict[str, Any],
) -> Sample:
    if not clip.is_file():
        raise DataError(
            f"question {sample_id}: no clip {clip.name}; it belongs under {clip.parent}"
        )
    return Sample(
        sample_id,
        (Message("user", (Video(clip), Text(prompt))),),
        target,
        choices,
        cluster,
        metadata,
    )
