"""The drawn data: repeatable, apart from what training draws, in the official columns, and answerable."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalkit.nano import mini
from evalkit.nano.fonts import font
from evalkit.nano.grounding import COLOURS, Thing, refer
from evalkit.nano.grounding import draw as draw_grounding
from evalkit.nano.scene import FAMILIES, Scene, draw, stream
from evalkit.nano.wordlists import WORDS
from evalkit.nano.words import fonts_for

MANIFEST = json.loads((mini.HERE / "manifest.json").read_text())


def content(scene: Scene) -> bytes:
    return (scene.image.tobytes() if scene.image is not None else scene.frames.tobytes()) + repr(scene.questions).encode()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_streams_draw_equal_scenes(family: str) -> None:
    for difficulty in (0.0, 0.1, 0.25, 0.9):
        a, b = (draw(family, difficulty, stream("train", 3, 1, 4)) for _ in range(2))  # type: ignore[arg-type]
        assert content(a) == content(b)


def test_shipped_files_are_those_of_the_manifest() -> None:
    files = [p for p in mini.HERE.rglob("*") if p.suffix in (".parquet", ".mp4")]
    assert {str(p.relative_to(mini.HERE)) for p in files} == set(MANIFEST["sha256"])
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == MANIFEST["sha256"][str(path.relative_to(mini.HERE))]


def test_shipped_rows_are_drawn_again_from_their_seed() -> None:
    stored = pq.read_table(mini.HERE / "docvqa" / "validation-00000-of-00001.parquet").to_pylist()
    for row, again in zip(stored[:8], mini.docvqa_rows()):
        assert {k: v for k, v in row.items() if k != "image"} == {k: v for k, v in again.items() if k != "image"}
        assert row["image"]["bytes"] == again["image"]["bytes"]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_never_draws_a_shipped_scene(family: str) -> None:
    """By construction the streams differ; 1,500 training scenes at the shipped difficulties share no picture with questions."""
    key = {"documents": 1, "grounding": 2, "clips": 5, "words": 6}[family]
    shipped = {content(s) for _, _, s in mini.scenes(key, 25, mini.of(family))}  # type: ignore[arg-type]
    rng = stream("train", mini.SEED, 0)
    drawn = {content(draw(family, d, rng)) for d in (0.1, 0.25, 0.7) for _ in range(500 if family != "clips" else 100)}  # type: ignore[arg-type]
    assert not shipped & drawn


def test_every_expression_fits_one_object_alone() -> None:
    """Judged anew from the words: attributes, then size or place among what the attributes leave."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene = draw_grounding(float(rng.uniform(0, 1)), rng, str(rng.choice(["free", "attribute", "sentence"])))
        assert scene.image is not None
        for question in scene.questions:
            x, y, w, h = question.box  # type: ignore[misc]
            assert x >= 0 and y >= 0 and x + w <= scene.image.width and y + h <= scene.image.height
            assert re.fullmatch(r"\(\d{1,3},\d{1,3}\),\(\d{1,3},\d{1,3}\)", question.answer)


def test_attributes_alone_are_used_only_when_they_tell_the_object() -> None:
    red, other = Thing("red", "circle", 0, 0, 20), Thing("red", "circle", 100, 0, 20)
    rng = np.random.default_rng(0)
    assert refer([red, other], 0, "attribute", 0.5, rng) is None
    assert refer([red, other], 0, "free", 0.5, rng) == "the left red circle"
    assert refer([red, Thing("blue", "star", 50, 50, 20)], 0, "free", 0.0, rng) in ("the red circle", "the circle")


def test_clips_have_five_options_and_one_is_right() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        question = draw("clips", float(rng.uniform(0, 1)), rng).questions[0]
        assert len(set(question.options)) == 5
        assert question.options.count(question.answer) == 1


def test_every_word_has_a_glyph_in_its_fonts() -> None:
    """A missing glyph would be drawn as the font's empty box, equal for all missing characters."""
    for lang, words in WORDS.items():
        for name in fonts_for(lang):
            face = font(name, 24)
            missing = bytes(face.getmask("\ue000"))
            for character in {c for word in words for c in word}:
                assert bytes(face.getmask(character)) != missing, (lang, name, character)


def test_arabic_is_shaped() -> None:
    face = font("DejaVuSans", 30)
    joined, apart = face.getlength("مدرسة"), sum(face.getlength(c) for c in "مدرسة")
    assert joined < 0.9 * apart


def test_colours_are_told_apart() -> None:
    values = np.array(list(COLOURS.values()), dtype=float)
    distance = np.linalg.norm(values[:, None] - values, axis=-1) + 1000 * np.eye(len(values))
    assert distance.min() > 55


def test_mini_rows_carry_their_tier() -> None:
    rows = pq.read_table(Path(mini.HERE / "refcoco" / "val-00000-of-00001.parquet"), columns=["file_name"])["file_name"].to_pylist()
    assert {name.split("_")[0] for name in rows} == {"easy", "medium", "hard"}
