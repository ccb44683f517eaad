"""Charades-STA: when does in a clip of half a minute happen what a sentence says?

Data: `lmms-lab/charades_sta` on the hub (test, 3,720 sentences), columns video, caption, timestamp
(start and end, in seconds, as half-precision numbers); clips in zip files. Licence: MIT by the
card; the clips are Charades', for non-commercial use. Paper: Gao et al., "TALL" (ICCV 2017).
Metrics: ``mIoU``, the mean intersection over union with the true span, which the Qwen2.5-VL and
Qwen3-VL papers report, and the share of answers with at least 0.3, 0.5 and 0.7 (``R@0.5``). An
answer without a span, or with several, is wrong and counted as unparsed. Prompts: lmms-eval's; the
default asks for the same form in evalkit's own words; which one the Qwen papers used is not known.
A model is not told when a frame is shown unless it knows of itself (Qwen2.5-VL by its positions,
Qwen3-VL by texts). Video is read at 2 frames per second; lmms-eval's wrapper shows 32 frames.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.spans import READERS, Span, iou
from evalkit.protocols import DEFAULT, VIDEO_BUDGET, Protocol, lmms_eval
from evalkit.rows import identifier, string, video
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

RECALLS = (0.3, 0.5, 0.7)
PROTOCOLS = {
    DEFAULT: Protocol(
        origin="evalkit",
        prompt='When does this happen in the video: "{caption}"?\n'
        "Answer with its start and its end in seconds, as in: 24.3 - 30.4",
    ),
    "lmms-eval": lmms_eval(
        "charades_sta",
        "Please find the visual event described by a sentence in the video, determining its "
        "starting and ending times. The format should be: 'The event happens in the start time - "
        "end time'. For example, The event 'person turn a light on' happens in the 24.3 - 30.4 "
        "seonds. Now I will give you the textual sentence: {caption}. Please return its start time "
        "and end time.",
        50,
        note='of "starts at 1.5 s and ends at 3.5 s" in one line its rule reads nothing',
    ),
}


class CharadesSTA(Task):
    """One sample per row; the target is the true span, a clip is a cluster."""

    name = "charades_sta"
    description = "when something happens in a clip (mean intersection over union of spans)"
    metrics = (Metric("mIoU"), *(Metric(f"R@{recall}") for recall in RECALLS))
    max_new_tokens = 64
    subsets: ClassVar = {
        "test": Subset(
            Hub(
                repository="lmms-lab/charades_sta",
                split="test",
                columns=("video", "caption", "timestamp"),
                clips="video",
                archives=("Charades_v1_480_part_*.zip",),
            ),
            budget=VIDEO_BUDGET,
            protocols=PROTOCOLS,
            size=3720,
        )
    }

    def samples(self, row: Row) -> list[Sample]:
        target = span(row, "timestamp")
        messages = self.ask(video(row), caption=string(row, "caption"))
        return [Sample(messages=messages, target=target, cluster=identifier(row, "video"))]

    def score(self, sample: Sample, completion: Completion) -> Score:
        said = READERS[self.protocol.reader](completion.text)
        overlap = iou(sample.target, said) if said else 0.0
        recalls = {f"R@{recall}": float(overlap >= recall) for recall in RECALLS}
        return Score({"mIoU": overlap, **recalls}, parsed=said, unparsed=said is None)

    def right_answer(self, sample: Sample) -> str:
        return " - ".join(f"{time:.1f}" for time in sample.target)


def span(row: Row, column: str) -> Span:
    """A column that holds a start and a later end, in seconds. Raises DataError."""
    value = row[column]
    if isinstance(value, list | tuple) and len(value) == 2:
        start, end = map(_number, value)
        if 0 <= start < end < math.inf:
            return start, end
    raise DataError(f"{column!r} is {value!r:.80}, not a start and a later end")


def _number(value: Any) -> float:
    """NaN for what is none; half-precision numbers come as numpy's."""
    return math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
