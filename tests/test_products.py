"""Products and attention on a CPU: whichever way is taken, the same numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from evalkit.engine import Budget, Engine, products
from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.fused import fuse
from tests.prompts import prompt
from tests.tiny import write_tiny


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """oneDNN and attention by products serve, whatever is the faster here."""
    monkeypatch.setattr(products, "faster", lambda *_: True)
    monkeypatch.setattr(products, "_faster", {"oneDNN": True})
    with torch.inference_mode():
        yield


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    parts = (x.double().transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=True)
    return out[0].transpose(0, 1)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("shape", [(7, 20), (1, 20), (0, 20), (2, 3, 20)])
def test_a_product_is_the_same_by_either_library(shape: tuple[int, ...]) -> None:
    wide = random(30, 40)
    for weight in (random(30, 20), random(20, 30).T, wide[:, :20], wide.T[:30, :20]):
        for bias in (random(30), None):
            got = products.linear(random(*shape), weight, bias)
            assert got.shape == (*shape[:-1], 30)
            torch.testing.assert_close(got, F.linear(random(*shape), weight, bias))


def test_training_goes_where_gradients_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_faster", {"oneDNN": True})
    weight = random(3, 4).requires_grad_()
    products.linear(random(2, 4), weight).sum().backward()
    assert weight.grad is not None and not products.products_win(random(4), 10_000)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("tokens", "heads", "kv_heads"), [(1, 2, 2), (600, 4, 2), (1500, 3, 1)])
def test_attention_by_products_is_attention(
    tokens: int, heads: int, kv_heads: int, causal: bool
) -> None:
    q, k, v = (random(tokens, n, 20) for n in (heads, kv_heads, kv_heads))
    out = torch.full_like(q, torch.nan)
    products.attend_by_products(out, q, k, v, causal)
    torch.testing.assert_close(out.double(), attended(q, k, v, causal), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("by_products")
def test_segments_long_and_short_are_apart() -> None:
    lengths = [600, 600, 9, 700]
    q, k, v = (random(sum(lengths), 2, 16) for _ in range(3))
    got = Segments(lengths, "cpu").attend(q, k, v)
    whole = zip(*(x.split(lengths) for x in (got, q, k, v)))
    for part, *own in whole:
        torch.testing.assert_close(part.double(), attended(*own, False), rtol=0, atol=1e-5)


def test_answers_do_not_depend_on_the_way(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long prompts and pictures, past LONG."""
    model = fuse(load(write_tiny(tmp_path_factory.mktemp("tiny"))))
    monkeypatch.setattr(products, "LONG", 8)
    asked = [prompt(model, i, "it"[i % 2] + "ii", limit=5) for i in range(4)]

    def answers(way: bool) -> dict[str, tuple[int, ...]]:
        monkeypatch.setattr(products, "faster", lambda *_: way)
        monkeypatch.setattr(products, "_faster", {"oneDNN": way})
        engine = Engine(model, frozenset(), Budget(8, 512, 1 << 20))
        return {o.id: tuple(o.ids) for o in engine.generate(asked)}

    assert answers(True) == answers(False)


def test_the_faster_way_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_faster", {})
    monkeypatch.setattr(time, "thread_time", lambda: float(clock[0]))
    clock, calls = [0.0], []

    def way(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds

    quick, slow = (lambda: way("quick", 1.0)), (lambda: way("slow", 1.2))
    assert products.faster("a", quick, slow) and not products.faster("b", slow, quick)
    assert not products.faster("c", lambda: way("level", 1.1), slow)  # within the margin
    measured = len(calls)
    assert products.faster("a", slow, quick) and len(calls) == measured
