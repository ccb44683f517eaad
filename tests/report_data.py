"""Results of made-up runs with hostile text in them, for the tests of the report; no model
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.adapter import ModelAdapter
from evalkit.cell import Cell
from evalkit.runner import run_cell
from evalkit.task import load_task
from evalkit.types import Completion, Request, TokenCounts

HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x "
    "onerror=\"document.title='broken'\">\u2028|"
)
TASK = """
import io
from PIL import Image as Picture
from evalkit.task import Metric, Subset, Task
from evalkit.types import Image, Message, Sample, Score, Text

class Rows:
    def rows(self, override=None):
        for i in range(COUNT):
            yield {"i": i}
    def describe(self, override=None):
        return {"kind": "made"}

class Boxes(Task):
    name = "boxes"
    subsets = {"all": Subset(Rows())}
    metrics = (Metric("acc@0.5"), Metric("iou"))
    def samples(self, row):
        i = row["i"]
        picture = io.BytesIO()
        Picture.new("RGB", (100, 60), (i % 256, i // 256 % 256, 99)).save(picture, "PNG")
        parts = (Image(picture.getvalue()), Text(f"Where is thing {i}? <b>"))
        metadata = {"lang": "<i>" if i % 2 else "$&"}
        box = [10.0, 10.0, 50.0, 40.0]
        yield Sample(str(i), (Message("user", parts),), box, (), str(i), metadata)
    def score(self, sample, completion):
        if completion.text == "?":
            return Score({"acc@0.5": 0.0, "iou": 0.0}, unparsed=True)
        iou = (int(sample.id) % 11) / 10
        return Score({"acc@0.5": float(iou >= 0.5), "iou": iou}, parsed=[12.0, 8.0, 52.0, 41.0])
"""


class Speaker(ModelAdapter):
    """Says something hostile on sample 3; as the second model it also fails on 5, mumbles on 4 and
    differs on every tenth.
    """

    name = "speaker"

    def __init__(self, model: str) -> None:
        self.model = model

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "model": self.model}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for r in requests:
            n, second = int(r.id), self.model == "second"
            if second and n == 5:
                yield Completion(r.id, finish_reason="error", error=HOSTILE)
            else:
                text = (
                    HOSTILE
                    if n == 3
                    else "?"
                    if second and n == 4
                    else f"(12,8),(52,{41 + (second and n % 10 == 0)})"
                )
                yield Completion(r.id, text, tokens=TokenCounts(5, 10 + n % 50, 3))


ATTACKS = (
    "</script><script>ran('closed')</script>",
    "<img src=x onerror=ran('img')><svg onload=ran('svg')>",
    "'\\\"><a href=javascript:ran('link') autofocus onfocus=ran('focus')>x</a>",
    "@@SCRIPT@@@@CONTENTS@@@@BODY@@ ${ran('template')} {{ran('braces')}}",
    "<!--<script>ran('comment')//--><style>@import 'http://evil.invalid/x';</style>",
    "<iframe srcdoc=\"<script>parent.ran('frame')</script>\"></iframe><base href=//evil.invalid>",
    "<form action=//evil.invalid><button>x</button></form><meta http-equiv=refresh content=0>",
    "\u2028\u2029];ran('line');//\u202e\x1b[31m\x00",
)
"""What would call ``ran``, or another host, if a page took it for markup."""
HOSTILE_TASK = """
from evalkit.task import Metric, Subset, Task
from evalkit.types import Message, Sample, Score, Text

ATTACKS = {attacks!r}

class Rows:
    def rows(self, override=None):
        yield from ({{"text": text}} for text in ATTACKS)
    def describe(self, override=None):
        return {{"kind": ATTACKS[0]}}

class Hostile(Task):
    name = "hostile"
    subsets = {{ATTACKS[1]: Subset(Rows())}}
    metrics = (Metric(ATTACKS[2]), Metric("__proto__"))
    def samples(self, row):
        t = row["text"]
        metadata = {{t: t, "__proto__": t, "constructor": t}}
        yield Sample(t, (Message("user", (Text(t),)),), t, (t, t), t, metadata)
    def score(self, sample, completion):
        return Score({{ATTACKS[2]: 1.0, "__proto__": 0.0}}, parsed=completion.text)
"""


class Hostile(ModelAdapter):
    """Answers with an attack, or fails with it."""

    name = ATTACKS[0]

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "switches": {ATTACKS[1]: ATTACKS[2]}, "fails": self.fails}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for r in requests:
            if self.fails:
                yield Completion(r.id, finish_reason="error", error=r.id)
            else:
                yield Completion(r.id, r.id)


def write_hostile_results(folder: Path, model: str) -> Path:
    """Cells of a model with an attack in every field that a page shows; returns the output
    folder.
    """
    file = folder / "hostile.py"
    file.write_text(HOSTILE_TASK.format(attacks=ATTACKS), encoding="utf-8")
    for fails in (False, True):
        cell = Cell.make(load_task(str(file)), Hostile(fails), model, folder / "results")
        run_cell(cell, progress=False)
    return folder / "results"


def write_results(folder: Path, count: int) -> Path:
    """Runs the models ``first`` and ``second`` on ``count`` samples; returns the output folder."""
    task = folder / "boxes.py"
    task.write_text(TASK.replace("COUNT", str(count)), encoding="utf-8")
    for model in ("first", "second"):
        cell = Cell.make(load_task(str(task)), Speaker(model), model, folder / "results")
        run_cell(cell, progress=False)
    return folder / "results"
