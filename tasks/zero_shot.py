"""Zero-shot classification: which of a set of classes a picture shows.

Data: a folder with a folder of pictures for each class, as `imagefolder` of `datasets` has it
(``--data zero_shot:folder=PATH``); a class is called as its folder is, or as ``classes.txt`` beside
the folders says, one ``folder name`` a line (``n01440764 tench, Tinca tinca``). ``shapes``: 60
pictures of six shapes, drawn here from a seed. Metrics: accuracy, and whether the right class is
among the five likeliest. Choices are ranked, not generated, for models that match pictures and
texts, classifiers, and language models that give log-likelihoods. Paper: Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision" (ICML 2021), section 3.1. Prompt:
evalkit's own, a plain question; models that match texts put the class into a template instead. A
picture whose class a model has no score for is unparsed.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import DataError, UsageError
from evalkit.rows import ask, image, string, strings
from evalkit.sources import Folder
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import UNSCORED, Completion, Sample, Score

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

QUESTION = "What does this picture show?\nAnswer with its name alone."
NAMES = "classes.txt"
SIDES = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}
SHAPES = (*SIDES, "circle", "star")
EACH, SIDE = 10, 64


@dataclass(frozen=True)
class ClassFolders:
    """Rows ``name``, ``image``, ``label`` and ``labels`` (of all) from a folder of folders."""

    place: ClassVar[str] = "a folder of yours"

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        root = _given(override)
        found = [r for r in Folder(root).rows() if r["folder"]]
        folders = sorted({r["folder"].split("/")[0] for r in found})
        named = _names(root / NAMES)
        labels = [named.get(f, f.replace("_", " ")) for f in folders]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise DataError(f"{root}: two classes are called {twice[0]!r}")
        for row in found:
            label = labels[folders.index(row["folder"].split("/")[0])]
            name = f"{row['folder']}/{row['name']}"
            yield {"name": name, "image": row["image"], "label": label, "labels": labels}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        return Folder(_given(override)).describe(override)

    def count(self, override: Path | None = None) -> int | None:
        return sum(bool(r["folder"]) for r in Folder(_given(override)).rows())


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise UsageError(
            "zero_shot:folder has no data of its own: give a folder of class folders, "
            "--data zero_shot:folder=PATH"
        )
    return folder


def _names(file: Path) -> dict[str, str]:
    """Names of classes by folder, as ``classes.txt`` has them."""
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    pairs = [line.strip().partition(" ") for line in lines if line.strip()]
    return {folder: name.strip() for folder, _, name in pairs if name.strip()}


@dataclass(frozen=True)
class Shapes:
    """Drawn pictures in the same columns."""

    place: ClassVar[str] = "drawn when it runs"

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        if override:
            yield from ClassFolders().rows(override)
            return
        for i in range(EACH * len(SHAPES)):
            buffer = io.BytesIO()
            label = SHAPES[i % len(SHAPES)]
            drawn(label, i).save(buffer, "PNG")
            yield {
                "name": f"{label}-{i // len(SHAPES)}",
                "image": buffer.getvalue(),
                "label": label,
                "labels": list(SHAPES),
            }

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        if override:
            return ClassFolders().describe(override)
        pixels = (drawn(SHAPES[i % len(SHAPES)], i).tobytes() for i in range(EACH * len(SHAPES)))
        return {"kind": "drawn", "sha256": hashlib.sha256(b"".join(pixels)).hexdigest()}

    def count(self, override: Path | None = None) -> int | None:
        return ClassFolders().count(override) if override else EACH * len(SHAPES)


def drawn(shape: str, seed: int) -> PillowImage:
    """A picture [64 x 64] of a shape: size, place, turn and two shades from the seed."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    ground = rng.randrange(160, 256)
    shade = tuple(rng.randrange(0, 120) for _ in range(3))
    picture = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    pen, radius = ImageDraw.Draw(picture), rng.uniform(12, 22)
    x, y = (rng.uniform(radius + 2, SIDE - radius - 2) for _ in range(2))
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)
        return picture
    corners, turn = (10 if shape == "star" else SIDES[shape]), rng.uniform(0, 2 * math.pi)
    reach = [radius * (0.45 if shape == "star" and k % 2 else 1) for k in range(corners)]
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    pen.polygon(
        [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(reach, angles)], fill=shade
    )
    return picture


class ZeroShot(Task):
    """One sample a picture; the target is the name of its class."""

    name = "zero_shot"
    version = 1
    description = "which of a folder's classes a picture shows (ranked, accuracy)"
    metrics = (Metric("accuracy"), Metric("top5"))
    rank = True
    subsets: ClassVar = {"shapes": Subset(Shapes()), "folder": Subset(ClassFolders())}

    def samples(self, row: Row) -> Iterable[Sample]:
        label, labels = string(row, "label"), strings(row, "labels")
        if len(labels) < 2:
            raise DataError(f"one class, {label!r}: there is nothing to tell apart")
        yield Sample(
            messages=ask(image(row), QUESTION),
            target=label,
            choices=tuple(labels),
            metadata={"label": label, "chance": 1 / len(labels)},
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        place = sample.choices.index(sample.target)
        scores = completion.logprobs
        if len(scores) == len(sample.choices) and scores[place] <= UNSCORED:
            return Score({"accuracy": 0.0, "top5": 0.0}, parsed=completion.text, unparsed=True)
        right = float(completion.text == sample.target)
        above = sum(s > scores[place] for s in scores) if scores else 5 * (1 - right)
        return Score(
            {"accuracy": right, "top5": float(above < 5)},
            parsed=completion.text,
            unparsed=completion.text not in sample.choices,
        )
