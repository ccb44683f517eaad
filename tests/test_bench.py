"""The benchmark in its small mode: it runs, compares answers, and says what it measured on what."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import ModuleType

import pytest

from evalkit.bench import Load, model_of
from evalkit.bench_page import bench
from evalkit.errors import UsageError
from evalkit.roofline import floor, work
from tests import test_qwen2_5_vl, test_qwen3_vl, test_qwen3_vl_moe
from tests.tiny import write_tiny


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few tokens, and no large products: many CPUs emulate bfloat16."""
    monkeypatch.setattr(
        "evalkit.bench.PAGES",
        {"documents": (112, 84, 3), "questions": (224, 308, 3), "video": (56, 84, 3)},
    )
    monkeypatch.setattr("evalkit.bench.FRAMES", 4)
    monkeypatch.setattr("evalkit.bench.product_rate", lambda dtype, device: 1e11)
    monkeypatch.setattr("evalkit.bench.copy_rate", lambda device: 1e10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("load", ["documents", "questions", "video"])
def test_a_page_has_both_sides_with_equal_answers(tiny: str, load: str) -> None:
    page = bench(tiny, Load(load, 4), "float32", "cpu", 1, [2])
    rows = [line for line in page.splitlines() if line.startswith(("| evalkit", "| transformers"))]
    assert len(rows) == 2
    assert all(line.endswith("4 of 4 |") for line in rows)
    assert "Peak memory" in page and "| decode |" in page


def test_quantised_layers_are_a_side_of_their_own(tiny: str) -> None:
    page = bench(tiny, Load("documents", 2), "float32", "cpu", 1, [], schemes=["w8a8", "w4a16"])
    sides = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| evalkit")]
    assert sides == ["| evalkit", "| evalkit, w8a8", "| evalkit, w4a16"]
    with pytest.raises(UsageError, match="quantisation='w3'"):
        bench(tiny, Load("documents", 2), "float32", "cpu", 1, [], schemes=["w3"])


def test_a_shared_page_costs_its_work_once(tiny: str) -> None:
    model, family = model_of(tiny, "float32", "cpu")
    known = family, model.config, family.linear_weights(model), model.cache_shape
    one, four = (Load("questions", n).prompts(family, model.config) for n in (1, 4))
    alone, together, apart = work(*known, one), work(*known, four), work(*known, four, shared=False)
    assert apart.linear > 3.9 * alone.linear and together.linear < 1.7 * alone.linear
    assert together.vision_attention == alone.vision_attention == apart.vision_attention / 4
    assert together.prefill_attention < apart.prefill_attention


def test_the_roofline_counts_attention_and_what_decoding_reads(tiny: str) -> None:
    model, family = model_of(tiny, "float32", "cpu")
    weights, cache, config = family.linear_weights(model), model.cache_shape, model.config
    (question,) = Load("questions", 1).prompts(family, config)
    done = work(family, config, weights, cache, [question])
    (t, h, w), n, steps = question.media[0].grid, len(question.ids), question.max_new_tokens - 1
    vision, text = config.vision, config.text
    # a query and a key of width d cost 2 d operations, a weight and a value as many
    assert done.vision_attention == 4 * vision.embed_dim * vision.depth * t * (h * w) ** 2
    width = text.num_attention_heads * text.head_dim * text.num_hidden_layers
    assert done.prefill_attention == 4 * width * n * (n + 1) / 2
    assert done.read == sum(n + k + 1 for k in range(steps)) * cache.numbers
    slow_memory = floor(done, steps, 4, rate=1e30, read_rate=1.0)
    assert slow_memory.decode == 4 * (steps * done.weights + done.read)
    assert slow_memory.vision < 1e-9


def test_a_released_size_is_measured_with_random_weights(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = model_of(tiny, "float32", "cpu")[0].config
    monkeypatch.setattr("evalkit.models.qwen2_vl.bench.sizes", {"2B": small})
    page = bench("2B", Load("documents", 1), "float32", "cpu", 1, [1])
    assert (
        "# 2B, float32, load documents: 1 questions, 12 visual tokens" in page
        and "| transformers, batch 1 |" in page
    )


@pytest.mark.parametrize("generation", [test_qwen2_5_vl, test_qwen3_vl, test_qwen3_vl_moe])
def test_later_generations_are_measured_with_equal_answers(
    tmp_path: Path, generation: ModuleType
) -> None:
    model = str(generation.tiny(tmp_path))
    page = bench(model, Load("documents", 2), "float32", "cpu", 1, [2])
    assert page.count("| 2 of 2 |") == 2
    assert "| 1 of 1 |" in bench(model, Load("video", 1), "float32", "cpu", 1, [])


def test_bf16_is_measured_beside_fp32_with_answers_compared(tiny: str) -> None:
    page = bench(tiny, Load("images", 1), "bfloat16", "cpu", 1, [])
    assert [
        line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| evalkit")
    ] == [
        "evalkit, float32",
        "evalkit",
    ]


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a checkpoint folder nor one of 2B, 7B, 72B"):
        model_of(str(tmp_path / "none"), "float32", "cpu")


def test_the_script_for_a_card_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "gpu.py"))
    script["main"](["--small", "--quantised", "--save", str(tmp_path / "gpu.md")])
    page = (tmp_path / "gpu.md").read_text()
    assert page.strip() == capsys.readouterr().out.strip()
    assert page.count("| pages, ") == 3 and "| transformers, batch 1 |" in page
