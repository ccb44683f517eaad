"""Qwen3-VL with experts computes what `transformers` computes, however a checkpoint lies on disk
and whatever else is in the batch.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit.engine import Budget, Engine, Prompt
from evalkit.engine.products import Linear
from evalkit.engine.quantised import QuantisedLinear
from evalkit.errors import CheckpointError, UsageError
from evalkit.models.qwen2_vl.checkpoint import load_as, save
from evalkit.models.qwen3_vl.config import Qwen3VLConfig
from evalkit.models.qwen3_vl_moe import bench
from evalkit.models.qwen3_vl_moe.config import RELEASED, Qwen3VLMoeConfig, TextConfig
from evalkit.models.qwen3_vl_moe.experts import FEW, Router, SparseMLP, compile_parts, fuse
from evalkit.models.qwen3_vl_moe.family import load
from evalkit.models.qwen3_vl_moe.model import Qwen3VLMoe
from tests import test_qwen3_vl
from tests.conversations import TOKENS, conversation
from tests.oracle import hf_forward, hf_model, random_weights
from tests.test_qwen3_vl import FEATURES, KINDS, logits, writes_the_tokens_of_transformers

EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 20,
    "num_experts": 7,
    "num_experts_per_tok": 3,
}


def random_config(seed: int, **text: Any) -> Qwen3VLMoeConfig:
    dense = test_qwen3_vl.random_config(seed)
    text = {**vars(dense.text), "num_hidden_layers": 4, **EXPERTS, **text}
    return Qwen3VLMoeConfig(dense.vision, TextConfig(**text), dtype="float32", **TOKENS)


def model_of(seed: int, switches: dict[str, Any] | None = None, **text: Any) -> Qwen3VLMoe:
    config = random_config(seed, **text)
    model = random_weights(Qwen3VLMoe(config, config.trained.with_(switches or {})), seed)
    model.lm_head.weight[48:] = 0  # no answer is to hold a placeholder
    return model


def tiny(folder: Path, **text: Any) -> Path:
    return test_qwen3_vl.tiny(folder, Qwen3VLMoe, partial(random_config, **text))


def sparse_layers(model: Qwen3VLMoe) -> list[int]:
    return [i for i, x in enumerate(model.model.layers) if isinstance(x.mlp, SparseMLP)]


CHOICES = [
    ({}, [0, 1, 2, 3]),
    ({"decoder_sparse_step": 2}, [1, 3]),
    ({"mlp_only_layers": (0, 2)}, [1, 3]),
    ({"mlp_only_layers": (1, 9), "decoder_sparse_step": 2}, [3]),
    ({"decoder_sparse_step": 5}, []),
    ({"num_experts": 1, "num_experts_per_tok": 1}, [0, 1, 2, 3]),
    ({"num_experts_per_tok": 1}, [0, 1, 2, 3]),
    ({"num_experts_per_tok": 7}, [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("text", "sparse"), CHOICES, ids=str)
@torch.no_grad()
def test_logits_equal_those_of_transformers(text: dict, sparse: list[int]) -> None:
    seed = len(str(text))
    model, rng = model_of(seed, **text), np.random.default_rng(seed)
    assert sparse_layers(model) == sparse
    theirs = hf_model(model)
    for kinds in (KINDS[seed % 8], "iv"):
        ids, _, args = conversation(rng, kinds, FEATURES, steps=True)
        tokens = torch.tensor([ids])
        distance = model(tokens, **args) - hf_forward(
            theirs, tokens, torch.ones_like(tokens), **args
        )
        assert distance.abs().max() < 1e-4


def test_the_engine_writes_the_tokens_of_transformers_in_any_packing() -> None:
    writes_the_tokens_of_transformers(model_of(1), fuse(model_of(1)))


@torch.inference_mode()
def test_neighbours_change_no_answer_in_float32() -> None:
    """Whoever else asks for an expert, and however many rows it multiplies."""
    model, rng = fuse(model_of(5, num_experts=16, num_experts_per_tok=4)), np.random.default_rng(0)
    asked = [
        Prompt(str(i), tuple(rng.integers(0, 40, int(rng.integers(3, 90))).tolist()), (), 12)
        for i in range(40)
    ]
    alone, together = (
        {
            o.id: o.ids
            for o in Engine(model, frozenset(), Budget(rows, 4096, 1 << 20)).generate(some)
        }
        for rows, some in ((1, asked), (40, asked[::-1]))
    )
    assert alone == together and len(set(alone.values())) > 20


@pytest.mark.parametrize("tokens", [1, 5, FEW + 1])
@pytest.mark.parametrize("chosen", [1, 3, 7])
@torch.no_grad()
def test_experts_in_turn_and_all_at_once_give_the_same(tokens: int, chosen: int) -> None:
    """The second is what a GPU computes for few tokens, in shapes that a graph can hold."""
    mlp = model_of(0, num_experts_per_tok=chosen).model.layers[0].mlp
    x = torch.randn(2, tokens, mlp.gate.in_features, generator=torch.manual_seed(0))
    flat, expected = x.flatten(0, 1), mlp(x)
    shares, numbers = mlp.route(flat)
    by_hand = torch.stack(
        [
            sum(w * mlp.experts.one(int(e), row[None])[0] for w, e in zip(its, those))
            for row, its, those in zip(flat, shares, numbers)
        ]
    ).view_as(x)
    torch.testing.assert_close(expected, by_hand)
    torch.testing.assert_close(mlp.at_once(flat, shares, numbers).view_as(x), by_hand)


@pytest.mark.parametrize("quantisation", ["none", "w8a8", "w4a16"])
def test_all_at_once_no_number_is_read_on_the_host(quantisation: str) -> None:
    """As a CUDA graph wants it: the meta device has shapes and no numbers."""
    switches = {} if quantisation == "none" else {"quantisation": quantisation}
    mlp = fuse(model_of(0, switches)).model.layers[0].layer.mlp.to("meta")
    x = torch.empty(5, mlp.gate.in_features, device="meta")
    assert mlp.at_once(x, *mlp.route(x)).shape == x.shape
    with pytest.raises((NotImplementedError, RuntimeError), match="Meta tensors"):
        mlp.grouped(x, *mlp.route(x))


@torch.no_grad()
def test_an_expert_that_nobody_chose_can_not_spoil_a_sum() -> None:
    mlp = model_of(0).model.layers[0].mlp
    x = torch.randn(1, mlp.gate.in_features, generator=torch.manual_seed(0))
    shares, numbers = mlp.route(x)
    before = mlp.at_once(x, shares, numbers)
    (unasked, *_) = {*range(7)} - {*numbers[0].tolist()}
    mlp.experts.down_proj[unasked] = torch.inf
    assert torch.equal(before, mlp.at_once(x, shares, numbers))


@torch.no_grad()
def test_probabilities_are_in_fp32_and_shares_sum_to_one() -> None:
    mlp = model_of(0).bfloat16().model.layers[0].mlp
    x = torch.randn(50, mlp.gate.in_features, generator=torch.manual_seed(0)).bfloat16()
    shares, numbers = mlp.route(x)
    likeliest = mlp.gate(x).float().softmax(-1).sort(-1, descending=True)
    assert torch.equal(numbers, likeliest.indices[:, :3])
    expected = likeliest.values[:, :3] / likeliest.values[:, :3].sum(-1, keepdim=True)
    assert torch.equal(shares, expected.bfloat16())


@pytest.mark.parametrize("width", [4, 40, 4_000])
@torch.no_grad()
def test_what_all_tokens_hold_in_one_expert_is_counted(width: int) -> None:
    model = model_of(0, moe_intermediate_size=width)
    mlp, tokens = model.model.layers[0].mlp, 256
    x = torch.zeros(tokens, mlp.gate.in_features)  # all alike: all choose the same
    with torch.profiler.profile(profile_memory=True) as seen:
        mlp(x)
    events = seen.profiler.kineto_results.events()
    taken = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak = max(accumulate(size for _, size in taken))
    assert 0 < peak <= tokens * model.activation_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    ids, _, args = conversation(np.random.default_rng(4), "iv", FEATURES, steps=True)
    tokens, single = torch.tensor([ids]), model_of(4)(torch.tensor([ids]), **args)
    for one in (model_of(4), fuse(model_of(4))):
        half = one.to(dtype)(tokens, **args)
        assert half.dtype == dtype
        near = (half.float() - single).abs().amax(-1) < 0.1 * single.abs().max()
        assert near.float().mean() > 0.9  # a token near a tie may go to another expert


@pytest.mark.parametrize(
    "switches", [{"deepstack": "off"}, {"qk_norm": "off"}, {"vision_gate": 0}, {"combine": "kron"}]
)
def test_switches_of_the_family_make_another_model(switches: dict) -> None:
    assert (logits(model_of(1, switches)) - logits(model_of(1))).abs().max() > 1e-3


# how checkpoints lie on disk


def turn(folder: Path, which: str = r"\.experts\.") -> None:
    """Turns experts' weights from the layout of transformers 5 to the released one, or back."""
    for file in folder.glob("*.safetensors"):
        state = load_file(file)
        for name in state:
            if re.search(which, name):
                state[name] = state[name].mT.contiguous()
        save_file(state, file, metadata={"format": "pt"})


def same(folder: Path, model: Qwen3VLMoe) -> bool:
    read = load_as(Qwen3VLMoe, folder)
    assert (read.config.vision, read.config.text) == (model.config.vision, model.config.text)
    return all(torch.equal(a, read.state_dict()[k]) for k, a in model.state_dict().items())


@pytest.mark.parametrize("sizes", [{}, {"mlp_only_layers": (1,)}])
@pytest.mark.parametrize("layout", ["transformers 5", "released"])
@pytest.mark.parametrize("written_by", ["evalkit", "transformers"])
@pytest.mark.parametrize("shard", [1 << 30, 20_000])
def test_a_saved_checkpoint_is_the_same_model(
    tmp_path: Path, layout: str, written_by: str, shard: int, sizes: dict
) -> None:
    model = model_of(1, **sizes)
    if written_by == "evalkit":
        save(model, tmp_path, shard_bytes=shard)
    else:
        hf_model(model).save_pretrained(tmp_path, max_shard_size=shard)
    assert (len([*tmp_path.glob("*.safetensors")]) > 1) == (shard < 1 << 30)
    if layout == "released":
        turn(tmp_path)
    assert same(tmp_path, model)


@torch.no_grad()
def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    from transformers import Qwen3VLMoeForConditionalGeneration

    model = model_of(1)
    save(model, tmp_path)
    theirs = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 7]])
    distance = model(tokens) - hf_forward(theirs, tokens, torch.ones_like(tokens))
    assert distance.abs().max() < 1e-4


@pytest.mark.parametrize("inner", [1, 2])
def test_square_weights_are_read_as_transformers_does_or_refused(
    tmp_path: Path, inner: int
) -> None:
    hidden = random_config(1).text.hidden_size
    model = model_of(1, moe_intermediate_size=hidden // inner)
    save(model, tmp_path)
    assert same(tmp_path, model)
    turn(tmp_path)
    with pytest.raises(CheckpointError, match="as released, and .* as transformers 5 writes it"):
        load_as(Qwen3VLMoe, tmp_path)


def test_weights_in_two_layouts_are_refused(tmp_path: Path) -> None:
    save(model_of(1), tmp_path)
    turn(tmp_path, r"layers\.2\.mlp\.experts\.down_proj")
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.experts\.down_proj is \[exp"):
        load_as(Qwen3VLMoe, tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s, n: s.pop(n), "missing model.layers.1.mlp.experts.gate_up_proj"),
        (
            lambda s, n: s.update({n: s[n][:6].clone()}),
            r"shape \[6, .* config says \[7, 40",
        ),
        (lambda s, n: s.update({n: s[n][..., :9].clone()}), r"has shape \[7, 40, 9\]"),
        (lambda s, n: s.update({n: s[n][0].clone()}), r"gate_up_proj has shape \[40, "),
        (
            lambda s, n: s.update({n.replace("gate_up_proj", "0.up_proj.weight"): s.pop(n)}),
            r"surplus model.layers.1.mlp.experts.0.up_proj.weight; missing .*gate_up_proj",
        ),
    ],
    ids=["absent", "fewer", "narrower", "one", "each"],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Any, what: str) -> None:
    save(model_of(1), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state, "model.language_model.layers.1.mlp.experts.gate_up_proj")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=what):
        load_as(Qwen3VLMoe, tmp_path)


# configurations


@pytest.mark.parametrize("layout", ["released", "transformers 5"])
def test_released_configurations_are_read_in_both_layouts(layout: str) -> None:
    from transformers import Qwen3VLMoeConfig as HFConfig

    for config in RELEASED.values():
        raw = config.to_dict()
        if layout == "transformers 5":
            raw = HFConfig(**raw).to_dict()
            assert raw["text_config"]["num_local_experts"] == 128
        read = Qwen3VLMoeConfig.from_dict(json.loads(json.dumps(raw)))
        assert (read.text, read.vision) == (config.text, config.vision)
        assert not read.tie_word_embeddings


def test_released_sizes_have_the_weights_that_their_names_say() -> None:
    for (name, config), (all_of_them, passed) in zip(RELEASED.items(), ((30, 3), (235, 22))):
        assert f"-{all_of_them}B-A{passed}B" in name
        with torch.device("meta"):
            model = Qwen3VLMoe(config)
        decoder = sum(p.numel() for p in model.model.parameters()) / 1e9
        assert decoder == pytest.approx(all_of_them, rel=0.02)
        weights = bench.linear_weights(model)
        assert (weights.per_token + 2 * weights.per_new_token) / 1e9 == pytest.approx(
            passed, rel=0.15
        )


def test_what_a_file_leaves_out_is_what_transformers_takes() -> None:
    from transformers import Qwen3VLMoeConfig as HFConfig

    nested: dict[str, Any] = {"text_config": {}, "vision_config": {"out_hidden_size": 2048}}
    for heads in (None, 8):
        if heads:
            nested["text_config"] = {
                "num_attention_heads": heads,
                "num_key_value_heads": 2,
                "rope_parameters": {"mrope_section": [48, 40, 40], "rope_type": "default"},
            }
        ours = Qwen3VLMoeConfig.from_dict({"model_type": "qwen3_vl_moe", **nested})
        told = HFConfig(**json.loads(json.dumps(nested))).text_config.to_dict()
        told["num_experts"] = told["num_local_experts"]
        own = {k: v for k, v in vars(ours.text).items() if k in told}
        assert len(own) == 14 and own == {
            k: tuple(v) if isinstance(v := told[k], list) else v for k in own
        }


@pytest.mark.parametrize("ties", [True, False])
def test_only_the_root_ties_the_head(ties: bool) -> None:
    """``text_config`` says true in what transformers 5 writes, and is not asked."""
    raw = random_config(0).to_dict()
    raw["tie_word_embeddings"], raw["text_config"]["tie_word_embeddings"] = ties, True
    assert Qwen3VLMoeConfig.from_dict(raw).tie_word_embeddings == ties


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob False: every .* remove it where"),
        ({"num_experts": 0}, "num_experts is 0, not a whole number above 0"),
        ({"num_experts": "many"}, "num_experts is 'many', not a whole number"),
        ({"num_experts_per_tok": 8}, "num_experts_per_tok 8: the model has only num_experts 7"),
        ({"num_local_experts": 8}, "num_experts and num_local_experts are two names .* 7 and 8"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"mlp_only_layers": [-1]}, r"mlp_only_layers is \[-1\], not a list of whole numbers"),
        ({"mlp_only_layers": 1}, "mlp_only_layers is 1, not a list"),
        ({"moe_intermediate_size": 1.5}, "moe_intermediate_size is 1.5"),
        ({"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size: unknown here"),
        ({"n_group": 2}, "n_group: unknown here"),
        ({"scoring_func": "sigmoid"}, "scoring_func: unknown here"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
    ids=str,
)
def test_what_would_be_another_model_is_refused_by_name(changed: dict, what: str) -> None:
    raw = random_config(0).to_dict()
    raw["text_config"].update(changed)
    with pytest.raises(CheckpointError, match=what):
        Qwen3VLMoeConfig.from_dict(raw)


def test_what_changes_nothing_is_read() -> None:
    config = random_config(0)
    raw = config.to_dict()
    raw["text_config"].update(
        output_router_logits=True,
        router_aux_loss_coef=0.1,
        norm_topk_prob=None,
        mlp_only_layers=None,
        num_local_experts=7,
    )
    assert Qwen3VLMoeConfig.from_dict(raw) == config


def test_a_config_without_experts_is_no_mixture() -> None:
    raw = test_qwen3_vl.random_config(0).to_dict()
    with pytest.raises(CheckpointError, match="a model of type 'qwen3_vl', not 'qwen3_vl_moe'"):
        Qwen3VLMoeConfig.from_dict(raw)
    with pytest.raises(CheckpointError, match="a model of type 'qwen3_vl_moe', not 'qwen3_vl'"):
        Qwen3VLConfig.from_dict(random_config(0).to_dict())


# quantised, compiled


@pytest.mark.parametrize("scheme", ["w8a8", "fp8", "w8a16", "w4a16"])
@torch.no_grad()
def test_experts_are_quantised_and_the_router_is_not(tmp_path: Path, scheme: str) -> None:
    folder = tiny(tmp_path)
    plain = load(folder)
    tokens = torch.arange(40)[None]
    for chosen in ("decoder", "tower"):
        switches = plain.config.trained.with_({"quantisation": scheme, "quantised": chosen})
        model = load(folder, switches=switches)
        mlp, before = model.model.layers[0].layer.mlp, plain.model.layers[0].layer.mlp
        assert isinstance(mlp.gate, Router) and torch.equal(mlp.gate.weight, before.gate.weight)
        if chosen == "tower":
            assert torch.equal(model(tokens), plain(tokens))
            continue
        kind = QuantisedLinear if scheme in ("w8a8", "fp8") else Linear
        assert {type(m) for m in mlp.experts.modules() if hasattr(m, "weight")} == {kind}
        x = torch.randn(60, mlp.gate.in_features, generator=torch.manual_seed(0))
        one, other = mlp(x), before(x)
        assert 0 < (one - other).norm() < 0.25 * other.norm()
        torch.testing.assert_close(mlp.at_once(x, *mlp.route(x)), one)
        assert (model(tokens) - plain(tokens)).abs().max() > 0


@pytest.mark.slow
@torch.inference_mode()
def test_compiled_layers_give_the_same(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    tokens = torch.arange(40)[None]
    expected, compiled = load(folder)(tokens), compile_parts(load(folder))
    for n in (40, 7):
        got = compiled(tokens[:, :n])
        torch.testing.assert_close(got, expected[:, :n], atol=1e-4, rtol=1e-4)


def test_ranks_that_do_not_divide_the_experts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalkit.models.qwen3_vl_moe.family import load_parallel

    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="tensor_parallel=2: it must divide the model's 7 experts"):
        load_parallel(tiny(tmp_path))
