"""Qwen2.5-VL computes what `transformers` computes, but for what `transformers` changed since the
release, which is a switch.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.adapter import make_adapter
from evalkit.engine import Budget, Engine, Media, Prompt, Visual
from evalkit.errors import CheckpointError
from evalkit.models.limits import Limits
from evalkit.models.qwen2_5_vl.config import RELEASED, Qwen2_5VLConfig, VisionConfig
from evalkit.models.qwen2_5_vl.model import Qwen2_5VL
from evalkit.models.qwen2_5_vl.processing import Processor, ProcessorConfig
from evalkit.models.qwen2_5_vl.switches import FullLayers, Switches
from evalkit.models.qwen2_5_vl.vision import windows
from evalkit.models.qwen2_vl.chat import CHAT_TEMPLATE
from evalkit.models.qwen2_vl.checkpoint import load_as, save
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.fused import fuse
from evalkit.models.qwen2_vl.positions import mrope_ids
from evalkit.models.qwen2_vl.rope import Span
from evalkit.types import Image, Message, Request, Text
from tests.conversations import TOKENS, VIDEO, conversation, seconds
from tests.oracle import hf_forward, hf_model, random_weights
from tests.pictures import png
from tests.test_adapters import mp4
from tests.tiny import TOKEN_IDS, write_tiny_of

FEATURES = 1176
KINDS = ("", "i", "l", "v", "il", "vi", "iv", "vv")


def random_config(seed: int) -> Qwen2_5VLConfig:
    rng = np.random.default_rng(seed)

    def one(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    kv, depth = one(1, 2), int(rng.integers(1, 5))
    heads = kv * one(1, 2, 3)
    head_dim = one(16, 32)
    t = head_dim // 8
    h = (head_dim // 2 - t) // 2
    vision_heads = one(1, 2)
    return Qwen2_5VLConfig(
        VisionConfig(
            depth=depth,
            hidden_size=vision_heads * one(16, 32, 80),
            intermediate_size=one(48, 60),
            num_heads=vision_heads,
            out_hidden_size=heads * head_dim,
            window_size=one(28, 56, 84, 112),
            fullatt_block_indexes=tuple(i for i in range(depth) if rng.integers(2)),
            tokens_per_second=one(1, 2, 4),
        ),
        TextConfig(
            vocab_size=64,
            hidden_size=heads * head_dim,
            intermediate_size=one(64, 96),
            num_hidden_layers=int(rng.integers(1, 4)),
            num_attention_heads=heads,
            num_key_value_heads=kv,
            rms_norm_eps=1e-6,
            rope_theta=one(100.0, 1e4, 1e6),
            mrope_section=(t, h, head_dim // 2 - t - h),
        ),
        tie_word_embeddings=bool(rng.integers(2)),
        dtype="float32",
        **TOKENS,
    )


def model_of(seed: int, **switches: Any) -> Qwen2_5VL:
    config = random_config(seed)
    return random_weights(Qwen2_5VL(config, config.trained.with_(switches)), seed)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 40))]
)
@torch.no_grad()
def test_logits_equal_those_of_transformers(seed: int) -> None:
    """With the text after a video where `transformers` 5.23 has it, without further help; where the
    paper has it, once `transformers` is handed these positions.
    """
    rng = np.random.default_rng(seed)
    theirs = hf_model(model_of(seed))
    for kinds in (KINDS[seed % 8], KINDS[(seed + 3) % 8]):
        ids, media, args = conversation(rng, kinds, FEATURES)
        tokens = torch.tensor([ids])
        mask, clips = torch.ones_like(tokens), {"second_per_grid_ts": seconds(media)}
        ours = model_of(seed, next_position="max_hw")(tokens, **args, **clips)
        assert (ours - hf_forward(theirs, tokens, mask, **args, **clips)).abs().max() < 1e-4
        model = model_of(seed)
        paper = model.position_ids(ids, media)[:, None]
        ours = model(tokens, **args, **clips)
        assert (
            ours - hf_forward(theirs, tokens, mask, position_ids=paper, **args)
        ).abs().max() < 1e-4


@torch.no_grad()
def test_text_goes_on_behind_the_last_second_as_in_the_paper_and_not_in_transformers() -> None:
    clip = Media((3, 8, 12), is_video=True, seconds_per_step=1.0)
    ids = [5, 6, 7, 48, *[VIDEO] * 72, 49, 8]

    def positions(**switches: Any) -> list[list[int]]:
        at = model_of(0, tokens_per_second=2, **switches).position_ids(ids, [clip])
        return [sorted({*row[4:-2]}) for row in at.tolist()] + [at[0, -2:].tolist()]

    assert positions() == [[4, 6, 8], [4, 5, 6, 7], [*range(4, 10)], [10, 11]]
    slow = replace(clip, seconds_per_step=4.0)
    at = model_of(0, tokens_per_second=2).position_ids(ids, [slow])
    assert at[0, 4] == 4 and at[0, -2:].tolist() == [4 + 2 * 8 + 1, 22]
    newer = model_of(0, tokens_per_second=2, next_position="max_hw").position_ids(ids, [slow])
    assert newer[0, -2:].tolist() == [10, 11]


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, [0, 2, 4, 7]),
        ({"time": "index"}, [0, 1, 2, 3]),
        ({"time": "constant"}, [0, 0, 0, 0]),
        ({"tokens_per_second": 4}, [0, 4, 9, 14]),
        ({"time_rounding": "before"}, [0, 2, 4, 6]),
    ],
)
def test_time_is_where_the_switches_put_it(switches: dict, expected: list[int]) -> None:
    (clip,) = mrope_ids([Span(4, (4, 1, 1), seconds=1.24)], Switches().with_(switches))[:1].tolist()
    assert clip == expected


def test_an_image_has_one_time_whatever_the_switches() -> None:
    for time in ("absolute", "index", "constant"):
        at = mrope_ids([Span(2), Span(6, (1, 2, 3)), Span(1)], Switches(time=time))
        assert at[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5]


def test_windows_hold_each_token_once_and_neighbours_together() -> None:
    grids = [(1, 18, 10), (2, 8, 12), (1, 2, 20)]
    order, sizes = windows(grids, 4)
    assert sorted(order.tolist()) == list(range(45 + 48 + 10))
    assert sizes == [16, 16, 4, 4, 4, 1, 16, 8, 16, 8, 4, 4, 2]
    first = order[: sizes[0]]
    assert first.tolist() == [5 * y + x for y in range(4) for x in range(4)]


def features(model: Qwen2_5VL, patches: torch.Tensor, *grids: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(list(model.encode(patches, [Media(g) for g in grids])))


def windowed(**switches: Any) -> Qwen2_5VL:
    """A tower of two blocks with windows of 2x2 tokens, the second of them whole."""
    config = random_config(1)
    vision = replace(
        config.vision, depth=2, window_size=56, fullatt_block_indexes=(1,), intermediate_size=48
    )
    config = replace(config, vision=vision)
    return random_weights(Qwen2_5VL(config, config.trained.with_(switches)), 1)


@pytest.mark.parametrize(
    ("switches", "reach"),
    [
        ({"vision_full_layers": "none"}, 4),
        ({}, 24),
        ({"vision_full_layers": "0"}, 24),
        ({"vision_full_layers": "none", "vision_window": "112"}, 16),
        ({"vision_full_layers": "none", "vision_window": "off"}, 24),
    ],
)
def test_a_change_reaches_as_far_as_windows_and_whole_blocks_let_it(
    switches: dict, reach: int
) -> None:
    """Visual tokens that follow a changed first patch, of a picture of 4 x 6 tokens."""
    model = windowed(**switches)
    patches = torch.randn(96, 1176, generator=torch.Generator().manual_seed(0))
    other = patches.clone()
    other[0] += 1
    moved = (features(model, patches, (1, 8, 12)) - features(model, other, (1, 8, 12))).abs()
    assert int((moved.amax(-1) > 0).sum()) == reach


def test_all_blocks_whole_is_a_tower_without_windows() -> None:
    patches = torch.randn(96, 1176, generator=torch.Generator().manual_seed(0))
    all_whole, no_windows, listed = (
        features(windowed(**s), patches, (1, 8, 12))
        for s in (
            {"vision_full_layers": "all"},
            {"vision_window": "off"},
            {"vision_full_layers": "0,1"},
        )
    )
    assert torch.equal(all_whole, no_windows) and torch.equal(all_whole, listed)


def test_a_clip_with_windows_is_seen_pair_by_pair() -> None:
    patches = torch.randn(192, 1176, generator=torch.Generator().manual_seed(0))
    together = features(windowed(), patches, (2, 8, 12))
    apart = features(windowed(), patches, (1, 8, 12), (1, 8, 12))
    assert (together - apart).abs().max() < 1e-5


def prompts(count: int = 5) -> list[Prompt]:
    out = []
    for i in range(count):
        rng = np.random.default_rng(i)
        ids, media, args = conversation(rng, KINDS[i], FEATURES)
        both = [args.get("pixel_values"), args.get("pixel_values_videos")]
        packs = {
            is_video: list(
                pack.split(
                    [m.grid[0] * m.grid[1] * m.grid[2] for m in media if m.is_video == is_video]
                )
            )
            for is_video, pack in zip((False, True), both)
            if pack is not None
        }
        visuals = tuple(Visual(packs[m.is_video].pop(0), m, (i, k)) for k, m in enumerate(media))
        out.append(Prompt(str(i), tuple(ids), visuals, 3))
    return out


@torch.no_grad()
def test_the_engine_writes_the_tokens_of_transformers_in_any_packing() -> None:
    """`transformers` is handed our positions, which go on behind a video as in the paper."""
    model, fused = model_of(6), fuse(model_of(6))
    theirs, asked = hf_model(model), prompts()
    expected = {}
    for p in asked:
        ids = list(p.ids)
        args: dict[str, Any] = {}
        for is_video, name, grids in (
            (False, "pixel_values", "image_grid_thw"),
            (True, "pixel_values_videos", "video_grid_thw"),
        ):
            if own := [v for v in p.visuals if v.media.is_video == is_video]:
                args |= {name: torch.cat([v.patches for v in own])}
                args |= {grids: [v.media.grid for v in own]}
        for _ in range(3):
            at = model.position_ids(tuple(ids), p.media)[:, None]
            tokens = torch.tensor([ids])
            logits = hf_forward(theirs, tokens, torch.ones_like(tokens), position_ids=at, **args)
            ids.append(int(logits[0, -1].argmax()))
        expected[p.id] = tuple(ids[len(p.ids) :])
    for rows, tokens, one in ((1, 4096, model), (3, 64, model), (8, 4096, fused)):
        engine = Engine(one, frozenset(), Budget(rows, tokens, 1 << 20))
        assert {o.id: o.ids for o in engine.generate(asked)} == expected


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_released_configurations_are_read_in_both_layouts(nested: bool) -> None:
    from transformers import Qwen2_5_VLConfig as HFConfig

    for config in RELEASED.values():
        raw = config.to_dict()
        if nested:
            raw = HFConfig(**raw).to_dict()
            assert "rope_parameters" in raw["text_config"]
        read = Qwen2_5VLConfig.from_dict(json.loads(json.dumps(raw)))
        assert (read.text, read.vision) == (config.text, config.vision)
        assert read.tie_word_embeddings == config.tie_word_embeddings


def test_what_a_file_leaves_out_is_what_transformers_takes() -> None:
    from transformers import Qwen2_5_VLConfig as HFConfig

    ours = Qwen2_5VLConfig.from_dict(
        {"model_type": "qwen2_5_vl", "hidden_size": 3584, "num_attention_heads": 28}
        | {"num_key_value_heads": 4}
    )
    theirs = HFConfig().vision_config.to_dict()
    assert {k: theirs[k] for k in ("hidden_size", "tokens_per_second", "window_size")} == {
        k: getattr(ours.vision, k) for k in ("hidden_size", "tokens_per_second", "window_size")
    }


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"model_type": "qwen2_vl"}, "not 'qwen2_5_vl'"),
        ({"logit_softcap": 3.0}, "logit_softcap: unknown"),
        ({"vision_config": {"patch_size": 16}}, "patch_size 16"),
        ({"vision_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu'"),
        ({"vision_config": {"window_size": 14}}, "less than one visual token"),
        ({"vision_config": {"window_shift": 2}}, "vision_config.window_shift: unknown"),
        ({"vision_config": {"fullatt_block_indexes": "all"}}, "a list of whole numbers"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "use_sliding_window"),
        ({"evalkit": {"trained_with": {"time": "never"}}}, "trained with time='never'"),
    ],
    ids=str,
)
def test_what_would_be_another_model_is_refused_by_name(changed: dict, what: str) -> None:
    raw = random_config(0).to_dict()
    changed = changed | {"vision_config": raw["vision_config"] | changed.get("vision_config", {})}
    with pytest.raises(CheckpointError, match=what):
        Qwen2_5VLConfig.from_dict(raw | changed)


@pytest.mark.parametrize("written_by", ["evalkit", "transformers"])
def test_a_saved_checkpoint_is_the_same_model(tmp_path: Path, written_by: str) -> None:
    model = model_of(3)
    if written_by == "evalkit":
        save(model, tmp_path)
    else:
        hf_model(model).save_pretrained(tmp_path)
    read = load_as(Qwen2_5VL, tmp_path)
    assert read.config.vision == model.config.vision
    assert all(torch.equal(a, read.state_dict()[k]) for k, a in model.state_dict().items())
    if written_by == "evalkit":
        from transformers import AutoModelForImageTextToText

        theirs = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert torch.equal(theirs.model.visual.merger.ln_q.weight, model.visual.merger.ln_q.weight)


def test_videos_have_the_budget_of_qwen_vl_utils_0_0_10() -> None:
    processor = Processor()
    assert len(processor.frames(100, 25.0)) == 8
    assert len(processor.frames(95, 25.0)) == 6  # 7.6 frames: pairs are rounded down
    frame = np.zeros((1080, 1920, 3), np.uint8)
    few, many = (processor.resize_frame(frame, n).shape[:2] for n in (8, 768))
    assert few[0] * few[1] <= 768 * 784 < 1.1 * few[0] * few[1]
    assert many[0] * many[1] <= 115_200 * 784 * 2 / 768
    asked = Limits(max_pixels=10**7)
    assert processor.resize_frame(frame, 8, asked).shape[:2] == few


def test_the_processor_of_another_generation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"image_processor_type": "Qwen2_5_VLImageProcessor", "patch_size": 14}')
    assert ProcessorConfig.load(tmp_path).min_pixels == 3136
    path.write_text('{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16}')
    with pytest.raises(CheckpointError, match=r"patch_size is 16; every Qwen2.5-VL has 14"):
        ProcessorConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["checkpoint", "none", "all", "1,3"])
def test_lists_of_blocks_are_written_as_they_are_read(text: str) -> None:
    assert str(FullLayers.parse(text)) == text


def tiny(folder: Path) -> Path:
    config = random_config(2)
    config = replace(config, text=replace(config.text, vocab_size=320), **TOKEN_IDS)
    model = random_weights(Qwen2_5VL(replace(config, eos_token_ids=(0,))), 2)
    return write_tiny_of(model, folder, CHAT_TEMPLATE)


def test_the_adapter_says_at_which_size_boxes_are_and_when_frames_are(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    picture, clip = Image(png(150, 100, None, 0)), mp4(12)
    requests = [
        Request(str(i), (Message("user", (part, Text("What is this?"))),), max_new_tokens=4)
        for i, part in enumerate((picture, clip))
    ]
    settings = {"device": "cpu", "max_pixels": 28 * 28 * 30, "fps": 1}
    adapter = make_adapter("reference", str(folder), settings)
    seen = {c.id: c for c in adapter.generate(requests)}
    assert seen["0"].error is None and seen["1"].error is None
    assert seen["0"].box_space == "resized:json@140x112"
    (visual,) = adapter.prompts.make(requests[1]).visuals
    assert visual.media.seconds_per_step == 2 / (4 / 12 * 4)
    assert seen["0"].frames == () and seen["1"].frames == ((0.0, 1.0, 1.75, 2.75),)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    ids, _, args = conversation(np.random.default_rng(4), "iv", FEATURES)
    tokens, model = torch.tensor([ids]), model_of(3)
    single = model(tokens, **args)
    for one in (model, fuse(model_of(3))):
        half = one.to(dtype)(tokens, **args)
        assert half.dtype == dtype
        assert (half.float() - single).abs().max() < 0.1 * single.abs().max()
