"""What is asked beyond a task's own question, and several drawn answers taken together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evalkit.model_adapters.reference import ReferenceAdapter

import evalkit
from evalkit.asking import Asking
from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.cli import main
from evalkit.columns import Columns
from evalkit.errors import UsageError
from evalkit.records import Record
from evalkit.results.leaderboard import Leaderboard
from evalkit.results.repeats import majority, pass_at, repeated
from evalkit.results.report.media import samples_of
from evalkit.store import CellFolder, cells
from evalkit.types import Completion, Message, Metric, Request, Sample, Score, Text
from evalkit.units import Counted
from tests.plugins.adder import Adder
from tests.plugins.sums import Numbers, Sums
from tests.tiny import write_tiny


class Other(Numbers):
    """Rows of another split: 100 to 139, with two that the first split has, too."""

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        for n in (3, 5, *range(100, 138)):
            yield {"n": n, "answers": [str(2 * n)]}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        return {"kind": "other"}


class Splits(Sums):
    subsets = {"all": evalkit.Subset(Numbers()), "train": evalkit.Subset(Other())}


class Recorder(Adder):
    """Answers each repetition of a sample a little differently, and keeps what it was asked."""

    name = "recorder"
    can_sample = True
    asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            n = int(request.messages[-1].content[-1].text.split()[0])  # type: ignore[union-attr]
            yield Completion(request.id, str(2 * n + request.seed % 2))


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    Recorder.asked = []


def evaluate(output: Path, **settings: Any) -> evalkit.Evaluation:
    return evalkit.evaluate(
        Splits, "m", adapter=Recorder, output=output, progress=False, **settings
    )


def test_without_settings_nothing_is_asked_and_no_cell_is_otherwise(tmp_path: Path) -> None:
    cell = Cell.make(Splits(), Recorder("m"), "m", tmp_path)
    assert "asking" not in cell.identity.to_json()
    evaluate(tmp_path)
    assert {(len(r.messages), r.temperature, r.seed) for r in Recorder.asked} == {(1, 0.0, 0)}


def test_a_system_prompt_stands_first_and_is_another_cell(tmp_path: Path) -> None:
    evaluate(tmp_path, limit=2)
    evaluate(tmp_path, limit=2, system="Be brief.")
    (first, *_) = Recorder.asked[2:]
    assert first.messages[0] == Message("system", (Text("Be brief."),))
    assert len(Recorder.asked) == 4 and len({c.path for c in cells(tmp_path)}) == 2


def test_examples_come_from_the_named_subset_and_never_ask_the_question(tmp_path: Path) -> None:
    evaluate(tmp_path, num_fewshot=3, fewshot_from="train", seed=4)
    shots = {}
    for request in Recorder.asked:
        *before, own = request.messages
        assert [m.role for m in before] == ["user", "assistant"] * 3 and own.role == "user"
        texts = [m.content[0].text for m in before]  # type: ignore[union-attr]
        for question, answer in zip(texts[::2], texts[1::2]):
            n = int(question.split()[0])
            assert (n >= 100 or n in (3, 5)) and answer == str(2 * n)
        assert own not in before
        shots[own.content[0].text] = tuple(texts)  # type: ignore[union-attr]
    assert len(shots) == 40 and len(set(shots.values())) <= 3
    asking = cells(tmp_path)[0].run.identity.asking
    assert asking["fewshot_data"] == {"kind": "other"} and asking["seed"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_fewshot": 2}, "go together"),
        ({"num_fewshot": 2, "fewshot_from": "all"}, "the rows that are scored; .*train"),
        ({"num_fewshot": 2, "fewshot_from": "none"}, "no subset 'none'"),
        ({"num_fewshot": 99, "fewshot_from": "train"}, "0 to 32"),
        ({"repeats": 3}, "set a temperature"),
        ({"repeats": 10**9, "temperature": 1.0}, "expected 1 to 10,000"),
        ({"seed": -1, "temperature": 1.0}, "seed=-1: expected"),
        ({"temperature": 3.0}, "0 to 2"),
        ({"seed": 3}, "needs a limit"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(tmp_path, **settings)


def test_an_adapter_that_is_greedy_and_a_task_of_boxes_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'adder' is greedy"):
        evalkit.evaluate(Splits, "m", adapter=Adder, output=tmp_path, temperature=0.5)
    with pytest.raises(UsageError, match="refcocog?.* method right_answer"):
        task = evalkit.plan.tasks_of("refcoco")[0]
        task.right_answer(Sample("1", target=[1.0, 2.0, 3.0, 4.0]))


def test_repetitions_of_a_sample_are_one_cluster_and_are_resumed(tmp_path: Path) -> None:
    settings: Any = {"temperature": 0.7, "repeats": 4, "seed": 1}
    evaluation = evaluate(tmp_path, **settings)
    (cell,) = evaluation.cells
    records = cell.records()
    assert len(records) == 160 == evaluation.outcomes[0].results.n
    assert len({r.seed for r in Recorder.asked}) > 150
    assert {r.temperature for r in Recorder.asked} == {0.7}
    assert cell.results.metrics[0].clusters == 10, "clusters are those of the samples"
    assert records["sum/3#2"].metadata["sample"] == "sum/3"
    Recorder.asked = []
    assert not evaluate(tmp_path, **settings).errors and not Recorder.asked
    one = {r.id: r.text for r in records.values()}
    again = evaluate(tmp_path / "again", **settings).cells[0].records()
    assert {r.id: r.text for r in again.values()} == one


def test_the_report_finds_the_media_of_each_repetition(tmp_path: Path) -> None:
    task = str(Path(__file__).parent / "plugins" / "sums.py")

    def answered(**settings: Any) -> CellFolder:
        where: Any = {"adapter": Recorder, "output": tmp_path, "progress": False}
        (cell,) = evalkit.evaluate(task, "m", **where, **settings).cells
        return cell

    once, twice = answered(), answered(temperature=1.0, repeats=2)
    thrice = answered(temperature=1.0, repeats=3)
    for some in ([once], [twice], [once, twice, thrice], [thrice, twice, once]):
        there = [s.id for s in samples_of(some, None)]
        assert sorted(there) == sorted({id for c in some for id in c.records()})


def test_pass_at_k_and_the_majority_are_those_of_the_samples(tmp_path: Path) -> None:
    (cell,) = evaluate(tmp_path, temperature=1.0, repeats=4).cells
    found = {m.metric.removeprefix("exact, "): m for m in repeated(cell)}
    assert list(found) == ["pass@1", "pass@2", "pass@4", "majority@4"]
    by_sample: dict[str, list[float]] = {}
    for record in cell.records().values():
        by_sample.setdefault(record.metadata["sample"], []).append(record.scores["exact"])
    assert found["pass@1"].value == pytest.approx(cell.results.metrics[0].value)
    any_right = [max(scores) for scores in by_sample.values()]
    assert found["pass@4"].value == pytest.approx(100 * sum(any_right) / 40)
    frame = evalkit.load_results(tmp_path)
    assert "exact, pass@4" in set(frame["metric"]) and not frame["headline"].iloc[-1]
    assert "exact, majority@4" in Leaderboard.of(tmp_path).markdown()
    assert found["pass@1"].value <= found["pass@2"].value <= found["pass@4"].value
    assert found["pass@2"].ci_low is not None and found["pass@2"].n == 40


def test_each_repetition_has_units_of_its_own() -> None:
    """Two questions of two samples each, answered twice: one question is right once, one never."""
    right = {(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)}  # question, sample, repetition
    records = [
        Record.of(
            Sample(f"{q}-{s}#{k}", cluster=f"{q}", metadata={"question": q, "repeat": k}),
            "",
            Completion(f"{q}-{s}#{k}", "t"),
            Score({"circular": float((q, s, k) in right)}),
        )
        for q in range(2)
        for s in range(2)
        for k in range(2)
    ]
    metric = Metric("circular", units=("question",))
    columns = Columns.of({r.id: r for r in records})
    (told,) = CellResults.of(records, [metric], complete=True).metrics
    assert told.value == 25.0
    assert Counted.of(columns.seen(metric), metric).mean == 0.25


@pytest.mark.parametrize(
    ("metrics", "first"),
    [
        ((Metric("a", weight="w"), Metric("b"), Metric("c")), "b"),
        ((Metric("a", units=("x",)), Metric("b", group="g")), "b"),
        ((Metric("a", group="g", total=True),), None),
    ],
)
def test_drawn_answers_are_taken_together_by_a_mean_of_samples(
    metrics: tuple[Metric, ...], first: str | None, tmp_path: Path
) -> None:
    (cell,) = evaluate(tmp_path, temperature=1.0, repeats=2).cells
    records = {
        id: replace(
            r, scores=dict.fromkeys("abcw", 1.0), metadata={**r.metadata, "x": "1", "g": "1"}
        )
        for id, r in cell.records().items()
    }
    results = cell.results.of_records(list(records.values()), metrics)
    other: Any = SimpleNamespace(run=cell.run, results=results, scored=lambda: records)
    names = {m.metric.partition(",")[0] for m in repeated(other)}
    assert names == ({first} if first else set())


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right: int, k: int) -> None:
    answers = [1] * right + [0] * (5 - right)
    subsets = list(combinations(answers, k))
    assert math.isclose(pass_at(5, right, k), sum(map(any, subsets)) / len(subsets))


def record(parsed: Any, score: float, unparsed: bool = False) -> Record:
    sample = Sample("1", target="x")
    return Record.of(sample, "", Completion("1", "t"), Score({"m": score}, parsed, unparsed))


@pytest.mark.parametrize(
    ("records", "value"),
    [
        ([("a", 1.0), ("b", 0.0), ("a", 1.0)], 1.0),
        ([("a", 1.0), ("b", 0.0)], 0.5),
        ([("b", 0.0), ("b", 0.0), ("a", 1.0)], 0.0),
        ([(None, 0.0, True), (None, 0.0, True), ("a", 1.0)], 1.0),
        ([(None, 0.0, True)], 0.0),
    ],
)
def test_the_majority_scores_as_what_most_answers_were_read_as(
    records: list[Any], value: float
) -> None:
    assert majority([record(*r) for r in records], "m") == value


def test_a_chat_template_of_ones_own_takes_the_place_of_the_checkpoints(tmp_path: Path) -> None:
    folder = str(write_tiny(tmp_path))
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content[0].text }}{% endfor %}!")
    own, plain = ReferenceAdapter(folder, chat_template=str(file)), ReferenceAdapter(folder)
    request = Request("1", (Message("user", (Text("abc"),)),))
    assert own.chat.decode(own.prompts.make(request).ids) == "abc!"
    assert own.fingerprint != plain.fingerprint and "chat_template" not in plain.fingerprint
    with pytest.raises(UsageError, match="can't be read"):
        ReferenceAdapter(folder, chat_template=str(tmp_path / "none.jinja"))


def test_settings_are_checked_before_anything_is_read() -> None:
    assert Asking().describe() == {}
    assert Asking(temperature=0.5, seed=3).describe() == {"temperature": 0.5, "seed": 3}


class Thinker(Adder):
    """Thinks of the answer before it gives it, in each of the ways that models do."""

    name = "thinker"
    asked: list[Request] = []
    said: Mapping[int, tuple[str, str]] = {
        0: ("<think>\n7?</think>\n\n0", "stop"),
        1: ("7?\n\nNo.\n</think>\n\n2", "stop"),  # begun by the chat template
        2: ("4", "stop"),
        3: ("7? Or rather 6", "length"),
        4: ("<think> 8", "stop"),
        5: ("<think></think>10", "length"),
    }

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            n = int(request.messages[-1].content[-1].text.split()[0])  # type: ignore[union-attr]
            text, ended = self.said.get(n, (str(2 * n), "stop"))
            yield Completion(request.id, text, finish_reason=ended)  # type: ignore[arg-type]


def test_thoughts_have_tokens_of_their_own_and_are_kept_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Thinker.asked = []
    out = evalkit.evaluate(
        Splits,
        "m",
        adapter=Thinker,
        output=tmp_path,
        thinking=1000,
        ids=[f"sum/{n}" for n in range(6)],
    )
    assert not out.errors
    assert {r.max_new_tokens for r in Thinker.asked} == {Splits("all").max_new_tokens + 1000}
    frame = evalkit.load_samples(tmp_path).set_index("id")
    assert list(frame["text"]) == ["0", "2", "4", "", "", "10"]
    assert list(frame["thought"]) == ["7?", "7?\n\nNo.", "", "7? Or rather 6", "8", ""]
    assert set(frame["settings"]) == {"thinking=1000"}
    (cell,) = cells(tmp_path)
    assert cell.run.identity.asking == {"thinking": 1000}
    thoughts = {r.id: r.thought for r in cell.contents().records.values()}
    assert thoughts == frame["thought"].to_dict(), "journal and columns say the same"
    assert main(["show", str(cell.path), "--id", "sum/1"]) == 0
    assert "\nthought   7?\n          \n          No.\nanswer    2\n" in capsys.readouterr().out


def test_without_a_setting_answers_stay_as_they_are(tmp_path: Path) -> None:
    evalkit.evaluate(Splits, "m", adapter=Thinker, output=tmp_path, ids=["sum/1"])
    (sample,) = evalkit.load_samples(tmp_path).to_dict("records")
    assert (sample["text"], sample["thought"]) == (Thinker.said[1][0], "")


@pytest.mark.parametrize("tokens", [-1, 10**9])
def test_a_number_of_tokens_that_is_none_is_refused(tmp_path: Path, tokens: int) -> None:
    with pytest.raises(UsageError, match=f"thinking={tokens}: expected 0 to"):
        evaluate(tmp_path, thinking=tokens)


def test_choices_that_are_ranked_need_no_thought(tmp_path: Path) -> None:
    class Ranked(Splits):
        rank = True

    with pytest.raises(UsageError, match="ranks choices"):
        evalkit.evaluate(Ranked, "m", adapter=Thinker, output=tmp_path, thinking=10)
