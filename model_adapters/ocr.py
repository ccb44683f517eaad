"""A baseline that reads and does not understand: an OCR engine, and a rule for questions.

RapidOCR (extra ``ocr``; PP-OCRv4 for Chinese and Latin letters, its weights in the package) finds
and reads words. They are put into rows by height and into cells by gaps. The answer is

1. the row that the question numbers (``line 2``);
2. else the cell beside the cell that the question names (``What is the TOTAL?``), or where row and
   column of two named cells cross (``the MASS of LAMP``);
3. else all text, in reading order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import ModelAdapter, answer_each, media_of
from evalkit.digests import file_digest
from evalkit.errors import DataError, UsageError
from evalkit.media import decode_image
from evalkit.types import Completion, Image, Request, Text

ENGINE = "rapidocr-onnxruntime"
APART = 1.0
"""A gap between words, in their height, beyond which they are two cells."""


@dataclass(frozen=True)
class Cell:
    """Text that stands together: its left and right side, its top and bottom, in pixels."""

    text: str
    left: float
    right: float
    top: float
    bottom: float

    @property
    def height(self) -> float:
        return self.bottom - self.top


class OcrAdapter(ModelAdapter):
    """RapidOCR as a model. ``model`` is ``rapidocr``. Words that it is less sure of than ``least``
    (0 to 1) are left out. Raises UsageError where RapidOCR is not installed.
    """

    name = "ocr"

    def __init__(self, model: str = "rapidocr", *, least: float = 0.5) -> None:
        if model != "rapidocr":
            raise UsageError(f"{model}: adapter {self.name!r} has one model, rapidocr")
        try:
            import rapidocr_onnxruntime
        except ImportError as e:
            raise UsageError(f"{self.name!r} needs {ENGINE}: pip install 'evalkit[ocr]'") from e
        if not 0 <= least <= 1:
            raise UsageError(f"least={least!r}: expected a number from 0 to 1")
        self.folder, self.least = Path(rapidocr_onnxruntime.__file__).parent, least
        self._rows = lru_cache(maxsize=16)(self._read)

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        files = sorted(f for f in self.folder.rglob("*") if f.suffix in (".onnx", ".yaml"))
        told = "\n".join(f"{f.name}:{file_digest(f)}" for f in files)
        return {
            "adapter": self.name,
            "engine": f"{ENGINE} {version(ENGINE)}",
            "weights": hashlib.sha256(told.encode()).hexdigest(),
            "least": self.least,
        }

    @cached_property
    def engine(self) -> Any:
        from rapidocr_onnxruntime import RapidOCR

        return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return answer_each(requests, self._answer)

    def _answer(self, request: Request) -> Completion:
        shown = media_of(request.messages)
        if not shown or not all(isinstance(part, Image) for part in shown):
            raise DataError(f"adapter {self.name!r} reads images, and no videos")
        rows = [
            row
            for part in shown
            if isinstance(part, Image)
            for row in self._rows(part.digest, part)
        ]
        said = [p.text for m in request.messages for p in m.content if isinstance(p, Text)]
        return Completion(request.id, answer("\n".join(said), rows))

    def _read(self, digest: str, image: Image) -> list[list[Cell]]:
        """The rows of an image, each of cells from left to right; kept by the digest, since a file
        may become another.
        """
        pixels = np.asarray(decode_image(image).convert("RGB"))[:, :, ::-1]  # as OpenCV has them
        found, _ = self.engine(np.ascontiguousarray(pixels))
        words = [
            Cell(
                text,
                min(x for x, _ in corners),
                max(x for x, _ in corners),
                min(y for _, y in corners),
                max(y for _, y in corners),
            )
            for corners, text, sure in found or []
            if float(sure) >= self.least
        ]
        return [cells(row) for row in rows_of(words)]


def rows_of(words: Iterable[Cell]) -> list[list[Cell]]:
    """Words by rows, top to bottom: one belongs to the last row if its middle is within that row's
    first word's height.
    """
    rows: list[list[Cell]] = []
    for word in sorted(words, key=lambda w: w.top + w.bottom):
        middle = (word.top + word.bottom) / 2
        if rows and rows[-1][0].top <= middle <= rows[-1][0].bottom:
            rows[-1].append(word)
        else:
            rows.append([word])
    return [sorted(row, key=lambda w: w.left) for row in rows]


def cells(row: Sequence[Cell]) -> list[Cell]:
    """The words of a row, those that stand together joined."""
    out: list[Cell] = []
    for word in row:
        last = out[-1] if out else None
        gap = (word.left - last.right) / max(word.height, 1) if last else APART
        if last is None or gap >= APART:
            out.append(word)
            continue
        spaced = len(word.text) == 1 or len(last.text.split(" ")[-1]) == 1  # letter by letter
        text = f"{last.text}{'' if spaced else ' '}{word.text}"
        top, bottom = min(last.top, word.top), max(last.bottom, word.bottom)
        out[-1] = Cell(text, last.left, word.right, top, bottom)
    return out


def answer(question: str, rows: Sequence[Sequence[Cell]]) -> str:
    """What the rule gives for a question."""
    lines = [" ".join(cell.text for cell in row) for row in rows]
    if numbered := re.search(r"\bline (\d{1,3})\b", question, re.IGNORECASE):
        number = int(numbered[1])
        return lines[number - 1] if 1 <= number <= len(lines) else ""
    asked = f" {plain(question)} "
    named = [
        (i, k)
        for i, row in enumerate(rows)
        for k, cell in enumerate(row)
        if plain(cell.text) and f" {plain(cell.text)} " in asked
    ]
    if not named:
        return " ".join(lines)
    if crossing := _crossing(named, rows):
        return crossing
    # of several, the longest is what the question is about
    i, k = max(named, key=lambda place: len(rows[place[0]][place[1]].text))
    return _beside(i, k, rows)


def plain(text: str) -> str:
    """Words in lower case, without marks."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _crossing(named: Sequence[tuple[int, int]], rows: Sequence[Sequence[Cell]]) -> str:
    """The cell in the row of one named cell and the column of another, above it or left of it."""
    for head_row, head_column in named:
        head = rows[head_row][head_column]
        for i, k in named:
            if i <= head_row or rows[i][k].right > head.left:
                continue
            middle = (head.left + head.right) / 2
            others = [c for c in rows[i][k + 1 :] if c.left <= middle <= c.right]
            if others:
                return others[0].text
    return ""


def _beside(i: int, k: int, rows: Sequence[Sequence[Cell]]) -> str:
    """The cell on the right of one; where there is none, that below it."""
    cell, row = rows[i][k], rows[i]
    if k + 1 < len(row):
        return row[k + 1].text
    below = rows[i + 1] if i + 1 < len(rows) else []
    under = [c for c in below if c.left < cell.right and c.right > cell.left]
    return under[0].text if under else ""
