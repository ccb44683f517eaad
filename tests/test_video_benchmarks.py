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
from time import process_time
from typing import Any

import numpy as np
import pytest
from evalkit.tasks import mlvu

from evalkit.adapter import with_subtitles
from evalkit.cell import Cell
from evalkit.cell_results import CellResults
from evalkit.errors import DataError
from evalkit.metrics import readers, spans, video_readers
from evalkit.metrics.open_answer import VIDEO_MMMU, open_answer
from evalkit.metrics.open_answer import read as open_values
from evalkit.records import Record
from evalkit.runner import run_cell
from evalkit.subtitles import Cue, interleaved, read_timed
from evalkit.task import Row, RowError, Task, checked_score, load_task, read_samples
from evalkit.types import Completion, Image, Sample, Text, Video
from tests.official import BUILDERS, TIMED, inline, tar_parts
from tests.pictures import png
from tests.plugins.looker import Looker
from tests.test_media import levels
from tests.test_metrics_readers import OPTIONS, answers, can_infer

NAMES = (
    "mlvu:dev",
    "mlvu:test",
    "longvideobench:val",
    "lvbench:test",
    "charades_sta:test",
    "videommmu:perception",
)


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
        replace(
            s,
            id=f"{k}-{s.id}",
            cluster=f"{k}-{s.cluster}",
            metadata={**s.metadata, "lecture": f"{k}-{s.cluster}"},
        )
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
        zips[0].unlink()
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
     '[{"timestamp": ["a", 2], "text": "x"}]', '[{"line": "x"}]',
     '[{"start": 1.5, "end": "0:0:3", "line": "x"}]', '[{"start": null, "end": 2, "line": "x"}]',
     f'[{{"timestamp": [1, 1{"0" * 400}], "text": "x"}}]'],
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


# ---- Charades-STA


CHARADES = {"video": "V.mp4", "caption": "a person sits down.", "timestamp": [1.5, 3.5]}


def test_charades_is_asked_as_lmms_eval_does() -> None:
    asked = prompt(load_task("charades_sta", "lmms-eval"), CHARADES)
    assert asked.startswith("<>Please find the visual event described by a sentence in the video, ")
    assert asked.endswith(
        "textual sentence: a person sits down.. Please return its start time and end time."
    )


@pytest.mark.parametrize(
    "timestamp", [None, [1.5], [3.5, 1.5], [1.5, 1.5], ["1", "2"], [True, 2], [-1, 2], [1, np.inf]]
)
def test_an_odd_time_of_charades_is_an_error(timestamp: object) -> None:
    with pytest.raises(DataError, match="'timestamp' is .*, not a start and a later end"):
        prompt(load_task("charades_sta"), CHARADES | {"timestamp": timestamp})


def test_times_of_half_precision_are_read(tmp_path: Path) -> None:
    task = load_task("charades_sta")
    first, second, *_ = samples(task, BUILDERS["charades_sta:test"](tmp_path))
    assert first.target == (1.0, 3.5) and second.target == (float(np.float16(1.1)), 3.5)
    assert task.right_answer(first) == "1.0 - 3.5"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("24.3 - 30.4", (24.3, 30.4)),
        ("The event happens in 24.3 – 30.4 seconds.", (24.3, 30.4)),
        ("From 3s to 12.5 seconds", (3.0, 12.5)),
        ("between 3 and 12 s", (3.0, 12.0)),
        ("00:03 - 00:12.5", (3.0, 12.5)),
        ("1:02:03 to 1:02:05", (3723.0, 3725.0)),
        ("It starts at 00:00:18 and ends at 00:00:23.", (18.0, 23.0)),
        ("Start time: 0.8 seconds\nEnd time: 1.1 seconds", (0.8, 1.1)),
        ('```json\n{"start": 3, "end": 12.5}\n```', (3.0, 12.5)),
        ('[{"start_time": "00:03", "end_time": "00:12", "event": "he sits"}]', (3.0, 12.0)),
        ('{"timestamp": [3.0, 12.5]}', (3.0, 12.5)),
        ('["00:03", "00:12"]', (3.0, 12.0)),
        ("<3.0s - 12.5s>", (3.0, 12.5)),
        ("3 - 12 s, yes: 3 - 12", (3.0, 12.0)),
        ("5 - 5", (5.0, 5.0)),
        ("3 - 12 or 15 - 20", None),
        ("12 - 3", None),
        ("1:75 - 2:10", None),
        ("at 3 seconds", None),
        ("He sits down at 3, and 2 people watch.", None),
        ("", None),
        ("in 2024", None),
        ("1" * 400 + " - " + "9" * 400, None),
    ],
)
def test_a_span_is_read_in_every_usual_form_and_never_guessed(
    text: str, span: tuple[float, float] | None
) -> None:
    assert spans.parse_span(text) == span


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 4), (2, 6), 1 / 3),
        ((0, 10), (2, 7), 0.5),
        ((1, 2), (1, 2), 1.0),
        ((0, 1), (1, 2), 0.0),
        ((0, 1), (5, 6), 0.0),
        ((3, 3), (0, 6), 0.0),
        ((3, 3), (3, 3), 0.0),
    ],
)
def test_intersection_over_union_of_spans(
    a: tuple[float, float], b: tuple[float, float], value: float
) -> None:
    assert spans.iou(a, b) == spans.iou(b, a) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "overlap", "recalls"),
    [
        ("1.5 - 3.5", 1.0, (1, 1, 1)),
        ("2.5 - 3.5", 0.5, (1, 1, 0)),
        ("1.5 - 8.5", 2 / 7, (0, 0, 0)),
        ("in the kitchen", 0.0, (0, 0, 0)),
    ],
)
def test_recall_counts_spans_at_the_threshold(
    text: str, overlap: float, recalls: tuple[int, ...]
) -> None:
    score = load_task("charades_sta").score(Sample("1", target=[1.5, 3.5]), Completion("1", text))
    assert score.values["mIoU"] == pytest.approx(overlap)
    assert tuple(score.values[f"R@{t}"] for t in (0.3, 0.5, 0.7)) == recalls
    assert score.unparsed is (text == "in the kitchen")


def extract_time(text: str) -> tuple[float, float] | None:
    """lmms-eval's rule, step by step."""
    text = text.lower().replace("a specific example is : 20.8 - 30.0 seconds", "")
    sentences = re.split(r"[!?\n]", text.replace("to", "-"))
    keys = ["starts", "ends", "happens in", "start time", "end time", "start", "end", "happen"]
    chosen = [s for s in sentences if any(k in s for k in keys)] or sentences

    def clock(t: str) -> float:
        *hours, minutes, seconds = map(float, t.split(":"))
        return (hours[0] * 3600 if hours else 0) + minutes * 60 + seconds

    stamps: list[tuple[float, float]] = []
    time = r"\d{1,2}:\d{2}(?::\d{2})?"
    for pattern, value in (
        (rf"\b({time})\s*[–-]\s*({time})\b", clock),
        (r"(\d+(?:\.\d+)?)\s*[–-]\s*(\d+(?:\.\d+)?)", float),
    ):
        for s in chosen if not stamps else []:
            if found := re.findall(pattern, s):
                stamps = [(value(a), value(b)) for a, b in found]
                break
    for pattern, value, most in ((rf"\b({time})\b", clock, 99), (r"\b(\d+(?:\.\d+)?)\b", float, 1)):
        if not stamps:
            times = [value(t) for s in chosen for t in re.findall(pattern, s)[:most]]
            stamps = list(zip(times[::2], times[1::2]))
    for s in chosen if not stamps else []:
        if found := re.findall(r"(\d+(?:\.\d+)?)\s*s?\s*[–-]\s*(\d+(?:\.\d+)?)\s*s?", s):
            stamps = [(float(a), float(b)) for a, b in found]
            break
    return None if not stamps else (min(stamps[0]), max(stamps[0]))


def test_lmms_evals_spans_are_those_of_its_rule() -> None:
    chance = random.Random(0)
    parts = ["starts at ", "ends at ", "The event happens in ", "start time: ", " - ", " to ", "–"]
    parts += ["3", "12.5", "7s", "00:03", "1:02:03", "00:12", " s", " and ", "\n", "!", ". ", "he "]
    read = 0
    for _ in range(3000):
        said = "".join(chance.choices(parts, [1] * 7 + [3] * 6 + [1] * 6, k=chance.randint(1, 7)))
        assert spans.lmms_eval(said) == extract_time(said), said
        read += extract_time(said) is not None
    assert 300 < read < 2700


def test_rows_of_digits_and_blanks_are_read_in_no_time() -> None:
    started = process_time()
    for text in ("1" * 100_000, "3" + " " * 100_000, "start 5 s" + " " * 100_000 + "7"):
        assert spans.lmms_eval(text) is None
        assert open_answer(text, ["24.5"]) == 0
    assert process_time() - started < 5  # minutes, where each sign begins anew


# ---- Video-MMMU


LECTURE = {
    "id": "dev_Biology_3",
    "question": "<image 1> What sugar is this?",
    "options": ["A. aldose", "B. ketose"],
    "answer": "A",
    "question_type": "multiple-choice",
    "image": {"bytes": png(56, 56, 3), "path": "3.png"},
}
LISTED = "<image 1> What sugar is this?\nA. aldose\nB. ketose"
LEARN = "You should watch and learn the video content. Then apply what you learned to answer the "
AT_END = " question. The image for this question is at the end of the video.\n"
IGNORE = "\nPlease ignore the Quiz question in last frame of the video."
ADD = "\nAdd `Answer: {Your final answer}` at the end of your reply."


@pytest.mark.parametrize(
    ("name", "protocol", "changes", "expected"),
    [
        ("perception", "lmms-eval", {}, f"<>{LISTED}{IGNORE}"),
        ("comprehension", "default", {}, f"<>{LISTED}{IGNORE}"),
        ("perception", "vlmevalkit", {}, f"<>{LISTED}{IGNORE}{ADD}"),
        ("adaptation", "lmms-eval", {}, f"<>{LEARN}following multi-choice{AT_END}{LISTED}"),
        (
            "adaptation",
            "vlmevalkit",
            {},
            f"<><>{LEARN}following multi-choice{AT_END}{LISTED}{ADD}",
        ),
        (
            "adaptation",
            "lmms-eval",
            {"question_type": "open", "options": [], "answer": "5"},
            f"<>{LEARN}following open-ended{AT_END}<image 1> What sugar is this?",
        ),
    ],
)
def test_video_mmmu_is_asked_as_its_harnesses_do(
    name: str, protocol: str, changes: dict[str, Any], expected: str
) -> None:
    assert prompt(load_task(f"videommmu:{name}", protocol), LECTURE | changes) == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"options": []}, "'question_type' is 'multiple-choice', and there are 0 options"),
        ({"question_type": "open"}, "'question_type' is 'open', and there are 2 options"),
        ({"question_type": None}, "'question_type' is None"),
        ({"options": ["a", " "]}, "'options' has an empty one"),
        ({"answer": "C"}, "'answer' is 'C', not one of A, B"),
        ({"id": None}, "'id' is null"),
    ],
)
def test_an_odd_row_of_video_mmmu_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        prompt(load_task("videommmu:adaptation"), LECTURE | changes)


def test_a_picture_that_is_absent_costs_both_halves_of_the_gain(tmp_path: Path) -> None:
    task = load_task("videommmu:knowledge_gain")
    found = list(task.samples(Row({"clip": Path(__file__), **LECTURE})))
    assert [s.metadata["track"] for s in found if isinstance(s, Sample)] == ["after", "before"]
    assert [type(s.messages[0].content[0]) for s in found if isinstance(s, Sample)] == [
        Video,
        Image,
    ]
    pieces: list[Sample] = []
    with pytest.raises(DataError, match="'image' holds no image"):
        pieces.extend(task.samples(Row({"clip": Path(__file__), **LECTURE, "image": None})))  # type: ignore[arg-type]
    assert pieces == []


@pytest.mark.parametrize("shares", [(0.7, 0.4), (0.3, 0.6), (0.5, 0.5), (1.0, 0.5), (0.0, 0.9)])
def test_the_knowledge_gain_is_the_share_of_errors_that_are_mended(
    shares: tuple[float, float], tmp_path: Path
) -> None:
    chance = random.Random(0)
    task = load_task("videommmu:knowledge_gain")
    asked = repeated(samples(task, BUILDERS["videommmu:adaptation"](tmp_path)), 30)
    right = [chance.random() < shares[s.metadata["track"] == "before"] for s in asked]
    said = [right_answer(s) if r else "none" for s, r in zip(asked, right)]
    after, before = (
        [r for s, r in zip(asked, right) if s.metadata["track"] == t] for t in ("after", "before")
    )
    a, b = sum(after) / len(after), sum(before) / len(before)
    gain = 100 * (a - b) / (1 - b)
    expected = {"knowledge_gain": gain, "after": 100 * a, "before": 100 * b}
    assert values(task, asked, said) == pytest.approx(expected)


def test_an_answer_that_is_lost_takes_its_lecture_out_of_the_gain(tmp_path: Path) -> None:
    """Of 60 questions 30 are right after the lecture and 15 before: half of the clips fail."""
    task = load_task("videommmu:knowledge_gain")
    asked = repeated(samples(task, BUILDERS["videommmu:adaptation"](tmp_path)), 30)
    records, seen = [], {"after": 0, "before": 0}
    for sample in asked:
        track = sample.metadata["track"]
        k, seen[track] = seen[track], seen[track] + 1
        if track == "after" and k % 8 >= 4:
            records.append(Record(sample.id, sample.cluster, sample.metadata, error="too long"))
            continue
        right = k % 4 < (2 if track == "after" else 1)
        completion = Completion(sample.id, right_answer(sample) if right else "none")
        score = checked_score(task, sample, completion)
        records.append(Record.of(sample, "", completion, score))
    found = CellResults.of(records, task.metrics, complete=True)
    gain = next(m.value for m in found.metrics if m.metric == "knowledge_gain")
    assert gain == pytest.approx(100 * (0.5 - 0.25) / (1 - 0.25))


def right_answer(sample: Sample) -> str:
    return sample.target if isinstance(sample.target, str) else "ABCDEFGHIJ"[sample.target]


def test_the_gain_has_an_interval_and_a_perfect_model_none(tmp_path: Path) -> None:
    task = load_task("videommmu:knowledge_gain")
    asked = repeated(samples(task, BUILDERS["videommmu:adaptation"](tmp_path)), 30)
    chance = random.Random(1)
    for wrong in (0.5, 0.0):
        records = []
        for sample in asked:
            text = "none" if chance.random() < wrong else right_answer(sample)
            completion = Completion(sample.id, text)
            score = checked_score(task, sample, completion)
            records.append(Record.of(sample, "", completion, score))
        metrics = {
            m.metric: m for m in CellResults.of(records, task.metrics, complete=True).metrics
        }
        gain = metrics.get("knowledge_gain")
        assert (gain is None) is (wrong == 0)  # nothing was left to be learnt
        if gain:
            assert gain.ci_low is not None and gain.ci_high is not None
            assert gain.ci_low < gain.value < gain.ci_high < 100


@pytest.mark.parametrize(
    ("protocol", "text", "value", "unparsed"),
    [
        ("default", "The total is 24.5", 1.0, False),
        ("default", "24.5", 1.0, False),
        ("default", "adds up to 7", 0.0, False),
        ("default", " ", 0.0, True),
        ("vlmevalkit", "It could be 24.5. Answer: 7", 0.0, False),
        ("vlmevalkit", "It could be 7. Answer: 24.5", 1.0, False),
        ("vlmevalkit", "24.5 Answer:", 0.0, True),
    ],
)
def test_open_questions_are_read_by_mmmus_rule(
    protocol: str, text: str, value: float, unparsed: bool
) -> None:
    task = load_task("videommmu:adaptation", protocol)
    score = task.score(Sample("1", target="24.5"), Completion("1", text))
    assert (score.values["accuracy"], score.unparsed) == (value, unparsed)


def test_further_words_announce_an_answer_of_video_mmmu() -> None:
    said = "the sum so far is 3 and it has twelve"
    assert open_values(said) == ["3 and it has twelve", 3.0]
    assert open_values(said, VIDEO_MMMU) == ["twelve"]


def kit_choice(answer: str) -> str | None:
    """VLMEvalKit's rule for Video-MMMU, step by step."""
    said = answer.rpartition("Answer:")[-1].strip()
    if said == "":
        return None
    for mark in [",", ".", "!", "?", ";", ":", "'"]:
        said = said.strip(mark)
    said = f" {said} "
    options = dict(zip("ABCD", OPTIONS))
    stopped = [c for c in "ABCD" if f"{c}." in said]
    colon = [c for c in "ABCD" if f"{c}:" in said]
    found = stopped + colon
    form = "{}." if stopped else "{}:"
    if not found:
        found, form = [c for c in "ABCD" if f"({c})" in said], "({})"
    if not found:
        found, form = [c for c in "ABCD" if f"{c} " in said], " {} "
    if found:
        return found[int(np.argmax([said.rfind(form.format(c)) for c in found]))]
    if len(said.split()) > 5:
        found = [c for c, o in options.items() if o.lower() in said.lower()]
    if not found:
        return None
    return found[int(np.argmax([said.lower().rfind(options[c].lower()) for c in found]))]


def test_video_mmmus_reader_follows_vlmevalkits_rule() -> None:
    named = 0
    for i, answer in enumerate(answers(2000)):
        said = f"Because. Answer: {answer}" if i % 3 else answer
        index = video_readers.videommmu_vlmevalkit(said, OPTIONS)
        assert (None if index is None else "ABCD"[index]) == kit_choice(said), said
        named += index is not None
    assert 500 < named < 1950


# ---- MMVU


EXPERT = {
    "id": "val_1",
    "video_path": "videos/Art/1.mp4",
    "question_type": "multiple-choice",
    "question": "Why?",
    "choices": {c: f"reason {c}" for c in "ABCDE"},
    "answer": "C",
}


@pytest.mark.parametrize("protocol", ["default", "lmms-eval"])
def test_mmvu_is_asked_in_its_authors_words(protocol: str) -> None:
    options = "".join(f"{c}: reason {c}\n" for c in "ABCDE")
    assert prompt(load_task("mmvu", protocol), EXPERT) == (
        f"<>\nQuestion:Why?\n{options}Visual Information: processed video\nDo not generate any "
        "intermediate reasoning process. Answer directly with the option letter from the\n"
        "given choices.\n"
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"choices": None}, "'choices' is None"),
        ({"choices": {"A": "x"}}, "no column 'B'"),
        ({"choices": dict.fromkeys("ABCDE")}, "it has 0 options"),
        ({"answer": "F"}, "'answer' is 'F'"),
        ({"question_type": "essay"}, "'question_type' is 'essay'"),
    ],
)
def test_an_odd_row_of_mmvu_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        prompt(load_task("mmvu"), EXPERT | changes)


def test_open_questions_of_mmvu_are_not_asked(tmp_path: Path) -> None:
    found = samples(load_task("mmvu"), BUILDERS["mmvu:val_mc"](tmp_path))
    assert [s.id for s in found] == [f"val_{i}" for i in range(12) if i not in (3, 7)]
    assert {s.metadata["subject"] for s in found} == {"Art", "Chemistry"}
    assert not list(load_task("mmvu").samples(Row({**EXPERT, "question_type": "open-ended"})))


@pytest.mark.parametrize(
    ("text", "letter"),
    [("C", "C"), ("c: reason C", "C"), ("(E)", "E"), ("It is a cat", "A"), ("F", None), ("", None)],
)
def test_mmvus_first_letter_is_the_answer(text: str, letter: str | None) -> None:
    index = readers.READERS["mmvu"](text, ["x"] * 5)
    assert (None if index is None else "ABCDE"[index]) == letter


def test_a_long_answer_without_a_span_is_read_in_no_time() -> None:
    for text in (
        "start " * 20_000,
        "9" * 100_000,
        "1" + " " * 100_000,
        "start 1" + " end" * 30_000,
    ):
        assert spans.parse_span(text) is None
        spans.lmms_eval(text)
