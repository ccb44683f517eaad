"""Checkpoints: the released sizes, both layouts and namings, and errors that name the tensor."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit.errors import CheckpointError
from evalkit.models.qwen2_vl.checkpoint import load, save
from evalkit.models.qwen2_vl.config import RELEASED, Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.weights import companion_files, resolve, weights_digest
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


def test_the_released_config_of_the_2b_is_read() -> None:
    flat = """{"architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
        "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
        "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 1536,
        "initializer_range": 0.02, "intermediate_size": 8960, "max_position_embeddings": 32768,
        "max_window_layers": 28, "model_type": "qwen2_vl", "num_attention_heads": 12,
        "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": true,
        "use_sliding_window": false, "vision_config": {"depth": 32, "embed_dim": 1280,
        "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 1536, "patch_size": 14,
        "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936}"""
    assert Qwen2VLConfig.from_dict(json.loads(flat)) == RELEASED["2B"]


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


@pytest.mark.parametrize("why", ["open file <x> in read-only mode: Permission denied", "mmap 9"])
def test_weights_that_torch_cannot_map_say_so(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def refused(*args: object, **how: object) -> None:
        raise RuntimeError(f"unable to {why}")

    monkeypatch.setattr("evalkit.models.weights.safe_open", refused)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable .*unable to"):
        load(tiny)


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


@pytest.mark.parametrize(
    "name", ["./nothere", "../nothere", "~/nothere", "./nowhere/at/all", "/no/such", "nothere", ""]
)
def test_a_mistyped_path_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder") as e:
        resolve(name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["a--b/c..d", "owner/name-", "owner/" + "x" * 120])
def test_an_invalid_hub_id_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder") as e:
        resolve(name)
    assert "\n" not in str(e.value)


def test_a_path_to_a_file_says_that_the_folder_is_needed(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder that holds config.json"):
        resolve(str(tiny / "model.safetensors"))


def test_a_home_folder_is_expanded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve(f"~/{tiny.name}") == tiny


def copy(tiny: Path, to: Path, **config: object) -> Path:
    """A copy of the tiny checkpoint with some keys of its config set."""
    shutil.copytree(tiny, to, dirs_exist_ok=True)
    raw = json.loads((tiny / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(raw))
    return to


def rewrite(folder: Path, **changed: torch.Tensor) -> Path:
    state = load_file(folder / "model.safetensors") | {
        k.replace("__", "."): v for k, v in changed.items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_output_head_that_differs_from_the_embedding_is_kept(tiny: Path, tmp_path: Path) -> None:
    embedding = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"]
    head = embedding.flip(0).contiguous()
    folder = rewrite(copy(tiny, tmp_path / "a"), lm_head__weight=head)
    model = load(folder)
    assert torch.equal(model.lm_head.weight, head)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    save(model, tmp_path / "b")
    assert torch.equal(load(tmp_path / "b").lm_head.weight, head)


def test_an_output_head_equal_to_the_embedding_is_tied(tiny: Path, tmp_path: Path) -> None:
    embedding = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"]
    model = load(rewrite(copy(tiny, tmp_path), lm_head__weight=embedding.clone()))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings


def test_saving_replaces_the_model_that_was_there(tiny: Path, tmp_path: Path) -> None:
    old = load(tiny)
    save(old, tmp_path, shard_bytes=200_000)
    new = load(write_tiny(tmp_path.parent / "other", seed=5))
    save(new, tmp_path)
    assert not list(tmp_path.glob("model-*")) + list(tmp_path.glob(".*"))
    assert torch.equal(load(tmp_path).lm_head.weight, new.lm_head.weight)
    save(old, tmp_path, shard_bytes=200_000)
    assert not (tmp_path / "model.safetensors").exists()
    assert torch.equal(load(tmp_path).lm_head.weight, old.lm_head.weight)


@pytest.mark.parametrize("shard_bytes", [5 << 30, 1 << 20])
def test_saving_broken_off_anywhere_leaves_one_model_or_none(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    old, new = load(tiny), load(write_tiny(tmp_path / "other", seed=5))
    new.config = replace(new.config, bos_token_id=7)
    real_replace, real_unlink = Path.replace, Path.unlink
    steps = 0

    def step() -> None:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", lambda path, to: (step(), real_replace(path, to)))
    monkeypatch.setattr(Path, "unlink", lambda path: (step(), real_unlink(path)))
    outcomes = []
    for allowed in range(12):
        folder, steps = copy(tiny, tmp_path / str(allowed)), allowed
        with contextlib.suppress(KeyboardInterrupt):
            save(new, folder, shard_bytes=shard_bytes)
        try:
            loaded = load(folder)
        except CheckpointError:
            outcomes.append("none")
            continue
        is_new = loaded.config.bos_token_id == 7
        outcomes.append("new" if is_new else "old")
        assert torch.equal(loaded.lm_head.weight, (new if is_new else old).lm_head.weight)
    assert outcomes == sorted(outcomes, key=["old", "none", "new"].index)
    assert set(outcomes) == {"old", "none", "new"}


def test_saving_replaces_tokenizer_and_settings_too(tiny: Path, tmp_path: Path) -> None:
    folder, other = copy(tiny, tmp_path / "a"), copy(tiny, tmp_path / "b")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("old")
    (folder / "processor_config.json").write_text('{"chat_template": "old"}')
    (folder / "notes.txt").write_text("mine")
    save(load(tiny), folder, companions=other)
    assert companion_files(folder) == companion_files(other)
    assert weights_digest(folder) == weights_digest(copy_of(other, tmp_path / "c"))
    assert (folder / "notes.txt").read_text() == "mine"
    save(load(tiny), folder, companions=folder)
    assert companion_files(folder) == companion_files(other)


def copy_of(folder: Path, to: Path) -> Path:
    """``folder`` as ``save`` writes it."""
    save(load(folder), to, companions=folder)
    return to


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    from evalkit.models.qwen2_vl.chat import Chat

    folder = copy(tiny, tmp_path, vocab_size=200)
    with pytest.raises(CheckpointError, match="the tokenizer of another model"):
        Chat(folder, Qwen2VLConfig.load(folder))


def test_a_stale_index_beside_a_new_file_is_refused_or_passed_over(
    tiny: Path, tmp_path: Path
) -> None:
    old = load(write_tiny(tmp_path / "old", seed=5))
    folder = copy(tiny, tmp_path / "new")
    save(old, tmp_path / "shards", shard_bytes=200_000)
    for file in (tmp_path / "shards").glob("model*"):
        shutil.copy(file, folder)
    with pytest.raises(CheckpointError, match="different weights"):
        load(folder)
    for shard in folder.glob("model-*"):
        shard.unlink()
    assert torch.equal(load(folder).lm_head.weight, load(tiny).lm_head.weight)


def test_a_file_and_an_index_of_the_same_weights_are_one_model(tiny: Path, tmp_path: Path) -> None:
    save(load(tiny), tmp_path, companions=tiny, shard_bytes=200_000)
    shutil.copy(tiny / "model.safetensors", tmp_path)
    assert torch.equal(load(tmp_path).lm_head.weight, load(tiny).lm_head.weight)


def test_only_the_weights_of_the_model_are_read(tiny: Path, tmp_path: Path) -> None:
    folder = copy(tiny, tmp_path)
    before = weights_digest(folder)
    for name in ("optimizer", "adapter_model", "consolidated", "training_state"):
        save_file({"state": torch.zeros(3)}, folder / f"{name}.safetensors")
    assert weights_digest(folder) == before
    load(folder)


def test_shards_without_an_index_are_read_when_all_are_there(tiny: Path, tmp_path: Path) -> None:
    save(load(tiny), tmp_path, shard_bytes=200_000)
    (tmp_path / "model.safetensors.index.json").unlink()
    load(tmp_path)
    last = sorted(tmp_path.glob("model-*"))[-1]
    last.unlink()
    with pytest.raises(CheckpointError, match=f"missing shards: {last.name}"):
        load(tmp_path)


def test_an_index_names_files_of_its_folder_only(tiny: Path, tmp_path: Path) -> None:
    folder = copy(tiny, tmp_path / "a")
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    index = {"weight_map": {"model.norm.weight": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no safetensors file of this folder"):
        load(folder)


def test_a_tensor_in_two_shards_is_refused(tiny: Path, tmp_path: Path) -> None:
    save(load(tiny), tmp_path, shard_bytes=200_000)
    first, last = (sorted(tmp_path.glob("model-*"))[i] for i in (0, -1))
    save_file(load_file(last) | {k: v + 1 for k, v in load_file(first).items()}, last)
    with pytest.raises(CheckpointError, match="is there twice"):
        load(tmp_path)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod."])
def test_weights_saved_inside_a_wrapper_say_so(tiny: Path, tmp_path: Path, prefix: str) -> None:
    folder = copy(tiny, tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({prefix + k: v for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"begin with '{prefix}'.*inside a wrapper"):
        load(folder)


def test_weights_with_an_unmerged_adapter_say_so(tiny: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    folder = rewrite(copy(tiny, tmp_path), **{name: torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="merge it"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused(tiny: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = copy(tiny, tmp_path)
    weight = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    rewrite(folder, model__layers__0__mlp__up_proj__weight=weight.to(dtype))
    with pytest.raises(CheckpointError, match=r"up_proj.weight holds .*: quantised"):
        load(folder)


def test_other_numbers_of_layers_are_refused_before_a_model_is_built(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="num_hidden_layers is 100000 .* 2 layers"):
        load(copy(tiny, tmp_path, num_hidden_layers=100_000))
    save_file({"head": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="num_hidden_layers is 100000 .* 0 layers"):
        load(tmp_path)


@pytest.mark.parametrize(
    "claim", [{"intermediate_size": 1 << 40}, {"vocab_size": 1 << 40}, {"vocab_size": 1 << 62}]
)
def test_shapes_are_checked_before_any_weight_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: dict[str, int]
) -> None:
    from evalkit.models.qwen2_vl import checkpoint

    monkeypatch.setattr(checkpoint, "slices", lambda _: pytest.fail("weights were read"))
    with pytest.raises(CheckpointError, match=r"the config says \[1099511627776|no model has the"):
        load(copy(tiny, tmp_path, **claim))


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "Qwen/B"}, r"LoRA\) for Qwen/B.*merge"),
        ("quantize_config.json", {"bits": 4}, "quantised checkpoint"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantised.*: awq"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantised.*: gptq"),
        ("config.json", {"model_type": "qwen2_5_vl"}, "config.json: a model of type 'qwen2_5_vl'"),
        ("config.json", {"model_type": "llava"}, "config.json: a model of type 'llava'"),
    ],
)
def test_a_folder_that_is_no_plain_qwen2_vl_says_what_it_is(
    tiny: Path, tmp_path: Path, file: str, content: dict, what: str
) -> None:
    folder = copy(tiny, tmp_path)
    old = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(old | content))
    with pytest.raises(CheckpointError, match=what) as e:
        load(folder)
    assert len(str(e.value).splitlines()) == 1
    assert "--" not in str(e.value)


def test_the_folder_of_a_training_run_names_the_checkpoints_in_it(tmp_path: Path) -> None:
    for step in (1000, 500):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="below it: checkpoint-1000, checkpoint-500"):
        load(tmp_path)


def test_a_gguf_folder_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF weights are not read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "sliding"),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, "sliding"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not implemented"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"type": "mrope", "mrope_interleaved": True}}, "mrope_interleaved"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"head_dim": 64}, "head_dim 64"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"vision_config": {"patch_size": 16}}, "patch_size 16"),
        ({"vision_config": {"hidden_act": "silu"}}, "hidden_act 'silu'"),
        ({"vision_config": {"window_size": 112}}, "vision_config.window_size: unknown here"),
        ({"logit_scale": 2.0}, "logit_scale: unknown here"),
        ({"attention_multiplier": 0.1, "final_logit_softcapping": 30.0}, "attention_multiplier, f"),
        ({"tie_word_embeddings": "maybe"}, "tie_word_embeddings is 'maybe', not true or false"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rope_theta": float("inf")}, "rope_theta is inf, not a number above 0"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
        ({"eos_token_id": ["a"]}, "eos_token_id is 'a'"),
    ],
)
def test_a_config_of_another_model_is_refused_by_name(
    tiny: Path, tmp_path: Path, changed: dict, what: str
) -> None:
    raw = json.loads((tiny / "config.json").read_text())
    if "vision_config" in changed:
        changed = {"vision_config": raw["vision_config"] | changed["vision_config"]}
    with pytest.raises(CheckpointError, match=what) as e:
        Qwen2VLConfig.load(copy(tiny, tmp_path, **changed))
    assert str(e.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "changed",
    [
        {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
        {
            "rope_scaling": {
                "rope_type": "default",
                "type": "default",
                "mrope_section": [16, 24, 24],
            }
        },
        {"_attn_implementation_autoset": True, "transformers_version": "4.49.0", "foo": None},
        {"head_dim": 128, "partial_rotary_factor": 1.0},
    ],
)
def test_keys_that_change_nothing_are_no_hindrance(
    tiny: Path, tmp_path: Path, changed: dict
) -> None:
    assert Qwen2VLConfig.load(copy(tiny, tmp_path, **changed)) == Qwen2VLConfig.load(tiny)


def test_absent_keys_have_the_values_that_transformers_gives_them() -> None:
    """transformers leaves out what equals its defaults: of the 72B, most sizes."""
    from transformers import Qwen2VLConfig as HFConfig

    ours = Qwen2VLConfig.from_dict(
        {"model_type": "qwen2_vl", "vision_config": {"hidden_size": 8192}}
    )
    theirs = HFConfig().get_text_config()
    for name in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps"):
        assert getattr(ours.text, name) == getattr(theirs, name)
    assert ours.text.rope_theta == theirs.rope_parameters["rope_theta"]


def test_several_end_tokens_in_the_config_all_end_an_answer(tiny: Path, tmp_path: Path) -> None:
    from evalkit.models.qwen2_vl.chat import Chat

    folder = copy(tiny, tmp_path, eos_token_id=[7, 9])
    (folder / "generation_config.json").unlink()
    config = Qwen2VLConfig.load(folder)
    assert config.eos_token_ids == (7, 9)
    assert Chat(folder, config).stop_ids == {7, 9}
    assert Qwen2VLConfig.from_dict(config.to_dict()) == config


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ bos_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("chat_template.jinja", TEMPLATE),
        ("chat_template.json", {"chat_template": TEMPLATE}),
        ("processor_config.json", {"chat_template": TEMPLATE}),
        ("tokenizer_config.json", {"chat_template": TEMPLATE}),
        (
            "tokenizer_config.json",
            {
                "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": TEMPLATE},
                ]
            },
        ),
        ("additional_chat_templates/default.jinja", TEMPLATE),
    ],
)
def test_a_chat_template_is_read_wherever_it_lies(
    tiny: Path, tmp_path: Path, place: str, content: object
) -> None:
    from evalkit.models.qwen2_vl.chat import Chat

    folder = copy(tiny, tmp_path)
    before = weights_digest(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<|endoftext|>"}})
    )
    (folder / place).parent.mkdir(exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps({"bos_token": "<|endoftext|>"} | content)
    (folder / place).write_text(str(content))
    chat = Chat(folder, Qwen2VLConfig.load(folder))
    assert chat.render([{"role": "user", "content": "x"}]) == "<user><|endoftext|>"
    assert weights_digest(folder) != before


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("tokenizer_config.json", {"chat_template": [{"name": "rag", "template": "x"}]}),
        ("tokenizer_config.json", {"chat_template": 3}),
        ("chat_template.json", {"chat_template": {"rag": "x"}}),
    ],
)
def test_named_templates_without_a_default_are_refused(
    tiny: Path, tmp_path: Path, place: str, content: dict
) -> None:
    from evalkit.models.qwen2_vl.chat import Chat

    folder = copy(tiny, tmp_path)
    (folder / place).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=place):
        Chat(folder, Qwen2VLConfig.load(folder))


def start(**changed: object) -> dict:
    """What tokenizer.json says of a special token, changed."""
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": "<|vision_start|>", **flags, "special": True, **changed}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"400": start(content="here")}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"265": start(lstrip=True)}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["here"]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "here"}}),
        ("tokenizer_config.json", {"sep_token": {"content": "here"}}),
        ("special_tokens_map.json", {"cls_token": "h"}),
        ("added_tokens.json", {"here": 400}),
        ("tokenizer.json", {"added_tokens": [{"id": 256, **start(special=False)}]}),
        (
            "tokenizer.json",
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "!", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [],
                    "special_tokens": {"!": {"id": "!", "ids": [0], "tokens": ["!"]}},
                }
            },
        ),
        ("tokenizer.json", {"model": {"dropout": 0.5}}),
    ],
    ids=lambda v: str(v)[:60],
)
def test_a_tokenizer_that_transformers_would_make_another_is_refused(
    tiny: Path, tmp_path: Path, file: str, content: dict
) -> None:
    from evalkit.models.qwen2_vl.chat import Chat

    folder = copy(tiny, tmp_path)
    named = {"added_tokens_decoder": {"265": start()}, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(named | {"additional_special_tokens": ["<|im_end|>"], "chat_template": "x"})
    )
    config = Qwen2VLConfig.load(folder)
    Chat(folder, config)
    path = folder / file
    raw = json.loads(path.read_text()) if path.exists() else {}
    if "model" in content:
        content = {"model": raw["model"] | content["model"]}
    path.write_text(json.dumps(raw | content))
    with pytest.raises(CheckpointError, match=file):
        Chat(folder, config)


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
