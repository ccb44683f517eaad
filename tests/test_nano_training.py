"""Training: batches are what evaluation shows, runs repeat and resume, and a minute of it leaves
chance behind.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from evalkit.engine import Engine, Media, Prompt, Visual
from evalkit.errors import DataError, UsageError
from evalkit.models.qwen2_vl.chat import Chat
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import grid_tokens
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.nano import batches, shipped
from evalkit.nano.batches import HEAD, TURN, collate, encode, make_batch, pixels, prompt
from evalkit.nano.families import FAMILIES, draw
from evalkit.nano.muon import Muon
from evalkit.nano.recipe import Recipe, find_recipe, load_recipe
from evalkit.nano.scene import stream
from evalkit.nano.state import begin_with
from evalkit.nano.tokenizer import write
from evalkit.nano.train import (
    answer_logits,
    config,
    initialised,
    loss_and_accuracy,
    optimisers_of,
    set_rates,
    train,
)
from evalkit.task import load_task
from evalkit.types import Text
from tests.tiny import TINY_MODEL

ONE_STEP = {"name": "all", "steps": 1, "weights": dict.fromkeys(FAMILIES, 1.0)}


def tiny_recipe(**changes: object) -> Recipe:
    base = {
        "name": "t",
        "batch": 3,
        "warmup": 2,
        "model": TINY_MODEL,
        "families": {f: {} for f in FAMILIES},
    }
    base["stages"] = [{"name": "all", "steps": 6, "weights": dict.fromkeys(FAMILIES, 1.0)}]
    return Recipe.model_validate(base | changes)


@pytest.fixture(autouse=True)
def _short_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.nano.train.HELD_OUT", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an undisturbed run of ``tiny_recipe``."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evalkit.nano.train.HELD_OUT", 2)
        return train(tiny_recipe(), tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_question_in_a_batch_is_computed_as_if_alone(family: str) -> None:
    """Shared image or not, the logits of an answer are those of a conversation with that one
    question.
    """
    torch.manual_seed(0)
    recipe = tiny_recipe()
    model = initialised(Qwen2VL(config(recipe))).eval()
    scenes = [draw(family, 0.25, stream("dev", 0, i)) for i in range(3)]  # type: ignore[arg-type]
    batch = collate(family, scenes, Switches())  # type: ignore[arg-type]
    together, _, asked = answer_logits(model, batch)
    for row, scene in enumerate(scenes):
        patches, grid = pixels(scene, Processor())
        pad = "<|video_pad|>" if family == "clips" else "<|image_pad|>"
        n = grid_tokens(grid)
        for i, question in [*enumerate(scene.questions), *enumerate(scene.extra, batches.EXTRA)]:
            answer = [*encode(batches.target(family, question)), *encode("<|im_end|>")]  # type: ignore[arg-type]
            ids = [
                *encode(HEAD),
                *encode(pad) * n,
                *encode("<|vision_end|>"),
                *encode(prompt(family, question) + TURN),
                *answer,
            ]  # type: ignore[arg-type]
            key = "video" if family == "clips" else "image"
            values = {
                f"pixel_values{'_videos' if key == 'video' else ''}": patches,
                f"{key}_grid_thw": [grid],
            }
            alone = model(torch.tensor([ids]), **values)[0, -len(answer) - 1 : -1]
            assert torch.allclose(together[asked == row * batches.MOST + i], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("documents", "docvqa"),
        ("grounding", "refcoco"),
        ("clips", "video_qa"),
        ("words", "multilingual_ocr"),
    ],
)
def test_training_prompts_are_those_of_the_tasks(family: str, task: str) -> None:
    """The text that training shows is, word for word, one that the task sends."""
    plugin = load_task(task)
    row = next(iter(plugin.subsets["mini"].source.rows()))
    sample = next(iter(plugin.samples(row)))
    sent = next(p.text for p in sample.messages[0].content if isinstance(p, Text))
    question = draw(family, 0.1, stream("dev", 0, 1)).questions[0]  # type: ignore[arg-type]
    if family == "clips":
        text, options = row["question"], tuple(row[f"a{i}"] for i in range(5))
    elif family == "grounding":
        text, options = row["answer"][0], ()
    else:
        text = row["question"] if family == "documents" else sent.split("\n")[0]
        options = ()
    made = type(question)(text, "", "", None, options)
    assert prompt(family, made) == sent  # type: ignore[arg-type]


def test_a_batch_is_a_function_of_recipe_step_and_gates() -> None:
    recipe, gates = tiny_recipe(), dict.fromkeys(FAMILIES, 0.2)
    a, b = make_batch(recipe, 5, gates), make_batch(recipe, 5, gates)  # type: ignore[arg-type]
    assert torch.equal(a.ids, b.ids) and torch.equal(a.patches, b.patches)
    assert not torch.equal(a.ids, make_batch(recipe, 6, gates).ids)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.optim.AdamW.step
    calls = {"n": 0}

    def dies(self: torch.optim.AdamW, *args: object) -> object:
        calls["n"] += 1
        if calls["n"] == 4:
            raise KeyboardInterrupt
        return real(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.optim.AdamW, "step", dies)
        train(tiny_recipe(), tmp_path / "cut", save_seconds=0.0, log_steps=1)
    curve = tmp_path / "cut" / "curve.csv"
    last = curve.read_text().splitlines()[-1]
    # A row of a step that was not kept, a row that was cut short, and half a state.
    curve.write_text(curve.read_text() + last.replace("3,", "4,", 1) + "\n" + last[:30])
    left = [tmp_path / "cut" / f for f in ("state/step-4.safetensors", "y.0123456789ab.part")]
    for file in left:
        file.write_bytes(b"half")
    resumed = train(tiny_recipe(), tmp_path / "cut", save_seconds=0.0, log_steps=1)
    weights = "model.safetensors"
    assert (resumed / weights).read_bytes() == (trained / weights).read_bytes()
    assert pd.read_csv(curve).step.tolist() == [1, 2, 3, 4, 5, 6]
    assert not any(file.exists() for file in left)


def test_a_damaged_state_is_said(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent / "state", tmp_path / "state")
    state = tmp_path / "state" / "state.json"
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(DataError, match="can't be read.*remove the folder to train anew"):
        train(tiny_recipe(), tmp_path)


def test_a_run_without_matplotlib_leaves_its_model(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert (train(tiny_recipe(), tmp_path) / "model.safetensors").is_file()
    assert "pip install 'evalkit[plots]'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_may_begin_with_the_weights_of_another(trained: Path, tmp_path: Path) -> None:
    still = tiny_recipe(learning_rate=1e-12, muon=None, weight_decay=0.0, stages=[ONE_STEP])
    second = train(still, tmp_path / "second", start=trained)
    a, b = (load_file(folder / "model.safetensors") for folder in (trained, second))
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    with pytest.raises(UsageError, match="not a checkpoint of this recipe's shape"):
        train(
            tiny_recipe(model={**TINY_MODEL, "intermediate": 48}), tmp_path / "third", start=trained
        )


@pytest.mark.slow
def test_a_deeper_model_begins_as_the_function_that_it_grew_from(
    trained: Path, tmp_path: Path
) -> None:
    shallow = tiny_recipe()
    deep = tiny_recipe(model={**TINY_MODEL, "depth": 3, "vision_depth": 4}, stages=[ONE_STEP])
    batch = make_batch(shallow, 0, dict.fromkeys(shallow.families, 0.1))
    losses = []
    for recipe in (shallow, deep):
        model = initialised(Qwen2VL(config(recipe)))
        begin_with(model, trained)
        losses.append(float(loss_and_accuracy(model, batch)[0].detach()))
    assert losses[0] == losses[1]
    with pytest.raises(UsageError, match="not a checkpoint of this recipe's shape"):
        begin_with(Qwen2VL(config(shallow)), train(deep, tmp_path / "deep"))


@pytest.mark.slow
def test_what_is_drawn_does_not_depend_on_how_many_draw(trained: Path, tmp_path: Path) -> None:
    three = train(tiny_recipe(), tmp_path, workers=3)
    weights = "model.safetensors"
    assert (trained / weights).read_bytes() == (three / weights).read_bytes()


def test_stages_follow_each_other_and_a_frozen_half_stays_as_it_is(tmp_path: Path) -> None:
    weights = dict.fromkeys(FAMILIES, 1.0)
    recipe = tiny_recipe(
        stages=[
            {"name": "see", "steps": 2, "weights": weights, "language": 0.0},
            {"name": "instruct", "steps": 3, "weights": weights, "vision": 0.0},
        ]
    )
    assert [recipe.stage(i).name for i in range(5)] == [
        "see",
        "see",
        "instruct",
        "instruct",
        "instruct",
    ]
    states: list[dict[str, torch.Tensor]] = []
    torch.manual_seed(0)
    model = initialised(Qwen2VL(config(recipe)))
    optimisers = optimisers_of(recipe, model)
    for step in range(4):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        set_rates(recipe, step, optimisers)
        loss_and_accuracy(model, make_batch(recipe, step, dict.fromkeys(FAMILIES, 0.1)))[
            0
        ].backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    states.append(model.state_dict())

    def moved(step: int) -> set[str]:
        changed = {k for k in states[0] if not torch.equal(states[step][k], states[step + 1][k])}
        return {
            "merger" if ".merger." in k else "vision" if k.startswith("visual.") else "language"
            for k in changed
        }

    assert [moved(i) for i in range(4)] == [
        {"vision", "merger"},
        {"vision", "merger"},
        {"merger", "language"},
        {"merger", "language"},
    ]


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_muon_steps_as_torchs_own_does(shape: tuple[int, int]) -> None:
    """torch's multiplies in bfloat16: equal to its precision."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    a = Muon([{"params": [ours]}], lr=0.01, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    assert (ours - theirs).abs().max() < 0.02 * (theirs - 1).abs().max()


def test_extra_questions_are_learnt_from_and_not_graded() -> None:
    recipe = tiny_recipe()
    model = initialised(Qwen2VL(config(recipe)))
    scenes = [draw("documents", 0.1, stream("dev", 0, i)) for i in range(3)]
    assert all(s.extra for s in scenes)
    loss, _, _, graded = loss_and_accuracy(model, collate("documents", scenes, Switches()))
    assert graded == sum(len(s.questions) for s in scenes)
    bare = collate("documents", [replace(s, extra=()) for s in scenes], Switches())
    assert loss != loss_and_accuracy(model, bare)[0]


def test_the_tokenizer_is_one_token_a_prompt_word_and_one_a_character(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = write(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        "What is the TOTAL?",
        "(120,40),(300,990)",
        "Straße 42",
        "水曜日",
        "مدرسة",
        "the left red circle",
        "A. it stays still\n",
    ):
        assert (
            theirs(text, add_special_tokens=False)["input_ids"]
            == ours.encode(text, add_special_tokens=False).ids
        )
        assert theirs.decode(ours.encode(text).ids) == ours.decode(ours.encode(text).ids) == text
    assert len(ours.encode(" TOTAL").ids) == 1
    assert len(ours.encode("TOTAL").ids) == 5
    assert len(ours.encode("школа").ids) == 5
    assert len(ours.encode("학교").ids) == 2


def test_a_recipe_fault_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "schema_version: 2\nname: x\nfamilies: {words: {}}\nstages: "
        "[{name: a, steps: 0, weights: {words: 1}}]\nlearningrate: 1\n"
    )
    with pytest.raises(UsageError, match=r"steps.*learningrate|learningrate.*steps"):
        load_recipe(path)
    path.write_text(
        "schema_version: 2\nname: x\nfamilies: {words: {}}\nstages: "
        "[{name: a, steps: 9, weights: {clips: 1}}]\n"
    )
    with pytest.raises(UsageError, match="stage a: weights: clips not among families"):
        load_recipe(path)
    path.write_text(
        "schema_version: 2\nname: x\nfamilies: {words: {seconds: [2, 4]}}\nstages: "
        "[{name: a, steps: 9, weights: {words: 1}}]\n"
    )
    with pytest.raises(UsageError, match="only clips have a length"):
        load_recipe(path)
    for number, reason in ((".inf", "finite number"), (".nan", "finite"), ("true", "true is nei")):
        path.write_text(
            "schema_version: 2\nname: x\nfamilies: {words: {}}\nstages: "
            f"[{{name: a, steps: 9, weights: {{words: {number}}}}}]\n"
        )
        with pytest.raises(UsageError, match=f"stages.0.weights.*{reason}"):
            load_recipe(path)
    names = [
        "nano",
        "nano_again",
        "nano_contrasts",
        "nano_deep",
        "nano_last",
        "nano_look",
        "nano_more",
        "smoke",
    ]
    with pytest.raises(UsageError, match="shipped recipes: " + ", ".join(names)):
        find_recipe("nothing")
    for name in names:
        assert load_recipe(find_recipe(name)).name == name


def test_the_shipped_model_runs_in_transformers_with_equal_logits() -> None:
    from evalkit.models.qwen2_vl.checkpoint import load
    from tests.oracle import hf_forward, hf_model

    folder = shipped()["nano"]
    model = load(folder)
    chat = Chat(folder, model.config)
    patches, grid = pixels(draw("documents", 0.25, stream("dev", 9, 9)), Processor())
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "What is the TOTAL?"}],
        }
    ]
    ids = torch.tensor([chat.encode(chat.render(messages), [Media(grid)])])
    media = {"pixel_values": patches, "image_grid_thw": [grid]}
    with torch.no_grad():
        theirs = hf_forward(hf_model(model), ids, torch.ones_like(ids), **media)
        assert (model(ids, **media) - theirs).abs().max() < 1e-4 * max(
            1.0, float(theirs.abs().max())
        )


def test_a_few_steps_of_training_lower_the_loss(tmp_path: Path) -> None:
    """Held-out scenes, before and after; the slow test below asks for right answers."""
    stage = {"name": "all", "steps": 20, "weights": {"words": 1.0}}
    recipe = tiny_recipe(families={"words": {}}, learning_rate=0.01, stages=[stage])
    torch.manual_seed(0)
    losses = []
    for start in (None, train(recipe, tmp_path)):
        model = initialised(Qwen2VL(config(recipe)))
        if start:
            begin_with(model, start)
        batch = make_batch(recipe, 10_000, {"words": 0.0})
        losses.append(float(loss_and_accuracy(model, batch)[0].detach()))
    assert losses[1] < losses[0] - 0.5


@pytest.mark.slow
def test_a_minute_of_training_leaves_chance_behind(tmp_path: Path) -> None:
    """The smoke recipe reads two or three digits; chance is one in a hundred or less."""
    from evalkit.models.qwen2_vl.checkpoint import load

    folder = train(load_recipe(find_recipe("smoke")), tmp_path)
    model = load(folder)
    chat = Chat(folder, model.config)
    right = 0
    for i in range(100):
        scene = draw("words", 0.0, stream("dev", 5, i))
        patches, grid = pixels(scene, Processor())
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": prompt("words", scene.questions[0])},
                ],
            }
        ]
        ids = tuple(chat.encode(chat.render(messages), [Media(grid)]))
        out = next(
            Engine(model, chat.stop_ids).generate(
                [Prompt("x", ids, (Visual(patches, Media(grid), i),), 8)]
            )
        )
        right += chat.decode(out.ids) == scene.questions[0].answer
    assert right > 30
