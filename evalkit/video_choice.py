"""What the multiple-choice benchmarks about video have in common: one clip, one question, options
with letters, accuracy. An answer that names no option, or more than one, is wrong and counted as
unparsed; no option is drawn by chance. Where answers are hidden, a sample gets no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS, parse_choice
from evalkit.task import Metric, Task
from evalkit.types import Completion, Sample, Score, Video


class VideoChoice(Task):
    """The target is the index of the right option, None where it is hidden; questions on the same
    video are one cluster. ``readers`` are the published readers of answers that protocols name.
    """

    metrics = (Metric("accuracy"),)
    max_new_tokens = 64
    readers: ClassVar[Mapping[str, Any]] = {}

    def question(
        self, clip: Video, question: str, options: Sequence[str], target: int | None, **rest: Any
    ) -> Sample:
        """A sample; ``rest`` are its id, cluster and metadata."""
        chance = {"chance": 1 / len(options)}
        return Sample(
            messages=self.ask(clip, question=question, options=options),
            target=target,
            choices=tuple(f"{LETTERS[i]}. {option}" for i, option in enumerate(options)),
            **{**rest, "metadata": {**rest.get("metadata", {}), **chance}},
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        read = self.readers[self.protocol.reader] if self.protocol.reader else parse_choice
        index = read(completion.text, [choice.split(". ", 1)[1] for choice in sample.choices])
        parsed = None if index is None else LETTERS[index]
        values = {} if sample.target is None else {"accuracy": float(index == sample.target)}
        return Score(values, parsed=parsed, unparsed=index is None)


def whole_number(value: object, name: str, count: int) -> int:
    """An index below ``count``, given as a number or as its digits. Raises DataError."""
    digit = str(value) if isinstance(value, str) or type(value) is int else ""
    if digit not in map(str, range(count)):
        raise DataError(f"{name!r} is {value!r:.80}, not one of 0 to {count - 1}")
    return int(digit)
