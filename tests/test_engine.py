"""Batched generation: the same answers whatever runs beside them, and those of `transformers`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.engine import Budget, Engine, Prompt, Visual
from evalkit.qwen2vl.ablation import Ablation
from evalkit.qwen2vl.checkpoint import load
from evalkit.qwen2vl.model import Qwen2VL
from evalkit.qwen2vl.processing import Processor
from tests.oracle import hf_model
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen2VL:
    return load(write_tiny(tmp_path_factory.mktemp("tiny"), heads=2, kv_heads=1))


def prompt(model: Qwen2VL, seed: int, kinds: str, limit: int = 12) -> Prompt:
    """Random text with images ('i') and two-pair clips ('v') of random size."""
    rng = np.random.default_rng(seed)
    c = model.config
    ids = [int(x) for x in rng.integers(0, 256, rng.integers(1, 9))]
    visuals = []
    for kind in kinds:
        h, w = (28 * int(x) for x in rng.integers(1, 6, 2))
        frames = rng.integers(0, 256, (2 if kind == "i" else 4, 3, h, 2 * w), dtype=np.uint8)
        patches, grid = Processor().patches(torch.from_numpy(frames))
        visuals.append(Visual(patches, grid, key=(seed, kind, len(visuals)), is_video=kind == "v"))
        token = c.video_token_id if kind == "v" else c.image_token_id
        ids += [c.vision_start_token_id, *[token] * (grid[0] * grid[1] * grid[2] // 4), c.vision_end_token_id]
        ids += [int(x) for x in rng.integers(0, 256, rng.integers(1, 5))]
    prefix = max((i + 1 for i, t in enumerate(ids) if t in (c.image_token_id, c.video_token_id)), default=0)
    return Prompt(str(seed), tuple(ids), tuple(visuals), limit, prefix=prefix)


def answers(engine: Engine, prompts: list[Prompt]) -> dict[str, tuple[int, ...]]:
    return {o.id: o.ids for o in engine.generate(prompts)}


STOP = frozenset(range(0, 256, 16))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_answers_do_not_depend_on_batch_size_packing_or_order(model: Qwen2VL, data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["", "i", "v", "ii", "iv"]), min_size=2, max_size=9))
    prompts = []
    for i, k in enumerate(kinds):
        first = prompt(model, i, k, limit=data.draw(st.integers(1, 14)))
        more = data.draw(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=5), max_size=3))
        prompts += [
            first,
            *(replace(first, id=f"{i}-{j}", ids=first.ids[: first.prefix or 1] + tuple(m)) for j, m in enumerate(more)),
        ]
    alone = {}
    for p in prompts:
        alone |= answers(Engine(model, STOP, Budget(1, 2048, 1 << 20)), [p])
    shuffled = data.draw(st.one_of(st.just(prompts), st.permutations(prompts)))
    rows = data.draw(st.integers(1, 6))
    tokens = data.draw(st.sampled_from([1, 64, 4096]))
    features = data.draw(st.sampled_from([0, 50_000]))
    assert answers(Engine(model, STOP, Budget(rows, tokens, 1 << 20), feature_tokens=features), shuffled) == alone


@torch.no_grad()
def test_answers_equal_those_of_transformers_generate(model: Qwen2VL) -> None:
    hf = hf_model(model)
    prompts = [prompt(model, i, k, limit=16) for i, k in enumerate(["", "i", "v", "iv", "ii"])]
    ours = answers(Engine(model, frozenset([model.config.eos_token_id])), prompts)
    for p in prompts:
        ids = torch.tensor([p.ids])
        c = model.config
        media = {"mm_token_type_ids": (ids == c.image_token_id).int() + 2 * (ids == c.video_token_id).int()}
        for name, grid_name, visuals in (
            ("pixel_values", "image_grid_thw", p.images),
            ("pixel_values_videos", "video_grid_thw", p.videos),
        ):
            if visuals:
                media |= {name: torch.cat([v.patches for v in visuals]), grid_name: torch.tensor([v.grid for v in visuals])}
        out = hf.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, **media)
        assert ours[p.id] == tuple(t for t in out[0, len(p.ids) :].tolist() if t != c.eos_token_id)


@torch.no_grad()
def test_ranking_gives_the_summed_log_likelihood_of_each_choice(model: Qwen2VL) -> None:
    base = prompt(model, 3, "i")
    choices = ((7, 8, 9), (10,), (11, 12))
    ranked = next(Engine(model, STOP).rank([Prompt("0", base.ids, base.visuals, 1, choices)])).logprobs
    for choice, got in zip(choices, ranked, strict=True):
        ids = torch.tensor([base.ids + choice])
        logits = model(ids, base.visuals[0].patches, [base.visuals[0].grid]).log_softmax(-1)
        n = len(base.ids)
        expected = sum(float(logits[0, n - 1 + i, t]) for i, t in enumerate(choice))
        assert got == pytest.approx(expected, abs=1e-4)


def test_questions_about_one_image_share_its_features_and_its_prefix(model: Qwen2VL, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fed: list[int] = []
    vision, decoder = type(model.visual).forward, type(model.model).forward
    monkeypatch.setattr(type(model.visual), "forward", lambda self, p, g: seen.append(len(g)) or vision(self, p, g))
    monkeypatch.setattr(type(model.model), "forward", lambda self, x, *a: fed.append(x.shape[1]) or decoder(self, x, *a))
    base = prompt(model, 5, "i")
    questions = [replace(base, id=str(i), ids=(*base.ids, 65 + i), max_new_tokens=1) for i in range(5)]
    answers(Engine(model, STOP), questions)
    assert seen == [1]
    assert fed == [base.prefix + 5 * (len(base.ids) + 1 - base.prefix)]


def test_a_prompt_longer_than_every_budget_still_runs(model: Qwen2VL) -> None:
    p = prompt(model, 11, "ii")
    tight = Engine(model, STOP, Budget(4, 4, 8))
    assert answers(tight, [p, prompt(model, 12, "")])[p.id] == answers(Engine(model, STOP), [p])[p.id]


@pytest.mark.parametrize("switches", [{}, {"position": "mrope"}, {"vision_gate": 1.0}, {"resolution": "dynamic"}])
@torch.no_grad()
def test_switches_at_their_default_are_bit_identical_to_the_release(tmp_path: Path, switches: dict) -> None:
    folder = write_tiny(tmp_path)
    p = prompt(load(folder), 2, "iv")
    grids = {"image_grid_thw": [v.grid for v in p.images], "video_grid_thw": [v.grid for v in p.videos]}
    pixels = {"pixel_values": p.images[0].patches, "pixel_values_videos": p.videos[0].patches}
    plain = load(folder)(torch.tensor([p.ids]), **grids, **pixels)
    assert torch.equal(plain, load(folder, ablation=Ablation(**switches))(torch.tensor([p.ids]), **grids, **pixels))


@torch.no_grad()
def test_switches_change_what_they_claim_and_only_that(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    release, flat, blind = (load(folder, ablation=Ablation(**s)) for s in ({}, {"position": "rope1d"}, {"vision_gate": 0.0}))
    text, seen = prompt(release, 1, ""), prompt(release, 2, "i")
    ids = torch.tensor([text.ids])
    assert torch.equal(release(ids), flat(ids))
    assert torch.equal(release(ids), blind(ids))
    call = {"image_grid_thw": [seen.visuals[0].grid]}
    a, b, c = (m(torch.tensor([seen.ids]), pixel_values=seen.visuals[0].patches, **call) for m in (release, flat, blind))
    assert (a - b).abs().max() > 1e-3
    assert (a - c).abs().max() > 1e-3
    other = blind(torch.tensor([seen.ids]), pixel_values=seen.visuals[0].patches.flip(0), **call)
    assert torch.equal(c, other)
