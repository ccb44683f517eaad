"""The transformers adapter on families other than Qwen2-VL, each a random checkpoint: it runs them
without torchvision, in batches, and never on weights or words that are not the model's own.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evalkit.model_adapters.transformers import TransformersAdapter
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file

from evalkit import evaluate
from evalkit.errors import CheckpointError, UsageError
from evalkit.pretrained.pictures import sheet, spread
from evalkit.types import Completion, Image, Message, Request, Text, Video
from tests.hub_models import VISION_LANGUAGE, built
from tests.pictures import png

MINI = ("docvqa", "refcoco", "video_qa", "multilingual_ocr")
BOXES = {
    "llava": "crop:list",
    "llava_next": "square:list",
    "llava_onevision": "norm1:list",
    "internvl": "norm1000:list",
    "paligemma": "loc1024",
    "qwen2_5_vl": "resized:json",
    "qwen3_vl": "norm1000:json",
    "qwen3_vl_moe": "norm1000:json",
}


def families(*quick: str) -> list[object]:
    """All of them; those that are not quick are slow."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in VISION_LANGUAGE]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(VISION_LANGUAGE[request.param], tmp_path_factory.mktemp(request.param))


def picture(width: int, height: int, seed: int) -> Image:
    return Image(png(width, height, None, seed))


def clip(frames: int, seed: int = 0) -> Video:
    pictures = [PILImage.open(io.BytesIO(png(64, 48, None, seed + i))) for i in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=250)
    return Video(buffer.getvalue())


def ask(id: str, *parts: Image | Video | Text, limit: int = 6) -> Request:
    return Request(id, (Message("user", parts),), max_new_tokens=limit)


def answers(adapter: TransformersAdapter, asked: Sequence[Request]) -> dict[str, Completion]:
    return {c.id: c for c in adapter.generate(asked)}


@pytest.mark.parametrize("folder", families("llava", "qwen2_5_vl"), indirect=True)
def test_batches_give_the_answers_of_single_requests_and_images_change_them(
    folder: str, request: pytest.FixtureRequest
) -> None:
    asked = [
        ask("wide", picture(120, 70, 0), Text("What is it?")),
        ask("tall", picture(60, 110, 1), Text("What is the total of all, do you think?")),
        ask("other", picture(120, 70, 2), Text("What is it?")),
        ask("clip", clip(5), Text("And then?")),
        ask("bad", Image(b"no image"), Text("?")),
    ]
    single = answers(TransformersAdapter(folder, frames=2), asked)
    batched = answers(TransformersAdapter(folder, frames=2, batch_size=3), asked)
    assert "unreadable" in str(single.pop("bad").error)
    assert {i: (c.text, c.error) for i, c in single.items()} == {
        i: (batched[i].text, None) for i in single
    }
    assert single["wide"].text != single["other"].text
    name = request.node.callspec.params["folder"]
    said = single["wide"].box_space
    assert said == ("resized:json@112x56" if name == "qwen2_5_vl" else BOXES.get(name))
    assert TransformersAdapter(folder).box_space == BOXES.get(name)


@pytest.mark.parametrize("folder", families(), indirect=True)
def test_every_family_runs_the_embedded_tasks(folder: str, tmp_path: Path) -> None:
    done = evaluate(
        MINI, folder, adapter="transformers", output=tmp_path, limit=1, progress=False, frames=2
    )
    boxless = TransformersAdapter(folder).box_space is None
    assert [cell.task for cell in done.cells] == [f"{name}:mini" for name in MINI]
    for cell in done.cells:
        assert cell.results.n + cell.results.errors == 1
        assert cell.results.errors == (1 if boxless and "refcoco" in str(cell.task) else 0)


@pytest.mark.parametrize("folder", families(), indirect=True)
def test_every_family_ranks_choices_by_what_it_sees(folder: str) -> None:
    adapter = TransformersAdapter(folder)
    words = {"choices": ("a cat", "two dogs here", "b")}
    asked = [replace(ask(str(i), picture(60, 60, i), Text("What?")), **words) for i in (1, 2)]
    one, other = adapter.rank(asked)
    assert one.error is None and one.finish_reason == "rank"
    assert all(math.isfinite(p) and p < 0 for p in one.logprobs)
    assert one.text == asked[0].choices[one.logprobs.index(max(one.logprobs))]
    assert one.logprobs != other.logprobs


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_what_could_not_be_the_models_own_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_pixels: .*switches for Qwen2-VL only"):
        TransformersAdapter(folder, max_pixels=3136)
    with pytest.raises(UsageError, match="dtype='int8'"):
        TransformersAdapter(folder, dtype="int8")
    with pytest.raises(UsageError, match="'miles': no space of boxes"):
        TransformersAdapter(folder, box_space="miles")
    with pytest.raises(UsageError, match="no place for the {question}"):
        TransformersAdapter(folder, prompt="{images}")
    spoof = answers(TransformersAdapter(folder), [ask("a", picture(9, 9, 0), Text("<image>"))])
    assert "visual placeholder" in str(spoof["a"].error)


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_a_prompt_in_place_of_the_template_is_another_model_in_tables(folder: str) -> None:
    asked = [ask("a", picture(60, 60, 0), Text("Why?"))]
    plain, other = (
        TransformersAdapter(folder),
        TransformersAdapter(folder, prompt="{images}Q: {question} A:"),
    )
    assert plain.fingerprint != other.fingerprint
    assert answers(plain, asked)["a"].tokens != answers(other, asked)["a"].tokens


@pytest.mark.parametrize("file", ["vocab.txt", "spiece.model", "qformer_tokenizer/vocab.txt"])
@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_what_a_tokenizer_is_made_of_is_part_of_the_identity(
    folder: str, tmp_path: Path, file: str
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = TransformersAdapter(str(copied)).fingerprint
    assert before == TransformersAdapter(folder).fingerprint
    (copied / file).parent.mkdir(exist_ok=True)
    (copied / file).write_text("a")
    first = TransformersAdapter(str(copied)).fingerprint
    (copied / file).write_text("b")
    assert len({str(f) for f in (before, first, TransformersAdapter(str(copied)).fingerprint)}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["blip2"], indirect=True)
def test_a_model_of_one_image_sees_a_clip_on_one_sheet_and_no_second_image(folder: str) -> None:
    asked = [
        ask("two", picture(60, 60, 0), picture(60, 60, 1), Text("?")),
        ask("clip", clip(6), Text("?")),
    ]
    adapter = TransformersAdapter(folder, frames=4)
    out = answers(adapter, asked)
    assert "2 images, and a blip-2 model takes one" in str(out["two"].error)
    assert out["clip"].error is None
    assert adapter.fingerprint["video"] == "4 frames on one sheet"


def test_frames_are_spread_over_a_clip_and_laid_out_in_rows() -> None:
    assert spread(100, 4) == [12, 37, 62, 87]
    assert spread(3, 8) == [0, 1, 2]
    page = sheet([PILImage.new("RGB", (10, 6), (i, i, i)) for i in range(3)])
    assert page.size == (20, 12)
    assert [page.getpixel(p) for p in ((0, 0), (10, 0), (0, 6))] == [(i, i, i) for i in range(3)]


def lora_of(base: str, folder: Path, rename: str = "base_model.model.") -> str:
    """An adapter of rank 2 for the first layer's queries, as peft writes one."""
    name = "model.language_model.layers.0.self_attn.q_proj"
    rng = torch.Generator().manual_seed(0)
    folder.mkdir()
    save_file(
        {
            f"{rename}{name}.lora_A.weight": torch.randn(2, 32, generator=rng),
            f"{rename}{name}.lora_B.weight": torch.randn(32, 2, generator=rng),
        },
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 2,
        "lora_alpha": 4,
        "target_modules": f".*{name.removeprefix('model.')}",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.optional
@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_a_lora_is_merged_into_its_base(folder: str, tmp_path: Path) -> None:
    lora = lora_of(folder, tmp_path / "lora")
    merged, base = TransformersAdapter(lora), TransformersAdapter(folder)
    stored = load_file(f"{lora}/adapter_model.safetensors")
    a, b = (v for _, v in sorted(stored.items()))
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    expected = base.model.state_dict()[name] + 2 * b @ a
    assert torch.allclose(merged.model.state_dict()[name], expected, atol=1e-5)
    assert merged.fingerprint["weights"] != base.fingerprint["weights"]
    odd = TransformersAdapter(lora_of(folder, tmp_path / "odd", rename="model."))
    with pytest.raises(CheckpointError, match="not those of an adapter for llava"):
        list(odd.generate([ask("a", Text("?"))]))


def test_a_lora_without_its_base_is_refused_with_the_bases_name(tmp_path: Path) -> None:
    lora = lora_of("some/base-model", tmp_path / "lora")
    with pytest.raises(CheckpointError, match=r"an adapter \(LoRA\) for some/base-model"):
        TransformersAdapter(lora)


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_quantised_weights_without_their_back_end_are_refused_by_name(
    folder: str, tmp_path: Path
) -> None:
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    adapter = TransformersAdapter(str(tmp_path))
    with pytest.raises(CheckpointError, match="quantised with awq"):
        list(adapter.generate([ask("a", Text("?"))]))
