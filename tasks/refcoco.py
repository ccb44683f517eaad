"""RefCOCO, RefCOCO+ and RefCOCOg: find the one object that an expression refers to.

Data: `lmms-lab/RefCOCO`, `lmms-lab/RefCOCOplus` and `lmms-lab/RefCOCOg` on the hub; a row is one
object with a box and several expressions. RefCOCO+ forbids words of place, RefCOCOg has long
sentences. By their cards, ``val`` of RefCOCO and RefCOCOg there are the UNC and UMD splits with
5,000 rows of another split behind them; only the first 3,811 and 2,573 rows are used, those that
papers report. ``mini``: about 200 expressions for scenes of coloured shapes drawn by evalkit, in
the same columns; ``mini_large``: some 2,000. Papers: Yu et al., "Modeling Context in Referring
Expressions" (ECCV 2016); Mao et al., "Generation and Comprehension of Unambiguous Object
Descriptions" (CVPR 2016). Metric: share of expressions whose first predicted box has an IoU of at
least 0.5 with the true one; also at 0.75 and 0.9, and the mean IoU. The prompt is that of the
Qwen2-VL paper's figure; the prompt behind its published scores is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from evalkit.errors import DataError, UsageError
from evalkit.metrics import lmms_eval as of_lmms_eval
from evalkit.metrics.boxes import from_xywh, iou, parse_box
from evalkit.protocols import DEFAULT, QWEN2_VL_BOX, QWEN2_VL_PIXELS, lmms_eval
from evalkit.rows import identifier, image, image_size, string, strings, tier
from evalkit.sources import Drawn, Embedded, Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("question_id", "image", "answer", "bbox", "file_name")
THRESHOLDS = (0.5, 0.75, 0.9)
LMMS_EVAL_THRESHOLDS = (0.5, 0.1, 0.3, 0.7, 0.9)
PROTOCOLS = {
    DEFAULT: QWEN2_VL_BOX,
    "qwen2-vl": replace(QWEN2_VL_BOX, max_new_tokens=2048),
    "lmms-eval": lmms_eval(
        "refcoco, bbox_rec",
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right"
        " x, bottom-right y). All values are floating point numbers bounded between 0 and 1. Please"
        " provide the bounding box coordinate of the region this sentence describes: {expression}",
        stop=("ASSISTANT:",),
        metrics=(
            *(Metric(f"acc@{t}") for t in LMMS_EVAL_THRESHOLDS),
            Metric("iou"),
            Metric("centre"),
        ),
        note="boxes are read as [x1, y1, x2, y2] in parts of 1, whatever the model's own way is",
    ),
}


def subsets(
    folder: str, large: int, repository: str, splits: Mapping[str, tuple[int, int] | None]
) -> Mapping[str, Subset]:
    """``splits``: names, and where the hub has more than the official split, rows there and rows
    that are official; ``large``: rows of the large drawn set.
    """
    mini = Subset(Embedded(folder=folder, split="val", columns=COLUMNS), protocols=PROTOCOLS)
    drawn = Drawn(folder=folder, split="val", columns=COLUMNS)
    return {"mini": mini, "mini_large": Subset(drawn, protocols=PROTOCOLS, size=large)} | {
        split: Subset(
            Hub(repository=repository, split=split, columns=COLUMNS, official=official),
            budget=QWEN2_VL_PIXELS,
            protocols=PROTOCOLS,
            version=2,  # 1 took every object for a cluster of its own
            size=official[1] if official else None,
        )
        for split, official in splits.items()
    }


def image_name(file_name: str) -> str:
    """What the objects of one picture share. On the hub names end in the object's number:
    ``COCO_train2014_000000000003_298807.jpg`` is an object of ``COCO_train2014_000000000003``.
    """
    match = re.match(r"COCO_\w+?_\d{12}(?=_\d+\.)", file_name)
    return match[0] if match else file_name


class RefCOCO(Task):
    """One sample per expression; the target is ``[x1, y1, x2, y2]`` in pixels, expressions for the
    same image are one cluster. Scoring raises UsageError for a model without a box space.
    """

    name = "refcoco"
    version = 1
    description = "boxes for referring expressions (accuracy at IoU 0.5)"
    metrics = (*(Metric(f"acc@{t}") for t in THRESHOLDS), Metric("iou"))
    subsets = subsets(
        "refcoco", 2073, "lmms-lab/RefCOCO", {"val": (8811, 3811), "testA": None, "testB": None}
    )

    def samples(self, row: Row) -> Iterable[Sample | DataError]:
        object_id, file_name = identifier(row, "question_id"), string(row, "file_name")
        expressions = strings(row, "answer")
        if not expressions:
            raise DataError("'answer' has no expression")
        picture = image(row)
        width, height = image_size(picture)
        target = box_of(row, width, height)
        metadata = {"width": width, "height": height, **tier(file_name)}
        for i, expression in enumerate(expressions):
            if not expression.strip():
                yield DataError(f"expression {i} of object {object_id} is empty")
                continue
            yield Sample(
                id=f"{object_id}-{i}",
                messages=self.ask(picture, expression=expression),
                target=target,
                cluster=image_name(file_name),
                metadata=metadata,
            )

    def score(self, sample: Sample, completion: Completion) -> Score:
        if self.protocol.reader == "lmms-eval":
            return self.as_lmms_eval(sample, completion.text)
        if completion.box_space is None:
            raise UsageError(
                f"task {self.name!r} needs a model that draws boxes, and this adapter "
                "declares no box space"
            )
        box = parse_box(
            completion.text,
            completion.box_space,
            sample.metadata["width"],
            sample.metadata["height"],
        )
        overlap = iou(box, sample.target) if box else 0.0
        values = {f"acc@{t}": float(overlap >= t) for t in THRESHOLDS} | {"iou": overlap}
        return Score(values, parsed=list(box) if box else None, unparsed=box is None)

    def as_lmms_eval(self, sample: Sample, answer: str) -> Score:
        """The score by lmms-eval's reader: all in parts of the picture's sides."""
        box, metadata = of_lmms_eval.box(answer), sample.metadata
        if box is None:
            return Score({m.name: 0.0 for m in self.metrics}, unparsed=True)
        sides = (metadata["width"], metadata["height"]) * 2
        x1, y1, x2, y2 = (v / side for v, side in zip(sample.target, sides))
        true = (x1, y1, x2, y2)
        overlap = of_lmms_eval.iou(true, box)
        values = {f"acc@{t}": float(overlap >= t) for t in LMMS_EVAL_THRESHOLDS}
        values |= {"iou": overlap, "centre": float(of_lmms_eval.centred(true, box))}
        return Score(values, parsed=list(box))


def box_of(row: Row, width: int, height: int) -> list[float]:
    """The corners of ``bbox``, in pixels. Raises DataError when it is no box, or lies wholly
    outside the picture: no answer could meet it.
    """
    try:
        corners = from_xywh(row["bbox"])
    except (TypeError, ValueError) as e:
        raise DataError(f"'bbox' is {row['bbox']!r:.80}: {e}") from e
    x1, y1, x2, y2 = corners
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise DataError(f"'bbox' {row['bbox']} lies outside its picture of {width}x{height}")
    return list(corners)


class RefCOCOPlus(RefCOCO):
    """As RefCOCO, with expressions that name no place."""

    name = "refcoco+"
    subsets = subsets(
        "refcoco_plus", 1982, "lmms-lab/RefCOCOplus", {"val": None, "testA": None, "testB": None}
    )


class RefCOCOg(RefCOCO):
    """As RefCOCO, with whole sentences."""

    name = "refcocog"
    subsets = subsets("refcocog", 1929, "lmms-lab/RefCOCOg", {"val": (7573, 2573), "test": None})
