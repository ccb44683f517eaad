"""EgoSchema: questions about three minutes of what somebody did, seen from their own eyes.

Data: `lmms-lab/egoschema` on the hub (MIT, clips under Ego4D's licence), split test: configuration
Subset (500 questions with answers) and MC (5,031, answers hidden: their server takes ``{video_idx:
index}``). Columns question_idx, question, video_idx, option (five, each with its letter), answer;
clips in zip files. Paper: Mangalam et al., "EgoSchema" (NeurIPS 2023). Metric: accuracy; chance is
20 %. Prompt: lmms-eval's; which one the Qwen2-VL paper used is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.multiple_choice import MultipleChoice, Question
from evalkit.protocols import DEFAULT, LETTERED, VIDEO_BUDGET, lmms_eval
from evalkit.rows import identifier, index, string, strings, video
from evalkit.sources import Hub
from evalkit.submission import Submission
from evalkit.task import Row, Subset
from evalkit.types import Sample

COLUMNS = ("question_idx", "question", "video_idx", "option")
PROTOCOLS = {
    DEFAULT: LETTERED,
    "lmms-eval": lmms_eval("egoschema", LETTERED.prompt, 16, reader="egoschema"),
}


def questions(config: str, size: int, hidden: bool) -> Subset:
    source = Hub(
        repository="lmms-lab/egoschema",
        config=config,
        split="test",
        columns=COLUMNS if hidden else (*COLUMNS, "answer"),
        clips="video_idx",
        archives=("videos_chunked_*.zip",),
    )
    return Subset(source, budget=VIDEO_BUDGET, protocols=PROTOCOLS, size=size, hidden=hidden)


class EgoSchema(MultipleChoice):
    """One sample per row."""

    name = "egoschema"
    version = 2  # 1 read by an older rule of lmms-eval under its protocol
    description = "questions about three minutes of first-person video (accuracy)"
    subsets: ClassVar = {
        "subset": questions("Subset", 500, hidden=False),
        "full": questions("MC", 5031, hidden=True),
    }

    def question(self, row: Row) -> Question:
        options = [re.sub(r"^[A-E][.:]\s*", "", option) for option in strings(row, "option")]
        if len(options) != 5 or not all(options):
            raise DataError(f"'option' has {len(options)} options, some of them empty, not five")
        return Question(
            media=[video(row)],
            text=string(row, "question"),
            options=options,
            answer=None if self.subset.hidden else index(row, "answer", 5),
            cluster=identifier(row, "video_idx"),
            id=identifier(row, "video_idx"),
            metadata={"question_idx": identifier(row, "question_idx")},
        )

    def submission(self, answers: Iterable[tuple[Sample, Any]]) -> Submission:
        """An unread answer is option -1, which is none of them."""
        chosen = {s.id: LETTERS.index(parsed) if parsed else -1 for s, parsed in answers}
        return Submission.json(
            "egoschema_full.json", chosen, "https://github.com/egoschema/EgoSchema"
        )
