"""What each switch changes, what it leaves alone, and that the engine follows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evalkit.engine import Engine, Prompt
from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.attention import CrossModal, causal
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.positions import POSITIONS, _dealt
from evalkit.models.qwen2_vl.processing import Processor, exact_tokens, smart_resize
from evalkit.models.qwen2_vl.rope import Span, grid_tokens, merged, vision_angles
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.switch import written
from evalkit.nano.batches import HEAD, collate, encode
from evalkit.nano.families import draw
from evalkit.nano.scene import stream
from tests.prompts import CPU, of_kind, prompt
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"), heads=6, kv_heads=3)


def logits(model: Qwen2VL, p: Prompt, more: tuple[int, ...] = ()) -> Tensor:
    def packed(visuals: list[Any]) -> Tensor | None:
        return torch.cat([v.pixels(CPU) for v in visuals]) if visuals else None

    images, videos = of_kind(p, is_video=False), of_kind(p, is_video=True)
    grids = [[v.media.grid for v in some] for some in (images, videos)]
    with torch.no_grad():
        return model(
            torch.tensor([p.ids + more]), packed(images), grids[0], packed(videos), grids[1]
        )[0]


def is_greedy(model: Qwen2VL, p: Prompt, answer: tuple[int, ...], stop: frozenset[int]) -> bool:
    """Whether each token is the most likely one after those before it, and the answer ends where
    it should: at the limit or before a stop token. One plain pass over the whole sequence.
    """
    likely = logits(model, p, answer)[len(p.ids) - 1 :].argmax(-1).tolist()
    ended = len(answer) == p.max_new_tokens or likely[-1] in stop
    return likely[: len(answer)] == list(answer) and ended and not stop & set(answer)


def ids(name: str, *parts: Span, **switches: Any) -> list[list[float]]:
    return POSITIONS[name].ids(parts, Switches(position=name, **switches)).tolist()


KNOWN = Switches.switches()
WORDS = [name for name, s in KNOWN.items() if s.kind is str]


@pytest.mark.parametrize("switch", [name for name, s in KNOWN.items() if s.default is not None])
def test_a_switch_at_its_released_value_changes_no_bit(folder: Path, switch: str) -> None:
    release = load(folder)
    p = prompt(release, 2, "iv")
    given = {switch: written(KNOWN[switch].default)}
    assert torch.equal(
        logits(release, p), logits(load(folder, switches=Switches().with_(given)), p)
    )


def test_every_released_value_and_every_scheme_is_known() -> None:
    assert all(KNOWN[n].default == KNOWN[n].choices[0] for n in WORDS)
    assert set(KNOWN["position"].choices) == set(POSITIONS)


@pytest.mark.parametrize("name", WORDS)
def test_a_word_that_is_not_a_value_is_refused_with_the_values(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"{name}='nonsense': expected one of {KNOWN[name].choices[0]}"
    ):
        Switches(**{name: "nonsense"})


def test_switches_without_a_meaning_under_a_scheme_are_refused() -> None:
    for switches in (
        {"position": "rope1d", "temporal_spacing": 2.0},
        {"position": "vrope", "combine": "kron"},
        {"position": "hope", "next_position": "max_hw"},
        {"layout": "diagonal", "next_position": "max_hw"},
        {"position": "mrope_i", "layout": "diagonal"},
        {"combine": "kron", "ratio": "1:1:1"},
    ):
        with pytest.raises(UsageError, match="no meaning"):
            Switches(**switches)


def test_another_scheme_than_the_trained_one_leaves_its_settings_behind() -> None:
    trained = {"position": "hope", "temporal_spacing": 0.5}
    arm = Switches().with_(trained)
    assert arm.temporal_spacing == 0.5
    assert arm.with_({"position": "rope1d"}).temporal_spacing is None


@pytest.mark.parametrize("name", sorted(set(POSITIONS) - {"hope", "none"}))
def test_text_alone_is_ordinary_rope_under_every_scheme_but_hope_and_none(
    folder: Path, name: str
) -> None:
    release = load(folder)
    p = prompt(release, 1, "")
    assert torch.equal(
        logits(release, p), logits(load(folder, switches=Switches(position=name)), p)
    )


@pytest.mark.parametrize(("combine", "same"), [("interleaved", True), ("kron", False)])
def test_text_alone_is_ordinary_rope_unless_rotations_are_multiplied(
    folder: Path, combine: str, same: bool
) -> None:
    release = load(folder)
    p = prompt(release, 1, "")
    assert (
        torch.equal(logits(release, p), logits(load(folder, switches=Switches(combine=combine)), p))
        == same
    )


@pytest.mark.parametrize("name", POSITIONS)
@torch.no_grad()
def test_engine_answers_are_those_of_plain_greedy_decoding_under_every_scheme(
    folder: Path, name: str
) -> None:
    model = load(folder, switches=Switches(position=name))
    prompts = [prompt(model, i, k, limit=6) for i, k in enumerate(["", "i", "v", "iv"])]
    prompts.append(
        replace(prompts[1], id="ends in its image", ids=prompts[1].ids[: prompts[1].prefix])
    )
    prompts.append(replace(prompts[1], id="same image", ids=(*prompts[1].ids, 65)))
    stop = frozenset([model.config.image_token_id, model.config.video_token_id])
    ours = {o.id: o.ids for o in Engine(model, stop).generate(prompts)}
    assert all(is_greedy(model, p, ours[p.id], stop) for p in prompts)


@torch.no_grad()
def test_no_positions_turn_nothing(folder: Path) -> None:
    model = load(folder, switches=Switches(position="none"))
    cos, sin = model.rotary(model.position_ids([5, 6, 7]))
    assert torch.equal(cos, torch.ones_like(cos)) and not sin.any()


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("mrope_i", {"layout": "reset", "combine": "interleaved"}),
        ("mhrope", {"layout": "reset", "combine": "heads"}),
        ("videorope", {"layout": "diagonal", "combine": "low_time", "temporal_spacing": 2}),
        ("hope", {"layout": "diagonal", "combine": "no_time"}),
    ],
)
def test_a_named_scheme_is_a_corner_of_layout_and_allocation(
    folder: Path, name: str, factors: dict[str, Any]
) -> None:
    named, built = (load(folder, switches=Switches(**s)) for s in ({"position": name}, factors))
    p = prompt(named, 2, "iv")
    assert torch.equal(logits(named, p), logits(built, p))


@pytest.mark.parametrize(
    ("combine", "ratio", "dealt"),
    [
        ("sections", "1:2:1", [0] * 2 + [1] * 4 + [2] * 2),
        ("sections", "0:1:1", [1] * 4 + [2] * 4),
        ("interleaved", "4:2:2", [0, 1, 2, 0, 1, 2, 0, 0]),  # the released rule: every third
        ("interleaved", "0:1:1", [1, 2] * 4),
        ("low_time", "2:3:3", [1, 2, 1, 2, 1, 2, 0, 0]),
    ],
)
def test_a_ratio_shares_the_frequencies_out(combine: str, ratio: str, dealt: list[int]) -> None:
    config = TextConfig(
        hidden_size=16, num_attention_heads=1, num_key_value_heads=1, mrope_section=(2, 3, 3)
    )
    switches = Switches(combine=combine, ratio=ratio)
    for component in range(3):
        at = torch.zeros(3, 1)
        at[component] = 1
        turned = POSITIONS["mrope"].angles(at, config, switches)[1][0, :8] != 0
        assert turned.tolist() == [c == component for c in dealt]


def test_the_published_ratio_is_that_of_the_released_interleaving() -> None:
    """Qwen3-VL's rule for 24:20:20 of 64: every third frequency from 1 (rows) and from 2 (columns)
    below 60, time the others.
    """
    released = [j % 3 if j < 60 else 0 for j in range(64)]
    assert _dealt(Switches(combine="interleaved", ratio="24:20:20").ratio.shares(64)) == released


def test_a_stride_spreads_time_and_text_follows_the_last_frame() -> None:
    t, h, _ = ids("mrope", Span(2), Span(12, (3, 2, 2)), Span(1), temporal_spacing=2)
    assert t == [0, 1, *[2] * 4, *[4] * 4, *[6] * 4, 7] and h[2:6] == [2, 2, 3, 3]


def test_v2pe_gives_a_frame_so_many_positions_whatever_its_tokens() -> None:
    t, h, w = ids("v2pe", Span(2), Span(8, (2, 2, 2)), Span(2))
    assert t == h == w == [0, 1, 5, 9, 13, 17, 21, 25, 29, 33, 34, 35]
    short = ids("v2pe", Span(1), Span(3, (1, 1, 3)), Span(1), temporal_spacing=0.5)[0]
    assert short[-1] == 2, "text goes on at a whole position"


def test_circle_puts_a_frame_as_far_from_every_text_token_as_its_neighbours() -> None:
    at = torch.tensor(ids("circle", Span(3), Span(18, (2, 3, 3)), Span(2)))
    for second in (at[:, 3:12], at[:, 12:21]):
        for text in at[:, [0, 1, -1]].T:
            away = (second - text[:, None]).norm(dim=0)
            assert torch.allclose(away, away[0].expand(9), atol=1e-4)
    ring = at[:, 3:12] - 3
    assert torch.allclose(ring.norm(dim=0), torch.full((9,), 10.0), atol=1e-4)
    assert len({tuple(c) for c in ring.T.round(decimals=3).tolist()}) == 9
    assert torch.allclose(at[:, 12:21], at[:, 3:12] + 1, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(POSITIONS) - {"none"}))
def test_a_text_offset_moves_text_and_nothing_of_the_first_visual(name: str) -> None:
    parts = (Span(2), Span(40, (10, 2, 2)), Span(3))
    own = torch.tensor(ids(name, *parts))
    for offset, by in (("add:6", 6), ("clamp:4", 4 - (own[0, 42] - 2)), ("clamp:1000", 0)):
        moved = torch.tensor(ids(name, *parts, text_offset=offset))
        assert torch.equal(moved[:, :42], own[:, :42])
        assert torch.allclose(moved[:, 42:].float(), (own[:, 42:] + by).float())


def test_what_follows_a_moved_text_moves_along() -> None:
    parts = (Span(1), Span(4, (1, 2, 2)), Span(1), Span(4, (1, 2, 2)), Span(1))
    assert ids("mrope", *parts, text_offset="add:5")[0] == [0, *[1] * 4, 8, *[9] * 4, 16]
    assert ids("mrope_i", *parts, text_offset="add:5")[1] == [0, 0, 0, 1, 1, 8, 0, 0, 1, 1, 16]


def test_spatial_reset_counts_rows_and_columns_from_zero() -> None:
    t, h, w = ids("mrope_i", Span(5), Span(6, (1, 2, 3)), Span(1))
    assert t[5:] == [5] * 6 + [8]
    assert h[5:] == [0, 0, 0, 1, 1, 1, 8]
    assert w[5:] == [0, 1, 2, 0, 1, 2, 8]


def test_videorope_lays_frames_on_the_diagonal_two_apart() -> None:
    t, h, w = ids("videorope", Span(1), Span(18, (2, 3, 3)), Span(1))
    assert t == [0, *[1] * 9, *[3] * 9, 4]
    assert (t[5], h[5], w[5]) == (1, 1, 1) and (t[14], h[14], w[14]) == (3, 3, 3)
    assert ids("videorope", Span(2, (2, 1, 1)), temporal_spacing=0.5)[0] == [0, 0.5]


def test_hope_has_no_time_in_its_angles(folder: Path) -> None:
    model = load(folder, switches=Switches(position="hope"))
    at = torch.tensor([[[3.0]], [[1.0]], [[2.0]]])
    later = at + torch.tensor([[[9.0]], [[0.0]], [[0.0]]])
    assert torch.equal(model.rotary(at)[0], model.rotary(later)[0])


@pytest.mark.parametrize("grid", [(1, 2, 3), (3, 4, 5)])
def test_vrope_is_symmetric_and_continuous(grid: tuple[int, int, int]) -> None:
    t, h, w = grid
    at = POSITIONS["vrope"].ids([Span(2), Span(t * h * w, grid), Span(2)], Switches())
    frames = at[:, 2:-2].reshape(4, t, h * w).double()
    middle = 2 + torch.arange(t) * (h + w - 1) + (h + w - 2) / 2
    assert torch.equal(frames.mean(0), middle[:, None].expand(-1, h * w).double())
    assert frames.min() == 2 and frames.max() + 1 == at[0, -2] == 2 + t * (h + w - 1)


def test_next_position_moves_only_what_follows_a_long_video() -> None:
    video = [Span(3), Span(60, (10, 2, 3)), Span(1)]
    assert (
        ids("mrope", *video)[0][-1] == 13
        and ids("mrope", *video, next_position="max_hw")[0][-1] == 6
    )
    image = [Span(3), Span(6, (1, 2, 3)), Span(1)]
    assert ids("mrope", *image) == ids("mrope", *image, next_position="max_hw")


def test_mhrope_needs_a_key_value_head_for_each_component(tmp_path: Path) -> None:
    model = load(write_tiny(tmp_path), switches=Switches(position="mhrope"))
    with pytest.raises(UsageError, match="1, 3 are needed"):
        logits(model, prompt(model, 1, ""))


@pytest.mark.parametrize(
    "switches",
    [
        {"theta": 1e4},
        {"vision_position": "rope1d"},
        {"vision_position": "none"},
        {"vision_scope": "clip"},
        {"combine": "kron"},
    ],
)
def test_switches_change_what_a_model_sees_in_a_clip(
    folder: Path, switches: dict[str, Any]
) -> None:
    release, other = load(folder), load(folder, switches=Switches(**switches))
    p = prompt(release, 2, "v")
    assert (logits(release, p) - logits(other, p)).abs().max() > 1e-4


def test_time_in_the_tower_is_felt_between_frame_pairs_only(folder: Path) -> None:
    p = prompt(load(folder), 2, "v")

    def features(**switches: str) -> Tensor:
        with torch.no_grad():
            return load(folder, switches=Switches(**switches)).visual(
                p.visuals[0].pixels(CPU), [p.visuals[0].media.grid]
            )

    assert torch.allclose(features(), features(vision_time="on"), atol=1e-4)
    assert not torch.allclose(
        features(vision_scope="clip"), features(vision_scope="clip", vision_time="on"), atol=1e-4
    )


def test_a_vision_tower_without_positions_rotates_nothing() -> None:
    cos, sin = vision_angles([(1, 4, 4)], 80, 1e4, 2, position="none")
    assert bool((cos == 1).all()) and bool((sin == 0).all())


def test_rounding_and_tubes() -> None:
    assert smart_resize(98, 130, 3136, 10**7) == (112, 140)
    assert smart_resize(90, 130, 3136, 10**7, rounding="ceil") == (112, 140)
    assert smart_resize(98, 130, 3136, 10**7, rounding="floor") == (84, 112)
    frames = (
        torch.arange(4 * 56 * 56 * 3).remainder(256).to(torch.uint8).reshape(4, 56, 56, 3).numpy()
    )
    size = {"resolution": "size:56x56"}
    assert Processor(switches=Switches(**size)).video(frames)[1] == (2, 4, 4)
    assert Processor(switches=Switches(**size, tube="per_frame")).video(frames)[1] == (4, 4, 4)


@pytest.mark.parametrize("form", ["multiply", "bias"])
@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0, 1.6])
def test_cross_modal_attention_is_scaled_as_written(form: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 9, heads, 8, generator=generator) for heads in (4, 2, 2))
    visual = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 0, 0]]).bool()
    unlike = visual[:, None, :, None] != visual[:, None, None, :]
    weights = (
        q.transpose(1, 2) @ k.transpose(1, 2).repeat_interleave(2, 1).transpose(-1, -2) / 8**0.5
    )
    weights = torch.where(
        unlike, weights * scale if form == "multiply" else weights + math.log(scale), weights
    )
    weights = weights.masked_fill(~torch.ones(9, 9).tril().bool(), float("-inf")).softmax(-1)
    expected = (weights @ v.transpose(1, 2).repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(
        CrossModal(causal, visual, form, scale)(0, q, k, v), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("value", ["multiply:0.7", "bias:0.7"])
@torch.no_grad()
def test_the_engine_scales_cross_modal_attention_as_the_model_does(
    folder: Path, value: str
) -> None:
    release, model = load(folder), load(folder, switches=Switches(cross_modal=value))
    assert torch.allclose(
        logits(release, prompt(release, 4, "")), logits(model, prompt(release, 4, "")), atol=1e-5
    )
    asked = [
        prompt(model, n, visuals, limit=6) for n, visuals in enumerate(["i", "v", "", "iv", "ii"])
    ]
    assert not torch.allclose(logits(release, asked[0]), logits(model, asked[0]), atol=1e-3)
    stop = frozenset([model.config.image_token_id, model.config.video_token_id])
    ours = {o.id: o.ids for o in Engine(model, stop).generate(asked)}
    assert all(is_greedy(model, p, ours[p.id], stop) for p in asked)


@pytest.mark.parametrize(
    "value", ["on", "multiply", "multiply:0", "bias:-1", "bias:x", "off:1", "bias:inf"]
)
def test_an_invalid_cross_modal_scale_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="expected off, multiply:S or bias:S"):
        Switches(cross_modal=value)


@pytest.mark.parametrize("name", POSITIONS)
@torch.no_grad()
def test_ranking_follows_every_scheme(folder: Path, name: str) -> None:
    model = load(folder, switches=Switches(position=name))
    p = replace(prompt(model, 3, "i"), choices=((7, 8, 9), (10,)))
    ranked = next(Engine(model, frozenset()).rank([p])).logprobs
    for choice, got in zip(p.choices, ranked, strict=True):
        told = logits(model, p, choice).log_softmax(-1)
        assert got == pytest.approx(
            sum(float(told[len(p.ids) - 1 + i, t]) for i, t in enumerate(choice)), abs=1e-4
        )


@pytest.mark.parametrize("name", POSITIONS)
def test_a_question_in_training_stands_where_it_stands_in_evaluation(name: str) -> None:
    switches, head = Switches(position=name), len(encode(HEAD))
    scenes = [draw("clips", 0.3, stream("dev", 0, i)) for i in range(2)]
    batch = collate("clips", scenes, switches)
    for row, (t, h, w) in enumerate(batch.grids):
        visual = Span(grid_tokens((t, h, w)), merged((t, h, w)))
        shared = int((batch.question[row] == -1).sum())
        for q in range(int(batch.question[row].max()) + 1):
            own = batch.positions[:, row, batch.question[row] == q]
            whole = POSITIONS[name].ids(
                [Span(head), visual, Span(shared - head - visual.length + own.shape[1])], switches
            )
            assert torch.equal(own, whole[:, shared:])
            assert torch.equal(batch.positions[:, row, :shared], whole[:, :shared])


@pytest.mark.parametrize(
    "switches",
    [
        {"cross_modal": False},
        {"vision_time": True},
        {"resolution": 5},
        {"resolution": "tokens:100000000000"},
        {"resolution": "size:280000x280000"},
        {"vision_gate": "x"},
        {"vision_gate": float("nan")},
        {"theta": float("inf")},
        {"fps": float("nan")},
        {"max_pixels": 1.5},
        {"max_frames": True},
        {"min_pixels": 10**11},
        {"position": ["rope1d"]},
    ],
)
def test_values_of_another_kind_or_without_bounds_are_refused_by_name(switches: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(switches))):
        Switches(**switches)


def test_tokens_without_many_divisors_are_found_at_once() -> None:
    assert exact_tokens(100, 100, 99_991) in ((28, 99_991 * 28), (99_991 * 28, 28))
    assert exact_tokens(100, 200, 64 * 128) == (64 * 28, 128 * 28)
