"""Checkpoints that people have: evalkit answers as transformers does, or neither answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file

from evalkit.adapter import make_adapter
from evalkit.errors import CheckpointError
from evalkit.types import Completion, Image, Message, Request, Text
from tests import test_qwen2_5_vl, test_qwen3_vl, test_qwen3_vl_moe
from tests.tiny import write_tiny


def png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def complete(adapter: str, folder: Path) -> Completion:
    content = (Image(png()), Text("What is written here, and in which language?"))
    request = Request("1", (Message("user", content),), max_new_tokens=8)
    (completion,) = make_adapter(adapter, str(folder), {"device": "cpu"}).generate([request])
    return completion


def answer(adapter: str, folder: Path) -> Completion:
    completion = complete(adapter, folder)
    assert completion.error is None
    return completion


def change(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (raw | values).items() if v is not None}))


def nothing(folder: Path) -> None:
    pass


def head_unlike_the_embedding(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def yarn(folder: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    change(folder, "config.json", rope_scaling=scaling | {"mrope_section": [16, 24, 24]})


def several_end_tokens(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    change(folder, "config.json", eos_token_id=list(range(0, 300, 3)))


def settings_of_transformers_5(folder: Path) -> None:
    image = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    del image["min_pixels"], image["max_pixels"]
    image["size"] = {"shortest_edge": 3136, "longest_edge": 784 * 5}
    change(folder, "processor_config.json", image_processor=image)


def named_templates(folder: Path) -> None:
    pads = "<|vision_start|><|image_pad|><|vision_end|>"
    body = (
        "{% for m in messages %}{% for p in m.content %}"
        f"{{% if p.type == 'text' %}}{{{{ p.text }}}}{{% else %}}{pads}{{% endif %}}"
        "{% endfor %}{{ eos_token }}{% endfor %}"
    )
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": body}]
    change(folder, "tokenizer_config.json", chat_template=named)


def template_of_the_processor(folder: Path) -> None:
    """Beside the tokenizer's, which it comes before."""
    template = "{% for m in messages %}<|vision_start|><|image_pad|>{{ m.role }}{% endfor %}"
    change(folder, "chat_template.json", chat_template=template)


def other_than_greedy(folder: Path) -> None:
    """Settings of generation, which make no answer other than the greedy one."""
    change(
        folder,
        "generation_config.json",
        no_repeat_ngram_size=1,
        suppress_tokens=list(range(0, 320, 2)),
        bad_words_ids=[[7]],
        sequence_bias=[[[9], 100.0]],
        forced_eos_token_id=5,
        exponential_decay_length_penalty=[0, 5.0],
        repetition_penalty=1.5,
        num_beams=3,
        num_return_sequences=2,
        stop_strings=["e"],
        max_time=1e-4,
        max_length=3,
        return_dict_in_generate=True,
    )


def eps_left_out(folder: Path) -> None:
    change(folder, "config.json", rms_norm_eps=None)


CHANGES = (
    nothing,
    head_unlike_the_embedding,
    yarn,
    several_end_tokens,
    settings_of_transformers_5,
    named_templates,
    template_of_the_processor,
    eps_left_out,
)


@pytest.mark.parametrize("apply", [*CHANGES, other_than_greedy], ids=lambda f: f.__name__)
def test_both_adapters_answer_alike(tmp_path: Path, apply: Callable[[Path], None]) -> None:
    folder = write_tiny(tmp_path)
    apply(folder)
    ours, theirs = answer("reference", folder), answer("transformers", folder)
    assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)


@pytest.mark.parametrize("tiny", [test_qwen2_5_vl.tiny, test_qwen3_vl.tiny, test_qwen3_vl_moe.tiny])
def test_the_later_families_answer_and_rank_alike(
    tmp_path: Path, tiny: Callable[[Path], Path]
) -> None:
    folder = tiny(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # transformers looks for a processor's template in a file of its own, where it is released
    change(folder, "chat_template.json", chat_template=settings["chat_template"])
    ours, theirs = answer("reference", folder), answer("transformers", folder)
    assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
    assert ours.box_space == theirs.box_space
    content = (Image(png()), Text("What is written here?"))
    asked = Request("1", (Message("user", content),), choices=("a word", "nothing", "42"))
    likelihoods = [
        next(iter(make_adapter(name, str(folder), {"device": "cpu"}).rank([asked]))).logprobs
        for name in ("reference", "transformers")
    ]
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-3)


def test_templates_of_which_none_is_the_default_are_named(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "chat_template.json").unlink(missing_ok=True)
    named = [{"name": "tool_use", "template": "x"}]
    change(folder, "tokenizer_config.json", chat_template=named)
    assert "['tool_use']" in str(complete("transformers", folder).error)
    with pytest.raises(CheckpointError, match="chat templates tool_use, and none is"):
        complete("reference", folder)


def test_each_of_these_changes_matters(tmp_path: Path) -> None:
    """Or else the test above would pass without reading them."""
    plain = answer("reference", write_tiny(tmp_path / "plain"))
    for apply in CHANGES[1:-1]:
        folder = write_tiny(tmp_path / apply.__name__)
        apply(folder)
        changed = answer("reference", folder)
        assert (changed.text, changed.tokens) != (plain.text, plain.tokens), apply.__name__


@pytest.mark.parametrize("adapter", ["reference", "transformers"])
def test_a_prompt_longer_than_the_model_is_made_for_is_that_samples_error(
    tmp_path: Path, adapter: str
) -> None:
    folder = write_tiny(tmp_path)
    tokens = answer(adapter, folder).tokens
    length = tokens.text_in + tokens.vision_in
    change(folder, "config.json", max_position_embeddings=length)
    answer(adapter, folder)
    change(folder, "config.json", max_position_embeddings=length - 1)
    assert f"a prompt of {length} tokens" in str(complete(adapter, folder).error)
    yarn(folder)  # to 4 * 32
    assert length <= 4 * 32
    answer(adapter, folder)


@pytest.mark.parametrize("adapter", ["reference", "transformers"])
def test_a_model_with_an_unmerged_adapter_beside_it_is_not_scored(
    tmp_path: Path, adapter: str
) -> None:
    folder = write_tiny(tmp_path)
    change(folder, "adapter_config.json", base_model_name_or_path="some/base")
    with pytest.raises(CheckpointError, match=r"LoRA\) for some/base.*merg"):
        complete(adapter, folder)
