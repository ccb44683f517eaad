"""The reference model computes what `transformers` computes, in fp32, on random small
configurations.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.engine import Media
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor, cut, normalised
from evalkit.models.qwen2_vl.rope import grid_tokens
from tests.oracle import hf_forward, hf_model, random_weights

IMAGE, VIDEO, START, END, PAD = 50, 51, 48, 49, 0


def random_config(rng: np.random.Generator) -> Qwen2VLConfig:
    kv = int(rng.choice([1, 2]))
    heads = kv * int(rng.choice([1, 2, 3]))
    head_dim = int(rng.choice([16, 32, 64]))
    t = head_dim // 8
    h = (head_dim // 2 - t) // 2
    vision_heads = int(rng.choice([1, 2, 4]))
    hidden = heads * head_dim
    return Qwen2VLConfig(
        VisionConfig(
            depth=int(rng.integers(1, 4)),
            embed_dim=vision_heads * int(rng.choice([16, 32, 80])),
            num_heads=vision_heads,
            hidden_size=hidden,
            mlp_ratio=int(rng.choice([2, 4])),
        ),
        TextConfig(
            vocab_size=64,
            hidden_size=hidden,
            intermediate_size=int(rng.choice([64, 96])),
            num_hidden_layers=int(rng.integers(1, 4)),
            num_attention_heads=heads,
            num_key_value_heads=kv,
            rms_norm_eps=1e-6,
            rope_theta=float(rng.choice([100.0, 1e4, 1e6])),
            mrope_section=(t, h, head_dim // 2 - t - h),
        ),
        tie_word_embeddings=bool(rng.integers(2)),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        bos_token_id=PAD,
        eos_token_ids=(1,),
    )


def picture(rng: np.random.Generator) -> Image.Image:
    w, h = (int(x) for x in rng.integers(40, 200, 2))
    return Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))


def clip(rng: np.random.Generator) -> np.ndarray:
    """Frames no longer than their grid is wide: beyond, transformers leaves the paper's position
    rule.
    """
    return rng.integers(0, 256, (int(rng.integers(2, 7)), 84, 112, 3), dtype=np.uint8)


def conversation(rng: np.random.Generator, kinds: str, processor: Processor):
    """Ids, patches and grids of text with images ('i') and videos ('v') in between."""
    ids = [int(x) for x in rng.integers(2, 40, rng.integers(1, 6))]
    images, videos = [], []
    for kind in kinds:
        patches, grid = (
            processor.image(picture(rng), Limits(3136, 50176))
            if kind == "i"
            else processor.video(clip(rng), Limits(3136, 84 * 112))
        )
        (images if kind == "i" else videos).append((patches, grid))
        n = grid_tokens(grid)
        ids += [
            START,
            *[IMAGE if kind == "i" else VIDEO] * n,
            END,
            *(int(x) for x in rng.integers(2, 40, rng.integers(1, 6))),
        ]
    return ids, images, videos


@pytest.mark.parametrize("seed", range(24))
@torch.no_grad()
def test_logits_equal_those_of_transformers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    model = random_weights(Qwen2VL(config), seed)
    rows = [
        conversation(rng, kinds, Processor())
        for kinds in ("", "i", "ii", "v", "iv", "vi")[seed % 3 :: 2]
    ]
    length = max(len(ids) for ids, _, _ in rows)
    input_ids = torch.tensor([[PAD] * (length - len(ids)) + ids for ids, _, _ in rows])
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, _, _ in rows])
    images = [x for _, i, _ in rows for x in i]
    videos = [x for _, _, v in rows for x in v]
    media = {}
    if images:
        media |= {
            "pixel_values": torch.cat([p for p, _ in images]),
            "image_grid_thw": [g for _, g in images],
        }
    if videos:
        media |= {
            "pixel_values_videos": torch.cat([p for p, _ in videos]),
            "video_grid_thw": [g for _, g in videos],
        }
    ours = model(input_ids, attention_mask=mask, **media)
    theirs = hf_forward(hf_model(model), input_ids, mask, **media)
    real = mask.bool()
    assert (ours[real] - theirs[real]).abs().max() < 1e-4
    for row, (ids, i, v) in enumerate(rows):
        one = {}
        if i:
            one |= {
                "pixel_values": torch.cat([p for p, _ in i]),
                "image_grid_thw": [g for _, g in i],
            }
        if v:
            one |= {
                "pixel_values_videos": torch.cat([p for p, _ in v]),
                "video_grid_thw": [g for _, g in v],
            }
        alone = model(torch.tensor([ids]), **one)
        assert (alone[0] - ours[row, real[row]]).abs().max() < 1e-4


@torch.no_grad()
def test_right_padding_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    model = random_weights(Qwen2VL(random_config(rng)), 7)
    ids = torch.tensor([[5, 6, 7]])
    padded = model(
        torch.tensor([[5, 6, 7, PAD, PAD]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])
    )
    assert (padded[:, :3] - model(ids)).abs().max() < 1e-5


@torch.no_grad()
def test_long_videos_follow_the_papers_positions() -> None:
    """Ten frame pairs on a grid of 2x3 tokens: transformers 5.23 agrees once it is handed the
    paper's positions, and not before.
    """
    rng = np.random.default_rng(3)
    model = random_weights(Qwen2VL(random_config(rng)), 3)
    pixels, grid = cut(torch.from_numpy(rng.integers(0, 256, (20, 3, 56, 84), dtype=np.uint8)))
    patches = normalised(pixels, Processor().lookup)
    assert grid == (10, 4, 6)
    ids = [5, 6, START, *[VIDEO] * 60, END, 7, 8]
    media = {"pixel_values_videos": patches, "video_grid_thw": [grid]}
    ours = model(torch.tensor([ids]), **media)
    hf, mask = hf_model(model), torch.ones(1, len(ids), dtype=torch.long)
    paper = model.position_ids(ids, [Media(grid, is_video=True)])[:, None]
    assert (
        ours - hf_forward(hf, torch.tensor([ids]), mask, position_ids=paper, **media)
    ).abs().max() < 1e-4
    assert (ours - hf_forward(hf, torch.tensor([ids]), mask, **media)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(4)
    model = random_weights(Qwen2VL(random_config(rng)), 4)
    ids, images, _ = conversation(rng, "i", Processor())
    call = {"pixel_values": images[0][0], "image_grid_thw": [images[0][1]]}
    single = model(torch.tensor([ids]), **call)
    half = model.to(dtype)(torch.tensor([ids]), **call)
    assert half.dtype == dtype
    assert (half.float() - single).abs().max() < 0.1 * single.abs().max()


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"beta_fast": 8, "beta_slow": 2},
        {"attention_factor": 1.3},
        {"mscale": 1.0, "mscale_all_dim": 0.5},
        {"truncate": False},
        {"factor": 1.0},
        {"original_max_position_embeddings": None},
    ],
    ids=str,
)
@torch.no_grad()
def test_yarn_gives_the_logits_of_transformers(extra: dict) -> None:
    """Beyond the original 64 positions, with an image among them."""
    from transformers import Qwen2VLConfig as HFConfig
    from transformers import Qwen2VLForConditionalGeneration

    rng = np.random.default_rng(2)
    plain = random_config(rng)
    scaling = {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mrope_section": list(plain.text.mrope_section),
        **extra,
    }
    scaling = {k: v for k, v in scaling.items() if v is not None}
    raw = plain.to_dict() | {"rope_scaling": scaling, "max_position_embeddings": 128}
    config = Qwen2VLConfig.from_dict(raw)
    assert Qwen2VLConfig.from_dict(config.to_dict()) == config
    model = random_weights(Qwen2VL(config), 2)
    theirs = hf_model(model, HFConfig(**raw))
    assert isinstance(theirs, Qwen2VLForConditionalGeneration)
    ids, images, _ = conversation(rng, "i", Processor())
    ids = [*(int(x) for x in rng.integers(2, 40, 90)), *ids]
    media = {"pixel_values": images[0][0], "image_grid_thw": [images[0][1]]}
    mask = torch.ones(1, len(ids), dtype=torch.long)
    difference = model(torch.tensor([ids]), **media) - hf_forward(
        theirs, torch.tensor([ids]), mask, **media
    )
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_the_nested_layout_of_transformers_5_is_the_same_model(kind: str) -> None:
    from transformers import Qwen2VLConfig as HFConfig

    plain = random_config(np.random.default_rng(1))
    scaling = {"rope_type": kind, "mrope_section": list(plain.text.mrope_section)}
    if kind == "yarn":
        scaling |= {"factor": 2.0, "original_max_position_embeddings": 512}
    raw = plain.to_dict() | {"rope_scaling": scaling}
    nested = HFConfig(**raw).to_dict()
    assert "rope_parameters" in nested["text_config"]
    ours, theirs = Qwen2VLConfig.from_dict(raw), Qwen2VLConfig.from_dict(nested)
    assert (ours.text, ours.vision) == (theirs.text, theirs.vision)
    assert (ours.text.yarn is None) == (kind == "default")


def test_yarn_raises_the_limit_on_tokens() -> None:
    config = random_config(np.random.default_rng(0))
    assert config.text.max_tokens == config.text.max_position_embeddings
    section = list(config.text.mrope_section)
    for factor, tokens in ((4.0, 131_072), (0.5, 32_768)):
        yarn = {"rope_type": "yarn", "factor": factor, "mrope_section": section}
        longer = Qwen2VLConfig.from_dict(config.to_dict() | {"rope_scaling": yarn})
        assert longer.text.max_tokens == tokens
