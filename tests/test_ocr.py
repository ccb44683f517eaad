"""The OCR baseline: what its rule answers, and that the engine reads a drawn page."""

from __future__ import annotations

import io

import pytest
from evalkit.model_adapters.ocr import Cell, OcrAdapter, answer, cells, rows_of
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from evalkit.errors import UsageError
from evalkit.types import Image, Message, Request, Text, Video


def word(text: str, left: float, top: float) -> Cell:
    return Cell(text, left, left + 10 * len(text), top, top + 20)


PAGE = [
    [word("ITEM", 0, 0), word("MASS", 100, 0), word("COST", 200, 0)],
    [word("LAMP", 0, 30), word("320", 100, 30), word("7", 215, 30)],
    [word("Grand total", 0, 60), word("12.50", 200, 60)],
    [word("Signed by", 0, 90)],
    [word("A. Bell", 5, 120)],
]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("What is the MASS of LAMP?", "320"),
        ("What is the cost of the lamp?", "7"),
        ("What is the grand total?", "12.50"),
        ("Signed by whom?", "A. Bell"),
        ("What is line 2?", "LAMP 320 7"),
        ("What is line 9?", ""),
        ("What is the text?", "ITEM MASS COST LAMP 320 7 Grand total 12.50 Signed by A. Bell"),
    ],
)
def test_the_rule_reads_beside_below_and_across(question: str, said: str) -> None:
    assert answer(question, PAGE) == said


def test_words_become_rows_and_cells() -> None:
    words = [word("b", 40, 2), word("c", 80, 0), word("a", 24, 0), word("low", 0, 40)]
    rows = rows_of([*words, word("down", 35, 42)])
    assert [[w.text for w in row] for row in rows] == [["a", "b", "c"], ["low", "down"]]
    assert [c.text for c in cells(rows[0])] == ["ab", "c"]  # written letter by letter
    assert [c.text for c in cells(rows[1])] == ["low down"]


@pytest.mark.optional
def test_the_engine_reads_a_page() -> None:
    page = PILImage.new("RGB", (260, 90), "white")
    font = ImageFont.load_default(28)
    for i, line in enumerate(("CODE      610", "ZONE      WEST")):
        ImageDraw.Draw(page).text((8, 8 + 40 * i), line, "black", font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    adapter = OcrAdapter()

    def ask(id: str, media: Image | Video) -> Request:
        return Request(id, (Message("user", (media, Text("What is the ZONE?"))),))

    out = {
        c.id: c
        for c in adapter.generate(
            [
                ask("page", Image(buffer.getvalue())),
                ask("bad", Image(b"?")),
                ask("clip", Video(b"")),
            ]
        )
    }
    assert out["page"].text == "WEST"
    assert "unreadable" in str(out["bad"].error) and "no videos" in str(out["clip"].error)
    assert adapter.fingerprint["engine"].startswith("rapidocr-onnxruntime ")


def test_another_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="has one model, rapidocr"):
        OcrAdapter("tesseract")
