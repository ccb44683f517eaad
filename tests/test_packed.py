"""A pack attended in one kernel call: the same answers as prompt by prompt. The kernel needs a GPU;
elsewhere one that says the same stands in for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.engine import Budget, Engine, Prompt, packed
from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.fused import compile_parts, fuse
from evalkit.models.qwen2_vl.model import Qwen2VL
from tests.prompts import prompt
from tests.tiny import write_tiny

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen2VL:
    return load(write_tiny(tmp_path_factory.mktemp("tiny"), heads=4, kv_heads=2, tied=False))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Has a CPU use the kernel; gathers how many sequences each call took."""
    made: list[int] = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, *longest: int, **how: Any
    ) -> Tensor:
        made.append(len(ends_q) - 1)
        assert longest == (int(ends_q.diff().max()), int(ends_k.diff().max()))
        assert int(ends_q[-1]) == len(q) and int(ends_k[-1]) == len(k) == len(v)
        return torch.cat([one(q, k, v, at, **how) for at in zip(*map(pairs, (ends_q, ends_k)))])

    monkeypatch.setattr(packed, "varlen_kernel", lambda: kernel)
    for module in ("evalkit.engine.runner", "evalkit.models.qwen2_vl.attention"):
        monkeypatch.setattr(f"{module}.can_pack", lambda device, dtype: True)
    yield made


def pairs(ends: Tensor) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def one(
    q: Tensor, k: Tensor, v: Tensor, at: tuple[slice, slice], causal: bool, grouped: bool
) -> Tensor:
    parts = [x[s].transpose(0, 1) for x, s in zip((q, k, v), (at[0], at[1], at[1]))]
    queries, keys = parts[0].shape[1], parts[1].shape[1]
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if causal else None
    assert grouped == (len(parts[0]) != len(parts[1]))
    attended = F.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True)
    return attended.transpose(0, 1)


def questions(model: Qwen2VL) -> list[Prompt]:
    """Some alone, some sharing the pages before them."""
    out: list[Prompt] = []
    for i, kind in enumerate(["", "i", "iv", "v"]):
        first = prompt(model, i, kind, limit=6)
        head = first.ids[: first.prefix]
        more = [replace(first, id=f"{i}-{n}", ids=(*head, *range(5, 6 + n))) for n in range(2)]
        out += [first, *(more if head else [])]
    return out


def test_a_pack_is_answered_as_its_prompts_are(model: Qwen2VL, calls: list[int]) -> None:
    prompts = questions(model)
    together = {o.id: o.ids for o in Engine(model, frozenset()).generate(prompts)}
    assert max(calls) > len(prompts)  # with every shared prefix as one more
    calls.clear()
    single = Engine(model, frozenset(), Budget(1, 1, 1 << 20))
    alone = {o.id: o.ids for p in prompts for o in single.generate([p])}
    assert together == alone


def test_packed_answers_are_those_without_the_kernel(
    model: Qwen2VL, request: pytest.FixtureRequest
) -> None:
    prompts = questions(model)
    ranked = [
        replace(p, id=f"r{p.id}", choices=((7,), (8, 9), (8, 9, 10))) for p in questions(model)
    ]
    plain = Engine(model, frozenset())
    expected = {o.id: o.ids for o in plain.generate(prompts)}
    scores = {o.id: o.logprobs for o in plain.rank(ranked)}
    calls = request.getfixturevalue("calls")
    engine = Engine(model, frozenset())
    assert {o.id: o.ids for o in engine.generate(prompts)} == expected
    for output in engine.rank(ranked):
        assert output.logprobs == pytest.approx(scores[output.id], abs=1e-4)
    assert calls


def test_a_kernel_that_says_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    assert packed.kernel_agrees("cpu", torch.float32) and calls
    kernel = packed.varlen_kernel()
    assert kernel
    # all keys seen: what a kernel does that knows no ``window_size``
    monkeypatch.setattr(
        packed, "varlen_kernel", lambda: lambda *x, **how: kernel(*x, **how | {"causal": False})
    )
    assert not packed.kernel_agrees("cpu", torch.float32)


def test_one_prompt_without_numbers_spoils_no_other(model: Qwen2VL, calls: list[int]) -> None:
    prompts = questions(model)
    expected = {o.id: o.ids for o in Engine(model, frozenset()).generate(prompts)}
    broken = copy.deepcopy(model)
    used = {token for p in prompts for token in (*p.ids, *expected[p.id])}
    unused = min(set(range(model.vocab_size)) - used)
    broken.model.embed_tokens.weight.data[unused] = torch.nan
    bad = Prompt("bad", (3, unused, 4), max_new_tokens=3)
    outputs = list(Engine(broken, frozenset()).generate([prompts[0], bad, *prompts[1:]]))
    assert [o.id for o in outputs if o.error] == ["bad"]
    assert {o.id: o.ids for o in outputs if not o.error} == expected


@GPU
@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_of_a_gpu_says_the_same(causal: bool) -> None:
    torch.manual_seed(0)
    lengths, keys = [5, 300, 1, 64], [9, 300, 40, 64]
    q = torch.randn(sum(lengths), 4, 80, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, sum(keys), 2, 80, device="cuda", dtype=torch.bfloat16)
    ends, ends_k = packed.Lengths(lengths, "cuda"), packed.Lengths(keys, "cuda")
    k[pairs(ends_k.ends)[1]] = torch.nan  # spoils its own sequence alone
    got = packed.packed_attention(q, k, v, ends, ends_k, causal)
    at = list(zip(pairs(ends.ends), pairs(ends_k.ends)))
    f = [x.float().cpu() for x in (q, k, v)]
    for queries, seen in at:
        expected = one(*f, (queries, seen), causal, True)  # type: ignore[misc]
        assert torch.allclose(got[queries].float().cpu(), expected, atol=2e-2, equal_nan=True)


@GPU
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_answers_as_a_cpu(model: Qwen2VL, dtype: torch.dtype, compiled: bool) -> None:
    prompts = questions(model)
    expected = {o.id: o.ids for o in Engine(model, frozenset()).generate(prompts)}
    there = fuse(copy.deepcopy(model)).to(dtype).cuda()
    if compiled:
        compile_parts(there)
    for rows in (1, 8):
        got = {
            o.id: o.ids
            for o in Engine(there, frozenset(), Budget(rows, 512, 1 << 20)).generate(prompts)
        }
        same = sum(got[p.id] == expected[p.id] for p in prompts)
        assert same == len(prompts) if dtype == torch.float32 else same >= len(prompts) // 2


@GPU
def test_segments_of_a_gpu_are_those_of_a_cpu() -> None:
    torch.manual_seed(0)
    for lengths in ([64, 64, 64], [64, 64, 16, 7, 300], [5]):
        x = torch.randn(3, sum(lengths), 4, 80, device="cuda", dtype=torch.bfloat16)
        got = Segments(lengths, "cuda").attend(*x).float().cpu()
        expected = Segments(lengths, "cpu").attend(*x.float().cpu())
        assert torch.allclose(got, expected, atol=2e-2)
