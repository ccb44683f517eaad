"""Protocols: prompts and settings as data, each a cell of its own."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from evalkit.cell import Cell
from evalkit.errors import DataError, UsageError
from evalkit.plan import tasks_of
from evalkit.protocols import Protocol
from evalkit.results.leaderboard import Leaderboard
from evalkit.results.published import comparable
from evalkit.runner import Outcome, run_cell
from evalkit.task import load_task, read_samples, registered, task_class
from evalkit.types import Completion, Image, MediaBudget, Message, Metric, Request, Sample, Text
from tests.plugins.adder import Adder
from tests.plugins.sums import Sums

A, B = Image(b"a"), Image(b"b")


def texts(message: Message) -> list[str]:
    return [p.text if isinstance(p, Text) else p.read().decode() for p in message.content]


def test_a_prompt_gets_its_options_and_a_hint_where_there_is_one() -> None:
    protocol = Protocol("", "{hint}Question: {question}\n{options}", option="({letter}) {text}")
    asked = protocol.text(["a {cat}", "a dog"], "Look.", question="{What}?")
    assert asked == "Hint: Look.\nQuestion: {What}?\n(A) a {cat}\n(B) a dog"
    assert protocol.text(question="Who?") == "Question: Who?\n"


def test_a_field_is_stripped_capitalised_or_freed_of_marks() -> None:
    protocol = Protocol("", "{a:strip}|{a:capitalize}|{options:unmarked}")
    assert protocol.text(["<image>", "no <image>"], a=" is it") == "is it| is it|A. \nB. no "


def test_media_stand_first_last_or_at_their_marks() -> None:
    def order(media: str, text: str) -> list[str]:
        protocol = Protocol("", media=media)  # type: ignore[arg-type]
        (message,) = protocol.messages([A, B], text)
        return texts(message)

    assert order("first", "x") == ["a", "b", "x"]
    assert order("last", "x") == ["x", "a", "b"]
    assert order("inline", "x <image 2> y <image 1>") == ["x ", "b", " y ", "a"]
    assert order("inline", "no mark") == ["a", "b", "no mark"]
    with pytest.raises(DataError, match="<image 3>, and there are 2"):
        order("inline", "<image 3>")


def test_a_system_text_is_a_turn_of_its_own() -> None:
    system, user = Protocol("", system="Be brief.").messages([A], "x")
    assert (system.role, texts(system), texts(user)) == ("system", ["Be brief."], ["a", "x"])


def test_an_answer_ends_before_the_first_stop() -> None:
    protocol = Protocol("", stop=("\n\n", "Q:"))
    assert protocol.cut("one Q: two\n\nthree") == "one "
    assert protocol.cut("one\ntwo") == "one\ntwo"


TERSE = Protocol("tests", stop=(" ",), max_new_tokens=7, budget=MediaBudget(max_pixels=784))


class Stopped(Sums):
    subsets = {"all": replace(Sums.subsets["all"], protocols={"terse": TERSE})}


def test_a_protocol_sets_what_it_has_and_the_rest_is_the_subsets() -> None:
    default, terse = Stopped(), Stopped(protocol="terse")
    assert (terse.max_new_tokens, terse.budget) == (7, MediaBudget(max_pixels=784))
    assert (default.max_new_tokens, default.budget) == (Sums().max_new_tokens, MediaBudget())
    other = replace(TERSE, metrics=(Metric("other"),))
    subset = replace(Stopped.subsets["all"], protocols={"other": other})
    task = type("T", (Sums,), {"subsets": {"all": subset}})(protocol="other")
    assert task.metrics == (Metric("other"),)


def test_the_default_is_the_cell_that_it_was_and_another_protocol_is_another_cell(
    tmp_path: Path,
) -> None:
    before, default, terse = (
        Cell.make(task, Adder("a"), "a", tmp_path).identity
        for task in (Sums(), Stopped(), Stopped(protocol="terse"))
    )
    code = {"code": {}}
    assert replace(default, **code) == replace(before, **code)
    assert "protocol" not in default.to_json()
    assert terse.to_json()["protocol"] == {"name": "terse", "prompt": "{question}", "stop": [" "]}
    assert type(terse).from_json(terse.to_json()) == terse


def test_answers_are_cut_before_they_are_scored_and_journaled(tmp_path: Path) -> None:
    class Chatty(Adder):
        def answer(self, request: Request) -> Completion:
            answer = super().answer(request)
            return replace(answer, text=f"{answer.text} I think")

    def run(adapter: Adder) -> Outcome:
        cell = Cell.make(Stopped(protocol="terse"), adapter, "a", tmp_path / type(adapter).__name__)
        return run_cell(cell, progress=False)

    chatty, plain = run(Chatty("a")), run(Adder("a"))
    assert all(" " not in (r.text or "") for r in chatty.cell.stored.records().values())
    assert chatty.results.metrics == plain.results.metrics
    assert chatty.cell.stored.settings == "protocol=terse"


def test_a_task_without_the_protocol_names_those_that_it_has() -> None:
    with pytest.raises(UsageError, match="no protocol 'helm'; it has: default, qwen2-vl"):
        load_task("docvqa:val", "helm")


def test_every_protocol_of_every_task_words_the_same_question() -> None:
    for task in tasks_of("all"):
        if task.subset_name != "mini":
            continue
        for name in task.subset.all_protocols:
            sample = next(iter(read_samples(load_task(task.full_name, name))))
            assert sample.messages, (task.full_name, name)


def test_a_protocol_reads_as_its_harness_does() -> None:
    def right(task: str, protocol: str, target: object, answer: str, **given: object) -> float:
        one = load_task(task, protocol)
        sample = Sample("x", target=target, **given)  # type: ignore[arg-type]
        return next(iter(one.score(sample, Completion("x", answer)).values.values()))

    four = {"choices": ("A. cat", "B. dog", "C. cow", "D. pig"), "target": 1}
    words = "The answer is B, a dog"
    assert [right("video_qa:videomme", p, answer=words, **four) for p in ("", "lmms-eval")] == [
        0,
        1,
    ]
    chart = {"metadata": {"type": "human_test"}}
    assert [right("chartqa", p, "1000", "1_000", **chart) for p in ("", "lmms-eval")] == [0, 1]
    box = {"metadata": {"width": 100, "height": 50}}
    assert right("refcoco:val", "lmms-eval", [10, 10, 50, 50], "[0.1, 0.2, 0.5, 1.0]", **box) == 1
    evalscope = [right("docvqa:val", p, ["5"], "It is\nANSWER: 5") for p in ("", "evalscope")]
    assert evalscope == [0, 1]


def test_evalscope_sets_no_pixels_and_leaves_room_to_think() -> None:
    asked = {
        (name, subset): protocols["evalscope"]
        for name in registered()
        for subset, s in task_class(name).subsets.items()
        if "evalscope" in (protocols := s.protocols)
    }
    assert {name for name, _ in asked} > {"docvqa", "pope", "mmmu", "realworldqa", "mathvision"}
    for where, protocol in asked.items():
        assert protocol.budget == MediaBudget() and protocol.max_new_tokens == 2048, where


def test_lmms_eval_ends_an_answer_where_its_task_files_or_its_defaults_say() -> None:
    """And shows what its wrapper of Qwen2-VL shows."""
    marked = {"refcoco", "refcoco+", "refcocog", "textvqa", "screenspot:v1", "seedbench"}
    seen = 0
    for name in registered():
        for subset_name, subset in task_class(name).subsets.items():
            protocol = subset.protocols.get("lmms-eval")
            if protocol is None or name == "card_games":
                continue
            seen += 1
            whole = f"{name}:{subset_name}"
            english = name == "mmbench" and subset_name.endswith("_en")
            has_mark = name in marked or whole in marked or english
            assert protocol.stop == (("ASSISTANT:",) if has_mark else ("\n\n",)), whole
            assert protocol.max_new_tokens, whole
            assert protocol.budget and protocol.budget.max_pixels == 768 * 28 * 28, whole
    assert seen > 50


def test_the_leaderboard_keeps_protocols_apart(tmp_path: Path) -> None:
    for protocol in ("", "terse"):
        run_cell(Cell.make(Stopped(protocol=protocol), Adder("a"), "a", tmp_path), progress=False)
    board = Leaderboard.of(tmp_path)
    default, terse = board.overview().columns[-2:]
    assert ("protocol=terse" in default, "protocol=terse" in terse) == (False, True)
    assert len(board.overview().rows) == 1
    digest = Stopped(protocol="terse").prompt_digest
    assert f"terse {digest}" in [row[5] for row in board.long()]


def test_no_difference_is_stated_to_a_score_that_was_asked_otherwise() -> None:
    of = {name: comparable(load_task("docvqa:val", name)) for name in ("", "qwen2-vl", "lmms-eval")}
    assert of[""] == of["qwen2-vl"] and of[""] and not of["lmms-eval"]


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is installed")
def test_tasks_of_lmms_eval_say_what_they_need_and_are_not_among_all_tasks() -> None:
    with pytest.raises(UsageError, match=r"need lmms-eval: pip install 'evalkit\[lmms\]'"):
        load_task("lmms:docvqa_val")
    assert "lmms" not in {t.name for t in tasks_of("all")}
