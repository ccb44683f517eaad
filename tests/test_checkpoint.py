"""Checkpoints: the released sizes, both layouts and namings, and errors that name the tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit.errors import CheckpointError
from evalkit.models.qwen2_vl.checkpoint import load, save
from evalkit.models.qwen2_vl.config import RELEASED, Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.weights import resolve, weights_digest
from tests.tiny import write_tiny

PARAMETERS = {
    "2B": (2_208_985_600, 665_271_296),
    "7B": (8_291_375_616, 675_759_104),
    "72B": (73_405_560_320, 699_356_672),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("size", PARAMETERS)
def test_released_sizes_have_their_parameter_counts(size: str) -> None:
    with torch.device("meta"):
        model = Qwen2VL(RELEASED[size])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size][0]
    assert sum(p.numel() for p in model.visual.parameters()) == PARAMETERS[size][1]
    assert len(model.state_dict()) == {"2B": 730, "7B": 730, "72B": 1354}[size]


@pytest.mark.parametrize("size", RELEASED)
def test_config_survives_writing_and_reading(size: str) -> None:
    config = RELEASED[size]
    assert Qwen2VLConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_flat_and_nested_configs_are_the_same_model() -> None:
    from transformers import Qwen2VLConfig as HFConfig

    config = RELEASED["2B"]
    nested = HFConfig(**config.to_dict()).to_dict()
    assert "text_config" in nested
    read = Qwen2VLConfig.from_dict(nested)
    assert (read.text, read.vision, read.tie_word_embeddings) == (
        config.text,
        config.vision,
        config.tie_word_embeddings,
    )
    assert (read.image_token_id, read.video_token_id) == (
        config.image_token_id,
        config.video_token_id,
    )


def test_a_checkpoint_survives_saving_in_shards(tiny: Path, tmp_path: Path) -> None:
    model = load(tiny)
    save(model, tmp_path, companions=tiny, shard_bytes=200_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = load(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_transformers_loads_what_we_write(tiny: Path) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    _, info = Qwen2VLForConditionalGeneration.from_pretrained(tiny, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize(
    "prefixes", [("model.visual.", "model.language_model."), ("visual.", "language_model.model.")]
)
def test_all_namings_of_the_tensors_are_read(
    tiny: Path, tmp_path: Path, prefixes: tuple[str, str]
) -> None:
    renamed = {}
    for key, tensor in load_file(tiny / "model.safetensors").items():
        key = (
            key.replace("visual.", prefixes[0], 1)
            if key.startswith("visual.")
            else key.replace("model.", prefixes[1], 1)
        )
        renamed[key] = tensor
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    a, b = load(tiny).state_dict(), load(tmp_path).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_missing_and_surplus_tensors_are_named(tiny: Path, tmp_path: Path) -> None:
    state = load_file(tiny / "model.safetensors")
    del state["model.norm.weight"]
    state["model.extra"] = torch.zeros(1)
    state["visual.merger.ln_q.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    with pytest.raises(CheckpointError) as e:
        load(tmp_path)
    for part in (
        "missing model.norm.weight",
        "surplus model.extra",
        "visual.merger.ln_q.bias has shape [3]",
    ):
        assert part in str(e.value)


def test_a_torn_weight_file_says_so(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:1000])
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    with pytest.raises(CheckpointError, match="download it again"):
        load(tmp_path)


def test_a_missing_shard_is_named(tiny: Path, tmp_path: Path) -> None:
    save(load(tiny), tmp_path, shard_bytes=200_000)
    (tmp_path / "model-00002-of-00005.safetensors").unlink(missing_ok=True)
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match="missing shards: model-00001"):
        load(tmp_path)


def test_the_digest_follows_the_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = weights_digest(tiny)
    assert weights_digest(tiny) == before
    copy = tmp_path / "copy"
    save(load(tiny), copy, companions=tiny)
    assert weights_digest(copy) == before
    state = load_file(copy / "model.safetensors")
    state["model.norm.weight"][0] += 1
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert weights_digest(copy) != before


def test_an_unknown_model_is_refused_with_its_name() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve("./nowhere/at/all")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "qwen2_vl", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "qwen2_vl", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "qwen2_vl", "vision_config": 3}'),
        ("config.json", '{"model_type": "qwen2_vl", "evalkit": {"trained_with": [1]}}'),
        ("preprocessor_config.json", "rubbish"),
        ("preprocessor_config.json", '{"image_mean": [0.5]}'),
        ("preprocessor_config.json", '{"image_std": [0, 0, 0]}'),
        ("preprocessor_config.json", '{"min_pixels": "a"}'),
        ("generation_config.json", "[1]"),
        ("generation_config.json", '{"eos_token_id": "a"}'),
        ("tokenizer_config.json", "rubbish"),
        ("tokenizer.json", "{"),
        ("model.safetensors.index.json", '{"weight_map": 3}'),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str) -> None:
    from evalkit.model_adapters.reference import ReferenceAdapter

    folder = write_tiny(tmp_path)
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        ReferenceAdapter(str(folder)).fingerprint  # noqa: B018
