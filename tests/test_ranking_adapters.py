"""Models that rank: contrastive ones and classifiers, each a random checkpoint, against the scores
that the model itself gives.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evalkit.model_adapters.classifier import ClassifierAdapter
from evalkit.model_adapters.contrastive import ContrastiveAdapter
from evalkit.tasks.zero_shot import ZeroShot
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file

from evalkit import evaluate
from evalkit.errors import CheckpointError, UsageError
from evalkit.pretrained import convnets
from evalkit.pretrained.labels import by_name, name_of
from evalkit.task import Metric, Row, Task, load_task, task_class
from evalkit.types import (
    UNSCORED,
    Completion,
    Image,
    Message,
    Request,
    Sample,
    Score,
    Text,
)
from tests.hub_models import built
from tests.hub_pictures import CLASSIFIERS, CONTRASTIVE, LABELS
from tests.pictures import png

CHOICES = ("circle", "box", "a star", "walrus")
SMALL = ("clip", "resnet")


def models(known: dict[str, object]) -> list[object]:
    """All of them; those that are not small are slow."""
    return [pytest.param(n, marks=() if n in SMALL else pytest.mark.slow) for n in known]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    make = (CONTRASTIVE | CLASSIFIERS)[request.param]
    return built(make, tmp_path_factory.mktemp(request.param))


def picture(seed: int, width: int = 90, height: int = 60) -> Image:
    return Image(png(width, height, None, seed))


def ask(id: str, *parts: object, choices: tuple[str, ...] = CHOICES) -> Request:
    return Request(id, (Message("user", parts),), choices=choices)  # type: ignore[arg-type]


def ranked(adapter: object, *requests: Request) -> dict[str, Completion]:
    return {c.id: c for c in adapter.rank(requests)}  # type: ignore[attr-defined]


ASKED = (
    ask("a", picture(0), Text("What?")),
    ask("b", Image(png(60, 120, 200)), Text("What?")),
    ask("c", picture(2), Text("Which?"), choices=("hen", "circle")),
    ask("two", picture(0), picture(1)),
    ask("bad", Image(b"no image"), Text("?")),
    ask("blind", Text("?")),
)


@pytest.mark.parametrize("folder", models(CONTRASTIVE), indirect=True)
def test_contrastive_models_rank_by_their_own_score(folder: str) -> None:
    out = ranked(ContrastiveAdapter(folder), *ASKED, ask("none", picture(0), choices=()))
    assert "unreadable" in str(out["bad"].error)
    assert "there is none" in str(out["blind"].error) and "has none" in str(out["none"].error)
    for id in ("a", "b", "c", "two"):
        best = max(range(len(out[id].logprobs)), key=out[id].logprobs.__getitem__)
        choices = next(r.choices for r in ASKED if r.id == id)
        assert out[id].text == choices[best] and out[id].finish_reason == "rank"
    assert out["a"].logprobs != out["b"].logprobs
    assert out["a"].logprobs == ranked(ContrastiveAdapter(folder), ASKED[0])["a"].logprobs


@pytest.mark.parametrize("folder", models(CONTRASTIVE), indirect=True)
def test_contrastive_scores_are_those_of_the_whole_model(folder: str) -> None:
    adapter = ContrastiveAdapter(folder, template="{choice}")
    shown = picture(3)
    got = ranked(adapter, ask("a", shown))["a"].logprobs
    pixels = adapter.checkpoint.image_processor(
        images=[PILImage.open(io.BytesIO(shown.read()))], return_tensors="pt"
    )["pixel_values"]
    tokens = adapter._tokens(["circle", "box", "a star", "walrus"])
    if adapter.kind == "blip-2":
        row = torch.full((4, 4), adapter.config.image_token_index)
        tokens = {
            "input_ids": torch.cat([row, tokens["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones_like(row), tokens["attention_mask"]], 1),
        }
        match = ranked(ContrastiveAdapter(folder, head="itm"), ask("a", shown))["a"].logprobs
        assert all(value < 0 for value in match) and match != got
    with torch.inference_mode():
        logits = adapter.model(pixel_values=pixels, **tokens).logits_per_image[0]
    sigmoid = adapter.kind == "siglip"
    expected = torch.nn.functional.logsigmoid(logits) if sigmoid else logits.log_softmax(0)
    assert torch.allclose(torch.tensor(got), expected, atol=1e-4)


@pytest.mark.parametrize("folder", ["clip"], indirect=True)
def test_templates_are_an_ensemble_and_cut_texts_are_counted(folder: str) -> None:
    one, other, both = (
        ContrastiveAdapter(folder, template=t)
        for t in ("a {choice}", "{choice}!", "a {choice}|{choice}!")
    )
    scores = [ranked(a, ASKED[0])["a"].logprobs for a in (one, other, both)]
    assert len(set(scores)) == 3
    assert one.fingerprint != both.fingerprint
    assert one.stats == {"texts_cut": 0}
    long = ContrastiveAdapter(folder, template="a very long sentence about a {choice}")
    ranked(long, ASKED[0])
    assert long.stats == {"texts_cut": 4}
    asks = ContrastiveAdapter(folder, template="{question} {choice}")
    out = ranked(asks, ASKED[0], ask("why", picture(0), Text("Why?")))
    assert out["a"].logprobs != out["why"].logprobs
    lettered = ranked(
        one, ask("a", picture(0), choices=("A. circle", "B. box", "C. a star", "D. walrus"))
    )
    assert lettered["a"].logprobs == scores[0] and lettered["a"].text[1] == "."
    for wrong in ({"template": "a photo"}, {"head": "itm"}, {"frames": 0}, {"dtype": "int8"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            ContrastiveAdapter(folder, **wrong)


@pytest.mark.parametrize("folder", models(CLASSIFIERS), indirect=True)
def test_classifiers_rank_labels_alike_in_batches(folder: str) -> None:
    single = ranked(ClassifierAdapter(folder), *ASKED)
    batched = ranked(ClassifierAdapter(folder, batch_size=4), *ASKED)
    assert "unreadable" in str(single["bad"].error)
    assert "there is none" in str(single["blind"].error)
    for id in ("a", "b", "c", "two"):
        assert single[id].text == batched[id].text
        assert single[id].logprobs == pytest.approx(batched[id].logprobs, rel=1e-4, abs=1e-4)
    circle, box, star, walrus = single["a"].logprobs
    assert walrus == UNSCORED and single["a"].text in CHOICES[:3]
    assert torch.tensor([circle, box, star]).exp().sum() == pytest.approx(1, abs=1e-5)
    assert single["a"].logprobs != single["b"].logprobs
    adapter = ClassifierAdapter(folder)
    top = next(iter(adapter.generate([ask("t", picture(0), choices=())])))
    assert top.text in LABELS.values()
    none = ranked(adapter, ask("n", picture(0), choices=("walrus", "auk")))["n"]
    assert none.text == "" and none.logprobs == (UNSCORED, UNSCORED)


def test_a_choice_owns_every_label_with_its_name() -> None:
    ids = by_name(LABELS)
    assert ids["box"] == (1, 3) and ids["square"] == (1,) and ids["square, box"] == (1,)
    assert [name_of(t) for t in ("The  Hen", "a_star", "an owl", "another")] == [
        "hen",
        "star",
        "owl",
        "another",
    ]


@pytest.mark.parametrize("kind", ["alexnet", "vgg16", "googlenet"])
def test_plain_networks_have_torchvisions_shapes(kind: str) -> None:
    """Parameters of the released networks, as torchvision counts them (GoogLeNet without its
    auxiliary classifiers), and some of their names.
    """
    with torch.device("meta"):
        network = convnets.build(kind, 1000)
    count = sum(p.numel() for p in network.parameters())
    assert count == {"alexnet": 61_100_840, "vgg16": 138_357_544, "googlenet": 6_624_904}[kind]
    names = {
        "alexnet": (
            "features.0.weight",
            "features.10.bias",
            "classifier.1.weight",
            "classifier.6.bias",
        ),
        "vgg16": (
            "features.0.weight",
            "features.28.bias",
            "classifier.0.weight",
            "classifier.6.bias",
        ),
        "googlenet": ("conv1.conv.weight", "inception3a.branch2.1.bn.running_var", "fc.bias"),
    }
    assert set(names[kind]) <= network.state_dict().keys()


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = built(CLASSIFIERS["googlenet"], tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["aux1.fc1.weight"] = torch.zeros(2, 2)  # which only training uses
    save_file(weights, file)
    assert ranked(ClassifierAdapter(folder), ASKED[0])["a"].error is None
    weights["fc.extra"] = torch.zeros(2)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"not those of googlenet.*fc\.extra"):
        ranked(ClassifierAdapter(folder), ASKED[0])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {}}))
    with pytest.raises(CheckpointError, match="no id2label"):
        ClassifierAdapter(folder)


@pytest.mark.parametrize("folder", ["clip", "resnet"], indirect=True)
def test_ranking_models_run_the_drawn_shapes(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    resnet = "resnet" in request.node.name
    done = evaluate(
        "zero_shot",
        folder,
        adapter="classifier" if resnet else "contrastive",
        output=tmp_path,
        limit=12,
        progress=False,
    )
    results = done.cells[0].results
    assert (results.n, results.errors) == (12, 0)
    # triangles, pentagons and hexagons are none of the classifier's labels
    assert results.unparsed == (6 if resnet else 0)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for name in ("n01", "n02", "n03"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(png(20, 20, 10 * i))
    (tmp_path / "n03" / "note.txt").write_text("no picture")
    (tmp_path / "classes.txt").write_text("n01 tench, Tinca tinca\nn02 great_white\n")
    return tmp_path


def test_classes_are_called_as_their_folders_or_as_the_list_says(animals: Path) -> None:
    task = load_task("zero_shot:folder")
    rows = list(task.source.rows(animals))
    assert [r["label"] for r in rows] == [
        *["tench, Tinca tinca"] * 2,
        *["great_white"] * 2,
        *["n03"] * 3,
    ]
    assert rows[0]["labels"] == ["tench, Tinca tinca", "great_white", "n03"]
    before = task.source.describe(animals)
    (animals / "classes.txt").write_text("n01 hen\n")
    assert task.source.describe(animals) != before
    (animals / "classes.txt").write_text("n01 hen\nn02 hen\n")
    with pytest.raises(Exception, match="two classes are called 'hen'"):
        list(task.source.rows(animals))
    with pytest.raises(UsageError, match="--data zero_shot:folder=PATH"):
        next(iter(task.source.rows()))


def test_a_class_is_right_among_the_five_likeliest_and_unparsed_without_a_score() -> None:
    labels = [f"c{i}" for i in range(8)]
    row = Row({"image": png(8, 8), "label": "c5", "labels": labels})
    task = ZeroShot()
    sample = next(iter(task.samples(row)))

    def scored(*logprobs: float) -> tuple[float, float, bool]:
        best = labels[max(range(8), key=logprobs.__getitem__)]
        score = task.score(sample, Completion("", best, "rank", logprobs=logprobs))
        return score.values["accuracy"], score.values["top5"], score.unparsed

    assert scored(-9, -9, -9, -9, -9, -1, -9, -9) == (1, 1, False)
    assert scored(-1, -2, -3, -4, -9, -5, -9, -9) == (0, 1, False)
    assert scored(-1, -2, -3, -4, -5, -6, -9, -9) == (0, 0, False)
    assert scored(-1, -2, -3, -4, -5, UNSCORED, -9, -9) == (0, 0, True)


def ranked_variant(name: str) -> Task:
    """An embedded task whose samples are ranked, among words that are the same for all."""
    base = task_class(name)

    class Ranked(base):  # type: ignore[misc, valid-type]
        rank = True
        metrics = (Metric("accuracy"),)
        subsets = {"mini": replace(base.subsets["mini"], metrics=())}

        def samples(self, row: Row) -> Iterator[Sample]:
            for sample in super().samples(row):
                yield replace(sample, choices=CHOICES)

        def score(self, sample: Sample, completion: Completion) -> Score:
            return Score({"accuracy": float(completion.text == CHOICES[0])})

    return Ranked("mini")


@pytest.mark.slow
@pytest.mark.parametrize("folder", [*CONTRASTIVE, *CLASSIFIERS], indirect=True)
def test_every_ranking_model_runs_ranked_variants_of_the_embedded_tasks(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["folder"]
    adapter = "contrastive" if name in CONTRASTIVE else "classifier"
    tasks = [ranked_variant(t) for t in ("docvqa", "refcoco", "video_qa", "multilingual_ocr")]
    done = evaluate(tasks, folder, adapter=adapter, output=tmp_path, limit=2, progress=False)
    assert [(c.results.n, c.results.errors) for c in done.cells] == [(2, 0)] * 4
