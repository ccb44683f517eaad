"""Every image benchmark of the catalogue runs over ten rows in its official columns, under each
protocol; odd rows are counted errors; its scores are those of the published rule.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.adapter import ModelAdapter, adapter_class
from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.cli import main
from evalkit.errors import DataError, UsageError
from evalkit.metrics.image_readers import count_lmms_eval
from evalkit.records import Record
from evalkit.results.submission import write_submission
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.task import Row, RowError, Task, checked_score, load_task, read_samples, task_class
from evalkit.types import Completion, MediaBudget, Message, Request, Sample, Text
from tests import catalogue
from tests.stored import moved
from tests.tiny import write_tiny

FAMILIES = sorted({name.partition(":")[0] for name in catalogue.ROWS})
PROTOCOLS = [
    (name, protocol) for name in catalogue.ROWS for protocol in load_task(name).subset.all_protocols
]
FIRST = [f"{family}:{task_class(family).default_subset}" for family in FAMILIES]


class Says(ModelAdapter):
    """Answers A, yes, or a number, by the length of the question."""

    name = "says"

    def __init__(self, model: str) -> None:
        self.model = model

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request.id, self.answer(request.messages))

    @staticmethod
    def answer(messages: Iterable[Message]) -> str:
        text = "".join(p.text for m in messages for p in m.content if isinstance(p, Text))
        return ("A", "B", "yes", "12", "")[len(text) % 5]


def cell(name: str, folder: Path, adapter: ModelAdapter, protocol: str = "") -> Cell:
    task = load_task(name, protocol)
    task.max_new_tokens, task.budget = 4, MediaBudget(max_pixels=56 * 56)  # random weights
    return Cell.make(task, adapter, adapter.name, folder / "out", catalogue.write(name, folder))


def samples(name: str, protocol: str = "") -> list[Sample]:
    """Those of the ten rows."""
    task = load_task(name, protocol)
    return [s for i, row in enumerate(catalogue.rows(name)) for s in task.samples(Row(row, i))]  # type: ignore[misc]


def results(task: Task, asked: list[Sample], answers: Iterable[str]) -> CellResults:
    """What comes out of answers, as a run would have it."""
    records = []
    for i, (sample, answer) in enumerate(zip(asked, answers)):
        completion = Completion(sample.id or str(i), answer)
        records.append(Record.of(sample, "", completion, checked_score(task, sample, completion)))
    return CellResults.of(records, task.metrics, complete=True)


def values(found: CellResults) -> dict[str, float]:
    return {m.metric: m.value for m in found.metrics}


def test_every_subset_of_the_families_has_rows_here() -> None:
    for family in FAMILIES:
        for subset in task_class(family).subsets:
            assert f"{family}:{subset}" in catalogue.ROWS


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
def test_ten_rows_are_asked_and_scored_under_each_protocol(name: str, protocol: str) -> None:
    task, asked = load_task(name, protocol), samples(name, protocol)
    assert len(asked) == 10
    said = [Says.answer(sample.messages) for sample in asked]
    found = results(task, asked, said)
    assert (found.n, found.errors) == (10, 0)
    assert bool(found.metrics) is not task.subset.hidden
    for metric in found.metrics:
        assert 0 <= metric.value <= metric.scale * (14 if metric.total else 1)


@pytest.mark.parametrize("name", FIRST)
def test_ten_rows_run_from_a_local_copy(name: str, tmp_path: Path) -> None:
    found = run_cell(cell(name, tmp_path, Says("says")), progress=False).results
    assert (found.n_total, found.errors, found.complete) == (10, 0, True)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["reference", "transformers"])
def test_ten_rows_run_with_real_models(adapter: str, tmp_path: Path) -> None:
    model = adapter_class(adapter)(str(write_tiny(tmp_path / "tiny")))
    for name, protocol in PROTOCOLS:
        folder = tmp_path / f"{name}-{protocol}".replace(":", "-")
        folder.mkdir()
        found = run_cell(cell(name, folder, model, protocol), progress=False).results
        assert (found.n_total, found.errors) == (10, 0), (name, protocol)


ODD = [
    ("ai2d", {"answer": "4"}, "'answer' is '4', not one of 0 to 3"),
    ("ai2d", {"answer": None}, "'answer' is None"),
    ("ai2d", {"answer": True}, "'answer' is True"),
    ("ai2d", {"options": "leaf"}, "'options' is 'leaf', not a list"),
    ("ai2d", {"image": None}, "'image' holds no image, but null"),
    ("ai2d", {"question": 5}, "'question' is 5"),
    ("realworldqa", {"answer": None}, "'answer' is null"),
    ("realworldqa", {"question": ""}, "'question' is empty"),
    ("mmstar", {"answer": "E"}, "'answer' is 'E', not one of A, B, C, D"),
    ("mmstar", {"answer": "AB"}, "'answer' is 'AB'"),
    ("mmstar", {"question": "What?"}, "lists no options"),
    ("mmstar", {"category": None}, "'category' is null"),
    ("mmstar", {"index": None}, "'index' is null"),
    ("mmbench", {"index": "7"}, "'index' is '7'"),
    ("mmbench", {"answer": "C"}, "'answer' is 'C', not one of A, B"),
    ("mmbench", {"answer": None}, "'answer' is None"),
    ("mmbench", {"B": None}, "it has 1 options"),
    ("mmbench", {"D": "four"}, "option C is empty, and a later one is not"),
    ("mmbench", {"A": 5}, "'A' is 5"),
    ("mme", {"answer": "maybe"}, "'answer' is 'maybe', not yes or no"),
    ("mme", {"answer": None}, "'answer' is None"),
    ("mme", {"category": "smell"}, "'category' is 'smell'"),
    ("mme", {"question_id": None}, "'question_id' is null"),
    ("hallusionbench", {"gt_answer": "2"}, "'gt_answer' is '2'"),
    ("hallusionbench", {"set_id": None}, "'set_id' is null"),
    ("hallusionbench", {"image": {"bytes": b"", "path": None}}, "holds no image"),
    ("pope", {"answer": 5}, "'answer' is 5"),
    ("pope", {"image_source": None}, "'image_source' is null"),
    ("mmt_bench", {"answer": "Z"}, "'answer' is 'Z'"),
    ("mmt_bench", {"A": ""}, "option A is empty"),
    ("mmt_bench:val_mi", {"image": []}, "not a list of images"),
    ("mmmu", {"options": "['a'"}, "'options' is no list"),
    ("mmmu", {"options": "['a']"}, "not a list of at least two"),
    ("mmmu", {"options": "__import__('os').getcwd()"}, "'options' is no list"),
    ("mmmu", {"answer": "?"}, "'answer' is '\\?'"),
    ("mmmu", {"question_type": "essay"}, "'question_type' is 'essay'"),
    ("mmmu", {"image_1": None}, "'image_1' is null"),
    ("mmmu", {"image_2": None, "image_3": catalogue.picture(0)}, "a later one is not"),
    ("mmmu_pro:vision", {"answer": "K"}, "'answer' is 'K'"),
    ("mathvista", {"answer": "pink"}, "'answer' is 'pink', none of the choices"),
    ("mathvista", {"question_type": "poem"}, "'question_type' is 'poem'"),
    ("mathvista", {"precision": 1.5}, "'precision' is 1.5"),
    ("mathvista", {"precision": float("inf")}, "'precision' is inf"),
    ("mathvista", {"choices": ["red"]}, "'choices' has 1 options"),
    ("mathvision", {"options": ["1"]}, "'options' has a single one"),
    ("mathvision", {"answer": ""}, "'answer' is empty"),
    ("vcr", {"crossed_text": []}, "'crossed_text' is"),
    ("vcr", {"crossed_text": [" "]}, "'crossed_text' is"),
    ("vcr", {"crossed_text": "red"}, "'crossed_text' is 'red', not a list"),
    ("blink", {"answer": "(C)"}, "'answer' is '\\(C\\)', not one of A, B"),
    ("blink", {"answer": "hidden"}, "'answer' is 'hidden'"),
    ("blink", {"answer": "(A"}, "'answer' is '\\(A'"),
    ("blink", {"choices": ["x"]}, "'choices' has 1 options, not 2 to 26"),
    ("blink", {"choices": ["x", " "]}, "'choices' has an empty option"),
    ("blink", {"choices": "xy"}, "'choices' is 'xy', not a list"),
    ("blink", {"image_1": None}, "'image_1' is null"),
    ("blink", {"image_4": catalogue.picture(0)}, "'image_2' is null, and a later one is not"),
    ("blink", {"prompt": ""}, "'prompt' is empty"),
    ("blink", {"idx": None}, "'idx' is null"),
    ("vstar", {"text": "What is it? (A) one (B) two"}, "lists the options none"),
    ("vstar", {"text": "What?\n(A) one\n(C) two"}, "lists the options AC"),
    ("vstar", {"label": "E"}, "'label' is 'E', not one of A, B, C, D"),
    ("vstar", {"category": None}, "'category' is null"),
    ("hrbench", {"image": None}, "'image' is null"),
    ("hrbench", {"image": "aGVsbG8="}, "'image' holds no image in base64"),
    ("hrbench", {"answer": None}, "'answer' is None"),
    ("hrbench", {"C": ""}, "option C is empty, and a later one is not"),
    ("hrbench", {"cycle_category": None}, "'cycle_category' is null"),
    ("countbenchqa", {"number": "two"}, "'number' is 'two', not a whole number"),
    ("countbenchqa", {"number": True}, "'number' is True"),
    ("countbenchqa", {"number": -1}, "'number' is -1"),
    ("countbenchqa", {"question": None}, "'question' is null"),
    ("seedbench", {"choice_c": None}, "'choice_c' is null"),
    ("seedbench", {"data_type": None}, "'data_type' is null"),
    ("seedbench", {"image": []}, "not a list of images"),
    ("seedbench", {"answer": "E"}, "'answer' is 'E'"),
    ("scienceqa", {"image": None}, "'image' holds no image, but null"),
    ("scienceqa", {"answer": 2}, "'answer' is 2, not one of 0 to 1"),
    ("scienceqa", {"answer": None}, "'answer' is null"),
    ("scienceqa", {"choices": ["x"]}, "'choices' has 1"),
    ("cv_bench", {"answer": "(E)"}, "'answer' is '\\(E\\)'"),
    ("cv_bench", {"prompt": None}, "'prompt' is null"),
    ("cv_bench", {"source": ""}, "'source' is empty"),
    ("mmvp", {"Index": 0}, "'Index' is 0, not a whole number from 1"),
    ("mmvp", {"Options": "(a) Open"}, "'Options' is '\\(a\\) Open', not"),
    ("mmvp", {"Options": "(b) Open (a) Closed"}, "not \\(a\\) and \\(b\\)"),
    ("mmvp", {"Correct Answer": "(c)"}, "'Correct Answer' is '\\(C\\)', not one of A, B"),
    ("visulogic", {"clip": DataError("no picture 'images/7.png'")}, "no picture 'images/7.png'"),
    ("visulogic", {"label": "E"}, "'label' is 'E', not one of A, B, C, D"),
    ("visulogic", {"tag": None}, "'tag' is null"),
    ("muirbench", {"image_list": []}, "not a list of images"),
    ("muirbench", {"image_list": [None]}, "'image_list' holds no image"),
    ("muirbench", {"image_list": [catalogue.picture(0)]}, "has <image>, and there are 1 pictures"),
    ("muirbench", {"options": ["x"]}, "'options' has 1"),
    ("muirbench", {"options": ["", "x", "y"]}, "'options' has an empty option"),
    ("muirbench", {"answer": "D"}, "'answer' is 'D', not one of A, B, C"),
    ("muirbench", {"task": None}, "'task' is null"),
]


@pytest.mark.parametrize(("name", "changes", "complaint"), ODD)
def test_an_odd_value_is_an_error_of_its_row(
    name: str, changes: dict[str, Any], complaint: str
) -> None:
    task = load_task(name)
    with pytest.raises(DataError, match=complaint):
        list(task.samples(Row(catalogue.rows(task.full_name)[0] | changes)))


def test_odd_rows_cost_the_others_nothing(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = catalogue.rows("mmstar:val")
    rows[3]["answer"], rows[5]["image"] = None, None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
    read = list(read_samples(load_task("mmstar"), tmp_path / "odd.parquet"))
    assert [i for i, s in enumerate(read) if isinstance(s, RowError)] == [3, 5]


def prompt(name: str, protocol: str, row: int = 0) -> str:
    """The conversation with media as marks."""
    parts = samples(name, protocol)[row].messages[-1].content
    return "".join(p.text if isinstance(p, Text) else "<>" for p in parts)


@pytest.mark.parametrize(
    ("name", "protocol", "row", "expected"),
    [
        (
            "ai2d",
            "default",
            0,
            "<>Question: What is 0?\nOptions:\nA. leaf\nB. stem\nC. root\nD. part 0\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "ai2d",
            "lmms-eval",
            0,
            "<>What is 0?\nA. leaf\nB. stem\nC. root\nD. part 0\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "mmbench:dev_en",
            "qwen2-vl",
            2,
            "<>Hint: Look closely.\nQuestion: Which is it? 1\nOptions:\nA. one 1\nB. two 1\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "mmbench:dev_en",
            "lmms-eval",
            2,
            "<>Look closely. Which is it? 1 There are several options:\nA. one 1\nB. two 1\n\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "mmstar",
            "evalscope",
            0,
            "Answer the following multiple choice question.\nThe last line of your response should "
            "be of the following format:\n'ANSWER: [LETTER]' (without quotes)\nwhere [LETTER] is "
            "one of A,B,C,D. Think step by step before answering.\n\nWhat is shown in 0?\n"
            "Options: A: a dog, B: a cat, sitting, C: two birds, D: none<>",
        ),
        ("mme", "default", 0, "<>Is this 0? Please answer yes or no."),
        (
            "mme",
            "lmms-eval",
            0,
            "<>Is this 0?\nAnswer the question using a single word or phrase.",
        ),
        ("hallusionbench", "default", 0, "<>Is the bar longer? Please answer yes or no."),
        ("hallusionbench", "lmms-eval", 0, "<>Is the bar longer?"),
        (
            "mmmu",
            "vlmevalkit",
            0,
            "Question: What is in <> and <>?\nOptions:\nA. a line\nB. a painter's <>\nC. 3\n"
            "D. none\nPlease select the correct answer from the options above. \n",
        ),
        ("mmmu", "default", 4, "<>Question: What is in <image 1>?"),
        (
            "mmmu",
            "lmms-eval",
            4,
            "<>What is in <image 1>?\n\nAnswer the question using a single word or phrase.",
        ),
        ("realworldqa", "qwen2-vl", 1, "<>Question: How many cars are there? 1"),
        (
            "realworldqa",
            "qwen2-vl",
            0,
            "<>Question: Where is the sign?\nOptions:\nA. Left\nB. Right\nC. Ahead\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "mathvista",
            "lmms-eval",
            2,
            "<>What is it? 2 (Unit: cm)\nAnswer the question using a single floating-point number "
            "with one decimal place.",
        ),
        (
            "blink",
            "default",
            1,
            "<><>Look. Which one is it? 1\nSelect from the following choices.\n"
            "(A) the second image\n(B) the third image\n(C) 0\n",
        ),
        (
            "blink",
            "qwen2-vl",
            1,
            "<><>Question: Which one is it? 1\nOptions:\nA. the second image\nB. the third image\n"
            "C. 0\nPlease select the correct answer from the options above.",
        ),
        (
            "blink",
            "lmms-eval",
            0,
            "<>Note: You only need to respond with A, B without providing any additional "
            "information.\nLook. Which one is it? 0\nSelect from the following choices.\n"
            "(A) the second image\n(B) the third image\n",
        ),
        (
            "blink",
            "evalscope",
            1,
            "Answer the following multiple choice question. The last line of your response should "
            "be of the following format:\n'ANSWER: [LETTER]' (without quotes) where [LETTER] is "
            "one of A,B,C.\n\nLook. Which one is it? 1\nSelect from the following choices.\n"
            "(A) the second image\n(B) the third image\n(C) 0\n<><>",
        ),
        (
            "muirbench",
            "default",
            1,
            "What do <> and <> share? 1\nA. a road\nB. <>\nC. None of the choices provided\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "muirbench",
            "qwen2-vl",
            0,
            "<><>Question: What do <image> and <image> share? 0\nOptions:\nA. a road\nB. a sign\n"
            "C. None of the choices provided\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "muirbench",
            "lmms-eval",
            1,
            "<><><>What do  and  share? 1\nA. a road\nB. \nC. None of the choices provided\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "vstar",
            "default",
            1,
            "<>Question: What is the material of the glove? 1\nOptions:\nA. rubber\nB. cotton\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "vstar",
            "lmms-eval",
            1,
            "<>What is the material of the glove? 1\nA. rubber\nB. cotton"
            + 2 * "\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "vstar",
            "evalscope",
            1,
            "Answer the following multiple choice question. The last line of your response should "
            "be of the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is one "
            "of A, B, C, D. Think step by step before answering.\n\nWhat is the material of the "
            "glove? 1\n(A) rubber\n(B) cotton\nAnswer with the option's letter from the given "
            "choices directly.<>",
        ),
        (
            "hrbench:8k",
            "lmms-eval",
            1,
            "<>What colour is the sign? 0\nA. blue 0\nB. green 0\nC. none 0\nD. red 0\n"
            "Answer the option letter directly.",
        ),
        (
            "countbenchqa",
            "default",
            0,
            "<>How many dogs are there in the image?\n"
            "Please try to answer the question with short words or phrases if possible.",
        ),
        (
            "countbenchqa",
            "lmms-eval",
            0,
            "<>Look at the image carefully and count the objects. Answer with just a number, "
            "without any additional text. How many dogs are there in the image?",
        ),
        (
            "countbenchqa",
            "vlmevalkit",
            0,
            "<>How many dogs are there in the image? Note that: answer with a number directly e.g. "
            "3. Do not include any additional text.",
        ),
        (
            "seedbench",
            "lmms-eval",
            0,
            "<>What is he doing? 0\nA. a 0\nB. b 0\nC. c 0\nD. d 0\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "scienceqa",
            "default",
            0,
            "<>Hint: Two magnets lie side by side.\nQuestion: Which is the main idea? 0\nOptions:\n"
            "A. the first\nB. the second\nPlease select the correct answer from the options above.",
        ),
        (
            "scienceqa",
            "lmms-eval",
            0,
            "<>Context: Two magnets lie side by side.\nWhich is the main idea? 0\nA. the first\n"
            "B. the second\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "scienceqa",
            "lmms-eval",
            1,
            "<>Which is the main idea? 1\nA. the first\nB. the second\nC. neither\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "scienceqa",
            "evalscope",
            0,
            "Answer the following multiple choice question. The last line of your response should "
            "be of the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is one "
            "of A,B. Think step by step before answering.\n\nWhich is the main idea? 0\n\n"
            "A) the first\nB) the second<>",
        ),
        (
            "cv_bench",
            "default",
            0,
            "<>How many chairs are in the image? 0 Select from the following choices.\n"
            "(A) 0\n(B) 1",
        ),
        (
            "cv_bench",
            "lmms-eval",
            0,
            "<>Note: You only need to respond with A, B without providing any additional "
            "information.\n\nHow many chairs are in the image? 0 Select from the following choices."
            "\n(A) 0\n(B) 1",
        ),
        (
            "mmvp",
            "lmms-eval",
            0,
            "<>Is the door open or closed? 0\nA. Open\nB. Closed\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "mmt_bench:val_mi",
            "lmms-eval",
            0,
            "<><>Question: \nWhich one? 0\nA: option A\nB: option B\nC: option C\n"
            "Answer the question using a single character from the given options.",
        ),
        (
            "visulogic",
            "lmms-eval",
            0,
            "<>Which one comes next?\n\nA: A  \nB: B  \nC: C  \nD: D\n"
            "Answer with the option letter only.",
        ),
        (
            "visulogic",
            "vlmevalkit",
            0,
            "<>Which one comes next?\n\nA: A  \nB: B  \nC: C  \nD: D\n\nSolve the complex visual "
            "logical reasoning problem through step-by-step reasoning.Think about the reasoning "
            "process first and answer the question following this format: Answer: "
            "\\boxed{$LETTER}",
        ),
        (
            "vcr:zh_easy",
            "default",
            0,
            "<>图像中被覆盖的文本是什么？"
            "请在不输出解释的情况下还原被覆盖的文本。",
        ),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_protocol(
    name: str, protocol: str, row: int, expected: str
) -> None:
    assert prompt(load_task(name).full_name, protocol, row) == expected


def test_chinese_questions_are_asked_in_chinese() -> None:
    row = catalogue.mmbench(0) | {"question": "这是什么？"}
    (sample,) = load_task("mmbench:dev_cn").samples(Row(row))
    last = sample.messages[-1].content[-1]
    assert isinstance(last, Text) and last.text.endswith("B. two 0\n请直接回答选项字母。")


def generated(name: str, n: int = 1200, seed: int = 0) -> tuple[list[Sample], list[str]]:
    """Samples of a task, over and over with ids, clusters and units of their own, and answers."""
    rng, asked = random.Random(seed), samples(name)
    pool = ("A", "B", "C", "yes", "no", "Yes.", "I can't say", "", "B.", "No, it is not", "12")
    out = []
    for k in range(math.ceil(n / len(asked))):
        for i, sample in enumerate(asked):
            changed = {
                key: f"{value}/{k}" if key in ("picture", "figure", "question") else value
                for key, value in sample.metadata.items()
            }
            out.append(
                replace(sample, id=f"{k}-{i}", cluster=f"{sample.cluster}/{k}", metadata=changed)
            )
    return out, rng.choices(pool, k=len(out))


def is_yes(answer: str) -> bool | None:
    words = answer.lower().replace(".", "").replace(",", "").split()
    return None if ("yes" in words) == ("no" in words) else "yes" in words


def test_mme_adds_accuracy_and_accuracy_plus_of_each_category() -> None:
    asked, answers = generated("mme:test")
    found = values(results(load_task("mme"), asked, answers))
    by_picture: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample, answer in zip(asked, answers):
        right = is_yes(answer) is sample.target
        by_picture[sample.metadata["category"]][sample.metadata["picture"]].append(right)
    total = {}
    for category, pictures in by_picture.items():
        accuracy = sum(map(sum, pictures.values())) / sum(map(len, pictures.values()))
        plus = sum(all(p) for p in pictures.values()) / len(pictures)
        total[category] = 100 * (accuracy + plus)
    perception = sum(total[c] for c in ("count", "OCR", "position"))
    cognition = sum(total[c] for c in ("code_reasoning", "text_translation"))
    assert found["perception"] == pytest.approx(perception)
    assert found["cognition"] == pytest.approx(cognition)
    assert found["mme"] == pytest.approx(perception + cognition)


def test_hallusionbench_counts_questions_figures_and_sets() -> None:
    asked, answers = generated("hallusionbench:image")
    found = values(results(load_task("hallusionbench"), asked, answers))
    groups: dict[str, dict[str, list[bool]]] = {
        "figure": defaultdict(list),
        "question": defaultdict(list),
    }
    right = [is_yes(a) is s.target for s, a in zip(asked, answers)]
    for sample, one in zip(asked, right):
        for kind, group in groups.items():
            group[sample.metadata[kind]].append(one)
    expected = {
        "aAcc": 100 * sum(right) / len(right),
        **{
            score: 100 * sum(map(all, groups[kind].values())) / len(groups[kind])
            for score, kind in (("fAcc", "figure"), ("qAcc", "question"))
        },
    }
    expected["average"] = sum(expected.values()) / 3
    assert found == pytest.approx(expected)


def test_hallusionbench_numbers_sets_within_a_category() -> None:
    """VD and VS both have sets of the subcategory ocr, and both begin at 0."""
    row = catalogue.hallusionbench(0)
    task, asked = load_task("hallusionbench"), list[Sample]()
    for category in ("VD", "VS"):
        asked += task.samples(Row(row | {"category": category}))  # type: ignore[arg-type]
    found = values(results(task, asked, ["no", "yes"]))
    assert found == {"aAcc": 50.0, "fAcc": 50.0, "qAcc": 50.0, "average": 50.0}


def test_mmbench_counts_a_question_when_every_rotation_is_right() -> None:
    asked, answers = generated("mmbench:dev_en")
    found = values(results(load_task("mmbench"), asked, answers))
    rotations: dict[str, list[bool]] = defaultdict(list)
    vanilla = []
    for sample, answer in zip(asked, answers):
        right = answer.rstrip(".") == "AB"[sample.target]
        rotations[sample.metadata["question"]].append(right)
        if not sample.metadata["rotation"]:
            vanilla.append(right)
    assert found["circular"] == pytest.approx(
        100 * sum(map(all, rotations.values())) / len(rotations)
    )
    assert found["vanilla"] == pytest.approx(100 * sum(vanilla) / len(vanilla))


def test_pope_has_the_f1_of_yes() -> None:
    asked, answers = generated("pope:test")
    found = values(results(load_task("pope"), asked, answers))
    said = [is_yes(a) for a in answers]
    tp = sum(a is True and s.target for a, s in zip(said, asked))
    fp = sum(a is True and not s.target for a, s in zip(said, asked))
    fn = sum(a is not True and s.target for a, s in zip(said, asked))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert found == pytest.approx(
        {
            "f1": 200 * precision * recall / (precision + recall),
            "precision": 100 * precision,
            "recall": 100 * recall,
            "accuracy": 100 * sum(a is s.target for a, s in zip(said, asked)) / len(asked),
            "yes_ratio": 100 * sum(a is True for a in said) / len(said),
        }
    )


def test_mmstar_is_the_mean_of_its_categories() -> None:
    asked, answers = generated("mmstar:val")
    found = values(results(load_task("mmstar"), asked, answers))
    by: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, answers):
        by[sample.metadata["category"]].append(answer.rstrip(".") == "ABCD"[sample.target])
    assert found["accuracy"] == pytest.approx(
        sum(100 * sum(v) / len(v) for v in by.values()) / len(by)
    )


def test_lmms_evals_mmstar_is_the_mean_of_the_axes() -> None:
    asked = samples("mmstar:val", "lmms-eval")
    right = [s.metadata["l2_category"] == "x" for s in asked]
    answers = ["ABCD"[s.target] if r else "" for s, r in zip(asked, right)]
    found = values(results(load_task("mmstar", "lmms-eval"), asked, answers))
    assert [*found] == ["accuracy_by_axis", "accuracy"]  # the headline first
    assert found["accuracy_by_axis"] == 50.0 != 100 * sum(right) / len(right)


@pytest.mark.parametrize(
    ("name", "protocol", "place", "answer", "value"),
    [
        ("realworldqa:test", "evalscope", 0, "I see. ANSWER: A", 1),
        ("realworldqa:test", "evalscope", 0, "ANSWER: a", 1),
        ("realworldqa:test", "evalscope", 0, "ANSWER: A. Left", 0),
        ("realworldqa:test", "evalscope", 0, "A", 0),
        ("realworldqa:test", "evalscope", 1, "ANSWER: 1", 1),
        ("realworldqa:test", "evalscope", 1, "1", 0),
        ("realworldqa:test", "lmms-eval", 0, "A. Left", 1),
        ("mmmu_pro:vision", "lmms-eval", 0, "A", 1),
        ("mmmu_pro:vision", "lmms-eval", 0, "A.", 0),
        ("mmmu_pro:vision", "lmms-eval", 0, " A\n", 1),
        ("mmmu:val", "lmms-eval", 0, " A\n", 1),
        ("ai2d:test", "lmms-eval", 0, "A\n", 1),
        ("mmmu_pro:standard_10", "lmms-eval", 0, "A.", 1),
        ("mmmu:val", "evalscope", 9, "ANSWER: Twelve", 1),
    ],
)
def test_an_answer_counts_as_the_protocols_harness_counts_it(
    name: str, protocol: str, place: int, answer: str, value: float
) -> None:
    sample = samples(name, protocol)[place]
    score = load_task(name, protocol).score(sample, Completion(sample.id, answer))
    assert score.values == {"accuracy": value}


@pytest.mark.parametrize("protocol", ["qwen2-vl", "vlmevalkit", "evalscope", "lmms-eval"])
def test_every_harness_reads_chartqas_numbers_as_python_does(protocol: str) -> None:
    sample = Sample("1", target="1000", metadata={"type": "human_test"})
    mark = "ANSWER: " if protocol == "evalscope" else ""
    for name, value in ((protocol, 1.0), ("default", 0.0)):
        score = load_task("chartqa", name).score(sample, Completion("1", f"{mark}1_000"))
        assert {*score.values.values()} == {value}


def test_blink_has_the_mean_of_its_subtasks_and_that_of_its_questions() -> None:
    asked, answers = generated("blink:val")
    found = values(results(load_task("blink"), asked, answers))
    by: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, answers):
        by[sample.metadata["subtask"]].append(answer.rstrip(".") == "ABCD"[sample.target])
    means = [100 * sum(v) / len(v) for v in by.values()]
    assert found["accuracy_by_subtask"] == pytest.approx(sum(means) / len(means))
    assert found["accuracy"] == pytest.approx(
        100 * sum(map(sum, by.values())) / sum(map(len, by.values()))
    )


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
def test_a_right_answer_as_examples_have_it_is_right(name: str, protocol: str) -> None:
    task = load_task(name, protocol)
    for sample in samples(name, protocol):
        try:
            answer = task.protocol.written(task.right_answer(sample))
        except UsageError:  # yes and no
            continue
        score = task.score(sample, Completion(sample.id, answer))
        about = {m.weight for m in task.metrics}
        assert {v for k, v in score.values.items() if k not in about} <= {1.0}, answer


@pytest.mark.parametrize(("name", "unit"), [("hrbench:4k", "question"), ("mmvp:test", "pair")])
def test_rotations_and_pairs_count_when_all_are_right(name: str, unit: str) -> None:
    task, asked = load_task(name), samples(name)
    assert len({s.metadata[unit] for s in asked}) == 5
    for wrong, rights in (([], 5), ([0], 4), ([0, 1], 4), ([0, 2, 9], 2)):
        said = ["E" if i in wrong else "ABCD"[s.target] for i, s in enumerate(asked)]
        found = values(results(task, asked, said))
        together = found["circular" if unit == "question" else "pair_accuracy"]
        assert together == pytest.approx(100 * rights / 5)
        assert found["accuracy"] == pytest.approx(100 - 10 * len(wrong))


def test_hrbench_is_the_mean_of_its_orders() -> None:
    asked, answers = generated("hrbench:8k")
    found = values(results(load_task("hrbench:8k"), asked, answers))
    by: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, answers):
        by[sample.metadata["cycle"]].append(answer.rstrip(".") == "ABCD"[sample.target])
    assert found["accuracy"] == pytest.approx(
        sum(100 * sum(v) / len(v) for v in by.values()) / len(by)
    )


def test_cv_bench_is_the_mean_of_its_sources_and_by_lmms_eval_of_its_questions() -> None:
    asked, answers = generated("cv_bench:2d")
    by: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, answers):
        by[sample.metadata["source"]].append(answer.rstrip(".") == "ABCD"[sample.target])
    mean = sum(100 * sum(v) / len(v) for v in by.values()) / len(by)
    found = values(results(load_task("cv_bench:2d"), asked, answers))
    assert found["accuracy_by_source"] == pytest.approx(mean) != found["accuracy"]
    assert load_task("cv_bench:2d").metrics[0].name == "accuracy_by_source"
    assert load_task("cv_bench:2d", "lmms-eval").metrics[0].name == "accuracy"


def test_seed_bench_passes_over_what_is_no_image() -> None:
    task, rows = load_task("seedbench"), catalogue.rows("seedbench:image")
    for i in (1, 4):
        rows[i] |= {"data_type": "video", "image": [], "answer": None}
    read = [list(task.samples(Row(row, i))) for i, row in enumerate(rows)]
    assert [len(r) for r in read] == [1, 0, 1, 1, 0, *[1] * 5]


@pytest.mark.parametrize(
    ("protocol", "answer", "value", "unparsed"),
    [
        ("default", "2", 1, False),
        ("default", "There are two dogs.", 1, False),
        ("default", "2 (two)", 1, False),
        ("default", "12", 0, False),
        ("default", "2 or 3", 0, True),
        ("default", "2.5", 0, True),
        ("default", "many", 0, True),
        ("qwen2-vl", "12", 1, False),
        ("vlmevalkit", "two", 0, False),
        ("vlmevalkit", "", 0, True),
        ("lmms-eval", " Two\n", 1, False),
        ("lmms-eval", "2.", 0, True),
        ("lmms-eval", "two dogs", 0, True),
    ],
)
def test_counts_are_read_as_each_protocol_reads_them(
    protocol: str, answer: str, value: float, unparsed: bool
) -> None:
    task = load_task("countbenchqa", protocol)
    score = task.score(samples("countbenchqa:test", protocol)[0], Completion("x", answer))
    assert (score.values, score.unparsed) == ({"accuracy": value}, unparsed)
    assert task.right_answer(Sample(target=7)) == "7"


def test_every_published_count_is_read_as_lmms_eval_reads_it() -> None:
    """Against a second writing of its rule, on answers that are generated."""
    words = "none zero one two three four five six seven eight nine ten eleven twelve".split()
    rng = random.Random(0)
    for _ in range(1000):
        answer = rng.choice(("", " ", "\n")).join(
            rng.choices((*words, "TEN", "3", "03", "12", "2.", "dogs", "-1"), k=rng.randint(0, 2))
        )
        said = answer.strip().lower()
        said = str(max(0, words.index(said) - 1)) if said in words else said
        for number in range(21):
            assert (count_lmms_eval(answer) == number) is (said == str(number)), answer


def test_mmt_bench_has_both_means() -> None:
    asked, answers = generated("mmt_bench:val")
    found = values(results(load_task("mmt_bench"), asked, answers))
    right = [a.rstrip(".") == "ABC"[s.target] for s, a in zip(asked, answers)]
    assert found["accuracy"] == pytest.approx(100 * sum(right) / len(right))


@pytest.mark.parametrize(
    ("answer", "exact", "jaccard"),
    [
        ("the red house", 1.0, 1.0),
        ("It says: the red house.", 1.0, 1.0),
        ("a red house stands", 0.0, 0.5),
        ("nothing", 0.0, 0.0),
        ("Sorry, the red house is hidden", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_vcr_finds_the_covered_words(answer: str, exact: float, jaccard: float) -> None:
    task, sample = load_task("vcr"), samples("vcr:en_easy")[1]
    assert task.score(sample, Completion("x", answer)).values == {
        "exact_match": exact,
        "jaccard": jaccard,
        "blanks": 1.0,
    }


def test_vcr_counts_every_blank_once() -> None:
    asked = samples("vcr:en_easy")[:2]  # two blanks and one
    found = values(results(load_task("vcr"), asked, ["on a hill", "no idea"]))
    assert found["exact_match"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("row", "answer", "protocol", "value"),
    [
        (0, "B", "default", 1),
        (0, "The answer is (B) blue.", "default", 1),
        (0, "blu", "default", 0),
        (0, "blu", "lmms-eval", 1),  # the nearest option, however far
        (1, "1", "default", 1),
        (1, "There is 1.", "default", 1),
        (1, "There is 1.", "vlmevalkit", 0),  # would go to a judge
        (2, "1.2", "default", 1),
        (2, "about 1.23 cm", "default", 1),
        (2, "1.20", "vlmevalkit", 1),
        (3, "[1, 2]", "default", 1),
        (3, "1, 2", "default", 0),
        (4, "", "default", 0),
    ],
)
def test_mathvista_reads_the_form_of_the_answer(
    row: int, answer: str, protocol: str, value: float
) -> None:
    task = load_task("mathvista", protocol)
    score = task.score(samples("mathvista:testmini", protocol)[row], Completion("x", answer))
    assert score.values == {"accuracy": value}


@pytest.mark.parametrize(
    ("row", "answer", "value"),
    [
        (1, "B", 1),
        (1, "The answer is \\boxed{\\frac{1}{2}}", 1),
        (1, "So it is (B).", 1),
        (1, "0.5", 1),
        (1, "C", 0),
        (1, "", 0),
        (0, "\\boxed{0.5}", 1),
        (0, "= \\frac12", 1),
        (0, "one half", 0),
    ],
)
def test_mathvision_accepts_letters_texts_and_numbers(row: int, answer: str, value: float) -> None:
    task = load_task("mathvision")
    score = task.score(samples("mathvision:test")[row], Completion("x", answer))
    assert score.values == {"accuracy": value}
    assert score.unparsed is (not answer)


def submitted(name: str, tmp_path: Path) -> Any:
    outcome = run_cell(cell(name, tmp_path, Says("says")), progress=False)
    path, site, n, missing = write_submission(outcome.cell.stored)
    assert (n, missing, bool(site)) == (10, 0, True)
    return path


def test_hidden_answers_become_the_file_that_the_server_takes(tmp_path: Path) -> None:
    mmmu = json.loads(submitted("mmmu:test", tmp_path).read_text())
    assert mmmu.keys() == {f"validation_Art_Theory_{i}" for i in range(1, 11)}
    assert set(mmmu.values()) <= {"A", "B", "yes", "12", ""}


def test_document_answers_are_submitted_by_question(tmp_path: Path) -> None:
    asked = load_task("docvqa:test").samples(
        Row(
            {
                "questionId": "57344",
                "question": "What is the date?",
                "image": catalogue.picture(0),
                "ucsf_document_id": "x",
                "ucsf_document_page_no": "1",
                "answers": None,
                "question_types": None,
            }
        )
    )
    made = load_task("docvqa:test").submission((s, "8/7/99") for s in asked)  # type: ignore[misc]
    assert json.loads(made.content) == [{"questionId": 57344, "answer": "8/7/99"}]


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = run_cell(cell("mmmu:test", tmp_path, Says("says")), progress=False).cell.folder
    file = tmp_path / "answers.json"
    assert main(["submission", str(where), "--to", str(file)]) == 0
    assert "10 answers; to be scored at" in capsys.readouterr().out
    assert len(json.loads(file.read_text())) == 10


def test_a_part_of_the_answers_is_submitted_only_on_purpose(tmp_path: Path) -> None:
    where = cell("mmmu:test", tmp_path, Says("says"))
    run_cell(where, Selection(first=(0, 4)), progress=False)
    with pytest.raises(UsageError, match="a part of the samples was run.* --incomplete"):
        write_submission(where.stored)
    path, _, n, _ = write_submission(where.stored, tmp_path / "some.json", incomplete=True)
    assert (n, len(json.loads(path.read_text()))) == (4, 4)


def test_several_answers_of_a_sample_are_not_submitted(tmp_path: Path) -> None:
    outcome = run_cell(cell("mmmu:test", tmp_path, Says("says")), progress=False)
    drawn = moved(outcome.cell.stored, asking={"temperature": 1.0, "repeats": 2})
    with pytest.raises(UsageError, match="several answers of each sample"):
        write_submission(drawn)


def test_mmbench_is_submitted_as_a_sheet(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    sheet = openpyxl.load_workbook(submitted("mmbench:test_en", tmp_path)).active
    head, *rows = sheet.iter_rows(values_only=True)
    assert head == ("index", "question", "A", "B", "prediction", "category")
    assert (len(rows), rows[1][0], rows[1][4]) == (10, 1_000_000, rows[1][4])


def test_public_answers_are_not_submitted(tmp_path: Path) -> None:
    outcome = run_cell(cell("mmstar:val", tmp_path, Says("says")), progress=False)
    with pytest.raises(UsageError, match="its answers are public"):
        write_submission(outcome.cell.stored)


def test_egoschema_is_submitted_as_indices() -> None:
    task = load_task("egoschema:full")
    asked = [Sample(id="a"), Sample(id="b")]
    made = task.submission(zip(asked, ("C", None)))
    assert json.loads(made.content) == {"a": 2, "b": -1}


def test_perceptiontest_is_submitted_by_video() -> None:
    choices = ("A. up", "B. down", "C. not at all")
    asked = [Sample(id=f"video_7-{i}", cluster="video_7", choices=choices) for i in (3, 4)]
    made = load_task("perceptiontest:test").submission(zip(asked, ("B", None)))
    assert json.loads(made.content) == {"video_7": [{"id": 3, "answer_id": 1, "answer": "down"}]}
