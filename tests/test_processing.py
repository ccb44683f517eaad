"""Sizes, frames and pixels: the computed cases of the official pipeline, the paper's token counts,
and `transformers`' pixels.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evalkit.errors import DataError, UsageError
from evalkit.models.qwen2_vl.processing import (
    Processor,
    ProcessorConfig,
    exact_tokens,
    frame_pixels,
    sample_frames,
    smart_resize,
    target_size,
)
from evalkit.models.qwen2_vl.switches import Limits, Switches

DATA = Path(__file__).parent / "data"
SIZES = json.loads((DATA / "golden_smart_resize.json").read_text())
FRAMES = json.loads((DATA / "golden_frames.json").read_text())
RELEASE = (3136, 12_845_056)


@pytest.mark.parametrize("case", SIZES, ids=lambda c: f"{c['h']}x{c['w']}-{c['range']}")
def test_sizes_equal_those_of_both_official_pipelines(case: dict) -> None:
    for variant, key in (("hf", "hf523"), ("utils", "qwen_vl_utils_008")):
        expected = case[key]
        if isinstance(expected, list) and 0 not in expected:
            assert (
                list(
                    smart_resize(
                        case["h"], case["w"], case["min_pixels"], case["max_pixels"], variant
                    )
                )
                == expected
            )
        elif not isinstance(expected, list):
            with pytest.raises(DataError):
                smart_resize(case["h"], case["w"], case["min_pixels"], case["max_pixels"], variant)


@pytest.mark.parametrize("case", FRAMES, ids=lambda c: f"{c['total']}@{c['video_fps']}-{c['ele']}")
def test_frames_equal_those_of_the_official_pipeline(case: dict) -> None:
    asked = {{"nframes": "frames"}.get(k, k): v for k, v in case["ele"].items()}
    got = sample_frames(case["total"], case["video_fps"], **asked)
    assert len(got) == case["nframes"]
    assert got[: len(case["idx_head"])] == case["idx_head"]
    assert got[-len(case["idx_tail"]) :] == case["idx_tail"]
    assert frame_pixels(len(got))[1] == case["max_pixels_per_frame"]


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (8204, 1092, 11427),
        (28, 224, 8),
        (700, 1260, 1125),
        (224, 224, 64),
        (14, 14, 4),
        (42, 42, 4),
        (56, 56, 4),
    ],
)
def test_images_have_the_papers_token_counts(height: int, width: int, tokens: int) -> None:
    h, w = smart_resize(height, width, *RELEASE)
    assert h * w // 784 == tokens


def test_the_papers_video_needs_one_frame_a_second_for_its_count() -> None:
    """Figure 2 shows 2208 tokens for 16 s of 336x644; the documented two frames a second give twice
    that.
    """
    for fps, tokens in ((1.0, 2208), (2.0, 4416)):
        n = len(sample_frames(480, 30.0, fps))
        h, w = smart_resize(336, 644, *frame_pixels(n))
        assert n // 2 * h * w // 784 == tokens


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes_are_multiples_of_28_within_the_budget(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(DataError, match="200 times"):
            smart_resize(height, width, *RELEASE)
        return
    h, w = smart_resize(height, width, *RELEASE)
    assert h % 28 == w % 28 == 0
    assert min(h, w) >= 28
    assert h * w >= 3136


@given(st.integers(28, 4000), st.integers(28, 4000), st.sampled_from([64, 576, 1600, 3136]))
def test_the_exact_mode_gives_exactly_n_tokens_at_the_closest_aspect(
    height: int, width: int, n: int
) -> None:
    h, w = exact_tokens(height, width, n)
    assert h * w == n * 784
    off = abs(math.log(h / w * width / height))
    for rows in (1, 2, 4, 8, 16, 32, 64):
        if n % rows == 0:
            assert off <= abs(math.log(rows * rows / n * width / height)) + 1e-9


def test_switches_reach_the_target_size() -> None:
    def size(**switches: object) -> tuple[int, int]:
        return target_size(1000, 500, Switches().with_(switches), Limits(), Limits(*RELEASE))

    assert size() == (1008, 504)
    assert size(resolution="size:224x448") == (224, 448)
    assert size(resolution="tokens:64") == (16 * 28, 4 * 28) or size(resolution="tokens:64") == (
        8 * 28,
        8 * 28,
    )
    assert math.prod(size(max_pixels=100 * 784)) <= 100 * 784
    assert math.prod(size(min_pixels=4_000_000)) >= 4_000_000


@pytest.mark.parametrize(
    "bad", ["size:10x28", "tokens", "tokens:0", "fixed", "size:28", "tokens:x"]
)
def test_a_wrong_resolution_says_what_is_expected(bad: str) -> None:
    with pytest.raises(UsageError, match="resolution="):
        Switches(resolution=bad)


@pytest.mark.parametrize("size", [(100, 150), (28, 28), (333, 97), (640, 480), (57, 1100)])
def test_pixels_are_bit_equal_to_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rng = np.random.default_rng(size)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    limits = {"shortest_edge": RELEASE[0], "longest_edge": RELEASE[1]}
    theirs = Qwen2VLImageProcessorPil(size=limits)(images=[image], return_tensors="pt")
    patches, grid = Processor().image(image)
    assert list(grid) == theirs["image_grid_thw"][0].tolist()
    assert torch.equal(patches, theirs["pixel_values"])


def test_an_odd_last_frame_is_repeated() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 56, 84, 3), dtype=np.uint8)
    odd, grid = Processor().video(frames, 3136, 56 * 84)
    even, _ = Processor().video(np.concatenate((frames, frames[-1:])), 3136, 56 * 84)
    assert grid == (2, 4, 6)
    assert torch.equal(odd, even)


def test_a_checkpoint_with_other_patch_sizes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 16}')
    with pytest.raises(Exception, match="patch"):
        ProcessorConfig.load(tmp_path)
