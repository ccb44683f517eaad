"""Detectors answer referring expressions with the box that their own post-processing likes best."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from evalkit.model_adapters.detector import DetectorAdapter, expression_of, first_named
from PIL import Image as PILImage

from evalkit import evaluate
from evalkit.errors import UsageError
from evalkit.metrics.boxes import parse_box
from evalkit.types import Completion, Image, Message, Request, Text
from tests.hub_models import built
from tests.hub_pictures import DETECTORS
from tests.pictures import png

MODELS = [pytest.param(n, marks=() if n == "detr" else pytest.mark.slow) for n in DETECTORS]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(DETECTORS[request.param], tmp_path_factory.mktemp(request.param))


def ask(id: str, *parts: object) -> Request:
    return Request(id, (Message("user", parts),))  # type: ignore[arg-type]


def answers(adapter: DetectorAdapter, *requests: Request) -> dict[str, Completion]:
    return {c.id: c for c in adapter.generate(requests)}


WIDE, TALL = Image(png(100, 60, None, 0)), Image(png(50, 90, 200))
WHERE = Text('Detect the bounding box of "the person at the dining table".')


@pytest.mark.parametrize("folder", MODELS, indirect=True)
def test_the_answer_is_the_best_box_of_the_models_own_post_processing(folder: str) -> None:
    adapter = DetectorAdapter(folder)
    out = answers(
        adapter,
        ask("wide", WIDE, WHERE),
        ask("tall", TALL, WHERE),
        ask("bad", Image(b"no image"), WHERE),
        ask("two", WIDE, TALL, WHERE),
        ask("blind", WHERE),
    )
    assert "unreadable" in str(out["bad"].error)
    assert "takes one image" in str(out["two"].error) and "takes one" in str(out["blind"].error)
    assert out["wide"].error is None and out["wide"].text != out["tall"].text
    assert out["wide"].box_space == "pixel"
    assert answers(adapter, ask("wide", WIDE, WHERE))["wide"].text == out["wide"].text
    box = parse_box(out["wide"].text, "pixel", 100, 60)
    picture = PILImage.open(io.BytesIO(WIDE.read()))
    process = adapter.checkpoint.image_processor
    made = process(images=[picture], return_tensors="pt")
    asked = "the person at the dining table"
    with torch.inference_mode():
        if adapter.kind in ("detr", "rt_detr"):
            raw = adapter.model(pixel_values=made["pixel_values"])
            found = process.post_process_object_detection(raw, 0.0, [(60, 100)])[0]
            mine = found["labels"] == 1
            if adapter.kind == "detr" and not mine.any():
                return  # its own keeps only the likeliest class of each box
            expected = found["boxes"][mine][found["scores"][mine].argmax()]
        elif adapter.kind == "owlv2":
            tokens = adapter._tokens(asked)
            raw = adapter.model(pixel_values=made["pixel_values"], **tokens)
            found = process.post_process_object_detection(raw, 0.0, [(60, 100)])[0]
            expected = found["boxes"][found["scores"].argmax()]
        else:
            tokens = adapter._tokens(f"{asked}.")
            raw = adapter.model(pixel_values=made["pixel_values"], **tokens)
            words = adapter._words(tokens)
            assert words.sum() == len(asked.encode())
            scores = raw.logits[0][:, : len(words)][:, words].sigmoid().amax(-1)
            x, y, w, h = raw.pred_boxes[0][scores.argmax()].tolist()
            expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            expected = expected * torch.tensor([100, 60, 100, 60])
    if box is not None:
        assert box == pytest.approx(expected.tolist(), abs=0.02)


@pytest.mark.parametrize("folder", MODELS, indirect=True)
def test_detectors_run_referring_expressions(folder: str, tmp_path: Path) -> None:
    done = evaluate("refcoco", folder, adapter="detector", output=tmp_path, limit=2, progress=False)
    assert (done.cells[0].results.n, done.cells[0].results.errors) == (2, 0)


@pytest.mark.parametrize("folder", ["detr"], indirect=True)
def test_an_expression_without_a_known_class_has_no_box(folder: str) -> None:
    asked = ask("a", WIDE, Text('Detect the bounding box of "the zebra".'))
    assert answers(DetectorAdapter(folder), asked)["a"].text == ""


def test_what_is_not_had_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "fasterrcnn_resnet50_fpn"}))
    with pytest.raises(UsageError, match="'fasterrcnn_resnet50_fpn' is not available.*DETR"):
        DetectorAdapter(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UsageError, match="model_type 'clip'.*grounding-dino"):
        DetectorAdapter(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["owlv2"], indirect=True)
def test_expressions_that_are_cut_are_counted(folder: str) -> None:
    adapter = DetectorAdapter(folder)
    answers(adapter, ask("a", WIDE, WHERE), ask("b", WIDE, Text("a bus")))
    assert adapter.stats == {"expressions_cut": 1}


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ('Detect the bounding box of "the red car".', "the red car"),
        ("Where is <ref> the red car </ref>?", "the red car"),
        ("Please provide the region this sentence describes: the red car", "the red car"),
        ("the red car\n", "the red car"),
    ],
)
def test_the_expression_is_taken_out_of_the_question(question: str, expression: str) -> None:
    assert expression_of(question) == expression


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("man next to the bus", 1),
        ("red buses behind a man", 3),
        ("The dining table, left", 2),
        ("two persons", 1),
        ("businesses", None),
        ("", None),
    ],
)
def test_the_first_class_that_is_named_is_meant(expression: str, named: int | None) -> None:
    classes = {"person": 1, "man": 1, "dining table": 2, "table": 4, "bus": 3}
    assert first_named(expression, classes) == named
