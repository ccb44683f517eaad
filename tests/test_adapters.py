"""The two adapters: the same answers on the same checkpoint, errors that stay with their request,
honest fingerprints.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
import pytest
import torch
from evalkit.model_adapters.reference import ReferenceAdapter
from evalkit.model_adapters.transformers import TransformersAdapter
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file

import evalkit
from evalkit.errors import CheckpointError, UsageError
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.prefetch import prefetch
from evalkit.types import Completion, Image, MediaBudget, Message, Request, Text, Video
from tests.pictures import png
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny")))


def picture(width: int, height: int, seed: int = 0) -> Image:
    return Image(png(width, height, None, seed))


def mp4(frames: int = 12, size: int = 112) -> Video:
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=4)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return Video(buffer.getvalue())


def ask(id: str, *parts: Image | Video | Text, limit: int = 8, **more: object) -> Request:
    return Request(id, (Message("user", parts),), max_new_tokens=limit, **more)  # type: ignore[arg-type]


def collect(completions: object) -> dict[str, Completion]:
    return {c.id: c for c in completions}  # type: ignore[attr-defined]


REQUESTS = [
    ask("text", Text("Bonjour, 你好")),
    ask("image", picture(120, 90), Text("What is it?")),
    ask("two", picture(60, 60), Text("and"), picture(200, 40, 1), Text("?")),
    ask("clip", mp4(), Text("What happens?")),
    ask("mixed", mp4(), picture(90, 120, 2), Text("Both?")),
    ask("budget", picture(400, 300, 3), Text("Small?"), budget=MediaBudget(max_pixels=20_000)),
]


def test_a_file_that_became_another_is_read_again(tiny: str, tmp_path: Path) -> None:
    """As in a notebook that keeps its adapter: the answer was that of the old picture."""
    adapter, file = ReferenceAdapter(tiny), tmp_path / "page.png"

    def seen(width: int) -> int:
        file.write_bytes(png(width, 56))
        (done,) = adapter.generate([ask("page", Image(file), Text("?"))])
        return done.tokens.vision_in

    assert [seen(width) for width in (56, 112, 56)] == [4, 8, 4]


@pytest.mark.parametrize("name", ["transformers", "classifier", "contrastive", "detector"])
def test_a_model_in_memory_is_no_checkpoint_of_transformers(name: str) -> None:
    with pytest.raises(UsageError, match="a model in memory, Linear: .*save_pretrained"):
        evalkit.evaluate("docvqa", torch.nn.Linear(2, 2), adapter=name, limit=1)


@pytest.mark.parametrize("kind", [ReferenceAdapter, TransformersAdapter])
def test_weights_that_were_replaced_before_they_were_loaded_are_said(
    tiny: str, tmp_path: Path, kind: type[Any]
) -> None:
    """As by a training that writes into the folder: the results would name the old weights."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    adapter = kind(str(folder))
    assert adapter.fingerprint["weights"]
    state = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="was written to while its weights were loaded"):
        collect(adapter.generate(REQUESTS[:1]))


def test_reference_and_transformers_give_the_same_answers(tiny: str) -> None:
    ours = collect(ReferenceAdapter(tiny).generate(REQUESTS))
    for batch_size in (1, 4):
        theirs = collect(TransformersAdapter(tiny, batch_size=batch_size).generate(REQUESTS))
        for id, completion in ours.items():
            assert completion.error is None
            assert completion.text == theirs[id].text, id
            assert completion.tokens == theirs[id].tokens, id
            assert completion.finish_reason == theirs[id].finish_reason, id


def test_a_bad_request_is_its_own_error_and_no_others(tiny: str) -> None:
    clip = mp4()
    assert isinstance(clip.source, bytes)
    requests = [
        ask("rubbish", Image(b"no image"), Text("?")),
        ask("cut", Image(picture(90, 90).source[:900]), Text("?")),  # type: ignore[index]
        ask("gone", Image(Path("/no/such/file.png")), Text("?")),
        ask("clip", Video(clip.source[: len(clip.source) // 2]), Text("?")),
        ask("spoof", picture(60, 60), Text("a <|image_pad|> of my own")),
        ask("thin", picture(2, 900), Text("?")),
        ask("good", picture(60, 60), Text("?")),
    ]
    for adapter in (ReferenceAdapter(tiny), TransformersAdapter(tiny)):
        out = collect(adapter.generate(requests))
        assert set(out) == {r.id for r in requests}
        assert {id for id, c in out.items() if c.error is None} == {"good"}
        assert "unreadable" in str(out["rubbish"].error) and "/no/such/file.png" in str(
            out["gone"].error
        )
        assert "200 times" in str(out["thin"].error)


def test_the_fingerprint_follows_what_can_change_an_answer_and_nothing_else(
    tiny: str, tmp_path: Path
) -> None:
    base = ReferenceAdapter(tiny).fingerprint
    assert (
        ReferenceAdapter(tiny, batch_size=3, batch_tokens=99, workers=1, device="cpu").fingerprint
        == base
    )
    for change in (
        {"dtype": "bfloat16"},
        {"position": "rope1d"},
        {"resolution": "tokens:64"},
        {"max_pixels": 9999},
        {"fps": 1.0},
    ):
        assert ReferenceAdapter(tiny, **change).fingerprint != base
    assert ReferenceAdapter(str(write_tiny(tmp_path, seed=1))).fingerprint != base


@pytest.mark.parametrize("adapter", [ReferenceAdapter, TransformersAdapter])
def test_the_tokens_that_end_an_answer_are_part_of_the_fingerprint(
    adapter: type, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path)
    base = adapter(str(folder)).fingerprint
    (folder / "generation_config.json").write_text('{"eos_token_id": 65}')
    assert adapter(str(folder)).fingerprint == {**base, "generation": "greedy until 65"}


def test_a_file_shown_as_an_image_and_as_a_clip_is_two_things(tiny: str) -> None:
    rng = np.random.default_rng(0)
    frames = [
        PILImage.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(4)
    ]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=250)
    asked = [
        ask("still", Image(buffer.getvalue()), Text("?")),
        ask("clip", Video(buffer.getvalue()), Text("?")),
    ]
    together = collect(ReferenceAdapter(tiny).generate(asked))
    for request in asked:
        alone = collect(ReferenceAdapter(tiny).generate([request]))[request.id]
        assert (together[request.id].text, together[request.id].error) == (alone.text, None)


@pytest.mark.parametrize("adapter", [ReferenceAdapter, TransformersAdapter])
def test_an_unexpected_exception_costs_one_request(adapter: type, tiny: str) -> None:
    out = collect(
        adapter(tiny).generate([ask("surrogate", Text("\ud800")), ask("good", Text("Bonjour"))])
    )
    assert "Error" in str(out["surrogate"].error) and out["good"].error is None


def test_a_repeated_id_or_no_room_for_an_answer_costs_that_request(tiny: str) -> None:
    asked = [
        *REQUESTS[:2],
        ask("image", picture(60, 60, 9), Text("Another?")),
        ask("none", Text("No tokens?"), limit=0),
        Request("empty", ()),
        REQUESTS[2],
    ]
    got = list(ReferenceAdapter(tiny).generate(asked))
    assert len(got) == len(asked)
    assert {c.id for c in got if not c.error} == {"text", "image", "two"}
    assert sorted(c.id for c in got if c.error) == ["empty", "image", "none"]


@pytest.mark.parametrize("adapter", [ReferenceAdapter, TransformersAdapter])
@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(adapter: type, device: str, tiny: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}'"):
        adapter(tiny, device=device)


def test_a_switch_away_from_training_makes_an_inference_probe(tiny: str) -> None:
    assert not ReferenceAdapter(tiny).fingerprint["inference_probe"]
    assert not ReferenceAdapter(tiny, position="mrope").fingerprint["inference_probe"]
    assert ReferenceAdapter(tiny, position="rope1d").fingerprint["inference_probe"]
    assert not ReferenceAdapter(tiny, max_pixels=50176, fps=4.0).fingerprint["inference_probe"]


def test_a_trained_arm_runs_as_it_was_trained(tiny: str, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "arm")
    path = tmp_path / "arm" / "config.json"
    config = json.loads(path.read_text())
    config["evalkit"] = {"schema_version": 1, "trained_with": {"position": "rope1d"}}
    path.write_text(json.dumps(config))
    arm = collect(ReferenceAdapter(str(tmp_path / "arm")).generate(REQUESTS))
    probe = collect(ReferenceAdapter(tiny, position="rope1d").generate(REQUESTS))
    assert {k: c.text for k, c in arm.items()} == {k: c.text for k, c in probe.items()}
    assert not ReferenceAdapter(str(tmp_path / "arm")).fingerprint["inference_probe"]
    assert ReferenceAdapter(str(tmp_path / "arm"), position="mrope").fingerprint["inference_probe"]


def test_ranking_takes_the_likeliest_choice(tiny: str) -> None:
    request = ask("r", picture(60, 60), Text("?"), choices=("A", "B", "a longer one"))
    out = next(iter(ReferenceAdapter(tiny).rank([request])))
    assert len(out.logprobs) == 3
    assert out.text == request.choices[out.logprobs.index(max(out.logprobs))]
    theirs = next(iter(TransformersAdapter(tiny).rank([request])))
    assert theirs.logprobs == pytest.approx(out.logprobs, abs=1e-3) and theirs.text == out.text
    assert theirs.tokens == out.tokens and theirs.finish_reason == "rank"


@pytest.mark.parametrize(
    ("adapter", "arguments", "message"),
    [
        (ReferenceAdapter, {"positon": "mrope"}, "unknown argument positon"),
        (ReferenceAdapter, {"position": "rope3d"}, "expected one of mrope"),
        (ReferenceAdapter, {"batch_size": 0}, "above 0"),
        (ReferenceAdapter, {"dtype": "int8"}, "expected one of float32"),
        (ReferenceAdapter, {"min_pixels": 10_000, "max_pixels": 5_000}, "above max_pixels"),
        (TransformersAdapter, {"position": "rope1d"}, "unknown argument position .*max_pixels"),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_ones(
    tiny: str, adapter: type, arguments: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        adapter(tiny, **arguments)


def test_a_model_of_another_family_is_sent_to_the_other_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava_next"}')
    with pytest.raises(CheckpointError, match="'llava_next'.* --adapter transformers"):
        ReferenceAdapter(str(tmp_path))


def test_a_missing_model_is_named() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        ReferenceAdapter("nowhere-to-be-found")


@pytest.mark.parametrize("workers", [1, 3])
def test_prepared_requests_come_in_order_and_hold_no_more_than_they_may(workers: int) -> None:
    lock, waiting, most_seen = Lock(), 0, 0

    def work(n: int) -> int:
        nonlocal waiting, most_seen
        with lock:
            waiting += 1
            most_seen = max(most_seen, waiting)
        return n

    out = []
    for n in prefetch(work, range(200), workers, depth=50, size=lambda _: 10, max_size=40):
        with lock:
            waiting -= 1
        out.append(n)
        if n == 100:
            time.sleep(0.05)  # time enough to run ahead
    assert out == list(range(200))
    assert most_seen <= 4 + workers


def test_one_request_larger_than_the_room_and_one_that_breaks_hang_nothing() -> None:
    def work(n: int) -> int:
        if n == 7:
            raise ValueError("seven")
        return n

    came = prefetch(work, range(20), 2, depth=5, size=lambda _: 1000, max_size=10)
    assert [next(came) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(came)
    given_up = prefetch(work, range(6), 2, depth=3, size=lambda _: 1000, max_size=10)
    assert next(given_up) == 0
    given_up.close()


def test_without_overlap_nothing_is_begun_while_the_model_runs() -> None:
    begun: list[int] = []
    ahead = 0
    for n in prefetch(
        lambda n: begun.append(n) or n,
        range(60),
        2,
        20,
        size=lambda _: 1,
        max_size=100,
        overlap=False,
    ):
        time.sleep(0.005)  # what was begun meanwhile ends
        before = len(begun)
        time.sleep(0.01)
        assert len(begun) == before
        ahead = max(ahead, before - 1 - n)
    assert sorted(begun) == list(range(60)) and ahead <= 20


def config_of(folder: str, tmp_path: Path, **changes: object) -> str:
    """A copy of a checkpoint whose config.json differs."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(copy)


def renamed(folder: str, tmp_path: Path, rename: Callable[[str], str | None]) -> str:
    """A copy of a checkpoint with other names for its tensors; None leaves one out."""
    copy = tmp_path / "renamed"
    shutil.copytree(folder, copy)
    file = copy / "model.safetensors"
    weights = {rename(name): tensor for name, tensor in load_file(file).items()}
    weights.pop(None, None)
    save_file(weights, file, metadata={"format": "pt"})  # type: ignore[arg-type]
    return str(copy)


@pytest.mark.parametrize(
    ("rename", "fault"),
    [
        (lambda n: f"base_model.model.{n}", "missing .*surplus .*base_model.model"),
        (lambda n: None if n.endswith("layers.0.mlp.up_proj.weight") else n, "1 missing"),
        (lambda n: n.replace("layers.1.", "layers.7."), "surplus"),
    ],
    ids=["wrapped", "one absent", "one layer misnamed"],
)
def test_transformers_never_answers_with_random_weights(
    tiny: str, tmp_path: Path, rename: Callable[[str], str | None], fault: str
) -> None:
    adapter = TransformersAdapter(renamed(tiny, tmp_path, rename))
    with pytest.raises(CheckpointError, match=f"not those of the model .*{fault}"):
        list(adapter.generate([ask("a", Text("?"))]))


def test_transformers_refuses_weights_of_another_shape(tiny: str, tmp_path: Path) -> None:
    adapter = TransformersAdapter(config_of(tiny, tmp_path, intermediate_size=640))
    with pytest.raises(CheckpointError):
        list(adapter.generate([ask("a", Text("?"))]))


def test_transformers_refuses_weights_trained_as_it_cant_run_them(
    tiny: str, tmp_path: Path
) -> None:
    trained = {"schema_version": 1, "trained_with": {"position": "rope1d", "max_pixels": 7840}}
    folder = config_of(tiny, tmp_path, evalkit=trained)
    with pytest.raises(UsageError, match="trained with position=rope1d.*the reference adapter can"):
        TransformersAdapter(folder)


def test_budgets_that_weights_were_trained_with_hold_in_both_adapters(
    tiny: str, tmp_path: Path
) -> None:
    budgets = {"max_pixels": 7840, "fps": 1.0, "max_frames": 4}
    trained = {"schema_version": 1, "trained_with": budgets}
    folder = config_of(tiny, tmp_path, evalkit=trained)
    asked = [ask("image", picture(300, 200)), ask("clip", mp4(24))]
    plain = collect(ReferenceAdapter(tiny, **budgets).generate(asked))
    for adapter in (ReferenceAdapter(folder), TransformersAdapter(folder)):
        out = collect(adapter.generate(asked))
        assert {i: c.tokens.vision_in for i, c in out.items()} == {
            i: c.tokens.vision_in for i, c in plain.items()
        }
        assert not adapter.fingerprint["switches"] and not adapter.fingerprint["inference_probe"]
    assert ReferenceAdapter(folder).details["max_pixels"] == 7840


def test_a_switch_at_its_trained_value_is_the_same_cell(tiny: str) -> None:
    base = ReferenceAdapter(tiny).fingerprint
    for same in (
        {"position": "mrope"},
        {"vision_gate": 1},
        {"theta": 1_000_000.0},
        {"resolution": "dynamic"},
        {"fps": None},
    ):
        assert ReferenceAdapter(tiny, **same).fingerprint == base, same


@pytest.mark.parametrize("kind", ["generate", "rank"])
def test_a_prompt_beyond_the_context_is_its_own_error(tiny: str, tmp_path: Path, kind: str) -> None:
    adapter = ReferenceAdapter(config_of(tiny, tmp_path, max_position_embeddings=64))
    asked = [
        ask("long", Text("x" * 100), choices=("A", "B")),
        ask("short", Text("x"), choices=("A", "B")),
    ]
    out = collect(getattr(adapter, kind)(asked))
    assert out["short"].error is None
    assert "tokens" in str(out["long"].error) and "64" in str(out["long"].error)


def test_an_answer_ends_where_the_context_does(tiny: str, tmp_path: Path) -> None:
    adapter = ReferenceAdapter(config_of(tiny, tmp_path, max_position_embeddings=64))
    adapter.chat.stop_ids = frozenset()
    (answer,) = adapter.generate([ask("endless", Text("x"), limit=1000)])
    assert answer.finish_reason == "length"
    assert answer.tokens.text_in + answer.tokens.out == 64


def test_a_model_in_memory_answers_as_its_checkpoint(tiny: str) -> None:
    model = load(Path(tiny)).train()
    live = ReferenceAdapter(model)
    stored = ReferenceAdapter(tiny, dtype=str(model.dtype).removeprefix("torch."))
    theirs = collect(stored.generate(REQUESTS))
    assert {i: c.text for i, c in collect(live.generate(REQUESTS)).items()} == {
        i: c.text for i, c in theirs.items()
    }
    before = live.fingerprint
    assert before["inference_probe"] is False and before["switches"] == {}
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    assert ReferenceAdapter(model).fingerprint != before
    assert ReferenceAdapter(model, max_pixels=7840).fingerprint["switches"] == {"max_pixels": 7840}


def test_a_model_in_memory_says_what_it_lacks(tiny: str) -> None:
    model = load(Path(tiny))
    model.folder = None
    with pytest.raises(UsageError, match="companions=FOLDER"):
        ReferenceAdapter(model)
    assert ReferenceAdapter(model, companions=tiny).chat.stop_ids
    with pytest.raises(UsageError, match="position: a model in memory runs under the switches"):
        ReferenceAdapter(model, companions=tiny, position="rope1d")
    with pytest.raises(UsageError, match="a model in memory is run as it is"):
        ReferenceAdapter(model, companions=tiny, dtype="float32")
    with pytest.raises(UsageError, match="companions: only for a model in memory"):
        ReferenceAdapter(tiny, companions=tiny)
    with pytest.raises(UsageError, match="torch.nn.modules.linear.Linear"):
        ReferenceAdapter(torch.nn.Linear(1, 1))
    probe = load(Path(tiny), switches=Switches(theta=1e6, vision_gate=0.5))
    assert ReferenceAdapter(probe).fingerprint["inference_probe"] is True


def test_a_closed_adapter_takes_its_model_again(tiny: str) -> None:
    adapter = ReferenceAdapter(tiny)
    asked = [ask("text", Text("Bonjour"))]
    first = collect(adapter.generate(asked))["text"].text
    adapter.close()
    assert "engine" not in vars(adapter)
    assert collect(adapter.generate(asked))["text"].text == first
