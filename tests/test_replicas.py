"""Engines side by side answer as one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from evalkit.engine import Budget, Engine, Output, Prompt, Replicas, replicas
from evalkit.engine.replicas import Cores
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.model import Qwen2VL
from tests.prompts import prompt
from tests.tiny import write_tiny

BUDGET = Budget(8, 64, 1 << 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen2VL:
    return load(write_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def two(model: Qwen2VL) -> Iterator[Replicas]:
    """Two engines of one thread each, as a measurement may choose them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    made = Replicas(model, frozenset(), BUDGET)
    made.cores = Cores(2, 1)
    yield made
    torch.set_num_threads(before)


def questions(model: Qwen2VL) -> list[Prompt]:
    """Three about each of six pictures, which share a prefix."""
    pages = [prompt(model, i, "i", limit=3) for i in range(6)]
    return [
        replace(p, id=f"{p.id}-{n}", ids=(*p.ids[: p.prefix], n, n), choices=((n,), (9, n)))
        for p in pages
        for n in (1, 2, 3)
    ]


def by_id(outputs: Iterator[Output]) -> dict[str, Output]:
    return {o.id: replace(o, seconds=0.0) for o in outputs}


def test_they_answer_and_rank_as_one_engine_and_see_each_picture_once(
    model: Qwen2VL, two: Replicas
) -> None:
    asked = questions(model)
    alone = Engine(model, frozenset(), BUDGET)
    assert by_id(two.generate(asked)) == by_id(alone.generate(asked))
    assert all(e.stats.packs for e in two.engines) and two.stats.visuals == 6
    ranked, expected = by_id(two.rank(asked)), by_id(alone.rank(asked))
    assert ranked.keys() == expected.keys()
    for id_, output in ranked.items():
        assert output.logprobs == pytest.approx(expected[id_].logprobs, abs=1e-4)


def test_what_cannot_be_run_is_an_error_of_its_own(model: Qwen2VL, two: Replicas) -> None:
    asked = questions(model)
    wrong = [replace(asked[0], ids=(10**6,), id="unknown"), asked[-1]]
    outputs = list(two.generate([*asked, *wrong]))
    assert {o.id: o.error is None for o in outputs if o.id != asked[-1].id} == {
        **{p.id: True for p in asked[:-1]},
        "unknown": False,
    }
    of_twice = [o.error for o in outputs if o.id == asked[-1].id]
    assert sorted(map(bool, of_twice)) == [False, True]


def test_less_than_a_pack_is_left_to_one_engine(model: Qwen2VL, two: Replicas) -> None:
    two.cores = None
    assert len(list(two.generate([prompt(model, 0, "", limit=2)]))) == 1
    assert two.cores is None and not two.engines


def test_breaking_off_or_failing_leaves_no_thread_behind(
    model: Qwen2VL, two: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    answering = two.generate([replace(p, max_new_tokens=500) for p in questions(model)])
    monkeypatch.setattr(Engine, "_ended", lambda self, sequence, ending: Output(sequence.prompt.id))
    next(answering)
    answering.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(Engine, "_ended", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(two.generate(questions(model)))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("costs", "chosen"), [({1: 2.0, 2: 1.0, 4: 1.05}, 4), ({1: 1.0, 2: 1.2, 4: 3.0}, 1)]
)
def test_more_engines_are_taken_unless_they_cost_more(
    model: Qwen2VL, monkeypatch: pytest.MonkeyPatch, costs: dict[int, float], chosen: int
) -> None:
    monkeypatch.setattr(replicas, "_cost", lambda once, tokens, way: costs[way.engines])
    engine = Engine(model, frozenset(), BUDGET)
    assert replicas.measured(engine, 4, (1,)) == Cores(chosen, 4 // chosen)


def test_they_talk_side_by_side_and_one_alone_has_all_threads(
    model: Qwen2VL, two: Replicas
) -> None:
    asked = [p if p.id.endswith("3") else replace(p, choices=()) for p in questions(model)]
    engine = Engine(model, frozenset(), BUDGET)
    alone = by_id(engine.generate([p for p in asked if not p.choices]))
    ranked = by_id(engine.rank([p for p in asked if p.choices]))
    assert two.lanes(1) == 2
    used: list[tuple[int, int]] = []  # lanes at work, threads of this one
    both = threading.Barrier(2)

    def lane(own: list[Prompt], outputs: list[Output], wait: bool) -> None:
        def prompts() -> Iterator[Prompt | None]:
            yield own[0]
            if wait:
                both.wait(timeout=30)  # the other lane has begun
            yield from own[1:]
            while True:
                yield None

        def watch(running: object) -> tuple[str, ...]:
            used.append((len(two.talking), torch.get_num_threads()))
            return ()

        outputs.extend(two.converse(prompts(), watch))

    answered: list[Output] = []
    halves = [asked[:9], asked[9:]]
    threads = [threading.Thread(target=lane, args=(half, answered, True)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = by_id(iter(answered))
    assert {i: outputs[i] for i in alone} == alone and outputs.keys() == {p.id for p in asked}
    for id_, output in ranked.items():
        assert outputs[id_].logprobs == pytest.approx(output.logprobs, abs=1e-4)
    assert all(e.stats.packs for e in two.engines)
    assert (2, 1) in used and not two.talking
    used.clear()
    again: list[Output] = []
    lane(asked[:2], again, False)
    assert by_id(iter(again)) == {p.id: alone[p.id] for p in asked[:2]} and set(used) == {(1, 2)}
