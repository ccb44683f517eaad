"""Questions of yes or no: what all tasks of the kind share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evalkit.errors import DataError
from evalkit.metrics.yes_no import READERS
from evalkit.protocols import DEFAULT, Protocol, evalscope
from evalkit.task import Row, Task
from evalkit.types import Completion, MediaBudget, Sample, Score

VLMEVALKIT = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/image_yorn.py",
    budget=MediaBudget(),
    max_new_tokens=2048,
    reader="vlmevalkit",
)


def yes_no_protocols(lmms_eval: Protocol, benchmark: str) -> dict[str, Protocol]:
    """The protocols of questions that don't ask for yes or no themselves. ``benchmark``: its name
    in EvalScope.
    """
    qwen2_vl = Protocol(
        origin="VLMEvalKit, Qwen2VLPromptMixin._build_yorn_prompt",
        prompt="{question} Please answer yes or no.",
    )
    return {
        DEFAULT: qwen2_vl,
        "qwen2-vl": replace(qwen2_vl, max_new_tokens=2048, reader="vlmevalkit"),
        "lmms-eval": lmms_eval,
        "vlmevalkit": VLMEVALKIT,
        "evalscope": evalscope(
            benchmark,
            "{question}\nPlease answer YES or NO without an explanation.",
            reader="evalscope",
        ),
    }


class YesNo(Task):
    """The target is True for yes. Every metric of the task has the same value of a sample, 1 or 0,
    unless ``values`` says otherwise: they differ in what they count.
    """

    max_new_tokens: int = 64

    def score(self, sample: Sample, completion: Completion) -> Score:
        said = READERS[self.protocol.reader](completion.text)
        parsed = None if said is None else "yes" if said else "no"
        return Score(self.values(sample, said), parsed=parsed, unparsed=said is None)

    def values(self, sample: Sample, said: bool | None) -> Mapping[str, float]:
        """The value of each metric; ``said`` is what was read."""
        return dict.fromkeys((m.name for m in self.metrics), float(said == sample.target))


def yes_or_no(row: Row, column: str) -> bool:
    """A column that says ``Yes`` or ``No`` in any case, or 1 or 0. Raises DataError for another
    value.
    """
    value = row[column]
    word = value.strip().rstrip(".").lower() if isinstance(value, str) else value
    if isinstance(word, bool) or word not in ("yes", "no", "1", "0", 1, 0):
        raise DataError(f"{column!r} is {value!r:.80}, not yes or no")
    return word in ("yes", "1", 1)
