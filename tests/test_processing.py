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

from evalkit.errors import CheckpointError, DataError, UsageError
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.processing import (
    Processor,
    ProcessorConfig,
    exact_tokens,
    frame_pixels,
    sample_frames,
    smart_resize,
    target_size,
)
from evalkit.models.qwen2_vl.switches import Switches

DATA = Path(__file__).parent / "data"
SIZES = json.loads((DATA / "golden_smart_resize.json").read_text())
FRAMES = json.loads((DATA / "golden_frames.json").read_text())
RELEASE = (3136, 12_845_056)


@pytest.mark.parametrize("case", SIZES, ids=lambda c: f"{c['h']}x{c['w']}-{c['range']}")
def test_sizes_equal_those_of_the_official_pipeline(case: dict) -> None:
    asked = (case["h"], case["w"], case["min_pixels"], case["max_pixels"])
    expected = case["qwen_vl_utils_008"]
    if not isinstance(expected, list):
        with pytest.raises(DataError):
            smart_resize(*asked)
        return
    # The official rule gives the most extreme shapes a side of 0, which no model can read.
    assert list(smart_resize(*asked)) == [max(28, side) for side in expected]
    if min(case["h"], case["w"]) > 14:
        assert case["hf523"] == list(smart_resize(*asked)), "only below half a token"


SAMPLED = [c for c in FRAMES if "nframes" not in c["ele"]]


@pytest.mark.parametrize("case", SAMPLED, ids=lambda c: f"{c['total']}@{c['video_fps']}-{c['ele']}")
def test_frames_equal_those_of_the_official_pipeline(case: dict) -> None:
    sampled = sample_frames(case["total"], case["video_fps"], **case["ele"])
    assert len(sampled) == case["nframes"]
    assert sampled[: len(case["idx_head"])] == case["idx_head"]
    assert sampled[-len(case["idx_tail"]) :] == case["idx_tail"]
    assert frame_pixels(len(sampled))[1] == case["max_pixels_per_frame"]


@pytest.mark.parametrize(
    ("total", "video_fps", "max_frames", "frames"),
    [
        (31, 1, 32, 30),
        (31, 1, 30, 30),
        (31, 1, 768, 30),
        (5, 30, 100, 4),
        (3, 1, 8, 2),
        (2, 1, 2, 2),
    ],
)
def test_an_upper_bound_above_the_frames_of_a_clip_is_no_error(
    total: int, video_fps: float, max_frames: int, frames: int
) -> None:
    sampled = sample_frames(total, video_fps, max_frames=max_frames)
    assert len(sampled) == frames
    assert (sampled[0], sampled[-1]) == (0, total - 1)


@pytest.mark.parametrize(("total", "max_frames"), [(1, None), (0, None), (40, 1)])
def test_a_clip_that_can_not_show_two_frames_says_so(total: int, max_frames: int | None) -> None:
    with pytest.raises(DataError, match="at least 2 are needed"):
        sample_frames(total, 25.0, max_frames=max_frames)


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


@pytest.mark.parametrize("least", [10**9, 10**30])
def test_a_picture_is_never_blown_up_beyond_the_bound_of_pictures(least: int) -> None:
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(DataError, match="an image shown at .*over the limit of 178,956,970 pixels"):
        Processor().image(picture, Limits(least, least))
    with pytest.raises(DataError, match="over the limit"):
        Processor().resize_frame(np.zeros((64, 64, 3), np.uint8), 4, Limits(least, least))


def test_switches_reach_the_target_size() -> None:
    def size(**switches: object) -> tuple[int, int]:
        return target_size(1000, 500, Switches().with_(switches), Limits(), Limits(*RELEASE))

    assert size() == (1008, 504)
    assert size(resolution="size:224x448") == (224, 448)
    # 8x8 and 16x4 tokens are equally far from 2:1; the lower height is taken.
    assert size(resolution="tokens:64") == (8 * 28, 8 * 28)
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
    odd, grid = Processor().video(frames, Limits(3136, 56 * 84))
    even, _ = Processor().video(np.concatenate((frames, frames[-1:])), Limits(3136, 56 * 84))
    assert grid == (2, 4, 6)
    assert torch.equal(odd, even)


def test_video_pixels_equal_those_of_the_released_pipeline() -> None:
    """qwen-vl-utils 0.0.8 (torchvision's resize), then the video processor of transformers 5.23, on
    clips enlarged, shrunk, and with an odd number of frames.
    """
    golden = np.load(DATA / "golden_video_pixels.npz")
    for name, shape, bounds in (
        ("odd", (3, 40, 50, 3), (3136, 56 * 84)),
        ("shrunk", (2, 90, 70, 3), (3136, 3136)),
    ):
        i = np.arange(math.prod(shape), dtype=np.int64)
        clip = ((i * 2654435761 >> 7) % 256).astype(np.uint8).reshape(shape)
        task = Limits(*bounds)
        frames = np.stack([Processor().resize_frame(f, len(clip), task) for f in clip])
        pixels, media = Processor().video_patches(frames)
        assert list(media.grid) == golden[f"{name}_grid"].tolist()
        assert np.array_equal(pixels.numpy(), golden[name])


def settings(folder: Path, file: str, **values: object) -> Path:
    base = {"min_pixels": 3136, "max_pixels": 784 * 5, "patch_size": 14}
    (folder / file).write_text(json.dumps(base | values))
    return folder


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        ("preprocessor_config.json", {"patch_size": 16}, "patch_size is 16"),
        ("preprocessor_config.json", {"merge_size": 1}, "merge_size is 1"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False"),
        ("preprocessor_config.json", {"resample": 2}, "resample is 2"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "rescale_factor of 1/255"),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, "size is"),
        ("preprocessor_config.json", {"do_center_crop": True}, "do_center_crop: unknown here"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "a CLIPImage"),
        ("processor_config.json", {"image_processor": {"patch_size": 16}}, "patch_size is 16"),
        ("processor_config.json", {"image_processor": 3}, "image_processor is 3"),
        ("video_preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "differ from those"),
        ("video_preprocessor_config.json", {"temporal_patch_size": 1}, "temporal_patch_size is 1"),
    ],
)
def test_settings_of_another_processor_are_refused_by_name(
    tmp_path: Path, file: str, values: dict, what: str
) -> None:
    settings(tmp_path, "preprocessor_config.json")
    with pytest.raises(CheckpointError, match=what) as e:
        ProcessorConfig.load(settings(tmp_path, file, **values))
    assert str(e.value).startswith(str(tmp_path / file))


def test_settings_are_read_in_the_order_of_transformers(tmp_path: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    def most(folder: Path) -> int:
        size = Qwen2VLImageProcessorPil.from_pretrained(folder).size
        ours = ProcessorConfig.load(folder)
        assert (ours.min_pixels, ours.max_pixels) == (size["shortest_edge"], size["longest_edge"])
        return ours.max_pixels

    settings(tmp_path, "preprocessor_config.json", max_pixels=784 * 24)
    assert most(tmp_path) == 784 * 24
    size = {"shortest_edge": 3136, "longest_edge": 784 * 5}
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Qwen2VLProcessor"}')
    assert most(tmp_path) == 784 * 24
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {"size": size, "do_pad": False, "crop_size": None}})
    )
    assert most(tmp_path) == 784 * 5
    (tmp_path / "preprocessor_config.json").unlink()
    assert most(tmp_path) == 784 * 5
    (tmp_path / "processor_config.json").write_text('{"image_processor": {}}')
    assert most(tmp_path) == 784 * 1280


def test_a_missing_file_of_settings_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ProcessorConfig.load(tmp_path) == ProcessorConfig()
    assert "no preprocessor_config.json" in caplog.text


def test_pixel_bounds_of_the_video_settings_make_no_difference(tmp_path: Path) -> None:
    """What transformers writes for a released Qwen2-VL: there the bounds of images stand again."""
    before = ProcessorConfig.load(settings(tmp_path, "preprocessor_config.json"))
    video = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "do_sample_frames": False}
    settings(tmp_path, "video_preprocessor_config.json", **video, fps=None)
    assert ProcessorConfig.load(tmp_path) == before


def test_frames_resized_one_by_one_are_those_resized_together() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((48, 64), (120, 90), (300, 200)):
        frames = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
        processor, task = Processor(), Limits(3136, 84 * 112)
        small = np.stack([processor.resize_frame(f, len(frames), task) for f in frames])
        size = torch.Size(small.shape[1:3])
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        together = torch.nn.functional.interpolate(clip, size, mode="bicubic", antialias=True)
        assert (small == together.clamp(0, 255).round().permute(0, 2, 3, 1).numpy()).all()
