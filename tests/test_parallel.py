"""A model shared out over several processes answers as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import evalkit
from evalkit.adapter import make_adapter
from evalkit.errors import UsageError
from evalkit.executor import ranks_of
from evalkit.executor.local import LocalExecutor
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.parallel import Share
from evalkit.store import cells
from tests.oracle import random_weights


def config(heads: int, kv_heads: int, inner: int = 50) -> Qwen2VLConfig:
    text = TextConfig(
        vocab_size=64,
        hidden_size=heads * 128,
        intermediate_size=inner,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    vision = VisionConfig(depth=1, embed_dim=60, num_heads=3, hidden_size=heads * 128)
    return Qwen2VLConfig(vision, text)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (4, 2), (6, 2), (8, 8)])
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_parts_of_all_ranks_are_the_whole(heads: int, kv_heads: int, ranks: int) -> None:
    model = random_weights(Qwen2VL(config(heads, kv_heads)), 0)
    state = model.state_dict()
    shares = [Share(model.config, rank, ranks) for rank in range(ranks)]

    def parts(name: str) -> list[torch.Tensor]:
        cut = [share.part(name, tuple(state[name].shape)) for share in shares]
        return [part.of(state[name]) for part in cut if part]

    layer, block = "model.layers.0.", "visual.blocks.0."
    for into, out_of in (
        (f"{layer}self_attn.q_proj.weight", f"{layer}self_attn.o_proj.weight"),
        (f"{layer}mlp.up_proj.weight", f"{layer}mlp.down_proj.weight"),
        (f"{block}mlp.fc1.weight", f"{block}mlp.fc2.weight"),
    ):
        whole = state[out_of] @ state[into]
        summed = sum(b @ a for a, b in zip(parts(into), parts(out_of)))
        assert torch.allclose(whole, summed, atol=1e-5), into
    width = 60
    for k in range(3):  # queries, keys and values of the vision tower's one matrix
        third = [p.unflatten(0, (3, -1))[k] for p in parts(f"{block}attn.qkv.weight")]
        rows = state[f"{block}attn.qkv.weight"][k * width : (k + 1) * width]
        out = state[f"{block}attn.proj.weight"]
        summed = sum(b @ a for a, b in zip(third, parts(f"{block}attn.proj.weight")))
        assert torch.allclose(out @ rows, summed, atol=1e-5)


def test_each_rank_has_the_keys_of_its_queries() -> None:
    share = Share(config(6, 2), 3, 4)  # heads 3 to 5 see key-value head 1; ranks 2 and 3 have them
    q = share.part("model.layers.0.self_attn.q_proj.weight", (768, 768))
    k = share.part("model.layers.0.self_attn.k_proj.weight", (256, 768))
    assert q and q.ranges == ((5 * 128, 6 * 128),) and q.size == 2 * 128
    assert k and k.ranges == ((128, 256),) and share.kv_heads == 1


def test_what_can_not_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match="2 key-value heads"):
        Share(config(6, 2), 0, 3)
    with pytest.raises(UsageError, match="3 devices are no multiple"):
        LocalExecutor("reference", "nano", {"tensor_parallel": 2}, ["cpu"] * 3)
    with pytest.raises(UsageError, match="above 0"):
        ranks_of({"tensor_parallel": 0})
    with pytest.raises(UsageError, match="neither compile"):
        make_adapter("reference", "nano", {"tensor_parallel": 2, "compile": True})
    with pytest.raises(UsageError, match="name as many devices"):
        _ = make_adapter("reference", "nano", {"tensor_parallel": 2}).engine  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_nano_over_several_processes_gives_the_cell_of_one(tmp_path: Path, ranks: int) -> None:
    how = {"limit": 2, "seed": 1, "progress": False}
    tasks = "docvqa,refcoco"
    evalkit.evaluate(tasks, output=tmp_path / "one", **how)
    shared = {"devices": f"cpu:{ranks}", "tensor_parallel": ranks}
    assert not evalkit.evaluate(tasks, output=tmp_path / "all", **how, **shared).errors
    one, several = (
        {c.name: {id: (r.text, r.scores) for id, r in c.records().items()} for c in cells(folder)}
        for folder in (tmp_path / "one", tmp_path / "all")
    )
    assert one == several


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_random_checkpoints_of_each_family_give_the_logits_of_one(
    tmp_path: Path, ranks: int
) -> None:
    from tests.test_qwen2_5_vl import tiny as tiny_2_5
    from tests.test_qwen3_vl import tiny as tiny_3
    from tests.test_qwen3_vl_moe import tiny as tiny_moe
    from tests.tiny import write_tiny

    folders = [
        write_tiny(tmp_path / "2", heads=4, kv_heads=2),
        tiny_2_5(tmp_path / "2_5"),
        tiny_3(tmp_path / "3"),
        tiny_moe(tmp_path / "moe", num_experts=8),
    ]
    torch.multiprocessing.spawn(
        _compare, (ranks, str(tmp_path / "meeting"), list(map(str, folders))), nprocs=ranks
    )


def _compare(rank: int, ranks: int, meeting: str, folders: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    for folder in folders:
        family: Any = make_adapter("reference", folder, {}).family  # type: ignore[attr-defined]
        shared = family.load_parallel(Path(folder))
        whole = family.load(Path(folder))
        c = whole.config
        ids = [1, 2, c.vision_start_token_id, *[c.image_token_id] * 4, c.vision_end_token_id, 3]
        patches = torch.randn(16, c.vision.patch_features, generator=torch.manual_seed(0))
        with torch.inference_mode():
            one, several = (m(torch.tensor([ids]), patches, [(1, 4, 4)]) for m in (whole, shared))
        assert torch.allclose(one, several, atol=1e-4, rtol=1e-4), (folder, ranks)
        assert torch.equal(one.argmax(-1), several.argmax(-1))
    dist.barrier()
    dist.destroy_process_group()
