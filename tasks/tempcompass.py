"""TempCompass: action, direction, speed, order and change, which no single frame of a clip tells.

Data: `lmms-lab/TempCompass` on the hub (test), configurations multi-choice (1,580 questions),
yes_no (2,453) and caption_matching (1,503), columns video_id, question (with its options, a line
each), answer (one of these lines, or yes or no), dim (which of the five aspects); clips in a zip
file. The fourth, captioning, needs a judge and is left out. Licence: CC BY-NC 4.0, for academic
research. Paper: Liu et al., "TempCompass" (Findings of ACL 2024). Metric: accuracy; ``--by dim``
shows the aspects. Where the authors' rules can't read an answer they ask ChatGPT (so does
lmms-eval), unless ``--disable_llm`` is given; such an answer is wrong here, as in VLMEvalKit by
default. Prompts: the authors', whose script for Qwen2-VL shows 1 frame per second of at most
720 x 720 pixels; lmms-eval and VLMEvalKit (in its ``TempCompass_1fps``) have the same words.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.yes_no import READERS
from evalkit.multiple_choice import MultipleChoice, Question
from evalkit.protocols import DEFAULT, VIDEO_BUDGET, Protocol, lmms_eval
from evalkit.rows import identifier, string, video
from evalkit.sources import Hub
from evalkit.task import Row, Subset
from evalkit.types import MediaBudget, Sample
from evalkit.yes_no import yes_or_no

COLUMNS = ("video_id", "question", "answer", "dim")
ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
BEST, YES_NO = "{asked}\nPlease directly give the best option:", "\nPlease answer yes or no:"
AUTHORS = Protocol(origin="the authors' script for Qwen2-VL (run_qwen2_vl.py)", prompt=BEST)


def questions(config: str, size: int, reader: str, strict: str = "") -> Subset:
    protocols = {
        DEFAULT: replace(AUTHORS, reader=strict),
        "authors": replace(
            AUTHORS,
            budget=MediaBudget(max_pixels=720 * 720, fps=1.0),
            max_new_tokens=128,
            reader=reader,
        ),
        "lmms-eval": lmms_eval("tempcompass", BEST, reader=reader),
        "vlmevalkit": replace(
            AUTHORS,
            origin="VLMEvalKit, vlmeval/dataset/tempcompass.py, its TempCompass_1fps",
            budget=MediaBudget(fps=1.0),
            max_new_tokens=2048,
            reader=reader,
        ),
    }
    source = Hub(
        repository="lmms-lab/TempCompass",
        config=config,
        split="test",
        columns=COLUMNS,
        clips="video_id",
        archives=("tempcompass_videos.zip",),
    )
    return Subset(source, budget=VIDEO_BUDGET, protocols=protocols, size=size)


class TempCompass(MultipleChoice):
    """One sample per row; a clip is a cluster (one that was reversed or slowed down is another)."""

    name = "tempcompass"
    description = "what changes over time in short clips, of three forms (accuracy)"
    subsets: ClassVar = {
        "multi_choice": questions("multi-choice", 1580, "tempcompass"),
        "yes_no": questions("yes_no", 2453, "tempcompass"),
        "caption_matching": questions(
            "caption_matching", 1503, "tempcompass-captions", strict="tempcompass-captions"
        ),
    }
    open_prompts: ClassVar = {DEFAULT: "{asked}" + YES_NO}

    def question(self, row: Row) -> Question:
        asked, aspect = string(row, "question"), row["dim"]
        if aspect not in ASPECTS:
            raise DataError(f"'dim' is {aspect!r:.80}, not one of {', '.join(ASPECTS)}")
        text, *lines = asked.split("\n")
        if self.subset_name == "yes_no":
            lines = []
        elif len(lines) < 2 or lines.count(string(row, "answer")) != 1:
            raise DataError(f"'answer' is {row['answer']!r:.80}, none of the question's lines")
        return Question(
            media=[video(row)],
            text=text,
            options=[self.option(line) for line in lines],
            answer=lines.index(row["answer"]) if lines else yes_or_no(row, "answer"),
            cluster=identifier(row, "video_id"),
            fields={"asked": asked},
            metadata={"dim": aspect},
        )

    def option(self, line: str) -> str:
        """An option without its letter; captions have labels of their own, which answers name."""
        return re.sub(r"^\s*[A-D]\.\s*", "", line) if self.subset_name == "multi_choice" else line

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        said = READERS[self.protocol.reader](text)
        return float(said == sample.target), None if said is None else "yes" if said else "no"
