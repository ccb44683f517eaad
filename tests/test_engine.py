"""Batched generation: the same answers whatever runs beside them, and those of `transformers`."""

from __future__ import annotations

import copy
import errno
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.engine import Budget, Engine, Prompt, decode
from evalkit.engine.cache import Block, KVCache
from evalkit.engine.scheduler import Scheduler
from evalkit.engine.sequence import Group, RunningSequence, room
from evalkit.models.qwen2_vl.attention import Segments
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.fused import compile_parts, fuse
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Switches
from tests.oracle import hf_model
from tests.prompts import CPU, of_kind, prompt
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen2VL:
    return load(write_tiny(tmp_path_factory.mktemp("tiny"), heads=2, kv_heads=1))


def answers(engine: Engine, prompts: list[Prompt]) -> dict[str, tuple[int, ...]]:
    return {o.id: o.ids for o in engine.generate(prompts)}


STOP = frozenset(range(0, 256, 16))


@settings(max_examples=10)
@given(st.data())
def test_answers_do_not_depend_on_batch_size_packing_or_order(
    model: Qwen2VL, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["", "i", "v", "ii", "iv"]), min_size=2, max_size=6))
    prompts = []
    for i, k in enumerate(kinds):
        first = prompt(model, i, k, limit=data.draw(st.integers(1, 9)))
        more = data.draw(
            st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=5), max_size=2)
        )
        prompts += [
            first,
            *(
                replace(first, id=f"{i}-{j}", ids=first.ids[: first.prefix or 1] + tuple(m))
                for j, m in enumerate(more)
            ),
        ]
    alone = {}
    for p in prompts:
        alone |= answers(Engine(model, STOP, Budget(1, 2048, 1 << 20)), [p])
    shuffled = data.draw(st.one_of(st.just(prompts), st.permutations(prompts)))
    rows = data.draw(st.integers(1, 6))
    tokens = data.draw(st.sampled_from([1, 64, 4096]))
    features = data.draw(st.sampled_from([0, 50_000]))
    assert (
        answers(
            Engine(model, STOP, Budget(rows, tokens, 1 << 20), feature_tokens=features), shuffled
        )
        == alone
    )


class NotCaptured:
    """A graph as a CPU can have it: the same inputs through the same step, always over the whole
    capacity.
    """

    made: list[tuple[int, ...]] = []

    def __init__(
        self, model: Qwen2VL, blocks: list[tuple[Block, int]], inputs: decode.Inputs
    ) -> None:
        self.model, self.blocks = model, blocks
        self.keys = [block.keys for block, _ in blocks]
        self.made.append(tuple(n for _, n in blocks))

    def __call__(self, inputs: decode.Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        assert len(inputs[0]) == sum(n for _, n in self.blocks)
        assert all(block.keys is keys for (block, _), keys in zip(self.blocks, self.keys))
        return decode.step(self.model, self.blocks, *inputs, whole=True)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("short", [1024, 8])
def test_steps_with_spare_rows_give_the_same_answers(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch, rows: int, short: int
) -> None:
    monkeypatch.setattr("evalkit.engine.sequence.SHORT", short)
    prompts = [
        prompt(model, i, k, limit=3 + 5 * (i % 4))
        for i, k in enumerate(["", "i", "v", "", "iv", "i", "", "ii"])
    ]
    alone = answers(Engine(model, STOP, Budget(rows, 64, 1 << 20)), prompts)
    monkeypatch.setattr(decode, "Graph", NotCaptured)
    monkeypatch.setattr(decode, "PATIENCE", 2)
    engine = Engine(model, STOP, Budget(rows, 64, 1 << 20))
    engine.runner.decoder.replays = True
    NotCaptured.made.clear()
    assert answers(engine, prompts) == alone
    assert NotCaptured.made and max(map(max, NotCaptured.made)) <= rows
    assert (max(map(len, NotCaptured.made)) > 1) == (short == 8 and rows > 1)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_step_is_begun_before_the_tokens_of_the_last_are_known(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Answers end and join at any step, by count, by stop token and by who watches; memory runs
    out for a pack while a step is under way; and some tokens are drawn.
    """
    prompts = [prompt(model, i, k, limit=2 + 7 * (i % 3)) for i, k in enumerate(["", "i", "v"] * 4)]
    free = answers(Engine(model, frozenset(), Budget(rows, 512, 1 << 20)), prompts)
    stops = frozenset({free["1"][3], free["5"][5]})
    alone = answers(Engine(model, stops, Budget(rows, 512, 1 << 20)), prompts)
    assert alone != free
    monkeypatch.setattr(decode, "Graph", NotCaptured)
    monkeypatch.setattr(decode, "AHEAD", 4)
    engine = Engine(model, stops, Budget(rows, 512, 1 << 20))
    decoder, whole, numbers = engine.runner.decoder, engine.runner.forward, []
    decoder.replays = True

    def likeliest(step: decode.Step) -> list[int]:
        numbers.append((step.number, decoder.ahead is not None))
        return wanted(step)

    def forward(*args: Any) -> Any:
        if decoder.ahead and not failed:
            failed.append(1)
            raise torch.OutOfMemoryError
        return whole(*args)

    failed: list[int] = []
    wanted = decode.Step.likeliest
    monkeypatch.setattr(decode.Step, "likeliest", likeliest)
    monkeypatch.setattr(engine.runner, "forward", forward)
    assert answers(engine, prompts) == alone
    assert {n for n, _ in numbers} == {0, 1, 2, 3} and (0, True) in numbers
    assert failed or rows < 8
    next(engine.generate(prompts[2:5]))  # given up in the middle
    assert answers(engine, prompts[3:]) == {p.id: alone[p.id] for p in prompts[3:]}
    numbers.clear()
    drawn = [replace(p, temperature=1.0, seed=5) for p in prompts]
    plain = Engine(model, stops, Budget(rows, 512, 1 << 20))
    assert answers(engine, drawn) == answers(plain, drawn)
    assert not any(ahead for _, ahead in numbers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_give_the_answers_of_a_cpu(model: Qwen2VL) -> None:
    prompts = [prompt(model, i, k, limit=40) for i, k in enumerate(["", "i", "v", "iv", "ii"])]
    expected = answers(Engine(model, frozenset()), prompts)
    engine = Engine(copy.deepcopy(model).cuda(), frozenset())
    assert answers(engine, prompts) == expected
    assert engine.runner.decoder.graphs


@torch.no_grad()
def test_answers_equal_those_of_transformers_generate(model: Qwen2VL) -> None:
    hf = hf_model(model)
    prompts = [prompt(model, i, k, limit=6) for i, k in enumerate(["", "i", "v", "iv", "ii"])]
    ours = answers(Engine(model, frozenset(model.config.eos_token_ids)), prompts)
    for p in prompts:
        ids = torch.tensor([p.ids])
        c = model.config
        media = {
            "mm_token_type_ids": (ids == c.image_token_id).int()
            + 2 * (ids == c.video_token_id).int()
        }
        for name, grid_name, visuals in (
            ("pixel_values", "image_grid_thw", of_kind(p, is_video=False)),
            ("pixel_values_videos", "video_grid_thw", of_kind(p, is_video=True)),
        ):
            if visuals:
                media |= {
                    name: torch.cat([v.pixels(CPU) for v in visuals]),
                    grid_name: torch.tensor([v.media.grid for v in visuals]),
                }
        out = hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            **media,
        )
        assert ours[p.id] == tuple(
            t for t in out[0, len(p.ids) :].tolist() if t not in c.eos_token_ids
        )


@torch.no_grad()
def test_ranking_gives_the_summed_log_likelihood_of_each_choice(model: Qwen2VL) -> None:
    base = prompt(model, 3, "i")
    choices = ((7, 8, 9), (10,), (11, 12))
    ranked = next(
        Engine(model, STOP).rank([Prompt("0", base.ids, base.visuals, 1, choices)])
    ).logprobs
    for choice, got in zip(choices, ranked, strict=True):
        ids = torch.tensor([base.ids + choice])
        logits = model(ids, base.visuals[0].pixels(CPU), [base.visuals[0].media.grid]).log_softmax(
            -1
        )
        n = len(base.ids)
        expected = sum(float(logits[0, n - 1 + i, t]) for i, t in enumerate(choice))
        assert got == pytest.approx(expected, abs=1e-4)


def test_questions_about_one_image_share_its_features_and_its_prefix(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fed: list[int] = []
    vision, decoder = type(model.visual).forward, type(model.model).forward
    monkeypatch.setattr(
        type(model.visual), "forward", lambda self, p, g: seen.append(len(g)) or vision(self, p, g)
    )
    monkeypatch.setattr(
        type(model.model),
        "forward",
        lambda self, x, *a: fed.append(x.shape[1]) or decoder(self, x, *a),
    )
    base = prompt(model, 5, "i")
    questions = [
        replace(base, id=str(i), ids=(*base.ids, 65 + i), max_new_tokens=1) for i in range(5)
    ]
    answers(Engine(model, STOP), questions)
    assert seen == [1]
    assert fed == [base.prefix + 5 * (len(base.ids) + 1 - base.prefix)]


def test_a_prompt_longer_than_every_budget_still_runs(model: Qwen2VL) -> None:
    p = prompt(model, 11, "ii")
    tight = Engine(model, STOP, Budget(4, 4, 8))
    assert (
        answers(tight, [p, prompt(model, 12, "")])[p.id] == answers(Engine(model, STOP), [p])[p.id]
    )


@torch.no_grad()
def test_switches_change_what_they_claim_and_only_that(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    release, flat, blind = (
        load(folder, switches=Switches(**s))
        for s in ({}, {"position": "rope1d"}, {"vision_gate": 0.0})
    )
    text, seen = prompt(release, 1, ""), prompt(release, 2, "i")
    ids = torch.tensor([text.ids])
    assert torch.equal(release(ids), flat(ids))
    assert torch.equal(release(ids), blind(ids))
    call = {"image_grid_thw": [seen.visuals[0].media.grid]}
    a, b, c = (
        m(torch.tensor([seen.ids]), pixel_values=seen.visuals[0].pixels(CPU), **call)
        for m in (release, flat, blind)
    )
    assert (a - b).abs().max() > 1e-3
    assert (a - c).abs().max() > 1e-3
    other = blind(
        torch.tensor([seen.ids]), pixel_values=seen.visuals[0].pixels(CPU).flip(0), **call
    )
    assert torch.equal(c, other)


@settings(max_examples=10)
@given(st.data())
def test_fused_projections_change_no_answer(model: Qwen2VL, data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["", "i", "v", "ii"]), min_size=1, max_size=5))
    prompts = [prompt(model, i, k) for i, k in enumerate(kinds)]
    assert answers(Engine(fuse(copy.deepcopy(model)), STOP), prompts) == answers(
        Engine(model, STOP), prompts
    )


@pytest.mark.slow
def test_compiled_parts_change_no_answer(model: Qwen2VL) -> None:
    prompts = [prompt(model, i, k) for i, k in enumerate(["", "i", "v", "ii"])]
    compiled = compile_parts(fuse(copy.deepcopy(model)))
    assert answers(Engine(compiled, STOP), prompts) == answers(Engine(model, STOP), prompts)


class Cramped:
    """A vision tower or decoder with memory for so many rows of its input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Qwen2VL, tokens: int) -> None:
        whole = type(model.model).forward
        self.packs: list[int] = []

        def forward(decoder: object, x: torch.Tensor, *rest: object) -> torch.Tensor:
            if x.shape[1] > tokens:
                raise torch.OutOfMemoryError("no memory")
            self.packs.append(x.shape[1])
            return whole(decoder, x, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(type(model.model), "forward", forward)


def test_pages_that_the_system_has_not_for_the_cache_are_memory_that_ran_out(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, "i") for i in range(4)]
    expected = answers(Engine(model, STOP), prompts)
    whole, asked = mmap.mmap, []

    def pages(*given: Any, **more: Any) -> mmap.mmap:
        asked.append(given)
        if len(asked) == 1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return whole(*given, **more)

    monkeypatch.setattr("evalkit.engine.cache.mmap.mmap", pages)
    engine = Engine(model, STOP, Budget(8, 4096, 1 << 20))
    assert answers(engine, prompts) == expected
    assert engine.stats.halvings == 1 and len(asked) > 1


def test_when_memory_runs_out_packs_are_halved_and_the_run_goes_on(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, "i") for i in range(8)]
    expected = answers(Engine(model, STOP), prompts)
    longest = max(len(p.ids) for p in prompts)
    cramped = Cramped(monkeypatch, model, longest)
    engine = Engine(model, STOP, Budget(8, 4096, 1 << 20))
    assert answers(engine, prompts) == expected
    assert engine.stats.halvings >= 1
    assert max(cramped.packs) <= longest
    assert engine.budget.pack_tokens < 4096


def test_a_prompt_that_does_not_fit_alone_is_answered_step_by_step(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, k) for i, k in enumerate(["", "iiii", ""])]
    expected = answers(Engine(model, STOP), prompts)
    choices = [replace(p, choices=((7,), (8, 9))) for p in prompts]
    likelihoods = {o.id: o.logprobs for o in Engine(model, STOP).rank(choices)}
    cramped = Cramped(monkeypatch, model, len(prompts[1].ids) - 1)
    assert answers(Engine(model, STOP), prompts) == expected
    assert max(cramped.packs) < len(prompts[1].ids)
    ranked = {o.id: o for o in Engine(model, STOP).rank(choices)}  # ranking knows no steps
    assert "out of memory" in str(ranked["1"].error) and "--" not in str(ranked["1"].error)
    assert [ranked[i].logprobs for i in ("0", "2")] == [
        pytest.approx(likelihoods[i], abs=1e-5) for i in ("0", "2")
    ]


def test_a_prompt_that_fits_in_no_steps_fails_and_the_others_are_answered(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, k) for i, k in enumerate(["", "iiii", ""])]
    expected = answers(Engine(model, STOP), prompts)

    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(type(model.visual), "forward", no_memory)
    engine = Engine(model, STOP, Budget(1, 4096, 1 << 20))
    outputs = {o.id: o for o in engine.generate(prompts)}
    assert "out of memory" in str(outputs["1"].error)
    assert [outputs[i].ids for i in ("0", "2")] == [expected[i] for i in ("0", "2")]
    assert engine.budget.pack_tokens == 4096  # as before the one that nothing could be done for


def test_giving_one_prompt_up_takes_back_no_other_lesson(model: Qwen2VL) -> None:
    scheduler = Scheduler(Budget(8, 4096, 1 << 20))
    groups = [Group([prompt(model, i, "i")]) for i in range(3)]
    scheduler.start([], lambda p: None)
    assert scheduler.shrink(groups[:1]) == []  # fits in steps of half the size
    learnt = scheduler.budget.pack_tokens
    scheduler.running = [RunningSequence(groups[0].prompts[0], 0.0, [0.0]) for _ in range(8)]
    assert len(scheduler.shrink([])) == 4  # a decoding step did not fit: half of the rows
    while not (outputs := scheduler.shrink(groups[1:2])):
        pass
    assert "out of memory" in str(outputs[0].error)
    assert scheduler.budget == Budget(4, learnt, 1 << 20)


def test_a_long_prompt_beside_short_ones_takes_no_room_for_them(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.engine.sequence.SHORT", 16)
    short = [prompt(model, i, "", limit=3 + i % 5) for i in range(12)]
    long = prompt(model, 99, "iiii", limit=9)
    asked = [*short[:5], long, *short[5:]]
    expected = {}
    for p in asked:
        expected |= answers(Engine(model, STOP, Budget(1, 4096, 1 << 20)), [p])
    engine, most = Engine(model, STOP, Budget(8, 4096, 1 << 20)), 0
    got = {}
    for output in engine.generate(asked):
        got[output.id] = output.ids
        most = max(most, sum(block.tokens for block in engine.runner.cache.blocks.values()))
    assert got == expected
    rooms = 8 * room(max(p.longest for p in short)) + room(long.longest)
    assert long.longest <= most <= rooms < 8 * room(long.longest)


def test_rows_that_nobody_uses_are_given_up_within_the_budget(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.engine.sequence.SHORT", 16)
    short = [prompt(model, i, "", limit=2) for i in range(8)]
    long = [prompt(model, 20 + i, "iiii", limit=3) for i in range(4)]
    expected = answers(Engine(model, STOP), [*short, *long])
    limit = 4 * room(max(p.longest for p in long))
    engine = Engine(model, STOP, Budget(8, 4096, limit))
    got = {}
    for output in engine.generate([*short, *long, *(replace(p, id=f"{p.id}b") for p in short)]):
        got[output.id] = output.ids
        assert sum(block.tokens for block in engine.runner.cache.blocks.values()) <= limit
    assert {i: got[i] for i in expected} == expected
    assert all(got[f"{p.id}b"] == expected[p.id] for p in short)


@settings(max_examples=10)
@given(st.data())
def test_long_prompts_go_step_by_step_to_the_same_answers(
    model: Qwen2VL, data: st.DataObject
) -> None:
    first = prompt(model, 0, data.draw(st.sampled_from(["", "i", "v", "iv"])), limit=5)
    more = data.draw(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), max_size=2))
    head = first.ids[: first.prefix or 1]
    prompts = [first, *(replace(first, id=str(i), ids=(*head, *m)) for i, m in enumerate(more, 1))]
    prompts.append(prompt(model, 9, "v", limit=4))
    steps = data.draw(st.integers(1, 40))
    whole = Engine(model, STOP, Budget(4, 4096, 1 << 20))
    stepping = Engine(model, STOP, Budget(4, steps, 1 << 20))
    assert answers(stepping, prompts) == answers(whole, prompts)


def test_questions_about_a_long_clip_share_it(model: Qwen2VL) -> None:
    base = prompt(model, 5, "v")
    asked = [replace(base, id=str(i), ids=(*base.ids, 65 + i), max_new_tokens=2) for i in range(3)]
    engine = Engine(model, STOP, Budget(8, len(base.ids) - 4, 1 << 20))
    assert answers(engine, asked) == answers(Engine(model, STOP), asked)
    assert engine.stats.tokens_reused == 2 * base.prefix


def test_a_long_clip_is_encoded_a_few_steps_at_a_time(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clip,) = prompt(model, 5, "v").visuals
    t, h, w = clip.media.grid
    assert t > 1
    cache = Engine(model, STOP).runner.features
    (whole,) = (cache.of([clip], 1 << 20),)
    seen: list[int] = []
    vision = type(model.visual).forward
    monkeypatch.setattr(
        type(model.visual), "forward", lambda self, p, g: seen.append(len(p)) or vision(self, p, g)
    )
    cache.features.clear()
    assert whole is not None and torch.allclose(whole, cache.of([clip], h * w), atol=1e-5)  # type: ignore[arg-type]
    assert seen == [h * w] * t
    seen.clear()
    one = load(model.folder, switches=Switches(vision_scope="clip"))  # type: ignore[arg-type]
    Engine(one, STOP).runner.features.of([clip], h * w)
    assert seen == [t * h * w]  # its steps see each other


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(model.model), "forward", breaks)
    with pytest.raises(RuntimeError, match="shapes"):
        list(Engine(model, STOP).generate([prompt(model, 0, "")]))


def test_many_prompts_are_ranked_as_each_alone(model: Qwen2VL) -> None:
    prompts = [
        replace(prompt(model, i, k), choices=((7, 8), (9,), (10, 11, 12)))
        for i, k in enumerate(["i", "", "v", "ii"])
    ]
    together = {o.id: o.logprobs for o in Engine(model, STOP).rank(prompts)}
    for p in prompts:
        assert together[p.id] == pytest.approx(
            next(Engine(model, STOP, Budget(1, 1, 1)).rank([p])).logprobs, abs=1e-5
        )


def test_the_engine_says_what_it_reused(model: Qwen2VL) -> None:
    base = prompt(model, 5, "i")
    engine = Engine(model, STOP)
    answers(
        engine,
        [replace(base, id=str(i), ids=(*base.ids, 65 + i), max_new_tokens=2) for i in range(3)],
    )
    s = engine.stats
    assert (s.visuals, s.visuals_reused, s.tokens_reused) == (1, 0, 2 * base.prefix)
    assert s.tokens_in == 3 * (len(base.ids) + 1) - 2 * base.prefix
    answers(engine, [base])
    assert (engine.stats.visuals, engine.stats.visuals_reused) == (1, 1)


@torch.no_grad()
def test_bfloat16_attention_on_a_cpu_is_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 600, 2, 40, dtype=torch.bfloat16)
    for start in (0, 300):
        one = [x[start : start + 300].transpose(0, 1) for x in (q, k, v)]
        exact = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in one))
        got = Segments([300, 300], "cpu").attend(q, k, v)[start : start + 300].transpose(0, 1)
        assert (got.double() - exact).abs().max() < 0.02


def test_what_a_broken_off_call_left_behind_is_forgotten(model: Qwen2VL) -> None:
    prompts = [prompt(model, i, "i") for i in range(6)]
    expected = answers(Engine(model, STOP), prompts)
    engine = Engine(model, STOP, Budget(2, 4096, 1 << 20))
    broken_off = engine.generate(prompts)
    next(broken_off)
    broken_off.close()
    assert answers(engine, prompts) == expected


def test_a_cache_that_ran_out_of_memory_while_growing_is_whole(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, "i") for i in range(8)]
    expected = answers(Engine(model, STOP), prompts)
    engine, zeros, calls = (
        Engine(model, STOP, Budget(8, 4096, 1 << 20)),
        KVCache._zeros,
        iter(range(100)),
    )

    def short(cache: KVCache, *shape: int) -> torch.Tensor:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("no memory")
        return zeros(cache, *shape)

    monkeypatch.setattr(KVCache, "_zeros", short)
    assert answers(engine, prompts) == expected
    assert engine.stats.halvings == 1


def test_out_of_memory_while_decoding_costs_half_of_what_runs(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(model, i, "i") for i in range(8)]
    expected = answers(Engine(model, frozenset()), prompts)
    engine, whole, rows = Engine(model, frozenset(), Budget(8, 4096, 1 << 20)), decode.step, []

    def step(model: Qwen2VL, blocks: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > 4:
            raise torch.OutOfMemoryError("no memory")
        rows.append(len(ids))
        return whole(model, blocks, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "step", step)
    outputs = {o.id: o for o in engine.generate(prompts)}
    failed = {i for i, o in outputs.items() if o.error}
    assert len(failed) == 4 and "out of memory" in str(outputs[min(failed)].error)
    assert {i: outputs[i].ids for i in outputs if i not in failed} == {
        i: expected[i] for i in expected if i not in failed
    }
    assert engine.budget.rows == 4


def test_a_model_that_computes_no_numbers_gives_errors_not_answers(model: Qwen2VL) -> None:
    broken = copy.deepcopy(model)
    broken.model.norm.weight.detach().fill_(float("nan"))
    asked = [replace(prompt(model, i, ""), choices=((7,), (8, 9))) for i in range(3)]
    engine = Engine(broken, STOP)
    assert all("NaN" in str(o.error) and not o.ids for o in engine.generate(asked))
    assert all("NaN" in str(o.error) and not o.logprobs for o in engine.rank(asked))


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2])
def test_ranking_begins_right_after_the_prompt(model: Qwen2VL, length: int) -> None:
    """A prompt of one token, and one that ends in an image."""
    choices = ((7, 8), (9,), (10, 11, 12))
    image = prompt(model, 3, "i")
    whole = replace(image, ids=image.ids[: image.prefix], choices=choices)
    for p in (Prompt("text", (5,) * length, choices=choices), whole):
        together = next(Engine(model, STOP).rank([p])).logprobs
        alone = [
            next(Engine(model, STOP).rank([replace(p, choices=(c,))])).logprobs[0] for c in choices
        ]
        assert together == pytest.approx(alone, abs=1e-5)


def test_a_question_without_choices_is_an_error_of_its_own(model: Qwen2VL) -> None:
    asked = [
        replace(prompt(model, i, ""), choices=c)
        for i, c in enumerate([((7,), (8,)), (), ((7,), ())])
    ]
    outputs = {o.id: o for o in Engine(model, STOP).rank(asked)}
    assert len(outputs["0"].logprobs) == 2
    assert all("no choices" in str(outputs[i].error) for i in ("1", "2"))


def overflowing(p: Prompt) -> Prompt:
    """The same prompt, its pixels beyond what the dtype holds."""
    return replace(
        p,
        visuals=tuple(
            replace(v, patches=v.pixels(CPU) * 1e38, normalise=None, key=("overflow", v.key))
            for v in p.visuals
        ),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_image_that_overflows_costs_its_own_answer_alone(
    model: Qwen2VL, dtype: torch.dtype
) -> None:
    """Rows of the cache that held no finite numbers are given to others afterwards."""
    model = copy.deepcopy(model).to(dtype)
    prompts = [
        prompt(model, i, k, limit=4 + i) for i, k in enumerate(["i", "", "ii", "i", "v", ""])
    ]
    prompts[2] = overflowing(prompts[2])
    alone = {}
    for p in prompts:
        alone |= {o.id: o for o in Engine(model, STOP).generate([p])}
    assert "NaN" in str(alone["2"].error)
    for rows in (2, 3, 8):
        together = {
            o.id: o for o in Engine(model, STOP, Budget(rows, 4096, 1 << 20)).generate(prompts)
        }
        assert {i for i, o in together.items() if o.error} == {"2"}
        assert dtype != torch.float32 or all(together[i].ids == alone[i].ids for i in alone)


def test_places_of_the_cache_that_no_sequence_holds_are_zero(model: Qwen2VL) -> None:
    def used(cache: KVCache) -> list[bool]:
        return [
            bool(stored[:, row, :, n:].any())
            for block in cache.blocks.values()
            for stored in (block.keys, block.values)
            for row, n in enumerate(block.lengths + [0] * (block.rows - len(block.lengths)))
        ]

    prompts = [prompt(model, i, k, limit=2 + 3 * i) for i, k in enumerate(["i", "", "ii", "i", ""])]
    engine = Engine(model, STOP, Budget(3, 4096, 1 << 20))
    for _ in engine.generate(prompts):
        assert not any(used(engine.runner.cache))
    broken_off = engine.generate([replace(p, max_new_tokens=50) for p in prompts])
    next(broken_off)
    broken_off.close()
    assert engine.runner.cache.lengths
    with torch.inference_mode():
        engine.runner.cache.keep(0)
    assert not any(used(engine.runner.cache))


def test_a_question_without_finite_numbers_spoils_no_other_about_its_image(tmp_path: Path) -> None:
    model = load(write_tiny(tmp_path, tied=False))
    model.model.embed_tokens.weight.detach()[300] = float("inf")
    base = prompt(model, 5, "i")
    asked = [replace(base, id=str(i), ids=(*base.ids, 65 + i)) for i in range(4)]
    expected = answers(Engine(model, STOP), asked)
    asked[1] = replace(asked[1], ids=(*base.ids, 300, 66))
    outputs = {o.id: o for o in Engine(model, STOP).generate(asked)}
    assert "NaN" in str(outputs["1"].error)
    assert all(outputs[i].ids == expected[i] for i in ("0", "2", "3"))
    ranked = [replace(p, choices=((7,), (8, 9))) for p in asked]
    assert [o.id for o in Engine(model, STOP).rank(ranked) if o.error] == ["1"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ids": (), "visuals": ()}, "the prompt is empty"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"id": "0"}, "the id '0' names an earlier prompt"),
        ({"ids": (5, 320)}, "token 320 is not in the model's vocabulary of 320"),
        ({"ids": (5, -1)}, "token -1 is not"),
        ({"visuals": ()}, "more image or video placeholders"),
        ({"ids": (5, 6, 7)}, "more image or video grids"),
    ],
)
def test_a_prompt_that_can_not_be_run_is_an_error_of_its_own(
    model: Qwen2VL, change: dict, error: str
) -> None:
    prompts = [prompt(model, i, "i") for i in range(3)]
    expected = answers(Engine(model, STOP), prompts)
    wrong = replace(prompt(model, 7, "i"), **change)
    outputs = list(Engine(model, STOP).generate([*prompts[:1], wrong, *prompts[1:]]))
    assert len(outputs) == 4
    assert {o.id: o.ids for o in outputs if not o.error} == expected
    (failed,) = (o for o in outputs if o.error)
    assert failed.id == wrong.id and error in str(failed.error)


def test_no_prompts_are_no_outputs(model: Qwen2VL) -> None:
    engine = Engine(model, STOP)
    assert list(engine.generate([])) == [] and list(engine.rank([])) == []
    assert [o.error for o in engine.generate([Prompt("x", ())])] != [None]


def test_ranking_refuses_what_can_not_be_run_too(model: Qwen2VL) -> None:
    good = replace(prompt(model, 0, "i"), choices=((7,), (8,)))
    wrong = [replace(good, id="ids", ids=()), replace(good, id="choice", choices=((7,), (999,)))]
    outputs = {o.id: o for o in Engine(model, STOP).rank([wrong[0], good, wrong[1], good])}
    assert "empty" in str(outputs["ids"].error) and "999" in str(outputs["choice"].error)


@torch.no_grad()
def test_in_bfloat16_neighbours_change_an_answer_only_where_two_tokens_are_all_but_equal(
    model: Qwen2VL,
) -> None:
    """Products of a larger batch round differently; fp32 is exact (first test of this file)."""
    half = copy.deepcopy(model).bfloat16()
    base = replace(prompt(model, 1, "i", limit=6), prefix=0)  # one length: kernels are made once
    prompts = [replace(base, id=str(i), ids=(*base.ids[:-1], 65 + i)) for i in range(6)]
    together = answers(Engine(half, frozenset()), prompts)
    assert together == answers(Engine(half, frozenset()), prompts)
    for p in prompts:
        alone = answers(Engine(half, frozenset()), [p])[p.id]
        differ = [i for i, (a, b) in enumerate(zip(alone, together[p.id])) if a != b]
        if differ:
            at = differ[0]
            ranked = replace(p, choices=(alone[: at + 1], together[p.id][: at + 1]))
            one, other = next(Engine(half, frozenset()).rank([ranked])).logprobs
            assert abs(one - other) < 0.1
