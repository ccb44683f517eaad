"""MVBench: twenty kinds of questions that need more than one frame of a clip.

Data: `OpenGVLab/MVBench` on the hub (MIT; the clips under the licences of their sources), 20 tables
of 200 questions, ``json/action_sequence.json`` and so on, columns video, question, candidates,
answer (the text of one of them), and start and end (seconds) where a part of the clip is meant.
Clips lie in zip files under ``video/``; those of episodic_reasoning are folders of pictures, 3 a
second; those of fine_grained_pose (NTU RGB+D) are not in the release and have to be got from their
authors. Paper: Li et al., "MVBench" (CVPR 2024). Metric: accuracy, the mean over the twenty tables.
Prompts: VLMEvalKit's (``vlmeval/dataset/mvbench.py``), all of which its Qwen2-VL wrapper puts into
the user's turn; lmms-eval's (``tasks/mvbench/utils.py``), which shows clips that were cut and
encoded anew. VLMEvalKit's published scores use a judge for answers without a letter; here they
count as wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import MultipleChoice, Question
from evalkit.protocols import DEFAULT, LMMS_EVAL_BUDGET, VIDEO_BUDGET, Protocol
from evalkit.rows import seconds, string, strings, video
from evalkit.sources import Hub, Joined
from evalkit.task import Metric, Row, Subset

COLUMNS = ("video", "question", "candidates", "answer")
FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
"""The tables, and where their clips lie."""
CUT = (
    "action_sequence",
    "action_prediction",
    "object_interaction",
    "action_localization",
    "episodic_reasoning",
)
"""The tables whose questions are about a part of a clip."""
FRAME_RATE = 3.0
"""Pictures a second of clips that are folders."""

VLMEVALKIT = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/mvbench.py (MVBench.build_prompt)",
    prompt="Carefully watch the video and pay attention to the cause and sequence of events, the "
    "detail and movement of objects, and the action and pose of persons. Based on your "
    "observations, select the best option that accurately addresses the question.\n"
    "Question: {question}\nOptions:\n{options}<video>\nOnly give the best option.Best option:(",
    option="({letter}) {text}",
    media="inline",
)
CHECKED = replace(
    VLMEVALKIT,
    origin=VLMEVALKIT.origin + ", read by its check_ans",
    reader="mvbench-vlmevalkit",
    note="published with a judge for answers that name no option; here those are wrong",
)
PROTOCOLS = {
    DEFAULT: VLMEVALKIT,
    "qwen2-vl": CHECKED,
    "vlmevalkit": CHECKED,
    "lmms-eval": Protocol(
        origin="lmms-eval 0.7, lmms_eval/tasks/mvbench/utils.py",
        prompt="Question:{question}\nOption:\n{options}\nOnly give the best option.\n",
        option="({letter}) {text}",
        budget=LMMS_EVAL_BUDGET,
        max_new_tokens=16,
        stop=("\n\n",),
        reader="mvbench-lmms-eval",
        note="lmms-eval leaves empty answers out of the mean; here they are wrong",
    ),
}


def tables(*names: str) -> Subset:
    sources = {
        name: Hub(
            repository="OpenGVLab/MVBench",
            config=name,
            split="train",
            files="json/*",
            columns=(*COLUMNS, "start", "end") if name in CUT else COLUMNS,
            clips="video",
            clip_folder=FOLDERS[name],
            frames=True,
            archives=("video/*.zip",),
        )
        for name in names
    }
    return Subset(Joined(sources), budget=VIDEO_BUDGET, protocols=PROTOCOLS, size=200 * len(names))


class MVBench(MultipleChoice):
    """One sample per row."""

    name = "mvbench"
    version = 2  # 1 read strictly under qwen2-vl
    description = "twenty kinds of questions about the course of a video (mean accuracy)"
    metrics = (Metric("accuracy", group="table"),)
    subsets: ClassVar = {"all": tables(*FOLDERS)} | {name: tables(name) for name in FOLDERS}

    def question(self, row: Row) -> Question:
        table, options, answer = row["part"], strings(row, "candidates"), row["answer"]
        start, end = (seconds(row, "start"), seconds(row, "end")) if table in CUT else (None, None)
        if start is not None and end is not None and start >= end:
            raise DataError(f"'start' is {start}, not before 'end', {end}")
        if not 2 <= len(options) <= 26 or options.count(answer) != 1:
            raise DataError(
                f"'answer' is {answer!r:.80}, not one of the candidates {options!r:.200}"
            )
        name = string(row, "video")
        return Question(
            media=[video(row, start=start, end=end, fps=FRAME_RATE)],
            text=string(row, "question"),
            options=options,
            answer=options.index(answer),
            cluster=f"{FOLDERS[table]}/{name}",
            id=f"{table}-{row['part_row']}",
            metadata={"table": table},
        )
