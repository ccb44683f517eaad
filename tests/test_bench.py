"""The benchmark in its small mode: it runs, compares answers, and says what it measured on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.bench import Load, bench, linear_flop, model_of
from evalkit.errors import UsageError
from tests.tiny import write_tiny


@pytest.mark.parametrize("load", ["images", "questions"])
def test_a_page_has_both_sides_with_equal_answers(tmp_path: Path, load: str) -> None:
    page = bench(str(write_tiny(tmp_path)), Load(load, 4), "float32", "cpu", 1, [2])
    rows = [line for line in page.splitlines() if line.startswith(("| evalkit", "| transformers"))]
    assert len(rows) == 2
    assert all(line.endswith("4 of 4 |") for line in rows)
    assert "Peak memory" in page and "| decode |" in page


def test_a_shared_page_costs_its_product_once(tmp_path: Path) -> None:
    model = model_of(str(write_tiny(tmp_path)), "float32", "cpu")
    one, four = (Load("questions", n).prompts(model) for n in (1, 4))
    assert linear_flop(model, four, shared=False) > 3.9 * linear_flop(model, one, shared=False)
    assert linear_flop(model, four, shared=True) < 1.7 * linear_flop(model, one, shared=True)


@pytest.fixture(autouse=True)
def _no_large_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many CPUs emulate bfloat16: one large product takes them half a minute."""
    monkeypatch.setattr("evalkit.bench.product_rate", lambda dtype, device: 1e11)


def test_a_released_size_is_measured_with_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = model_of(str(write_tiny(tmp_path)), "float32", "cpu").config
    monkeypatch.setattr("evalkit.bench.RELEASED", {"2B": small})
    page = bench("2B", Load("documents", 1), "float32", "cpu", 1, [1])
    assert (
        "# 2B, float32, load documents: 1 questions, 1,911 visual tokens" in page
        and "| transformers, batch 1 |" in page
    )


def test_bf16_is_measured_beside_fp32_with_answers_compared(tmp_path: Path) -> None:
    page = bench(str(write_tiny(tmp_path)), Load("images", 2), "bfloat16", "cpu", 1, [])
    assert [
        line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| evalkit")
    ] == [
        "evalkit, float32",
        "evalkit",
    ]


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a checkpoint folder nor one of 2B, 7B, 72B"):
        model_of(str(tmp_path / "none"), "float32", "cpu")
