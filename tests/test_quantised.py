"""Quantised layers: the numbers of the schemes, and answers that no batch changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalkit.adapter import make_adapter
from evalkit.engine import Budget, Engine, quantised
from evalkit.engine.products import Linear
from evalkit.engine.quantised import QuantisedLinear, rounded, rounded_weight
from evalkit.errors import CheckpointError, EvalkitError, UsageError
from evalkit.models.qwen2_vl.family import load
from evalkit.models.qwen2_vl.fused import fuse
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.nano.recipe import find_recipe, load_recipe
from tests import test_qwen2_5_vl, test_qwen3_vl
from tests.prompts import prompt
from tests.tiny import write_tiny

EIGHT_BITS = ("w8a8", "fp8")
SCHEMES = (*EIGHT_BITS, "w8a16", "w4a16")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer(inputs: int, outputs: int, bias: bool = True, dtype: str = "float32") -> Linear:
    out = nn.Linear(inputs, outputs, bias)
    out.weight.data = random(outputs, inputs)
    return Linear(out.to(getattr(torch, dtype)).requires_grad_(False))


@pytest.mark.parametrize(
    ("kind", "numbers", "factor"),
    [
        ("int8", [127, -64, 32, 0], 1 / 127.5),
        ("int4", [7, -4, 2, 0], 1 / 7.5),
        ("fp8", [448, -224, 112, 0], 1 / 448),
    ],
)
def test_a_row_is_rounded_as_compressed_tensors_does(
    kind: quantised.Numbers, numbers: list[float], factor: float
) -> None:
    """Made with compressed-tensors 0.20: half of the range is the largest number of a row."""
    rows = torch.tensor([[1.0, -0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0], [-2.0, 2.0, 0.0, 0.0]])
    got, factors = rounded(rows, kind)
    assert got[0].float().tolist() == numbers
    torch.testing.assert_close(factors[:, 0], torch.tensor([factor, 0.0, 2 * factor]))
    assert not got[1].float().any()


def test_groups_of_a_row_have_factors_of_their_own() -> None:
    weight = random(3, 300)
    weight[:, 128:] *= 100
    got = rounded_weight(weight, "int4", 128)
    for part in (slice(0, 128), slice(128, 256), slice(256, 300)):
        q, factor = rounded(weight[:, part], "int4")
        assert torch.equal(got[:, part], q * factor)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_product_is_that_of_the_rounded_numbers(kind: quantised.Numbers, dtype: str) -> None:
    one, x = layer(40, 24, dtype=dtype), random(2, 300, 40).to(getattr(torch, dtype))
    assert one.bias is not None
    (q, by), (w, each) = rounded(x, kind), rounded(one.weight, kind)
    expected = (q.double() @ w.double().T) * by * each.T + one.bias.double()
    with torch.inference_mode():
        got = QuantisedLinear(one, kind)(x)
    assert got.dtype is x.dtype and got.shape == (2, 300, 24)
    tolerance = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    exact = F.linear(x.double(), one.weight.double(), one.bias.double())
    assert (got - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(("inputs", "outputs", "tokens"), [(20, 9, 3), (16, 32, 40), (33, 16, 1)])
def test_what_a_gpu_wants_filled_up_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    kind: quantised.Numbers,
    inputs: int,
    outputs: int,
    tokens: int,
) -> None:
    one, x = layer(inputs, outputs, dtype="bfloat16"), random(tokens, inputs).bfloat16()
    plain = QuantisedLinear(one, kind)
    monkeypatch.setattr(quantised, "wants_alignment", lambda device: True)
    monkeypatch.setattr(quantised, "scaled_products_serve", lambda *_: True)
    filled = QuantisedLinear(one, kind)
    assert filled.weight.shape[0] % 16 == filled.weight.shape[1] % 16 == 0
    with torch.inference_mode():
        torch.testing.assert_close(filled(x), plain(x), rtol=2e-2, atol=2e-2)


def test_sums_of_whole_numbers_are_the_same_in_every_batch() -> None:
    one, x = QuantisedLinear(layer(300, 50), "int8"), random(400, 300)
    with torch.inference_mode():
        assert torch.equal(one(x), torch.cat([one(token) for token in x.split(1)]))


def test_products_of_fp8_have_room_in_float16() -> None:
    one = layer(1536, 64, dtype="float16")
    with torch.inference_mode():
        got = QuantisedLinear(one, "fp8")(random(3, 1536).half())
    assert got.dtype is torch.float16 and got.isfinite().all()


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16"])
def test_neither_batch_nor_order_changes_an_answer(tiny: Path, scheme: str) -> None:
    model = load(tiny, "float32", switches=Switches(quantisation=scheme, quantised="both"))
    asked = [prompt(model, i, "iiv"[: i % 4], limit=6) for i in range(6)]

    def answers(budget: Budget, backwards: bool = False) -> dict[str, tuple[int, ...]]:
        order = asked[::-1] if backwards else asked
        return {o.id: tuple(o.ids) for o in Engine(model, frozenset(), budget).generate(order)}

    together = answers(Budget(8, 4096, 1 << 16))
    assert together == answers(Budget(1, 64, 1 << 16)) == answers(Budget(3, 200, 1 << 16), True)


def kinds(part: nn.Module) -> set[type]:
    return {type(p) for p in part.modules()} & {Linear, QuantisedLinear}


def test_what_is_quantised_is_what_was_asked_for(tiny: Path) -> None:
    for chosen, tower, decoder in (
        ("both", QuantisedLinear, QuantisedLinear),
        ("decoder", Linear, QuantisedLinear),
        ("tower", QuantisedLinear, Linear),
    ):
        model = load(tiny, switches=Switches(quantisation="w8a8", quantised=chosen))
        assert kinds(model.visual.blocks) == {tower}
        assert kinds(model.model.layers) == {decoder}
        assert kinds(model.visual.merger) == kinds(model.lm_head) == {Linear}
    plain, model = load(tiny), load(tiny, switches=Switches(quantisation="w4a16"))
    assert kinds(model) == {Linear}
    changed = {
        name
        for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values())
        if not torch.equal(a, b)
    }
    assert changed and all(".layers." in n and n.endswith("proj.weight") for n in changed)


@pytest.mark.parametrize("model_of", [test_qwen2_5_vl.model_of, test_qwen3_vl.model_of])
def test_the_later_families_are_quantised_too(model_of: Callable[..., Qwen2VL]) -> None:
    model = fuse(model_of(3, quantisation="w8a8", quantised="both"))
    assert kinds(model.visual.blocks) == kinds(model.model.layers) == {QuantisedLinear}


def test_no_more_than_a_part_lies_in_memory_twice() -> None:
    parts = [nn.Sequential(layer(8, 8), nn.ReLU()) for _ in range(3)]
    before = [weakref.ref(part[0].weight) for part in parts]

    def in_turn() -> Iterator[nn.Module]:
        for i, part in enumerate(parts):
            yield part
            assert all((ref() is None) == (k < i) for k, ref in enumerate(before) if k != i)

    quantised.quantise(in_turn(), "w8a8")
    assert all(ref() is None for ref in before)


def test_scores_say_that_the_model_was_quantised(tiny: Path) -> None:
    plain = make_adapter("reference", str(tiny), {})
    eight = make_adapter("reference", str(tiny), {"quantisation": "w8a8"})
    assert "quantisation" not in plain.fingerprint["switches"]
    assert eight.fingerprint["switches"] == {"quantisation": "w8a8"}
    assert eight.fingerprint["inference_probe"]


def test_quantisation_is_refused_where_it_can_not_be(tiny: Path) -> None:
    with pytest.raises(UsageError, match="quantised=tower has no meaning under quantisation=none"):
        Switches(quantised="tower")
    recipe = load_recipe(find_recipe("nano"))
    with pytest.raises(ValueError, match="quantisation=w8a8: no weights can be trained with it"):
        recipe.model_validate(recipe.model_dump() | {"switches": {"quantisation": "w8a8"}})
    config = Qwen2VL.Config.load(tiny).to_dict()
    config["evalkit"] = {"schema_version": 1, "trained_with": {"quantisation": "w8a8"}}
    with pytest.raises(CheckpointError, match="no weights can be trained with it"):
        Qwen2VL.Config.from_dict(config)
    with pytest.raises(UsageError, match="tensor_parallel=2: not with quantisation"):
        make_adapter("reference", str(tiny), {"quantisation": "w8a8", "tensor_parallel": 2})
    live = Qwen2VL(Qwen2VL.Config.load(tiny), Switches(quantisation="w8a8"))
    with pytest.raises(EvalkitError, match="quantisation=w8a8: only of a checkpoint"):
        make_adapter("reference", live, {"companions": str(tiny)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(("inputs", "outputs", "tokens"), [(3420, 72, 5), (1280, 3840, 700)])
def test_a_gpu_multiplies_as_a_cpu(
    kind: quantised.Numbers, inputs: int, outputs: int, tokens: int
) -> None:
    one, x = layer(inputs, outputs, dtype="bfloat16"), random(tokens, inputs).bfloat16()
    with torch.inference_mode():
        here, there = QuantisedLinear(one, kind)(x), QuantisedLinear(one.cuda(), kind)(x.cuda())
    torch.testing.assert_close(there.cpu(), here, rtol=2e-2, atol=0.5)
