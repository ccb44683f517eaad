"""The drawn data: repeatable, apart from what training draws, in the official columns, and
answerable.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalkit.errors import UsageError
from evalkit.nano import batches, clips, grounding, mini
from evalkit.nano.families import FAMILIES, draw
from evalkit.nano.fonts import font
from evalkit.nano.grounding import COLOURS, Thing, _alike, _scatter, refer
from evalkit.nano.grounding import draw as draw_grounding
from evalkit.nano.recipe import Recipe
from evalkit.nano.scene import Scene, digest, stream
from evalkit.nano.wordlists import WORDS
from evalkit.nano.words import LOOKALIKES, fonts_for

MANIFEST = json.loads((mini.HERE / "manifest.json").read_text())


def content(scene: Scene) -> bytes:
    return (scene.image.tobytes() if scene.image is not None else scene.frames.tobytes()) + repr(
        scene.questions
    ).encode()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_streams_draw_equal_scenes(family: str) -> None:
    for difficulty in (0.0, 0.1, 0.25, 0.9):
        a, b = (draw(family, difficulty, stream("train", 3, 1, 4)) for _ in range(2))  # type: ignore[arg-type]
        assert content(a) == content(b)


def test_shipped_files_are_those_of_the_manifest() -> None:
    files = [p for p in mini.HERE.rglob("*") if p.suffix in (".parquet", ".mp4")]
    assert {str(p.relative_to(mini.HERE)) for p in files} == set(MANIFEST["sha256"])
    for path in files:
        assert (
            hashlib.sha256(path.read_bytes()).hexdigest()
            == MANIFEST["sha256"][str(path.relative_to(mini.HERE))]
        )


def test_shipped_rows_are_drawn_again_from_their_seed() -> None:
    stored = pq.read_table(mini.HERE / "docvqa" / "validation-00000-of-00001.parquet").to_pylist()
    for row, again in zip(stored[:8], mini.docvqa_rows(mini.drawn("docvqa", 1))):
        assert {k: v for k, v in row.items() if k != "image"} == {
            k: v for k, v in again.items() if k != "image"
        }
        assert row["image"]["bytes"] == again["image"]["bytes"]


def test_alike_objects_differ_in_colour_alone_or_in_shape_alone() -> None:
    """In the same places as without it, so that nothing else changes."""
    for i in range(40):
        rng = stream("dev", 0, 7, i)
        things = _scatter(224, 168, 0.25, rng)
        alike = _alike(things, rng)
        assert [(t.x, t.y, t.side) for t in alike] == [(t.x, t.y, t.side) for t in things]
        colours, shapes = {t.colour for t in alike}, {t.shape for t in alike}
        assert sorted((len(colours), len(shapes))) == [1, len(things)]
    drawn = draw("contrasts", 0.25, stream("dev", 0, 8))
    assert content(drawn) == content(draw_grounding(0.25, stream("dev", 0, 8), alike=True))


def test_training_never_shows_a_shipped_picture() -> None:
    """Two digits on four cells recur by chance, so training draws anew what the manifest lists.
    Each of these batches at the easiest would show such a picture.
    """
    recipe = Recipe.model_validate(
        {
            "name": "t",
            "families": {"words": {}, "clips": {}},
            "stages": [{"name": "all", "steps": 60, "weights": {"words": 3.0, "clips": 1.0}}],
        }
    )
    shipped = {
        digest(s)
        for key, count, make in mini.SUBSETS.values()
        for _, _, s in mini.scenes(key, min(count, 3), make)
    }
    assert shipped <= set(MANIFEST["pictures"])
    seen: list[Scene] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "collate", lambda family, scenes, switches: seen.extend(scenes))
        for step in (0, 16, 23):
            batches.make_batch(recipe, step, {"words": 0.1, "clips": 0.05})
        assert len(seen) == 3 * 24
        assert not {digest(s) for s in seen} & set(MANIFEST["pictures"])
        patch.setattr(batches, "shipped_pictures", frozenset)  # the guard is what prevents it
        batches.make_batch(recipe, 0, {"words": 0.1, "clips": 0.05})
    assert {digest(s) for s in seen} & set(MANIFEST["pictures"])


def test_larger_sets_hold_the_embedded_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    for subset in ("docvqa", "multilingual_ocr"):
        key, _, make = mini.SUBSETS[subset]
        monkeypatch.setitem(mini.SUBSETS, subset, (key, 2, make))
    for subset, rows, id in (
        ("docvqa", mini.docvqa_rows, "questionId"),
        ("multilingual_ocr", mini.word_rows, "id"),
    ):
        small, large = ({r[id]: r for r in rows(mini.drawn(subset, n))} for n in (1, 3))
        assert len(large) == 3 * len(small)
        assert all(large[name] == row for name, row in small.items())
    with pytest.raises(UsageError, match="factor 15: expected 1 to 14"):
        mini.write(Path("nowhere"), 15)


AXES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
RELATIONS = {
    "to the left of": (0, -1),
    "to the right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}


def fitting(text: str, things: list[Thing]) -> list[Thing]:
    if m := re.fullmatch(r"the (\w+) that is (.+) the (\w+) (\w+)", text):
        anchors = [t for t in things if (t.colour, t.shape) == (m[3], m[4])]
        axis, sign = RELATIONS[m[2]]
        return [
            t
            for t in things
            if t.shape == m[1]
            for a in anchors
            if t is not a and sign * (t.middle[axis] - a.middle[axis]) > 0
        ]
    *modifiers, noun = text.removeprefix("the ").split()
    left = [
        t
        for t in things
        if noun in ("object", t.shape) and all(m not in COLOURS or m == t.colour for m in modifiers)
    ]
    for m in modifiers:
        if m in AXES:
            axis, sign = AXES[m]
            best = max(sign * t.middle[axis] for t in left)
            left = [t for t in left if sign * t.middle[axis] > best - 3]
        elif m in ("large", "small"):
            sign = 1 if m == "large" else -1
            best = max(sign * t.side for t in left)
            left = [t for t in left if sign * t.side > best - 3]
    return left


@pytest.mark.parametrize("style", ["free", "attribute", "sentence"])
def test_every_expression_fits_one_object_alone(style: str) -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(500):
        d = float(rng.uniform(0, 1))
        things = _scatter(*grounding._canvas(d, rng), d, rng)
        for i, thing in enumerate(things):
            text = refer(things, i, style, d, rng)
            if text:
                assert fitting(text, things) == [thing], (text, things)
                kinds.add(text.split()[1])
    assert len(kinds) > 10


def test_boxes_lie_in_the_picture_and_are_written_in_thousandths() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = draw_grounding(float(rng.uniform(0, 1)), rng)
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
    assert refer([red, Thing("blue", "star", 50, 50, 20)], 0, "free", 0.0, rng) in (
        "the red circle",
        "the circle",
    )


def test_clips_have_five_options_and_one_is_right() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        question = draw("clips", float(rng.uniform(0, 1)), rng).questions[0]
        assert len(set(question.options)) == 5
        assert question.options.count(question.answer) == 1


def test_what_is_in_the_clip_is_among_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the right option is the only one in sight, and no sense of time is needed."""
    drawn: list[Thing] = []
    things = clips.Clip.things

    def recorded(*args: Any) -> list[Thing]:
        drawn[:] = things(*args)
        return drawn

    monkeypatch.setattr(clips.Clip, "things", recorded)
    rng = np.random.default_rng(0)
    asked = 0
    for difficulty in (0.25, 0.6) * 40:
        question = draw("clips", difficulty, rng).questions[0]
        if question.kind in ("order", "vanish"):
            asked += 1
            assert {f"the {t.name}" for t in drawn} <= set(question.options)
    assert asked > 20


def test_every_kind_of_document_question_is_shipped() -> None:
    kinds = pq.read_table(mini.HERE / "docvqa" / "validation-00000-of-00001.parquet")[
        "question_types"
    ].to_pylist()
    assert {kind for (kind,) in kinds} == {"lookup", "row_column", "arithmetic"}


def test_no_word_reads_the_same_in_two_scripts() -> None:
    assert not [word for lang in ("ru", "el") for word in WORDS[lang] if set(word) <= LOOKALIKES]


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
    rows = pq.read_table(
        Path(mini.HERE / "refcoco" / "val-00000-of-00001.parquet"), columns=["file_name"]
    )["file_name"].to_pylist()
    assert {name.split("_")[0] for name in rows} == {"easy", "medium", "hard"}
