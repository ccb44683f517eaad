"""Multiple-choice questions about video: NExT-QA (five options) and Video-MME (four).

Data: `lmms-lab/NExTQA` (configuration MC, test, 8.56k questions) and `lmms-lab/Video-MME` (test,
2,700 questions on 900 videos), with their clips in zip files. ``videomme`` is asked without
subtitles, ``videomme_sub`` with those that are spoken while a frame that the model sees is shown
(744 of the videos have some; for the others the list is empty); ``--by duration`` shows short,
medium and long videos, as the paper's table does. ``mini``: about 200 questions on clips of 2 to 8
seconds drawn by evalkit, in the columns of NExT-QA; chance is 20 %; ``mini_large``: 1,200,
whose answers the first frame does not tell. Papers: Xiao et al., "NExT-QA" (CVPR 2021); Fu et al.,
"Video-MME" (CVPR 2025). Metric: accuracy. An answer that names no option, or more than one, is
wrong and counted as unparsed; no option is drawn by chance. Prompts: VLMEvalKit's for Video-MME;
for NExT-QA evalkit's own, the question and options as lmms-eval lists them and the suffix of its
other multiple-choice tasks (lmms-eval asks NExT-QA without one). Video is read at 2 frames per
second, as in the Qwen2-VL paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics import lmms_eval as of_lmms_eval
from evalkit.metrics.choice import LETTERS
from evalkit.metrics.readers import READERS
from evalkit.protocols import DEFAULT, LETTER_ANSWER, LETTERED, VIDEO_BUDGET, Protocol, lmms_eval
from evalkit.rows import identifier, string, strings, tier, video
from evalkit.sources import Drawn, Embedded, Hub
from evalkit.subtitles import Cue, read_srt
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Message, Sample, Score, Subtitles, Text

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
MINI_BUDGET = replace(VIDEO_BUDGET, min_pixels=4 * 28 * 28)
"""The official pipeline enlarges frames to at least 128 tokens each; the small drawn clips stay as
they are.
"""


VIDEOMME = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/videomme.py",
    prompt="\nThese are the frames of a video. Select the best answer to the following "
    "multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\nQuestion: "
    "{question}\n{options}\nAnswer: ",
)
VIDEOMME_SUB = Protocol(
    origin=VIDEOMME.origin + " (FRAMES_TMPL_SUB), each line once",
    prompt="\nThese are the frames of a video. This video's subtitles are listed below:\n"
    "{subtitles}\nSelect the best answer to the following multiple-choice question based on the "
    "video. Respond with only the letter (A, B, C, or D) of the correct option.\nQuestion: "
    "{question}\n{options}\nAnswer: ",
)
JUDGED = "published with a judge for answers without a letter; here those are unparsed"
NEXTQA_PROTOCOLS = {
    DEFAULT: LETTERED,
    "lmms-eval": lmms_eval(
        "nextqa, mc",
        "{question:strip}\n{options}",
        option="{letter}. {text:strip}",
        note="where lmms-eval finds no letter it draws one; here such an answer is unparsed",
    ),
}
VIDEOMME_PROTOCOLS = {
    DEFAULT: VIDEOMME,
    "qwen2-vl": replace(VIDEOMME, max_new_tokens=2048, reader="videomme", note=JUDGED),
    "lmms-eval": lmms_eval(
        "videomme",
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "{question}\n{options}\n" + LETTER_ANSWER,
        16,
    ),
}
VIDEOMME_SUB_PROTOCOLS = {
    DEFAULT: VIDEOMME_SUB,
    "qwen2-vl": replace(VIDEOMME_SUB, max_new_tokens=2048, reader="videomme", note=JUDGED),
}


def videomme(protocols: Mapping[str, Protocol], subtitles: bool = False) -> Subset:
    source = Hub(
        repository="lmms-lab/Video-MME",
        config="videomme",
        split="test",
        columns=VIDEOMME_COLUMNS,
        clips="videoID",
        subtitles="videoID" if subtitles else "",
        archives=("videos_chunked_*.zip", *(["subtitle.zip"] if subtitles else [])),
    )
    return Subset(
        source,
        budget=VIDEO_BUDGET,
        protocols=protocols,
        size=2700,
        version=2,  # 1 read strictly under qwen2-vl
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
            protocols=NEXTQA_PROTOCOLS,
        ),
        "mini_large": Subset(
            Drawn(
                folder="video_qa", config="MC", split="test", columns=NEXTQA_COLUMNS, clips="video"
            ),
            budget=MINI_BUDGET,
            protocols=NEXTQA_PROTOCOLS,
            size=1200,
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
            budget=VIDEO_BUDGET,
            protocols=NEXTQA_PROTOCOLS,
        ),
        "videomme": videomme(VIDEOMME_PROTOCOLS),
        "videomme_sub": videomme(VIDEOMME_SUB_PROTOCOLS, subtitles=True),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        yield self.videomme(row) if "videomme" in self.subset_name else self.nextqa(row)

    def nextqa(self, row: Row) -> Sample:
        clip, name = video(row), identifier(row, "video")
        target = row["answer"]
        if type(target) is not int or target not in range(5):
            raise DataError(f"'answer' is {target!r}, not one of 0 to 4")
        options = [string(row, f"a{i}") for i in range(5)]
        return Sample(
            id=f"{name}-{identifier(row, 'qid')}",
            messages=self.ask(clip, question=string(row, "question"), options=options),
            target=target,
            choices=lettered(options),
            cluster=name,
            metadata={"type": row["type"], "chance": 1 / 5, **tier(name)},
        )

    def videomme(self, row: Row) -> Sample:
        clip = video(row)
        options = [re.sub(r"^[A-D]\.\s*", "", option) for option in strings(row, "options")]
        letters, answer = LETTERS[: len(options)], row["answer"]
        if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
            raise DataError(
                f"'answer' is {answer!r}, not one of {', '.join(letters) or 'no options'}"
            )
        question = string(row, "question")
        if self.subset_name == "videomme_sub":
            messages = self.ask(clip, question=question, options=options, subtitles="{subtitles}")
            messages = with_cues(messages, cues(row))
        else:
            messages = self.ask(clip, question=question, options=options)
        return Sample(
            id=identifier(row, "question_id"),
            messages=messages,
            target=letters.index(answer),
            choices=lettered(options),
            cluster=identifier(row, "videoID"),
            metadata={
                "duration": row["duration"],
                "domain": row["domain"],
                "task_type": row["task_type"],
                "chance": 1 / len(options),
            },
        )

    def read(self, answer: str, options: Sequence[str]) -> int | None:
        """The option that an answer names, by the protocol's reader."""
        if self.protocol.reader != "lmms-eval":
            return READERS[self.protocol.reader](answer, options)
        if "videomme" in self.subset_name:
            letter = of_lmms_eval.choice(answer.strip(), LETTERS[: len(options)])
        else:
            texts = {c: option.strip() for c, option in zip(LETTERS, options)}
            letter = of_lmms_eval.choice_or_text(answer.strip(), texts)
        return LETTERS.index(letter) if letter else None

    def score(self, sample: Sample, completion: Completion) -> Score:
        index = self.read(completion.text, [c.split(". ", 1)[1] for c in sample.choices])
        parsed = None if index is None else LETTERS[index]
        return Score(
            {"accuracy": float(index == sample.target)}, parsed=parsed, unparsed=index is None
        )


def cues(row: Row) -> tuple[Cue, ...]:
    """The subtitles of a row's video; none where the data set has none for it. Raises DataError
    where its file can't be read.
    """
    if isinstance(row["subtitles"], DataError):
        raise row["subtitles"]
    return read_srt(row["subtitles"]) if row["subtitles"] else ()


def with_cues(messages: Iterable[Message], cues: tuple[Cue, ...]) -> tuple[Message, ...]:
    """The messages with subtitles in place of the texts that have a place for them."""
    return tuple(
        replace(
            message,
            content=tuple(
                Subtitles(part.text, cues)
                if isinstance(part, Text) and "{subtitles}" in part.text
                else part
                for part in message.content
            ),
        )
        for message in messages
    )


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))
