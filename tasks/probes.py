"""Probes: questions on drawn scenes that only place, order or time answers, for any model.

Data: scenes are clips (or pages) of white cells with coloured squares, drawn from a seed as they
are asked for; ``evalkit.probes`` says what each probe asks and what can be known from less than the
whole. Nine tasks, ``probe_where`` to ``probe_reading``. Subsets: ``small``, the sizes that lab
models are trained on; ``large``, more seconds, or larger pages; ``shuffled`` and ``first``, the
small ones with the squares moved elsewhere, or shown as far as the first second has them: a score
there above the oracle's means that something else than places was used. Questions of ``fading``
come behind 0 to 1,024 words (``filler``).

Metrics: ``exact``, the first number, colour or yes/no of the answer is the right one; ``distance``,
by how many seconds, rows or columns a number is off, where the answer is a place. Metadata:
``kind``, ``second``, ``row``, ``column`` of the square (``--by second`` gives a map of where a
model fails), and ``apart``, how many seconds the look-alike of a needle is away. Source:
evalkit; its prompts too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import UsageError
from evalkit.probes import PROBES
from evalkit.probes.drawing import clip, frames, png
from evalkit.probes.scene import NAMES, Probe, Question, Range, Scene, View, shown
from evalkit.rows import ask
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Image, Media, MediaBudget, Sample, Score, Video

SEED = 2026
FIRST = "aspect controls events fading lookup needle reading relations where".split()
"""The probes whose scenes are numbered by their place here; later ones by their name."""
SCENES = 200
BUDGET = MediaBudget(fps=2.0, min_pixels=4 * 28 * 28)
"""Scenes are small and are shown as they are."""
WORDS = (0, 32, 256, 1024)
"""Words between scene and question, in turn, for the probe with text between them."""
FILLER = (
    "The museum by the river opens in the morning and closes in the evening; on the market square "
    "there is bread, coffee and sugar, and in winter the bridge to the station is quiet. "
).split()
ABOUT = (
    "The {what} shows a grid of white cells{time}. Seconds, rows and columns are counted from 1, "
    "rows from the top and columns from the left. "
)
READ = re.compile(r"\d+|\b(?:" + "|".join((*NAMES, "yes", "no")) + r")\b")
AXIS = {"when": 0, "start": 0, "row": 1, "column": 2}
"""Kinds that are answered with a place, and the axis on which it lies."""
EXACT = Metric("exact")
DISTANCE = Metric("distance", higher_is_better=False, scale=1.0)
ONES = ("one two three four five six seven eight nine ten eleven twelve").split()


@dataclass(frozen=True)
class Drawn:
    """``scenes`` scenes of one probe from a seed, on grids within ``cells``, of which ``view`` is
    shown: row i is scene i. They are drawn anew each time: a local copy raises UsageError.
    """

    probe: str
    cells: Range
    view: View = "whole"
    scenes: int = SCENES

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        if override:
            raise UsageError(f"probe_{self.probe}: scenes are drawn; --data can't replace them")
        for number in range(self.scenes):
            yield {"number": number}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        cells = self.cells
        return {
            "kind": "drawn",
            "probe": self.probe,
            "cells": {"low": [*cells.low], "high": [*cells.high], "most": cells.most},
            "view": self.view,
            "scenes": self.scenes,
            "seed": SEED,
        }

    def count(self, override: Path | None = None) -> int | None:
        return self.scenes

    def scene(self, number: int, probe: Probe) -> tuple[Scene, Media]:
        """A scene, and the encoded picture or clip of what is shown of it."""
        import numpy as np

        views = ("whole", "shuffled", "blind", "first_second")
        rng = np.random.default_rng([SEED, _stream(self.probe), number])
        scene = probe.scene(rng, self.cells.draw(rng))
        rng = np.random.default_rng([SEED, number, views.index(self.view)])
        images = frames(scene.grid, shown(probe, scene, self.view, rng))
        return scene, Image(png(images[0])) if len(images) == 1 else Video(clip(images))


def _stream(probe: str) -> int:
    """The number of a probe's scenes: that of another must not change with a new one."""
    return FIRST.index(probe) if probe in FIRST else zlib.crc32(probe.encode())


def _subsets(name: str) -> dict[str, Subset]:
    kind = PROBES[name]
    sources = {
        "small": Drawn(name, kind.trained),
        "large": Drawn(name, kind.large),
        "shuffled": Drawn(name, kind.trained, "shuffled"),
    }
    if kind.trained.high[0] > 1:
        sources["first"] = Drawn(name, kind.trained, "first_second")
    return {subset: Subset(source, budget=BUDGET) for subset, source in sources.items()}


class ProbeTask(Task):
    """A probe as a task; subclasses name the probe."""

    probe: ClassVar[str]
    max_new_tokens = 16

    def __init_subclass__(cls, probe: str) -> None:
        kind = PROBES[probe]
        cls.name, cls.probe, cls.description = f"probe_{probe}", probe, kind.title
        cls.subsets = _subsets(probe)
        cls.metrics = (EXACT, DISTANCE) if set(kind.kinds) & set(AXIS) else (EXACT,)
        super().__init_subclass__()
        cls.default_subset = "small"

    def samples(self, row: Row) -> Iterable[Sample]:
        number, source = int(row["number"]), self.source
        assert isinstance(source, Drawn)
        probe = PROBES[self.probe]((10**6,) * 3)  # any place may be asked for
        scene, media = source.scene(number, probe)
        filler = WORDS[number % len(WORDS)] if self.probe == "fading" else 0
        words = (FILLER * (filler // len(FILLER) + 1))[:filler]
        still = isinstance(media, Image)
        about = ABOUT.format(
            what="picture" if still else "clip", time="" if still else ", one second after another"
        )
        between = " ".join([*words, ""])
        for k, question in enumerate(scene.questions):
            yield Sample(
                id=f"{number}-{k}-{question.kind}",
                messages=ask(media, between + about + probe.text(question, scene.grid)),
                target=question.answer,
                cluster=str(number),
                metadata=_about(scene, question) | ({"filler": filler} if words else {}),
            )

    def score(self, sample: Sample, completion: Completion) -> Score:
        answer = read(completion.text, str(sample.target))
        values = {"exact": float(answer == sample.target)}
        if sample.metadata["kind"] in AXIS:
            # an answer without a place is as far off as can be
            most = sample.metadata["most"]
            # six digits are further off than any place, and int() refuses thousands
            far = abs(int(answer[:6]) - int(sample.target)) if answer else most
            values["distance"] = float(min(far, most))
        return Score(values, parsed=answer, unparsed=not answer)


def _about(scene: Scene, question: Question) -> dict[str, Any]:
    """What is known of a question: its kind, and where the square that decides it is."""
    decides = scene.marks[question.marks[-1]]
    second, row, column = (p + 1 for p in decides.place(scene.grid))
    known: dict[str, Any] = {
        "kind": question.kind,
        "grid": "x".join(map(str, scene.grid)),
        "second": second,
        "row": row,
        "column": column,
        "place": f"{second}-{row}-{column}",
    }
    if question.kind in AXIS:
        known["most"] = scene.grid[AXIS[question.kind]] - 1
    if question.kind == "needle":
        known["apart"] = abs(second - 1 - scene.marks[1].place(scene.grid)[0])
    return known


def read(text: str, target: str) -> str:
    """The first answer of the target's kind in a text: a number (also in words), a colour, or yes
    or no; empty where there is none.
    """
    text = text.lower()
    if target.isdecimal():
        for i, word in enumerate(ONES, 1):
            text = re.sub(rf"\b{word}\b", str(i), text)
        found = [w.lstrip("0") or "0" for w in READ.findall(text) if w.isdecimal() and w.isascii()]
    else:
        options = ("yes", "no") if target in ("yes", "no") else NAMES
        found = [w for w in READ.findall(text) if w in options]
    return found[0] if found else ""


class ProbeWhere(ProbeTask, probe="where"):
    pass


class ProbeRelations(ProbeTask, probe="relations"):
    pass


class ProbeLookup(ProbeTask, probe="lookup"):
    pass


class ProbeControls(ProbeTask, probe="controls"):
    pass


class ProbeEvents(ProbeTask, probe="events"):
    pass


class ProbeNeedle(ProbeTask, probe="needle"):
    pass


class ProbeFading(ProbeTask, probe="fading"):
    pass


class ProbeAspect(ProbeTask, probe="aspect"):
    pass


class ProbeReading(ProbeTask, probe="reading"):
    pass
