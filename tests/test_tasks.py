"""The built-in tasks: rows in the official schemas become samples with the published prompts, and
answers become scores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evalkit.errors import DataError, ScoringError, UsageError
from evalkit.task import (
    Metric,
    Row,
    RowError,
    Subset,
    Task,
    checked_score,
    load_task,
    read_samples,
    registered,
    task_class,
)
from evalkit.types import Completion, Image, Message, Sample, Score, Text, Video
from tests.pictures import png


def column(width: int = 40, height: int = 20) -> dict[str, Any]:
    """A picture as a column of parquet holds it."""
    return {"bytes": png(width, height), "path": "x.png"}


DOCVQA = {
    "questionId": "17",
    "question": "What is the total?",
    "image": column(),
    "ucsf_document_id": "easy-0012",
    "ucsf_document_page_no": "3",
    "answers": ["7890", "7,890"],
    "question_types": ["form"],
}
REFCOCO = {
    "question_id": "9",
    "image": column(),
    "answer": ["the red circle", "left circle"],
    "bbox": [10.0, 5.0, 20.0, 10.0],
    "file_name": "medium_0007.png",
}
NEXTQA = {
    "video": "hard-0003",
    "question": "Which way?",
    "answer": 1,
    "qid": "2",
    "type": "direction",
} | {f"a{i}": text for i, text in enumerate(["up", "down", "left", "right", "it stays still"])}
VIDEOMME = {
    "videoID": "abc",
    "question_id": "001-1",
    "question": "What is shown?",
    "options": ["A. A cat.", "B. A dog.", "C. A bird.", "D. Nothing."],
    "answer": "B",
    "duration": "short",
    "domain": "Life",
    "task_type": "Recognition",
}
MTVQA = {
    "image": column(),
    "qa_pairs": (
        "[{'question': 'What?', 'answer': 'чай'}, {'question': 'Where?', 'answer': 'дома'}]"
    ),
    "lang": "ru",
    "id": "5",
}


CHARTQA = {"type": "human_test", "question": "How many?", "answer": "42", "image": column()}
TEXTVQA = {
    "image_id": "ab",
    "question_id": 34,
    "question": "Which brand?",
    "image": column(),
    "answers": ["coke"] * 8 + ["pepsi"] * 2,
}
OCRBENCH = {
    "dataset": "IIIT5K",
    "question": "what is written?",
    "question_type": "Regular Text Recognition",
    "answer": ["stop"],
    "image": column(),
}
SUFFIX = "\nPlease try to answer the question with short words or phrases if possible."


def only(task: Task, row: dict[str, Any]) -> Sample:
    (sample,) = task.samples(Row(row))
    return sample


def prompt_of(sample: Sample) -> str:
    (message,) = sample.messages
    media, text = message.content
    assert isinstance(media, Image | Video)  # media come before the text
    assert isinstance(text, Text)
    return text.text


def said(text: str, **changes: Any) -> Completion:
    return Completion("x", text, **changes)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not decoded here")
    return path


def test_prompts_are_those_of_the_protocol(clip: Path) -> None:
    suffix = "\nPlease try to answer the question with short words or phrases if possible."
    assert prompt_of(only(load_task("docvqa"), DOCVQA)) == "What is the total?" + suffix
    assert (
        prompt_of(next(iter(load_task("multilingual_ocr").samples(Row(MTVQA))))) == "What?" + suffix
    )
    assert (
        prompt_of(next(iter(load_task("refcoco").samples(Row(REFCOCO)))))
        == 'Detect the bounding box of "the red circle".'
    )
    assert prompt_of(only(load_task("video_qa"), NEXTQA | {"clip": clip})) == (
        "Which way?\nA. up\nB. down\nC. left\nD. right\nE. it stays still\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt_of(only(load_task("video_qa:videomme"), VIDEOMME | {"clip": clip})) == (
        "\nThese are the frames of a video. Select the best answer to the following "
        "multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "Question: What is shown?\nA. A cat.\nB. A dog.\nC. A bird.\nD. Nothing.\nAnswer: "
    )


def test_samples_say_what_they_share(clip: Path) -> None:
    sample = only(load_task("docvqa"), DOCVQA)
    assert (sample.id, sample.cluster, sample.target) == ("17", "easy-0012-p3", ["7890", "7,890"])
    assert sample.metadata == {
        "question_types": ["form"],
        "tier": "easy",
        "width": 40,
        "height": 20,
    }
    first, second = load_task("refcoco").samples(Row(REFCOCO))
    assert (first.id, second.id, first.cluster, second.cluster) == (
        "9-0",
        "9-1",
        "medium_0007.png",
        "medium_0007.png",
    )
    assert first.target == [10.0, 5.0, 30.0, 15.0]
    assert first.metadata == {"width": 40, "height": 20, "tier": "medium"}
    sample = only(load_task("video_qa"), NEXTQA | {"clip": clip})
    assert (sample.id, sample.cluster, sample.target) == ("hard-0003-2", "hard-0003", 1)
    assert sample.metadata == {"type": "direction", "chance": 0.2, "tier": "hard"}
    first, second = load_task("multilingual_ocr").samples(Row(MTVQA))
    assert (first.id, second.id, first.cluster, first.target, second.target) == (
        "ru-5-0",
        "ru-5-1",
        "ru-5",
        "чай",
        "дома",
    )
    assert first.metadata == {"lang": "ru", "width": 40, "height": 20}


@pytest.mark.parametrize(
    ("answer", "anls", "exact"),
    [("7890", 1.0, 1.0), ("7,890", 1.0, 1.0), ("7891", 0.75, 0.0), ("no idea at all", 0.0, 0.0)],
)
def test_docvqa_scores_the_closest_answer(answer: str, anls: float, exact: float) -> None:
    task = load_task("docvqa")
    score = task.score(only(task, DOCVQA), said(answer))
    assert score.values == {"anls": anls, "exact_match": exact}
    assert not score.unparsed


def test_infographics_have_their_own_columns() -> None:
    row = {
        "questionId": 3,
        "question": "Who?",
        "image": column(),
        "image_url": "http://x/1.png",
        "answers": ["Ann"],
        "answer_type": ["span"],
    }
    sample = only(load_task("docvqa:infovqa_val"), row)
    assert (sample.id, sample.cluster, sample.metadata) == (
        "3",
        "http://x/1.png",
        {"answer_type": ["span"], "width": 40, "height": 20},
    )


@pytest.mark.parametrize("answers", [None, []])
def test_hidden_answers_give_an_answer_without_a_score(answers: list[str] | None) -> None:
    task = load_task("docvqa:test")
    sample = only(task, DOCVQA | {"answers": answers})
    score = task.score(sample, said("7890"))
    assert (sample.target, score.values, score.parsed, score.unparsed) == (None, {}, "7890", False)


def test_a_box_is_scored_at_every_threshold() -> None:
    task = load_task("refcoco")
    sample, _ = task.samples(Row(REFCOCO))  # the box is (250,250),(750,750) in thousandths
    right = task.score(sample, said("the red circle(250,250),(750,750)", box_space="norm1000"))
    assert right.values == {
        "acc@0.5": 1.0,
        "acc@0.75": 1.0,
        "acc@0.9": 1.0,
        "iou": pytest.approx(1.0),
    }
    near = task.score(
        sample, said("(250,250),(750,650)", box_space="norm1000")
    )  # four fifths of it
    assert near.values == {
        "acc@0.5": 1.0,
        "acc@0.75": 1.0,
        "acc@0.9": 0.0,
        "iou": pytest.approx(0.8),
    }
    lost = task.score(sample, said("at the left", box_space="norm1000"))
    assert (set(lost.values.values()), lost.parsed, lost.unparsed) == ({0.0}, None, True)


def test_boxes_are_not_read_without_a_declared_space() -> None:
    task = load_task("refcoco")
    sample, _ = task.samples(Row(REFCOCO))
    with pytest.raises(UsageError, match="declares no box space"):
        task.score(sample, said("(250,250),(750,750)"))


def test_choices_are_read_strictly(clip: Path) -> None:
    task = load_task("video_qa")
    sample = only(task, NEXTQA | {"clip": clip})
    assert sample.choices == ("A. up", "B. down", "C. left", "D. right", "E. it stays still")
    for answer, value, parsed in [
        ("B", 1, "B"),
        ("down", 1, "B"),
        (sample.choices[1], 1, "B"),
        ("A.", 0, "A"),
        ("well, B or C", 0, None),
    ]:
        score = task.score(sample, said(answer))
        assert (score.values["accuracy"], score.parsed, score.unparsed) == (
            value,
            parsed,
            parsed is None,
        )


def test_words_are_scored_by_exact_match_and_error_rate() -> None:
    task = load_task("multilingual_ocr")
    sample, _ = task.samples(Row(MTVQA))
    assert task.score(sample, said(" чай ")).values == {
        "exact_match": 1.0,
        "exact_match_micro": 1.0,
        "cer": 0.0,
    }
    assert task.score(sample, said("май")).values == {
        "exact_match": 0.0,
        "exact_match_micro": 0.0,
        "cer": pytest.approx(1 / 3),
    }
    official = load_task("multilingual_ocr:mtvqa")
    assert official.score(sample, said("зелёный чай.")).values == {"mtvqa": 1.0, "mtvqa_micro": 1.0}


def test_an_empty_answer_is_unparsed_and_has_the_lowest_values(clip: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        "docvqa": DOCVQA,
        "refcoco": REFCOCO,
        "video_qa": NEXTQA | {"clip": clip},
        "video_qa:videomme": VIDEOMME | {"clip": clip},
        "multilingual_ocr": MTVQA,
        "multilingual_ocr:mtvqa": MTVQA,
        "chartqa": CHARTQA,
        "textvqa": TEXTVQA,
        "ocrbench": OCRBENCH,
    }
    for name, row in rows.items():
        task = load_task(name)
        score = task.score(next(iter(task.samples(Row(row)))), said(" \n", box_space="norm1000"))
        assert score.unparsed
        assert {k: v for k, v in score.values.items() if v} in ({}, {"cer": 1.0}), name


def test_scores_are_those_that_the_subset_declares(clip: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        "docvqa": DOCVQA,
        "refcoco+": REFCOCO,
        "video_qa": NEXTQA | {"clip": clip},
        "multilingual_ocr": MTVQA,
        "multilingual_ocr:mtvqa": MTVQA,
        "chartqa": CHARTQA,
        "textvqa": TEXTVQA,
        "ocrbench": OCRBENCH,
    }
    assert {name.partition(":")[0] for name in rows} <= set(registered())
    for name, row in rows.items():
        task = load_task(name)
        declared = [m.name for m in task.metrics]
        score = task.score(next(iter(task.samples(Row(row)))), said("x", box_space="norm1000"))
        assert list(score.values) == declared


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("docvqa", DOCVQA | {"answers": []}, "'answers' is empty"),
        ("docvqa", DOCVQA | {"image": None}, "'image' holds no image, but null"),
        ("docvqa", DOCVQA | {"answers": 5}, "'answers' is 5, not a list"),
        ("docvqa", DOCVQA | {"question": None}, "'question' is null"),
        ("docvqa", DOCVQA | {"question": b"What?"}, "'question' is 5 bytes"),
        ("docvqa", DOCVQA | {"question": " "}, "'question' is empty"),
        ("docvqa", DOCVQA | {"questionId": None}, "'questionId' is null"),
        ("docvqa", DOCVQA | {"questionId": float("nan")}, "'questionId' is nan"),
        (
            "refcoco",
            REFCOCO | {"answer": []},
            "'answer' has no expression",
        ),
        ("refcoco", REFCOCO | {"bbox": [1, 2, 0, 4]}, "'bbox' .* no area"),
        ("refcoco", REFCOCO | {"bbox": None}, "'bbox' is None"),
        ("refcoco", REFCOCO | {"bbox": [1, 2, 3]}, "'bbox' is"),
        ("refcoco", REFCOCO | {"bbox": [40, 5, 20, 10]}, "outside its picture of 40x20"),
        ("refcoco", REFCOCO | {"bbox": [10, -10, 20, 10]}, "outside its picture of 40x20"),
        ("refcoco", REFCOCO | {"bbox": [float("nan"), 5, 20, 10]}, "'bbox' is"),
        (
            "refcoco",
            REFCOCO | {"image": {"bytes": b"no image", "path": None}},
            "unreadable image",
        ),
        ("video_qa", NEXTQA | {"answer": 5}, "'answer' is 5"),
        ("video_qa", NEXTQA | {"answer": True}, "'answer' is True"),
        ("video_qa", NEXTQA | {"a3": None}, "'a3' is null"),
        ("video_qa", NEXTQA | {"clip": DataError("no clip 'x'")}, "no clip 'x'"),
        ("video_qa", NEXTQA | {"clip": Path("nowhere/x.mp4")}, "nowhere/x.mp4: no such file"),
        ("video_qa:videomme", VIDEOMME | {"answer": None}, "'answer' is None"),
        ("video_qa:videomme", VIDEOMME | {"answer": "AB"}, "'answer' is 'AB', not one of A, B"),
        ("video_qa:videomme", VIDEOMME | {"answer": "E"}, "'answer' is 'E', not one of A, B"),
        ("video_qa:videomme", VIDEOMME | {"answer": ""}, "'answer' is ''"),
        ("video_qa:videomme", VIDEOMME | {"options": "A. x"}, "'options' is 'A. x', not a list"),
        ("multilingual_ocr", MTVQA | {"qa_pairs": "__import__('os').getcwd()"}, "'qa_pairs'"),
        ("multilingual_ocr", MTVQA | {"qa_pairs": "[]"}, "'qa_pairs' is not a list"),
        ("multilingual_ocr", MTVQA | {"qa_pairs": None}, "'qa_pairs' is not a list"),
        ("multilingual_ocr", MTVQA | {"lang": None}, "'lang' is null"),
        ("chartqa", CHARTQA | {"answer": None}, "'answer' is null"),
        ("textvqa", TEXTVQA | {"answers": ["one"]}, "'answers' has 1"),
        ("ocrbench", OCRBENCH | {"answer": []}, "'answer' is empty"),
    ],
)
def test_an_odd_value_is_an_error_of_its_row(
    name: str, row: dict[str, Any], complaint: str, clip: Path
) -> None:
    with pytest.raises(DataError, match=complaint):
        list(load_task(name).samples(Row({"clip": clip, **row})))


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        ("{'question': 'x'}", "question 1 of image ru-5: no column 'answer'"),
        ("{'question': 'x', 'answer': None}", "question 1 of image ru-5: 'answer' is null"),
        ("{'question': 'x', 'answer': ' '}", "question 1 of image ru-5: 'answer' is empty"),
        ("{'question': 5, 'answer': 'x'}", "question 1 of image ru-5: 'question' is 5"),
    ],
)
def test_an_odd_pair_of_an_image_costs_its_own_question(pair: str, complaint: str) -> None:
    pairs = (
        f"[{{'question': 'What?', 'answer': 'a'}}, {pair}, {{'question': 'And?', 'answer': 'b'}}]"
    )
    first, odd, last = load_task("multilingual_ocr").samples(Row(MTVQA | {"qa_pairs": pairs}))
    assert (first.id, last.id) == ("ru-5-0", "ru-5-2")
    assert isinstance(odd, DataError)
    assert str(odd).startswith(complaint)


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("COCO_train2014_000000000003_298807.jpg", "COCO_train2014_000000000003"),
        ("COCO_train2014_000000000003_1.jpg", "COCO_train2014_000000000003"),
        ("COCO_val2014_000000581857_2.png", "COCO_val2014_000000581857"),
        ("COCO_train2014_000000000003.jpg", "COCO_train2014_000000000003.jpg"),
        ("medium_0007.png", "medium_0007.png"),
        ("photo_12_3.jpg", "photo_12_3.jpg"),
    ],
)
def test_the_objects_of_a_picture_are_one_cluster(name: str, cluster: str) -> None:
    first, second = load_task("refcoco:val").samples(Row(REFCOCO | {"file_name": name}))
    assert first.cluster == second.cluster == cluster


def test_pages_without_a_name_are_clusters_of_their_own() -> None:
    for row in (DOCVQA | {"ucsf_document_page_no": None}, DOCVQA | {"ucsf_document_id": None}):
        assert only(load_task("docvqa"), row).cluster == ""


def test_only_a_changed_subset_has_a_new_version() -> None:
    assert load_task("refcoco:mini").version == 1
    assert load_task("refcoco:val").version == load_task("refcocog:test").version == 2


def test_charts_are_scored_within_five_per_cent() -> None:
    task = load_task("chartqa")
    sample = only(task, CHARTQA)
    assert prompt_of(sample) == "How many?" + SUFFIX
    assert sample.metadata == {"type": "human_test", "width": 40, "height": 20}
    for answer, value in (("42", 1.0), ("44", 1.0), ("45", 0.0), ("forty two", 0.0)):
        assert set(task.score(sample, said(answer)).values.values()) == {value}
    other = only(task, CHARTQA | {"image": column(50, 20)})
    assert sample.cluster == only(task, CHARTQA | {"question": "Why?"}).cluster != other.cluster


def test_text_in_photographs_is_scored_by_what_people_said() -> None:
    task = load_task("textvqa")
    sample = only(task, TEXTVQA)
    assert (prompt_of(sample), sample.id, sample.cluster) == ("Which brand?" + SUFFIX, "34", "ab")
    assert task.score(sample, said("Coke.")).values["vqa_accuracy"] == 1.0
    assert task.score(sample, said("pepsi")).values["vqa_accuracy"] == pytest.approx(0.6)


def test_reading_of_many_kinds_is_scored_by_containment() -> None:
    task = load_task("ocrbench")
    sample = only(task, OCRBENCH)
    assert prompt_of(sample) == "what is written?" + SUFFIX
    assert task.score(sample, said("It says STOP")).values == {"ocrbench": 1.0}
    formula = only(task, OCRBENCH | {"dataset": "HME100k", "answer": ["X ^ 2"]})
    assert task.score(formula, said("X^2")).values == {"ocrbench": 1.0}
    assert task.score(formula, said("x^2")).values == {"ocrbench": 0.0}
    assert task.metrics[0].scale == 1000


def test_every_registered_task_says_what_it_is() -> None:
    for name in registered():
        task = load_task(name)
        assert task.name == name
        assert task.metrics
        assert task.description


EMBEDDED_TASKS = sorted(n for n in registered() if "mini" in task_class(n).subsets)


def test_drawn_data_are_the_default_where_there_are_any() -> None:
    assert len(EMBEDDED_TASKS) == 6
    assert all(load_task(name).subset_name == "mini" for name in EMBEDDED_TASKS)


@pytest.mark.parametrize("name", EMBEDDED_TASKS)
def test_every_embedded_row_becomes_samples_with_unique_ids(name: str) -> None:
    task = load_task(name)
    found = list(read_samples(task))
    assert all(isinstance(sample, Sample) for sample in found)
    assert len({s.id for s in found}) == len(found) >= 100
    assert {s.metadata["tier"] for s in found} == {"easy", "medium", "hard"}
    assert 1 < len({s.cluster for s in found}) <= len(found)
    assert task.source.describe()["kind"] == "embedded"


def test_task_modules_import_no_heavy_library() -> None:
    code = (
        "import sys\nfrom evalkit.task import registered, task_class\nassert [task_class(name) "
        "for name in registered()]\nheavy = 'torch transformers datasets pyarrow pandas numpy PIL "
        "av scipy pydantic yaml jinja2 rapidfuzz evalkit.adapter'.split()\n"
        "heavy = set(heavy) & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_installed_packages_are_searched_once_for_all_tasks() -> None:
    code = (
        "from importlib import metadata\nfrom unittest.mock import Mock\n"
        "metadata.entry_points = search = Mock(wraps=metadata.entry_points)\n"
        "from evalkit.task import registered, task_class\n"
        "for name in registered(): task_class(name)\n"
        "assert search.call_count == 1, search.call_count"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Rows:
    """A source of rows that are given."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.given = rows

    def rows(self, override: Path | None = None) -> Iterator[dict[str, Any]]:
        yield from self.given

    def describe(self, override: Path | None = None) -> dict[str, Any]:
        return {"kind": "test"}


def asked(text: str, **changes: Any) -> Sample:
    return Sample(messages=(Message("user", (Text(text),)),), **changes)


class Questions(Task):
    """One question for each entry of ``ask``; an entry None is a question that can't be used."""

    name = "questions"
    metrics = (Metric("right"),)
    subsets: ClassVar = {
        "dev": Subset(Rows({"ask": ["a"]}, {"ask": ["b", None, "c"]}, {"other": 1})),
        "test": Subset(Rows(), metrics=(Metric("half"),), max_new_tokens=7),
    }

    def samples(self, row: Row) -> Iterator[Sample | DataError]:
        for text in row["ask"]:
            yield asked(text) if text else DataError("the question is empty")

    def score(self, sample: Sample, completion: Completion) -> Score:
        return Score({})


def test_samples_are_numbered_by_their_row_where_a_task_names_none() -> None:
    samples = list(read_samples(Questions()))
    assert [s.id for s in samples] == ["0", "1-0", "row-1-1", "1-2", "row-2"]


def test_one_bad_question_leaves_the_others_of_its_row() -> None:
    errors = [s for s in read_samples(Questions()) if isinstance(s, RowError)]
    assert [e.reason for e in errors] == [
        "row 1: the question is empty",
        "row 2: no column 'ask'; it has: other",
    ]


def test_an_error_while_a_row_is_read_leaves_the_questions_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def samples(self: Task, row: Row) -> Iterator[Sample]:
        yield asked("a", id=f"q{row.number}")
        raise SystemExit(0)

    monkeypatch.setattr(Questions, "samples", samples)
    first, second = list(read_samples(Questions()))[:2]
    assert (first.id, second) == ("q0", RowError("row-0-1", "row 0: SystemExit: 0"))


@pytest.mark.parametrize("id", ["\udcff", 5, None, b"x"])
def test_an_id_that_cannot_be_written_is_an_error_or_replaced_by_the_row(
    monkeypatch: pytest.MonkeyPatch, id: Any
) -> None:
    monkeypatch.setattr(Questions, "samples", lambda self, row: [asked("a", id=id)])
    first = next(read_samples(Questions()))
    if id is None:
        assert first.id == "0"
    else:
        assert isinstance(first, RowError)
        what = "half of a character" if isinstance(id, str) else "id must be a string"
        assert what in first.reason


def test_the_first_declared_subset_is_the_default_of_installed_tasks_and_of_files(
    tmp_path: Path,
) -> None:
    task = Questions()
    assert (task.subset_name, task.full_name, task.source) == (
        "dev",
        "questions:dev",
        task.subset.source,
    )
    file = tmp_path / "mine.py"
    file.write_text((Path(__file__).parent / "plugins" / "sums.py").read_text())
    assert load_task(str(file)).subset_name == load_task(f"{file}:all").subset_name == "all"
    assert load_task("docvqa").subset_name == "mini"


def test_a_subset_brings_its_own_metrics_and_length() -> None:
    assert (Questions("dev").metrics, Questions("dev").max_new_tokens) == ((Metric("right"),), 128)
    assert (Questions("test").metrics, Questions("test").max_new_tokens) == ((Metric("half"),), 7)


def test_a_value_of_no_declared_metric_is_an_error_of_the_task() -> None:
    class Misspelt(task_class("docvqa")):  # type: ignore[misc]
        def score(self, sample: Sample, completion: Completion) -> Score:
            return Score({"anls": 1.0, "exact_mach": 1.0})

    with pytest.raises(ScoringError, match=r"no metric 'exact_mach'; declared: anls, exact_match"):
        checked_score(Misspelt("mini"), Sample("1", (), "x"), Completion("1", "x"))
