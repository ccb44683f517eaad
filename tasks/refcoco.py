"""RefCOCO, RefCOCO+ and RefCOCOg: find the one object that an expression refers to.

Data: `lmms-lab/RefCOCO`, `lmms-lab/RefCOCOplus` and `lmms-lab/RefCOCOg` on the hub; a row is one
object with a box and several expressions. RefCOCO+ forbids words of place, RefCOCOg has long
sentences. ``mini``: about 200 expressions for scenes of coloured shapes drawn by evalkit, in the
same columns. Papers: Yu et al., "Modeling Context in Referring Expressions" (ECCV 2016); Mao et
al., "Generation and Comprehension of Unambiguous Object Descriptions" (CVPR 2016). Metric: share of
expressions whose first predicted box has an IoU of at least 0.5 with the true one; also at 0.75 and
0.9, and the mean IoU. The prompt is that of the Qwen2-VL paper's figure; the prompt behind its
published scores is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evalkit.errors import DataError, UsageError
from evalkit.metrics.boxes import from_xywh, iou, parse_box
from evalkit.sources import Embedded, Hub, image, image_size, strings, tier
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, MediaBudget, Message, Sample, Score, Text

COLUMNS = ("question_id", "image", "answer", "bbox", "file_name")
BUDGET = MediaBudget(min_pixels=1280 * 28 * 28, max_pixels=16384 * 28 * 28)
THRESHOLDS = (0.5, 0.75, 0.9)


def prompt(expression: str) -> str:
    return f'Detect the bounding box of "{expression}".'


def subsets(folder: str, repository: str, splits: Iterable[str]) -> Mapping[str, Subset]:
    official = {
        s: Subset(Hub(repository=repository, split=s, columns=COLUMNS), budget=BUDGET)
        for s in splits
    }
    return {"mini": Subset(Embedded(folder=folder, split="val", columns=COLUMNS)), **official}


class RefCOCO(Task):
    """One sample per expression; the target is ``[x1, y1, x2, y2]`` in pixels, expressions for the
    same image are one cluster.
    """

    name = "refcoco"
    version = 1
    description = "boxes for referring expressions (accuracy at IoU 0.5)"
    metrics = (*(Metric(f"acc@{t}") for t in THRESHOLDS), Metric("iou"))
    subsets = subsets("refcoco", "lmms-lab/RefCOCO", ("val", "testA", "testB"))

    def samples(self, row: Row) -> Iterable[Sample]:
        object_id, file_name = row["question_id"], str(row["file_name"])
        where = f"object {object_id} of {file_name}"
        expressions = strings(row, where, "answer")
        if not expressions:
            raise DataError(f"{where}: 'answer' has no expression")
        picture = image(row, where)
        try:
            width, height = image_size(picture)
            target = list(from_xywh(row["bbox"]))
        except (DataError, TypeError, ValueError) as e:
            raise DataError(f"{where}: {e}") from e
        level = tier(file_name)
        metadata = {"width": width, "height": height, **({"tier": level} if level else {})}
        for i, expression in enumerate(expressions):
            yield Sample(
                id=f"{object_id}-{i}",
                messages=(Message("user", (picture, Text(prompt(expression)))),),
                target=target,
                cluster=file_name,
                metadata=metadata,
            )

    def score(self, sample: Sample, completion: Completion) -> Score:
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


class RefCOCOPlus(RefCOCO):
    """As RefCOCO, with expressions that name no place."""

    name = "refcoco+"
    subsets = subsets("refcoco_plus", "lmms-lab/RefCOCOplus", ("val", "testA", "testB"))


class RefCOCOg(RefCOCO):
    """As RefCOCO, with whole sentences."""

    name = "refcocog"
    subsets = subsets("refcocog", "lmms-lab/RefCOCOg", ("val", "test"))
