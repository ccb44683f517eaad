"""MMVU: questions of experts in 27 subjects about short clips; those with options.

Data: `lmms-lab/MMVU` on the hub (validation, 1,000 questions, of which those with options are
asked; the others need a judge), columns id, video_path (its folder is the subject), question_type,
question, choices (A to E), answer (a letter); clips in a zip file. Paper: Zhao et al., "MMVU" (CVPR
2025). Metric: accuracy. Prompt: the authors' for a direct answer, as lmms-eval has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.multiple_choice import MultipleChoice, Question, letter_answer, letter_columns, own
from evalkit.protocols import DEFAULT, VIDEO_BUDGET, lmms_eval
from evalkit.rows import identifier, string, video
from evalkit.sources import Hub
from evalkit.task import Row, Subset
from evalkit.types import Sample

LMMS_EVAL = lmms_eval(
    "mmvu",
    "\nQuestion:{question}\n{options}\nVisual Information: processed video\n"
    "Do not generate any intermediate reasoning process. Answer directly with the option letter "
    "from the\ngiven choices.\n",
    1024,
    option="{letter}: {text}",
    reader="mmvu",
    note="lmms-eval also counts an answer that has the right letter, or a word of the right "
    "option, anywhere in it; here its first letter is its answer",
)
KINDS = ("multiple-choice", "open-ended")


class MMVU(MultipleChoice):
    """A sample for each row with options; a clip is a cluster."""

    name = "mmvu"
    description = "experts' questions with options about clips (accuracy)"
    subsets: ClassVar = {
        "val_mc": Subset(
            Hub(
                repository="lmms-lab/MMVU",
                split="validation",
                columns=("id", "video_path", "question_type", "question", "choices", "answer"),
                clips="video_path",
                archives=("videos.zip",),
            ),
            budget=VIDEO_BUDGET,
            protocols={
                DEFAULT: replace(own(LMMS_EVAL), budget=None, stop=()),
                "lmms-eval": LMMS_EVAL,
            },
            size=1000,
        )
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        if row["question_type"] not in KINDS:
            raise DataError(f"'question_type' is {row['question_type']!r:.80}, not one of {KINDS}")
        if row["question_type"] == "multiple-choice":
            yield self.sample(self.question(row))

    def question(self, row: Row) -> Question:
        choices, path = row["choices"], string(row, "video_path")
        if not isinstance(choices, Mapping):
            raise DataError(f"'choices' is {choices!r:.80}, not options by their letters")
        options = letter_columns(Row(choices), "ABCDE")
        return Question(
            media=[video(row)],
            text=string(row, "question"),
            options=options,
            answer=letter_answer(row, len(options)),
            cluster=path,
            id=identifier(row, "id"),
            metadata={"subject": PurePosixPath(path).parent.name},
        )
