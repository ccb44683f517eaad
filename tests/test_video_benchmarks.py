"""Benchmarks of the Qwen2.5-VL and Qwen3-VL reports: asked as their harnesses ask, read and scored
as the published rules do, over rows in their official layouts.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evalkit.tasks import mlvu

from evalkit.adapter import with_subtitles
from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.errors import DataError
from evalkit.metrics import readers, video_readers
from evalkit.records import Record
from evalkit.runner import run_cell
from evalkit.subtitles import Cue, interleaved, read_timed
from evalkit.task import Row, RowError, Task, checked_score, load_task, read_samples
from evalkit.types import Completion, Sample, Text
from tests.official import BUILDERS, TIMED, inline, tar_parts
from tests.plugins.looker import Looker
from tests.test_media import levels
from tests.test_metrics_readers import OPTIONS, answers, can_infer

NAMES = ("mlvu:dev", "mlvu:test", "longvideobench:val", "lvbench:test")


def samples(task: Task, data: Path) -> list[Sample]:
    return [s for s in read_samples(task, data) if isinstance(s, Sample)]


def prompt(task: Task, row: dict[str, Any]) -> str:
    """The conversation about a row, with media as marks."""
    (sample,) = task.samples(Row({"clip": Path(__file__), **row}))
    assert isinstance(sample, Sample)
    parts = sample.messages[-1].content
    return "".join(p.text if isinstance(p, Text) else "<>" for p in parts)


def values(task: Task, asked: list[Sample], said: list[str]) -> dict[str, float]:
    """The headline numbers of answers, as a run would have them."""
    records = []
    for sample, text in zip(asked, said, strict=True):
        completion = Completion(sample.id, text)
        records.append(Record.of(sample, "", completion, checked_score(task, sample, completion)))
    found = CellResults.of(records, task.metrics, complete=True)
    return {m.metric: m.value for m in found.metrics}


def repeated(asked: list[Sample], times: int) -> list[Sample]:
    """The samples over and over, with ids and clusters of their own."""
    return [
        replace(s, id=f"{k}-{s.id}", cluster=f"{k}-{s.cluster}")
        for k in range(times)
        for s in asked
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_that_is_absent_costs_its_own_questions(name: str, tmp_path: Path) -> None:
    data = BUILDERS[name](tmp_path / "data")
    if zips := sorted(data.rglob("*.zip")):
        zips[-1].unlink()
    else:
        tar_parts(data, "videos", {f"videos/v{i}.mp4": levels() for i in range(4)}, 3)
    absent = [
        s
        for s in read_samples(load_task(name), data)
        if isinstance(s, RowError) and "no clip" in s.reason
    ]
    cell = Cell.make(load_task(name), Looker("x"), "x", tmp_path / "out", data)
    results = run_cell(cell, progress=False).results
    assert 0 < len(absent) < results.n_total
    assert len(absent) <= results.errors <= len(absent) + 1  # and the odd row


# ---- MLVU


def test_mlvu_is_asked_as_its_harnesses_do() -> None:
    row = {"video_name": "1.mp4", "question": inline(1), "answer": "B", "task_type": "ego"}
    options = "(A) thing A1\n(B) thing B1\n(C) thing C1\n(D) thing D1\n"
    assert prompt(load_task("mlvu"), row) == (
        "Carefully watch this video and pay attention to every detail. Based on your observations, "
        "select the best option that accurately addresses the question.<>Question: What happens? 1"
        f"\nOptions:\n{options}Only give the best option."
    )
    assert prompt(load_task("mlvu", "lmms-eval"), row) == (
        f"<>What happens? 1\n{options}\nOnly give the best option.\nBest option: ("
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"question": "What happens?"}, "lists the options none"),
        ({"question": "What?\n(A) one\n(C) two"}, "lists the options AC"),
        ({"question": "What?\n(A) one\n(B) "}, "nothing but the letter"),
        ({"answer": "E"}, "'answer' is 'E'"),
        ({"answer": None}, "'answer' is None"),
        ({"task_type": "needleQA"}, "'task_type' is 'needleQA', not one of plotQA, needle,"),
        ({"video_name": None}, "'video_name' is null"),
    ],
)
def test_an_odd_row_of_mlvu_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    row = {"video_name": "1.mp4", "question": inline(1), "answer": "B", "task_type": "ego"}
    with pytest.raises(DataError, match=complaint):
        prompt(load_task("mlvu"), row | changes)


def test_m_avg_is_the_mean_over_tasks_and_vlmevalkits_over_questions(tmp_path: Path) -> None:
    task = load_task("mlvu")
    asked = repeated(samples(task, BUILDERS["mlvu:dev"](tmp_path)), 20)
    said = random.Random(0).choices(["A", "(B) it", "C.", "none of them"], k=len(asked))
    right: dict[str, list[bool]] = defaultdict(list)
    for sample, answer in zip(asked, said):
        right[sample.metadata["task_type"]].append(answer.strip("(")[0] == "ABCD"[sample.target])
    assert set(right) == set(mlvu.KINDS["dev"])
    mean = 100 * sum(sum(r) / len(r) for r in right.values()) / 7
    micro = 100 * sum(map(sum, right.values())) / len(asked)
    assert values(task, asked, said) == pytest.approx({"m_avg": mean, "accuracy": micro})
    assert mean != pytest.approx(micro)
    assert load_task("mlvu", "vlmevalkit").metrics[0].name == "accuracy"


def test_mlvus_readers_follow_the_published_rules() -> None:
    named = both = 0
    for answer in answers():
        index = answer.find(")")
        letter = answer[index - 1 : index] if index >= 0 else answer
        fits = [c for c in "ABCD" if c in (letter, can_infer(answer))]
        read = readers.mlvu_vlmevalkit(answer, OPTIONS)
        assert read == ("ABCD".index(fits[0]) if len(fits) == 1 else None), answer
        named, both = named + (len(fits) == 1), both + (len(fits) > 1)
        six = readers.lmms_eval_four(answer, [*OPTIONS, "E", "F"])
        assert six == readers.lmms_eval(answer, OPTIONS)
    assert named > 300 and both


# ---- LongVideoBench


LVB = {
    "video_path": "v0.mp4",
    "question": "What is said?",
    **{f"option{i}": f"thing {i}" if i < 3 else "N/A" for i in range(5)},
    "correct_choice": 2,
    "id": "v0_0",
    "duration_group": 15,
    "question_category": "S2E",
}


def test_longvideobench_is_asked_as_its_harnesses_do() -> None:
    options = "A. thing 0\nB. thing 1\nC. thing 2\n"
    last = "Answer with the option's letter from the given choices directly."
    asked = f"What is said?\n{options}{last}"
    for protocol, expected in (
        ("default", f"<>{asked}"),
        ("vlmevalkit", f"<>{asked}"),
        ("lmms-eval", f"<>{asked}\n"),
    ):
        assert prompt(load_task("longvideobench", protocol), LVB) == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"option1": "N/A"}, "the options are"),
        ({"option4": "thing 4"}, "the options are"),
        ({"option0": None}, "'option0' is null"),
        ({"correct_choice": 3}, "'correct_choice' is 3, not one of 0 to 2"),
        ({"correct_choice": -1}, "'correct_choice' is -1"),
        ({"id": None}, "'id' is null"),
    ],
)
def test_an_odd_row_of_longvideobench_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        prompt(load_task("longvideobench"), LVB | changes)


def laid_out(name: str, data: Path, protocol: str = "", **budget: int) -> list[str]:
    """What the first question becomes, with pictures as their middle levels."""
    task = load_task(name, protocol)
    (message,) = with_subtitles(
        Looker("x"), samples(task, data)[0].messages, replace(task.budget, **budget)
    )
    return [p.text if isinstance(p, Text) else f"<{type(p).__name__}>" for p in message.content]


def test_subtitles_stand_between_the_pictures_of_a_clip(tmp_path: Path) -> None:
    data = BUILDERS["longvideobench:val_interleaved"](tmp_path / "data")
    name, picture = "longvideobench:val_interleaved", "<Image>"
    *shown, question = laid_out(name, data)  # a clip of 5 s: at 0, 1, 2, 3 and 4 s
    assert shown == [picture, "hello\n", *[picture] * 3, "good bye\n", picture]
    assert question.startswith("Question: What is said while it falls? 0\nA. thing 0\n")
    assert laid_out(name, data, max_frames=2)[:-1] == [picture, picture]  # at 0 and 2.4 s
    *shown, lines, question = laid_out(name, data, "lmms-eval")
    assert (shown, lines) == ([picture] * 5, "\nhello\n\n\n\ngood bye\n\n")
    assert question.startswith("What is said while it falls? 0\n")


def by_loader(cues: list[Cue], times: list[float]) -> list[int | str]:
    """The loop of LongVideoBench's loader."""
    out: list[int | str] = []
    at = 0
    for cue in cues:
        start, end = cue.start, cue.end
        middle = (start + end) / 2
        for i, time in enumerate(times[at:], at):
            if time > middle:
                break
            out.append(i)
            at += 1
        if end - start < 1:
            end, start = middle + 0.5, middle - 0.5
        if [t for t in times if t < end and t > start]:
            out.append(cue.text)
    return [*out, *range(at, len(times))]


def test_cues_and_frames_are_ordered_as_by_the_loader() -> None:
    chance = random.Random(0)
    for _ in range(300):
        times = sorted(chance.choices([i / 2 for i in range(40)], k=chance.randint(0, 8)))
        starts = [chance.uniform(-3, 20) for _ in range(chance.randint(0, 8))]
        cues = [Cue(s, s + chance.choice([0.2, 0.9, 1, 4]), f"{s}") for s in sorted(starts)]
        assert interleaved(cues, times) == by_loader(cues, times)


@pytest.mark.parametrize(
    "content",
    ["", "[", "{}", '{"text": 1}', '[{"timestamp": [1], "text": "x"}]', '["x"]',
     '[{"timestamp": [1, 2], "text": 5}]', '[{"start": "1:2", "end": "0:0:3", "line": "x"}]',
     '[{"timestamp": ["a", 2], "text": "x"}]', '[{"line": "x"}]'],
)  # fmt: skip
def test_subtitles_of_another_form_are_an_error_of_their_questions(
    content: str, tmp_path: Path
) -> None:
    file = tmp_path / "x_en.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"x_en\.json: can't be read as subtitles"):
        read_timed(file, 0, 10)


def test_absent_subtitles_are_an_error(tmp_path: Path) -> None:
    name = "longvideobench:val_interleaved"
    data = BUILDERS[name](tmp_path)
    timed = json.dumps(TIMED).encode()
    tar_parts(data, "subtitles", {"subtitles/v0_en.json": timed}, 1)
    errors = [s.reason for s in read_samples(load_task(name), data) if isinstance(s, RowError)]
    assert len(errors) == 9 and "no subtitles 'v1_en.json'" in errors[0]
    assert len(samples(load_task("longvideobench:val"), data)) == 10


def first_capital(answer: str, leads: list[str]) -> str:
    answer = answer.strip()
    for lead in leads:
        answer = answer.replace(lead, "")
    if len(answer.split()) > 10 and not re.search("[ABCDE]", answer):
        return ""
    found = re.search(r"[ABCDE]", answer)
    return found[0] if found else ""


def test_longvideobenchs_readers_follow_the_published_rules() -> None:
    four = ["The best answer is", "The correct answer is", "The answer is", "The answer"]
    lmms = [*four, "The best option is", "The correct option is", "Best answer:", "Best option:"]
    kit = [*four, "The best option isThe correct option is", "Best answer:Best option:"]
    kit += ["Answer:", "Option:"]
    leads = ["", "", "The best option is ", "Best answer: ", "Answer: ", "Option: "]
    for i, answer in enumerate(answers()):
        said = leads[i % len(leads)] + answer
        for read, rule in (
            (video_readers.longvideobench, lmms),
            (video_readers.longvideobench_vlmevalkit, kit),
        ):
            expected = first_capital(said, rule)
            index = "ABCD".index(expected) if expected in tuple("ABCD") else None
            assert read(said, OPTIONS) == index, said


# ---- LVBench


LVBENCH = {
    "uid": "7",
    "video_path": "k.mp4",
    "question": "What year is it?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
    "answer": "D",
    "question_type": ["reasoning", "entity recognition"],
}


def test_lvbench_is_asked_as_lmms_eval_does() -> None:
    listed = "What year is it?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633"
    asked = prompt(load_task("lvbench", "lmms-eval"), LVBENCH)
    assert asked == f"<>{listed}\nAnswer the question with the option letter"
    assert prompt(load_task("lvbench"), LVBENCH).startswith("<>What year is it?\nA. 1636\nB. 13")
    (sample,) = load_task("lvbench").samples(Row({"clip": Path(__file__), **LVBENCH}))
    assert isinstance(sample, Sample)
    assert (sample.id, sample.cluster, sample.target) == ("7", "k.mp4", 3)
    assert sample.metadata["abilities"] == "entity recognition, reasoning"


# ---- TempCompass


CAPTIONS = {
    "video_id": "1",
    "question": "Which fits?\nCaption A: It falls.\nCaption B: It rises.",
    "answer": "Caption B: It rises.",
    "dim": "direction",
}


@pytest.mark.parametrize("protocol", ["default", "authors", "lmms-eval", "vlmevalkit"])
def test_tempcompass_is_asked_in_its_authors_words(protocol: str) -> None:
    best = "\nPlease directly give the best option:"
    task = load_task("tempcompass:caption_matching", protocol)
    assert prompt(task, CAPTIONS) == f"<>{CAPTIONS['question']}{best}"
    choice = {**CAPTIONS, "question": "What?\nA. up\nB. down", "answer": "B. down"}
    asked = prompt(load_task("tempcompass", protocol), choice)
    assert asked == f"<>What?\nA. up\nB. down{best}"
    yes_no = {**CAPTIONS, "question": "Does it fall?", "answer": "no"}
    asked = prompt(load_task("tempcompass:yes_no", protocol), yes_no)
    assert asked == "<>Does it fall?\nPlease answer yes or no:"


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("multi_choice", {"answer": "C. left"}, "'answer' is 'C. left', none of the"),
        ("multi_choice", {"question": "Which fits?"}, "none of the question's lines"),
        ("multi_choice", {"dim": "colour"}, "'dim' is 'colour', not one of action,"),
        ("multi_choice", {"video_id": None}, "'video_id' is null"),
        ("yes_no", {}, "'answer' is 'Caption B: It rises.', not yes or no"),
        ("caption_matching", {"answer": None}, "'answer' is null"),
    ],
)
def test_an_odd_row_of_tempcompass_is_an_error(
    name: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        prompt(load_task(f"tempcompass:{name}"), CAPTIONS | changes)


def choice_rule(said: str, answer: str) -> int | str:
    """The authors' rule for options; ``answer`` is the right line."""
    if said == answer:
        return 1
    if said in ["A", "B", "C", "D"]:
        return int(said == answer[0])
    if any(said.startswith(p) for p in ["A.", "B.", "C.", "D."]):
        return int(said.split(".")[0] == answer[0])
    if any(said.startswith(p) for p in ["A)", "B)", "C)", "D)"]):
        return int(said.split(")")[0] == answer[0])
    return "fail"


def caption_rule(said: str, lines: list[str], answer: str) -> int | str:
    """The authors' rule for captions."""
    sentences = [line.split(": ")[1] for line in lines]
    labels = [line.split(": ")[0] for line in lines]
    labels += [label.split()[1] for label in labels]
    named = None
    for line in lines:
        if line == said:
            named = line
    for sentence in sentences:
        if sentence == said or (") " in said and sentence == said.split(") ")[1]):
            named = sentence
    for label in labels:
        if label in (said, said.replace(".", "")):
            named = label
    if named is None:
        return "fail"
    label, sentence = answer.split(": ")
    return int(named in (answer, label, sentence, label.split()[1]))


def test_tempcompass_is_scored_by_its_authors_rules() -> None:
    chance = random.Random(0)
    lines = ["Option 1: It falls.", "Option 2: It rises."]
    parts = ["Option 1", "1", "2", ": ", "It falls.", "It rises.", "1) ", "(2) ", ".", "A", "B)"]
    parts += ["yes", "No", "nothing", "B. ", " ", "Option 2: It rises."]
    failed = named = 0
    for _ in range(1500):
        said = "".join(chance.choices(parts, k=chance.randint(1, 3)))
        for name, ruled, target in (
            ("multi_choice", choice_rule(said, "B. down"), 1),
            ("caption_matching", caption_rule(said, lines, lines[1]), 1),
            ("yes_no", yes_no_rule(said, "no"), False),
        ):
            task = load_task(f"tempcompass:{name}", "authors")
            choices = {"multi_choice": ("A. up", "B. down", "C. left", "D. right"), "yes_no": ()}
            listed = choices.get(name, tuple(f"{c}. {x}" for c, x in zip("AB", lines)))
            score = task.score(Sample("1", choices=listed, target=target), Completion("1", said))
            expected = (0.0, True) if ruled == "fail" else (float(ruled), False)
            assert (score.values["accuracy"], score.unparsed) == expected, (name, said)
            failed, named = failed + (ruled == "fail"), named + (ruled == 1)
    assert failed > 300 and named > 300


def yes_no_rule(said: str, answer: str) -> int | str:
    lower = said.lower()
    found = "yes" if lower.startswith("yes") else "no" if lower.startswith("no") else ""
    return int(found == answer) if found else "fail"
