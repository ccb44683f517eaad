"""Qwen3-VL computes what `transformers` computes, but for what `transformers` changed since the
release, which is a switch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evalkit.adapter import make_adapter
from evalkit.engine import Budget, Engine, Media, Prompt, Visual
from evalkit.errors import CheckpointError, DataError, UsageError
from evalkit.models.qwen2_vl.checkpoint import load_as, save
from evalkit.models.qwen2_vl.fused import fuse
from evalkit.models.qwen2_vl.positions import interleaved
from evalkit.models.qwen3_vl.chat import CHAT_TEMPLATE, Chat, stamp
from evalkit.models.qwen3_vl.config import RELEASED, Qwen3VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen3_vl.model import Qwen3VL
from evalkit.models.qwen3_vl.processing import Processor, ProcessorConfig
from evalkit.models.qwen3_vl.switches import DeepStack, Switches
from evalkit.models.qwen3_vl.vision import corners
from evalkit.models.sampling import Sampling
from evalkit.types import Image, Message, Request, Text
from tests.conversations import IMAGE, TOKENS, VIDEO, conversation
from tests.oracle import hf_forward, hf_model, random_weights
from tests.pictures import png
from tests.test_adapters import mp4
from tests.tiny import TOKEN_IDS, write_tiny_of

KINDS = ("", "i", "l", "v", "il", "vi", "iv", "vv")
FEATURES = 1536


def random_config(seed: int, **text: Any) -> Qwen3VLConfig:
    rng = np.random.default_rng(seed)

    def one(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    kv, depth = one(1, 2), int(rng.integers(1, 5))
    heads, head_dim = kv * one(1, 2, 3), one(16, 32)
    spatial = head_dim * 5 // 32
    hidden, vision_heads = one(48, 64, 80), one(1, 2)
    stacked = tuple(i for i in range(depth) if rng.integers(2))
    return Qwen3VLConfig(
        VisionConfig(
            depth=depth,
            hidden_size=vision_heads * one(16, 32, 72),
            intermediate_size=one(48, 60),
            num_heads=vision_heads,
            out_hidden_size=hidden,
            num_position_embeddings=one(9, 16, 49),
            deepstack_visual_indexes=stacked,
        ),
        TextConfig(
            **{
                "vocab_size": 64,
                "hidden_size": hidden,
                "intermediate_size": one(64, 96),
                "num_hidden_layers": len(stacked) + one(0, 1, 2) or 1,
                "num_attention_heads": heads,
                "num_key_value_heads": kv,
                "head_dim": head_dim,
                "rope_theta": one(100.0, 1e4, 5e6),
                "mrope_section": (head_dim // 2 - 2 * spatial, spatial, spatial),
                **text,
            }
        ),
        tie_word_embeddings=bool(rng.integers(2)),
        dtype="float32",
        **TOKENS,
    )


def model_of(seed: int, **switches: Any) -> Qwen3VL:
    config = random_config(seed)
    return random_weights(Qwen3VL(config, config.trained.with_(switches)), seed)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 40))]
)
@torch.no_grad()
def test_logits_equal_those_of_transformers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = model_of(seed)
    theirs = hf_model(model)
    for kinds in (KINDS[seed % 8], KINDS[(seed + 3) % 8]):
        ids, _, args = conversation(rng, kinds, FEATURES, steps=True)
        tokens = torch.tensor([ids])
        ours = model(tokens, **args)
        assert (
            ours - hf_forward(theirs, tokens, torch.ones_like(tokens), **args)
        ).abs().max() < 1e-4


def test_a_frame_pair_is_placed_as_an_image_behind_its_timestamp() -> None:
    """The example of a released model: three pairs of 2 x 3 tokens, each behind six tokens."""
    pair = [5, 5, 5, 5, 5, 5, 48, *[VIDEO] * 6, 49]
    ids = [5, 5, 5, *pair, *pair, *pair, 5, 5]
    t, h, w = model_of(0).position_ids(ids, [Media((3, 4, 6), is_video=True)]).tolist()
    assert t[:16] == [*range(10), *[10] * 6] and t[45:] == [36, 37]
    assert h[10:17] == [10, 10, 10, 11, 11, 11, 13] and w[10:17] == [10, 11, 12] * 2 + [13]
    assert h[23:30] == [20, 21, 21, 21, 22, 22, 22]


def test_under_absolute_time_a_video_is_one_piece_in_seconds() -> None:
    model = model_of(0, time="absolute", tokens_per_second=2)
    ids = [5, 48, *[VIDEO] * 18, 49, 5]
    at = model.position_ids(ids, [Media((3, 4, 6), is_video=True, seconds_per_step=1.0)])
    assert at[0].tolist() == [0, 1, *[2] * 6, *[4] * 6, *[6] * 6, 7, 8]
    assert sorted({*at[1, 2:20].tolist()}) == [2, 3]


@pytest.mark.parametrize("section", [(24, 20, 20), (28, 20, 16), (20, 24, 20)])
def test_frequencies_are_dealt_as_the_sections_say(section: tuple[int, int, int]) -> None:
    config = TextConfig(mrope_section=section)
    places = torch.tensor([[1000.0], [2000.0], [3000.0]])
    _, sin = interleaved(places, config, Switches())
    rows, columns = ({*range(k, 3 * section[k], 3)} & {*range(64)} for k in (1, 2))
    inverse = 500_000.0 ** -(torch.arange(64) / 64)
    turned = [2000 if j in rows else 3000 if j in columns else 1000 for j in range(64)]
    assert torch.allclose(sin[0, :64], (torch.tensor(turned) * inverse).sin(), atol=1e-3)


GRIDS = [(1, 6, 10), (2, 4, 2), (1, 2, 20)]


@pytest.mark.parametrize(("how", "aligned"), [("bilinear", True), ("half_pixel", False)])
def test_the_table_is_stretched_over_an_image(how: str, aligned: bool) -> None:
    side = 5
    table = torch.randn(side * side, 3, generator=torch.Generator().manual_seed(0))
    entries, weights = corners(GRIDS, side, 2, how)
    ours = (table[entries] * weights[..., None]).sum(1)
    start = 0
    for t, h, w in GRIDS:
        image = table.T.view(1, 3, side, side)
        whole = F.interpolate(image, (h, w), mode="bilinear", align_corners=aligned)[0]
        blocks = whole.view(3, h // 2, 2, w // 2, 2).permute(1, 3, 2, 4, 0).reshape(h * w, 3)
        assert torch.allclose(ours[start : start + t * h * w], blocks.repeat(t, 1), atol=1e-5)
        start += t * h * w


def test_the_nearest_position_is_one_of_the_table() -> None:
    _, weights = corners(GRIDS, 5, 2, "nearest")
    assert set(weights.unique().tolist()) == {0.0, 1.0}


def features(model: Qwen3VL, patches: torch.Tensor, grid: Any = (1, 4, 6)) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(patches, [Media(grid)])[0]


def noise(patches: int = 24) -> torch.Tensor:
    return torch.randn(patches, FEATURES, generator=torch.Generator().manual_seed(0))


def test_without_table_and_rotation_a_tower_knows_no_places() -> None:
    """Moved blocks of patches give the same features, moved; with either of the two they don't."""
    moved = noise().view(6, 4, FEATURES).flip(0).reshape(24, FEATURES)
    for switches, same in (
        ({"vision_table": "off", "vision_position": "none"}, True),
        ({"vision_table": "off"}, False),
        ({"vision_position": "none"}, False),
    ):
        model = model_of(3, **switches)
        distance = (features(model, noise()) - features(model, moved).flip(0)).abs().max()
        assert (distance < 1e-5) == same


def test_in_half_precision_the_release_interpolates_there_and_transformers_in_fp32() -> None:
    release, newer = (
        model_of(3, vision_table=how).to(torch.bfloat16) for how in ("bilinear", "bilinear_fp32")
    )
    x = torch.zeros(24, release.config.vision.width, dtype=torch.bfloat16)
    a, b = (m.visual.table(x, [(1, 4, 6)]) for m in (release, newer))
    assert a.dtype == b.dtype == torch.bfloat16 and 0 < (a - b).abs().max() < 0.02


def stacked(**switches: Any) -> Qwen3VL:
    """A model of three layers, the features of two blocks given to the first two."""
    config = random_config(1, num_hidden_layers=3)
    tower = replace(config.vision, depth=3, deepstack_visual_indexes=(0, 2))
    config = replace(config, vision=tower)
    model = random_weights(Qwen3VL(config, config.trained.with_(switches)), 1)
    model.lm_head.weight[48:] = 0  # no answer is to hold a placeholder
    return model


def logits(model: Qwen3VL) -> torch.Tensor:
    ids = torch.tensor([[5, 48, *[IMAGE] * 6, 49, 7]])
    with torch.no_grad():
        return model(ids, noise(), [(1, 4, 6)])


@pytest.mark.parametrize(
    ("switches", "like"),
    [
        ({"deepstack": "gain:0"}, {"deepstack": "off"}),
        ({"deepstack": "0,1"}, {}),
        ({"deepstack": "gain:1"}, {}),
        ({"deepstack_layers": "0,1"}, {}),
        ({"deepstack": "off", "deepstack_layers": "2,1"}, {"deepstack": "off"}),
    ],
)
def test_deepstack_settings_that_say_the_same_are_the_same(switches: dict, like: dict) -> None:
    assert torch.allclose(logits(stacked(**switches)), logits(stacked(**like)), atol=1e-6)


def test_each_setting_of_deepstack_is_another_model() -> None:
    all_of_them = [
        {},
        {"deepstack": "off"},
        {"deepstack": "0"},
        {"deepstack": "1"},
        {"deepstack": "gain:0.5"},
        {"deepstack_layers": "1,0"},
        {"deepstack_layers": "2,1"},
        {"qk_norm": "off"},
    ]
    different = [logits(stacked(**s)) for s in all_of_them]
    for i, one in enumerate(different):
        for other in different[:i]:
            assert (one - other).abs().max() > 1e-3


def test_no_feature_passes_a_closed_gate() -> None:
    model = stacked(vision_gate=0)
    ids = torch.tensor([[5, 48, *[IMAGE] * 6, 49, 7]])
    with torch.no_grad():
        one, other = (model(ids, pixels, [(1, 4, 6)]) for pixels in (noise(), noise() * 2 + 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("switches", "what"),
    [
        ({"deepstack": "2"}, "has 2 features"),
        ({"deepstack_layers": "0"}, "expected 2 layers"),
        ({"deepstack_layers": "0,3"}, "has 3 layers"),
        ({"deepstack": "some"}, "expected on, off"),
        ({"deepstack_layers": "0,0"}, "expected first"),
        ({"time": "absolute", "timestamps": "hms"}, "no meaning"),
        ({"resolution": "size:28x28"}, "multiples of 32"),
    ],
)
def test_settings_that_this_model_cannot_have_are_refused(switches: dict, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        stacked(**switches)


def prompts(count: int = 5) -> list[Prompt]:
    out = []
    for i in range(count):
        ids, media, args = conversation(np.random.default_rng(i), KINDS[i], FEATURES, steps=True)
        packs: dict[bool, list[torch.Tensor]] = {}
        for is_video, name in ((False, "pixel_values"), (True, "pixel_values_videos")):
            if name in args:
                sizes = [math.prod(m.grid) for m in media if m.is_video == is_video]
                packs[is_video] = list(args[name].split(sizes))
        visuals = tuple(Visual(packs[m.is_video].pop(0), m, (i, k)) for k, m in enumerate(media))
        last = max((k + 1 for k, t in enumerate(ids) if t in (IMAGE, VIDEO)), default=0)
        first = Prompt(f"{i}", tuple(ids), visuals, 3, prefix=last)
        out += [first, replace(first, id=f"{i}b", ids=(*ids[: last or 1], 9, 11))]
    return out


@torch.no_grad()
def test_the_engine_writes_the_tokens_of_transformers_in_any_packing() -> None:
    writes_the_tokens_of_transformers(stacked(), fuse(stacked()))


def writes_the_tokens_of_transformers(model: Qwen3VL, fused: Qwen3VL) -> None:
    theirs, asked, expected = hf_model(model), prompts(), {}
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
            tokens = torch.tensor([ids])
            ids.append(
                int(hf_forward(theirs, tokens, torch.ones_like(tokens), **args)[0, -1].argmax())
            )
        expected[p.id] = tuple(ids[len(p.ids) :])
    for rows, tokens, features_kept, one in (
        (1, 4096, 50_000, model),
        (3, 64, 0, model),
        (8, 4096, 50_000, fused),
    ):
        engine = Engine(one, frozenset(), Budget(rows, tokens, 1 << 20), features_kept)
        assert {o.id: o.ids for o in engine.generate(asked)} == expected


@pytest.mark.parametrize("name", ["rope1d", "mrope_i", "videorope", "vrope"])
def test_other_position_schemes_run(name: str) -> None:
    model = stacked(position=name)
    (answer,) = Engine(model, frozenset()).generate(prompts(4)[-1:])
    assert len(answer.ids) == 3 and answer.error is None


@pytest.mark.parametrize("layout", ["released", "transformers 5"])
def test_released_configurations_are_read_in_both_layouts(layout: str) -> None:
    from transformers import Qwen3VLConfig as HFConfig

    for config in RELEASED.values():
        raw = config.to_dict()
        if layout == "transformers 5":
            raw = HFConfig(**raw).to_dict()
            assert "rope_parameters" in raw["text_config"]
        read = Qwen3VLConfig.from_dict(json.loads(json.dumps(raw)))
        assert (read.text, read.vision) == (config.text, config.vision)
        assert read.tie_word_embeddings == config.tie_word_embeddings


def test_what_a_file_leaves_out_is_what_transformers_takes() -> None:
    from transformers import Qwen3VLConfig as HFConfig

    nested = {"text_config": {}, "vision_config": {"out_hidden_size": 4096}}
    ours = Qwen3VLConfig.from_dict({"model_type": "qwen3_vl", **nested})
    theirs = HFConfig(**nested)
    for mine, other in ((ours.text, theirs.text_config), (ours.vision, theirs.vision_config)):
        told = other.to_dict()
        own = {k: v for k, v in vars(mine).items() if k in told}
        assert own and own == {k: tuple(v) if isinstance(v := told[k], list) else v for k in own}
    assert ours.text.rope_theta == theirs.text_config.rope_parameters["rope_theta"]


@torch.no_grad()
def test_yarn_gives_the_logits_of_transformers() -> None:
    raw = random_config(2).to_dict()
    scaling = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 64}
    raw["text_config"]["rope_scaling"] |= scaling
    config = Qwen3VLConfig.from_dict(raw)
    assert config.text.yarn and Qwen3VLConfig.from_dict(config.to_dict()) == config
    model = random_weights(Qwen3VL(config), 2)
    ids, _, args = conversation(np.random.default_rng(2), "i", FEATURES)
    tokens = torch.tensor([[*[7] * 90, *ids]])
    theirs = hf_forward(hf_model(model), tokens, torch.ones_like(tokens), **args)
    assert (model(tokens, **args) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("section", "changed", "what"),
    [
        ("", {"model_type": "qwen3_vl_moe"}, "not 'qwen3_vl'"),
        ("", {"num_experts": 8}, "num_experts: unknown"),
        ("text_config", {"num_experts": 8}, "num_experts: unknown"),
        ("text_config", {"attention_bias": True}, "attention_bias"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"rope_scaling": {"mrope_interleaved": False}}, "mrope_interleaved"),
        ("text_config", {"rope_scaling": {"mrope_section": [1, 1, 1]}}, "half of head_dim"),
        ("vision_config", {"patch_size": 14}, "patch_size 14"),
        ("vision_config", {"num_position_embeddings": 10}, "no square"),
        ("vision_config", {"deepstack_visual_indexes": [5, 99]}, "expected numbers of its"),
        ("vision_config", {"window_size": 112}, "vision_config.window_size: unknown"),
    ],
    ids=str,
)
def test_what_would_be_another_model_is_refused_by_name(
    section: str, changed: dict, what: str
) -> None:
    raw = random_config(0).to_dict()
    (raw[section] if section else raw).update(changed)
    with pytest.raises(CheckpointError, match=what):
        Qwen3VLConfig.from_dict(raw)


@pytest.mark.parametrize("written_by", ["evalkit", "transformers"])
def test_a_saved_checkpoint_is_the_same_model(tmp_path: Path, written_by: str) -> None:
    model = stacked()
    if written_by == "evalkit":
        save(model, tmp_path)
    else:
        hf_model(model).save_pretrained(tmp_path)
    read = load_as(Qwen3VL, tmp_path)
    assert (read.config.vision, read.config.text) == (model.config.vision, model.config.text)
    assert all(torch.equal(a, read.state_dict()[k]) for k, a in model.state_dict().items())
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "model.visual.deepstack_merger_list.1.norm.weight" in file.keys()  # noqa: SIM118


def tiny(
    folder: Path,
    kind: type[Qwen3VL] = Qwen3VL,
    configured: Callable[[int], Qwen3VLConfig] = random_config,
) -> Path:
    config = configured(2)
    text = replace(config.text, vocab_size=320)
    config = replace(config, text=text, eos_token_ids=(0,), **TOKEN_IDS)
    settings = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    model = random_weights(kind(config), 2)
    return write_tiny_of(model, folder, CHAT_TEMPLATE, **settings, min_pixels=4096)


def chat(folder: Path, **switches: Any) -> Chat:
    config = Qwen3VLConfig.load(folder)
    return Chat(folder, config, config.trained.with_(switches))


START, END, PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
CLIP = Media((2, 4, 4), is_video=True, seconds_per_step=1.0, times=(0.25, 3725.25))


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, "{}<0.2 seconds>SPE<3725.2 seconds>SPE{}"),
        ({"timestamps": "off"}, "{}SPESPE{}"),
        ({"timestamps": "index"}, "{}<0>SPE<1>SPE{}"),
        ({"timestamps": "hms"}, "{}<0:00:00.2>SPE<1:02:05.2>SPE{}"),
        ({"timestamp_place": "inside"}, "{}S<0.2 seconds>PES<3725.2 seconds>PE{}"),
        ({"video_wrapper": "keep"}, "{}S<0.2 seconds>SPE<3725.2 seconds>SPEE{}"),
        ({"time": "absolute"}, "{}SPPE{}"),
    ],
)
def test_a_video_is_written_as_the_switches_say(
    tmp_path: Path, switches: dict, expected: str
) -> None:
    c = chat(tiny(tmp_path), **switches)
    text = f"Look:{START}{PAD}{END} When?"
    spelled = expected.format("Look:", " When?").replace("P", PAD * 4)
    spelled = spelled.replace("S", START).replace("E", END)
    assert c.encode(text, [CLIP]) == c.tokenizer.encode(spelled, add_special_tokens=False).ids


def test_a_video_is_written_as_transformers_writes_it_but_for_what_stands_around_it(
    tmp_path: Path,
) -> None:
    """Its processor can't be built without torchvision; the method that writes a video can run."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    shown = Sampling((0, 11, 22, 33, 44), 45, 30.0)
    processor = object.__new__(Qwen3VLProcessor)
    vars(processor).update(
        video_token=PAD,
        vision_start_token=START,
        vision_end_token=END,
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
    )
    told = {
        "video_grid_thw": torch.tensor([[3, 4, 6]]),
        "video_metadata": [SimpleNamespace(fps=shown.fps, frames_indices=list(shown.indices))],
    }
    theirs = processor.replace_video_token(told, 0)
    clip = Media((3, 4, 6), is_video=True, times=shown.times(2))
    folder = tiny(tmp_path)
    for switches, expected in (
        ({}, f"Look:{theirs} When?"),
        ({"video_wrapper": "keep"}, f"Look:{START}{theirs}{END} When?"),
    ):
        c = chat(folder, **switches)
        ids = c.tokenizer.encode(expected, add_special_tokens=False).ids
        assert c.encode(f"Look:{START}{PAD}{END} When?", [clip]) == ids


def test_a_model_has_no_system_prompt_unless_one_is_given(tmp_path: Path) -> None:
    c = chat(tiny(tmp_path))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    said = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
    assert c.render(messages) == f"{said}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("text", "media"),
    [
        (f"{START}{PAD}{END}", [CLIP, CLIP]),
        (f"{START}{PAD}{END} and {PAD}", [CLIP]),
        (f"{PAD}", []),
        ("no video", [CLIP]),
    ],
)
def test_placeholders_and_videos_must_agree(tmp_path: Path, text: str, media: list) -> None:
    with pytest.raises(DataError):
        chat(tiny(tmp_path)).encode(text, media)


def test_times_are_those_of_the_frames_that_are_shown() -> None:
    assert Sampling((0, 15, 30, 45), 60, 30.0).times(2) == (0.25, 1.25)
    assert Sampling((0, 15, 45), 60, 30.0).times(2) == (0.25, 1.5)
    assert stamp(0, 0.25, Switches()) == "<0.2 seconds>"
    assert stamp(0, 1.25, Switches()) == "<1.2 seconds>"


def test_pixels_have_the_bounds_of_the_release(tmp_path: Path) -> None:
    p = Processor()
    assert (p.limits.min_pixels, p.limits.max_pixels) == (65_536, 16_777_216)
    frame = np.zeros((1080, 1920, 3), np.uint8)
    height, width = p.resize_frame(frame, 8).shape[:2]
    assert height % 32 == width % 32 == 0 and height * width <= 768 * 1024
    (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 14}')
    with pytest.raises(CheckpointError, match="patch_size is 14; every Qwen3-VL has 16"):
        ProcessorConfig.load(tmp_path)


def test_the_adapter_tells_the_model_when_frames_are(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    requests = [
        Request(str(i), (Message("user", (part, Text("What is this?"))),), max_new_tokens=4)
        for i, part in enumerate((Image(png(150, 100, None, 0)), mp4(12)))
    ]
    settings = {"device": "cpu", "max_pixels": 32 * 32 * 30, "fps": 1}
    adapter = make_adapter("reference", str(folder), settings)
    seen = {c.id: c for c in adapter.generate(requests)}
    assert [seen[k].error for k in "01"] == [None, None]
    assert seen["0"].box_space == "norm1000:json"
    prompt = adapter.prompts.make(requests[1])
    (visual,) = prompt.visuals
    assert visual.media.times == tuple((a + b) / 2 / 4 for a, b in ((0, 4), (7, 11)))
    written = adapter.chat.tokenizer.decode(list(prompt.ids), skip_special_tokens=True)
    assert "<0.5 seconds><2.2 seconds>" in written


@pytest.mark.parametrize("text", ["on", "off", "0,2", "gain:0.5"])
def test_deepstack_is_written_as_it_is_read(text: str) -> None:
    assert str(DeepStack.parse(text)) == text


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    ids, _, args = conversation(np.random.default_rng(4), "iv", FEATURES, steps=True)
    tokens, model = torch.tensor([ids]), stacked()
    single = model(tokens, **args)
    for one in (model, fuse(stacked())):
        half = one.to(dtype)(tokens, **args)
        assert half.dtype == dtype
        assert (half.float() - single).abs().max() < 0.1 * single.abs().max()
