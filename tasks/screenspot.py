"""ScreenSpot: find the element of a screenshot that an instruction means.

Data: `rootsautomation/ScreenSpot` (test, 1,272 instructions, Apache-2.0 by its card) and, with
mended labels, `HongxinLi/ScreenSpot_v2` (test, 1,272; the authors' own release of these is
Apache-2.0), columns image, bbox (corners, as parts of width and height), instruction, data_type
(text or icon), data_source (ios, windows, shop, ...); the first also file_name. ``pro``:
`lmms-lab/ScreenSpot-Pro` (train, 1,581 instructions for professional software on screens of up to
6,016 by 3,384 pixels), a table of the authors' `likaixin/ScreenSpot-Pro`, columns id, image, bbox
(corners in pixels of img_size), instruction, ui_type, application, platform, group. Papers: Cheng
et al., "SeeClick" (ACL 2024); Wu et al., "OS-ATLAS" (ICLR 2025) for v2; Li et al., "ScreenSpot-Pro"
(2025). Metric: share of answers whose point, or whose box's centre, lies in the element's box,
edges included, as in the authors' scripts; ``--by platform``, ``--by data_type`` or (``pro``)
``--by group`` shows the columns of their tables. Prompts: SeeClick's, in its form for boxes; for
``pro`` the one of its authors for Qwen2-VL; those of lmms-eval, VLMEvalKit, and of ``pro``
EvalScope. Screens of over 12.8 million pixels are scaled down to these by default, by lmms-eval's
wrapper to 0.6 million. Coordinates are read in the space that the model
declares; the harnesses' prompts name another, in which their answers are read under their
protocols.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from evalkit.errors import DataError, UsageError
from evalkit.metrics.boxes import Box, Point, centre, parse_box, parse_point
from evalkit.metrics.clicks import (
    evalscope_point,
    lmms_eval_box,
    lmms_eval_pixels,
    lmms_eval_point,
    vlmevalkit_click,
)
from evalkit.protocols import DEFAULT, QWEN2_VL_PIXELS, Protocol, evalscope, lmms_eval
from evalkit.rows import image, image_size, string
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

COLUMNS = ("image", "bbox", "instruction", "data_type", "data_source")
PRO_COLUMNS = (
    *("id", "image", "bbox", "img_size", "instruction", "ui_type", "application", "platform"),
    "group",
)
PLATFORMS = {"ios": "mobile", "android": "mobile", "macos": "desktop", "windows": "desktop"}
"""Of data sources; all others are web pages."""

SEECLICK = Protocol(
    origin="SeeClick, README and screenspot_test.py (in its form for boxes)",
    prompt="In this UI screenshot, what is the position of the element corresponding to the "
    'command "{instruction}" (with bbox)?',
)
CLICK = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/GUI/screenspot.py",
    prompt="Please complete the following tasks by clicking using `pyautogui.click`:\n"
    "{instruction}",
    system="You are a GUI agent. You are given a task and a screenshot of the screen. You need to "
    "perform pyautogui click/moveTo action to complete the task. The answer format is "
    "`pyautogui.click(x=?, y=?), x and y is necessary`",
    reader="vlmevalkit",
    note="an answer without a click counts as the top left corner in VLMEvalKit; here as unparsed",
)
V1 = {
    DEFAULT: SEECLICK,
    "vlmevalkit": CLICK,
    "lmms-eval": lmms_eval(
        "screenspot, utils_rec.py (Center_ACC)",
        "Bounding box coordinates are specified in the format (top-left x, top-left y, "
        "bottom-right x, bottom-right y). All values are floating point numbers bounded between 0 "
        "and 1 with two decimal places of precision (e.g., 0.15). Please provide the bounding box "
        "coordinates of the region that corresponds to the command: {instruction}",
        stop=("ASSISTANT:",),
        reader="lmms-eval box",
    ),
}
V2 = {
    DEFAULT: SEECLICK,
    "vlmevalkit": CLICK,
    "lmms-eval": lmms_eval(
        "screenspot_v2",
        "Identify the UI element for the instruction and output exactly one click point as "
        "[x, y] in normalized coordinates within [0, 1]. Do not output a bounding box.\n"
        "Instruction: {instruction}",
        reader="lmms-eval point",
    ),
}

PRO = {
    DEFAULT: Protocol(
        origin="ScreenSpot-Pro, models/qwen2vl.py",
        prompt='Output the bounding box in the image corresponding to the instruction "'
        '{instruction}" with grounding.',
    ),
    "vlmevalkit": CLICK,
    "lmms-eval": replace(
        V2["lmms-eval"],
        origin="lmms-eval 0.7.3, tasks/screenspot_pro, models/simple/qwen2_vl.py",
        reader="lmms-eval pixels",
    ),
    "evalscope": replace(
        evalscope(
            "screenspot_pro",
            "Identify the UI element for the instruction and give a single click point. "
            "Coordinates must be normalized to the range 0 to 1 relative to the image size. Do not "
            "output a bounding box.\nInstruction: {instruction}\n"
            "End your reply with the final answer on its own last line, formatted exactly as: "
            "Answer: [x, y]",
            reader="evalscope",
        ),
        media="first",
    ),
}

READERS = {
    "lmms-eval box": lmms_eval_box,
    "lmms-eval point": lmms_eval_point,
    "lmms-eval pixels": lmms_eval_pixels,
    "evalscope": evalscope_point,
    "vlmevalkit": vlmevalkit_click,
}


def elements(repository: str, protocols: dict[str, Protocol], *more: str) -> Subset:
    source = Hub(repository=repository, split="test", columns=(*COLUMNS, *more))
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=protocols, size=1272)


class ScreenSpot(Task):
    """One sample per row; the target is the element's box in pixels, instructions for one
    screenshot are one cluster. Scoring raises UsageError for a model without a box space.
    """

    name = "screenspot"
    version = 2  # 1 read by an older rule of lmms-eval under its protocol
    description = "elements of screenshots, by point or box (accuracy)"
    metrics = (Metric("accuracy"),)
    subsets: ClassVar = {
        "v1": elements("rootsautomation/ScreenSpot", V1, "file_name"),
        "v2": elements("HongxinLi/ScreenSpot_v2", V2),
        "pro": Subset(
            Hub(repository="lmms-lab/ScreenSpot-Pro", split="train", columns=PRO_COLUMNS),
            budget=QWEN2_VL_PIXELS,
            protocols=PRO,
            size=1581,
        ),
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        screen = image(row)
        width, height = image_size(screen)
        name = string(row, "file_name") if self.subset_name == "v1" else ""
        pro = self.subset_name == "pro"
        yield Sample(
            id=string(row, "id") if pro else "",
            messages=self.ask(screen, instruction=string(row, "instruction")),
            target=box_of(row, width, height, numbers(row, "img_size", 2) if pro else (1, 1)),
            cluster=name or hashlib.sha256(screen.read()).hexdigest()[:16],
            metadata={
                **(of_software(row) if pro else of_place(row)),
                "width": width,
                "height": height,
            },
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        width, height = sample.metadata["width"], sample.metadata["height"]
        if self.protocol.reader:
            point = READERS[self.protocol.reader](completion.text, width, height)
        elif completion.box_space is None:
            raise UsageError(
                f"task {self.name!r} needs a model that draws boxes or points, and this adapter "
                "declares no box space"
            )
        else:
            point = located(completion.text, completion.box_space, width, height)
        x1, y1, x2, y2 = sample.target
        inside = point is not None and x1 <= point[0] <= x2 and y1 <= point[1] <= y2
        parsed = list(point) if point else None
        return Score({"accuracy": float(inside)}, parsed=parsed, unparsed=point is None)


def located(text: str, space: str, width: int, height: int) -> Point | None:
    """The centre of an answer's first box, or, where it has no box, its first point, in pixels;
    None where it has neither.
    """
    box = parse_box(text, space, width, height)
    return centre(box) if box else parse_point(text, space, width, height)


def of_place(row: Row) -> dict[str, str]:
    """Where an element of v1 and v2 is, for the metadata."""
    source = string(row, "data_source")
    return {
        "platform": PLATFORMS.get(source.lower(), "web"),
        "data_type": string(row, "data_type"),
        "data_source": source,
    }


def of_software(row: Row) -> dict[str, str]:
    """The same of ``pro``."""
    same = {c: string(row, c) for c in ("platform", "group", "application")}
    return {"data_type": string(row, "ui_type"), **same}


def numbers(row: Row, column: str, n: int) -> tuple[float, ...]:
    """The numbers of a column that holds ``n``. Raises DataError."""
    value = row[column]
    try:
        read = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        read = ()
    if len(read) != n or not all(map(math.isfinite, read)):
        raise DataError(f"{column!r} is {value!r:.80}, not {n} numbers")
    return read


def box_of(row: Row, width: int, height: int, sides: Sequence[float] = (1, 1)) -> Box:
    """The corners of ``bbox``, which are given for a picture of the ``sides``, in pixels. Raises
    DataError for what is no box, or lies outside the picture.
    """
    box, (w, h) = row["bbox"], sides
    if w <= 0 or h <= 0:
        raise DataError(f"'img_size' is {row['img_size']!r:.80}, no size")
    x1, y1, x2, y2 = (v / s for v, s in zip(numbers(row, "bbox", 4), (w, h, w, h)))
    # a hundredth is left for rounding; pixels are far beyond it
    if not (x1 < x2 <= 1.01 and y1 < y2 <= 1.01 and x1 < 1 and y1 < 1 and x2 > 0 and y2 > 0):
        raise DataError(
            f"'bbox' is {box!r:.80}, not corners in a picture of {w:g} by {h:g}: x1 < x2, y1 < y2"
        )
    return x1 * width, y1 * height, x2 * width, y2 * height
