"""Positions and rotations: the paper's rule in computed cases, and the properties that define
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.models.qwen2_vl.positions import mrope_ids, rope1d_ids
from evalkit.models.qwen2_vl.rope import Span, angles, frequencies, rotate, spans
from evalkit.models.qwen2_vl.switches import Switches

GOLDEN = json.loads(
    (Path(__file__).parent / "data" / "golden_rope_paper_rule_tf449.json").read_text()
)
CASES: dict[str, list[list[Span]]] = {
    "text_image_text": [[Span(4), Span(6, (1, 2, 3)), Span(3)]],
    "paper_fig3_video": [[Span(1), Span(36, (3, 3, 4)), Span(10)]],
    "two_images": [[Span(3), Span(4, (1, 2, 2)), Span(5), Span(4, (1, 1, 4)), Span(3)]],
    "long_video_T>hw": [[Span(3), Span(60, (10, 2, 3)), Span(5)]],
    "image_then_video": [[Span(2), Span(4, (1, 2, 2)), Span(3), Span(8, (2, 2, 2)), Span(4)]],
    "adjacent_images": [[Span(1), Span(2, (1, 1, 2)), Span(2), Span(2, (1, 2, 1)), Span(2)]],
}


@pytest.mark.parametrize("name", CASES)
def test_positions_follow_the_papers_rule(name: str) -> None:
    for row, parts in enumerate(CASES[name]):
        expected = torch.tensor(GOLDEN[name]["pos"])[row]
        got = mrope_ids(parts, Switches())
        assert torch.equal(got, expected)
        assert int(got.max()) + 1 - got.shape[1] == GOLDEN[name]["delta"][row][0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_positions(side: str) -> None:
    """The padded golden batches hold, on their real tokens, what each row gets alone."""
    expected = torch.tensor(GOLDEN[f"batch_{side}"]["pos"])
    for row, parts in enumerate(([Span(4), Span(4, (1, 2, 2)), Span(3)], [Span(5)])):
        got = mrope_ids(parts, Switches())
        n = got.shape[1]
        real = expected[row, :, -n:] if side == "left" else expected[row, :, :n]
        assert torch.equal(got, real)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"long_video_T>hw"}))
def test_transformers_5_agrees_where_no_video_is_longer_than_its_grid(name: str) -> None:
    newer = json.loads((Path(__file__).parent / "data" / "golden_rope_tf523.json").read_text())
    for row, parts in enumerate(CASES[name]):
        assert torch.equal(mrope_ids(parts, Switches()), torch.tensor(newer[name]["pos"])[row])


@given(st.integers(1, 200))
def test_text_alone_is_ordinary_rope(n: int) -> None:
    assert torch.equal(mrope_ids([Span(n)], Switches()), rope1d_ids([Span(n)], Switches()))


def test_rope1d_ignores_grids() -> None:
    assert (
        rope1d_ids([Span(2), Span(6, (1, 2, 3)), Span(1)], Switches()).tolist()
        == [list(range(9))] * 3
    )


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 50))
def test_rotated_products_depend_on_relative_position_only(m: int, n: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)

    def product(a: int, b: int) -> float:
        (ca, sa), (cb, sb) = (
            angles(
                torch.full((3, 1), p),
                frequencies(16, 100.0),
                torch.tensor([0] * 2 + [1] * 3 + [2] * 3),
            )
            for p in (a, b)
        )
        return float((rotate(q, ca, sa) * rotate(k, cb, sb)).sum())

    assert product(m, n) == pytest.approx(product(m + shift, n + shift), abs=2e-3)


def test_grids_and_placeholders_must_agree() -> None:
    assert spans([1, 9, 9, 2], 9, 8, [(1, 2, 4)], []) == [Span(1), Span(2, (1, 1, 2)), Span(1)]
    with pytest.raises(DataError, match="fewer"):
        spans([1, 9, 2], 9, 8, [(1, 2, 4)], [])
    with pytest.raises(DataError, match="more image or video placeholders"):
        spans([1, 9, 9, 9], 9, 8, [(1, 2, 4)], [])
    with pytest.raises(DataError, match="more image or video grids"):
        spans([1], 9, 8, [(1, 2, 4)], [])
