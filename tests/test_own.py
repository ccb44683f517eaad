"""A file of one's own becomes a task: whatever common format it has, one command leads to a score,
and what can't be used is said.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

import evalkit
from evalkit.adapter import ModelAdapter
from evalkit.errors import UsageError
from evalkit.plan import tasks_of
from evalkit.results.cells import take_inventory
from evalkit.results.rescore import rescore
from evalkit.task import RowError, load_task, read_samples
from evalkit.types import Completion, Image, Request, Sample, Text
from tests.pictures import png

ROWS = [
    {"image": "1.png", "question": "What is the CODE?", "answer": "610"},
    {"image": "2.png", "question": "What is the GOAL?", "answer": "peace"},
    {"image": "3.png", "question": "What is the TOTAL?", "answer": "7"},
]


class Says(ModelAdapter):
    """Gives the same answer to all."""

    name = "says"
    box_space = "pixel"

    def __init__(self, model: str) -> None:
        self.text = model

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "text": self.text}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request.id, self.text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in (1, 2, 3):
        (tmp_path / f"{i}.png").write_bytes(png(20, 10, 40 * i))
    return tmp_path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def samples(path: Path, **reading: Any) -> list[Sample | RowError]:
    return list(read_samples(load_task(str(path), reading=reading)))


def one(path: Path, **reading: Any) -> Sample:
    (sample,) = samples(path, **reading)
    assert isinstance(sample, Sample), sample
    return sample


def why(path: Path, **reading: Any) -> str:
    """What is said of the only row that can't be used."""
    (error,) = (s for s in samples(path, **reading) if isinstance(s, RowError))
    return error.reason


def asked(sample: Sample) -> str:
    return "".join(p.text if isinstance(p, Text) else "<>" for p in sample.messages[0].content)


def written(folder: Path, kind: str) -> Path:
    """The three rows in a format."""
    if kind == "jsonl":
        return write_lines(folder / "my.jsonl", ROWS)
    if kind == "json":
        (folder / "my.json").write_text(json.dumps({"data": ROWS}))
        return folder / "my.json"
    if kind in ("csv", "tsv"):
        return write_table(folder / f"my.{kind}", ROWS, "\t" if kind == "tsv" else ",")
    table = datasets.Dataset.from_list(
        [{**r, "image": {"path": None, "bytes": (folder / r["image"]).read_bytes()}} for r in ROWS],
        features=datasets.Features(
            image=datasets.Image(),
            question=datasets.Value("string"),
            answer=datasets.Value("string"),
        ),
    )
    if kind == "parquet":
        table.to_parquet(folder / "my.parquet")
        return folder / "my.parquet"
    if kind == "saved":
        table.save_to_disk(folder / "saved")
        return folder / "saved"
    assert kind == "imagefolder"
    rows = [{"file_name": r["image"], "question": r["question"], "text": r["answer"]} for r in ROWS]
    return write_table(folder / "metadata.csv", rows).parent


@pytest.mark.parametrize("kind", "jsonl json csv tsv parquet saved imagefolder".split())
def test_three_questions_in_any_format_are_asked_and_scored_by_one_call(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    result = evalkit.evaluate(
        str(written(folder, kind)), "610", adapter=Says, output=tmp_path_factory.mktemp("out"),
        progress=False,
    )  # fmt: skip
    assert not result.errors
    (cell,) = result.cells
    assert list(result.scores.values()) == [pytest.approx(100 / 3)]
    frame = result.samples
    assert list(frame["question"].str.split("\n").str[0]) == [r["question"] for r in ROWS]
    assert list(frame["target"]) == [[r["answer"]] for r in ROWS]
    assert (set(frame["data"]), frame["cluster"].nunique()) == ({"local"}, 3)
    assert rescore(cell)[1] == 0


def test_a_cell_is_known_by_what_the_file_and_its_pictures_hold(folder: Path) -> None:
    file = write_lines(folder / "my.jsonl", ROWS)

    def run(**reading: Any) -> Path:
        output = folder / "results"
        (cell,) = evalkit.evaluate(
            str(file), "610", adapter=Says, output=output, progress=False, **reading
        ).cells
        return cell.path

    first = run()
    assert run() == first
    others = [run(metric="anls"), run(prompt="{question} Briefly.")]
    (folder / "1.png").write_bytes(png(20, 10, 200))
    others.append(run())
    write_lines(file, ROWS[:2])
    others.append(run())
    assert len({first, *others}) == 5


def test_several_files_are_named_as_tasks_are_and_one_name_is_one_file(folder: Path) -> None:
    a, b = (write_lines(folder / f"{n}.jsonl", ROWS[:1]) for n in "ab")
    assert [t.name for t in tasks_of(f"{a},{b}")] == ["a", "b"]
    assert [t.name for t in tasks_of([str(a), str(b)])] == ["a", "b"]
    comma = write_lines(folder / "a,b.jsonl", ROWS[:1])
    assert [t.name for t in tasks_of(str(comma))] == ["a,b"]
    (folder / "docvqa.jsonl").write_bytes(a.read_bytes())
    assert load_task(str(folder / "docvqa.jsonl")).name == "docvqa.jsonl"
    (folder / "v1.5").mkdir()
    (folder / "v1.5" / "1.png").write_bytes(png(9, 9))
    assert load_task(str(folder / "v1.5")).name == "v1.5"
    (folder / "other").mkdir()
    same = write_lines(folder / "other" / "a.jsonl", [{**ROWS[0], "image": "../1.png"}])
    with pytest.raises(UsageError, match="two tasks are called a:all"):
        tasks_of([str(a), str(same)])


def test_a_frame_of_samples_of_all_kinds_goes_into_parquet(folder: Path) -> None:
    base = {"image": "1.png", "question": "?"}
    kinds: dict[str, list[dict[str, Any]]] = {
        "texts": [{**base, "answer": "610", "level": 1}, {**base, "answer": "x", "level": "two"}],
        "letters": [{**base, "options": ["a", "b"], "answer": "B", "level": 1.5}],
        "boxes": [{**base, "bbox": [1, 1, 5, 5], "level": True}],
        "asked": [base],
    }
    files = [str(write_lines(folder / f"{name}.jsonl", rows)) for name, rows in kinds.items()]
    out = folder / "r"
    evalkit.evaluate(files, adapter=Says("(1,1),(6,6)"), output=out, progress=False)
    frame = evalkit.load_samples(out)
    frame.to_parquet(folder / "samples.parquet")
    back = pd.read_parquet(folder / "samples.parquet").set_index("task")
    assert back["target"].dropna().map(json.loads).to_dict()["boxes:all"] == [1, 1, 6, 6]
    assert set(back["metadata_level"].dropna()) == {"1", '"two"', "1.5", "true"}
    assert back.loc["letters:all", "choices"].tolist() == ["a", "b"]
    one = evalkit.load_samples(out).query("task == 'letters:all'")
    assert list(one["target"]) == ["1"]


def test_a_sweep_and_the_report_take_files_of_data(folder: Path) -> None:
    renamed = [{"image": r["image"], "ask": r["question"], "answer": r["answer"]} for r in ROWS]
    file = write_lines(folder / "my.jsonl", renamed)
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        f"name: own\nquestion: Does it?\ntasks: ['{file}']\ncolumns: {{question: ask}}\n"
        f"metric: contains\nadapter: '{__file__}'\nmodel: '610'\naxes: {{model: ['610', 'x']}}\n"
    )
    result = evalkit.sweep(sweep, output=folder / "out")
    assert not result.errors
    assert set(result.frame["metric"]) == {"contains"}
    page = result.report.read_text()
    assert "What is the CODE?" in page and "data:image/webp" in page


def test_a_cell_is_scored_anew_without_its_file(folder: Path) -> None:
    file = write_lines(folder / "my.jsonl", ROWS)
    evalkit.evaluate(
        str(file), "610", adapter=Says, output=folder / "r", progress=False,
        columns={"answer": "answer"}, metric="contains",
    )  # fmt: skip
    file.unlink()
    (cell,) = take_inventory(folder / "r").cells
    assert rescore(cell) == (cell, 0)


def test_columns_are_mapped_by_name_and_wrong_ones_are_answered_with_those_that_are_there(
    folder: Path,
) -> None:
    row = {"pic": "1.png", "ask": "What?", "gold": "x", "level": 3}
    file = write_lines(folder / "my.jsonl", [row])
    columns = {"image": "pic", "question": "ask", "answer": "gold"}
    sample = one(file, columns=columns)
    assert (sample.target, sample.metadata["level"]) == (["x"], 3)
    has = "has the columns pic, ask, gold, level"
    with pytest.raises(UsageError, match=f"no column of pictures or clips: .*{has}"):
        load_task(str(file))
    with pytest.raises(UsageError, match=f"there is no 'pics': .*{has}"):
        load_task(str(file), reading={"columns": {"image": "pics"}})
    with pytest.raises(UsageError, match="picture is no role; a column may be image, video"):
        load_task(str(file), reading={"columns": {"picture": "pic"}})
    with pytest.raises(UsageError, match="metric 'f1': there are exact_match"):
        load_task(str(file), reading={"columns": columns, "metric": "f1"})
    with pytest.raises(UsageError, match="metric 'iou' needs another kind of answers"):
        load_task(str(file), reading={"columns": columns, "metric": "iou"})
    with pytest.raises(UsageError, match=r"\{hard\} is no column; there are: .*level"):
        load_task(str(file), reading={"columns": columns, "prompt": "{hard}"})
    with pytest.raises(UsageError, match="columns: only for a task that is given as data"):
        evalkit.evaluate("docvqa", columns=columns)
    with pytest.raises(UsageError, match="has no subset 'test'"):
        load_task(f"{file}:test", reading={"columns": columns})


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["peace", "4"], "exact_match"),
        (["3", "4.5"], "relaxed_accuracy"),
        ([["a", "a", "b"]], "vqa_accuracy"),
        (['["a", "b"]'], "exact_match"),
    ],
)
def test_the_metric_follows_from_the_answers_and_is_said(
    folder: Path, answers: list[Any], metric: str
) -> None:
    rows = [{"image": "1.png", "question": "?", "answer": a} for a in answers]
    task = load_task(str(write_lines(folder / "my.jsonl", rows)))
    assert task.metrics[0].name == metric
    assert f"columns image, question, answer; metric {metric}" in task.description


@pytest.mark.parametrize(
    "metric", "exact_match anls relaxed_accuracy vqa_accuracy contains cer".split()
)
def test_no_answer_has_the_lowest_score_and_blanks_around_a_right_one_count_for_nothing(
    folder: Path, metric: str
) -> None:
    file, worst = folder / "my.jsonl", float(metric == "cer")
    for answers in (["the", "a", "?"], ["   red   "] * 4):
        write_lines(file, [{"image": "1.png", "question": "?", "answer": answers}])
        sample, task = one(file, metric=metric), load_task(str(file), reading={"metric": metric})
        scores = [task.score(sample, Completion("0", said)) for said in ("", " \n", "red", "rxx")]
        assert [s.values[metric] for s in scores[:2]] == [worst] * 2 and scores[0].unparsed
    assert scores[2].values[metric] == 1 - worst
    assert scores[3].values[metric] == (pytest.approx(2 / 3) if metric == "cer" else 0.0)


OPTIONS = ["a dog", "a cat", "B", "12"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [("A", 0), ("(b)", 1), ("a cat", 1), (3, 3), ("12", 3), (0, 0), ("1", 1)],
)
def test_the_right_option_is_a_letter_a_text_or_a_place(
    folder: Path, answer: Any, index: int
) -> None:
    row = {"image": "1.png", "question": "Which?", "options": OPTIONS, "answer": answer}
    sample = one(write_lines(folder / "my.jsonl", [row]))
    assert (sample.target, list(sample.choices)) == (index, OPTIONS)
    assert "Which?\nA. a dog\nB. a cat\nC. B\nD. 12\n" in asked(sample)


@pytest.mark.parametrize("answer", ["B", "E", "a bird", 4, None, True, ["A", "B"]])
def test_an_answer_that_names_no_option_or_two_is_an_error_of_its_row(
    folder: Path, answer: Any
) -> None:
    row = {"image": "1.png", "question": "Which?", "options": OPTIONS, "answer": answer}
    assert why(write_lines(folder / "my.jsonl", [row]))


@pytest.mark.parametrize(
    "options", [["A. x", "B. y"], '["x", "y"]', {"A": "x", "B": "y"}, ["x", "y"]]
)
def test_options_are_read_as_people_write_them(folder: Path, options: Any) -> None:
    row = {"image": "1.png", "question": "Which?", "choices": options, "answer": "B"}
    sample = one(write_lines(folder / "my.jsonl", [row]))
    assert (list(sample.choices), sample.target) == (["x", "y"], 1)


def test_boxes_are_scored_by_their_overlap(folder: Path) -> None:
    rows = [{"image": "1.png", "question": "the dog", "bbox": [2, 2, 8, 4]}]
    file = write_lines(folder / "my.jsonl", rows)
    says = Says("(2,2),(10,6)")
    result = evalkit.evaluate(str(file), adapter=says, output=folder / "r", progress=False)
    assert result.scores == {"my:all": 100.0}
    corners = write_lines(folder / "b.jsonl", [{"image": "1.png", "q": "x", "box": [2, 2, 10, 6]}])
    assert one(corners, columns={"question": "q"}).target == [2, 2, 10, 6]
    outside = write_lines(folder / "c.jsonl", [{**rows[0], "bbox": [50, 2, 8, 4]}])
    assert "lies outside its picture of 20x10" in why(outside)


def test_questions_without_answers_are_asked_and_have_no_score(folder: Path) -> None:
    rows = [{"image": "1.png", "question": "What?"}]
    file = write_lines(folder / "my.jsonl", rows)
    result = evalkit.evaluate(str(file), "610", adapter=Says, output=folder / "r", progress=False)
    assert (result.errors, result.scores, result.failed()) == ((), {}, False)
    assert list(result.samples["text"]) == ["610"]


def test_a_folder_of_pictures_is_described_and_one_of_classes_is_named(folder: Path) -> None:
    assert [asked(s) for s in samples(folder)] == ["<>Describe the picture."] * 3  # type: ignore[arg-type]
    classes = folder / "classes"
    for name in ("cat", "dog"):
        (classes / name).mkdir(parents=True)
        (classes / name / "1.png").write_bytes(png(20, 10, len(name)))
    for name in (".ipynb_checkpoints/1-checkpoint.png", "__MACOSX/cat/1.png", "cat/._1.png"):
        (classes / name).parent.mkdir(parents=True, exist_ok=True)  # no class, nor one of it
        (classes / name).write_bytes(png(20, 10, 3))
    first, second = samples(classes)
    assert isinstance(first, Sample) and isinstance(second, Sample)
    assert (first.id, first.target, second.target) == ("cat/1.png", ["cat"], ["dog"])
    (classes / "title.png").write_bytes(png(20, 10, 9))  # of no class: nothing is a label then
    assert {s.target for s in samples(classes) if isinstance(s, Sample)} == {None}


def test_what_is_asked_of_media_without_a_question_names_what_is_shown(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "clips" / "1.mp4").write_bytes(b"a clip")
    (first,) = samples(folder / "clips")
    assert isinstance(first, Sample) and "Describe the video." in asked(first)
    rows = [{"video": "clips/1.mp4", "A": "a dog", "B": "a cat", "answer": "A"}]
    (second,) = samples(write_lines(folder / "options.jsonl", rows))
    assert isinstance(second, Sample) and "What does the video show?" in asked(second)


def test_splits_of_a_folder_are_subsets(folder: Path) -> None:
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        (folder / "set" / split).mkdir(parents=True)
        for r in rows:
            (folder / "set" / split / r["image"]).write_bytes(png(9, 9, 7))
        named = [{"file_name": r["image"], "text": r["answer"]} for r in rows]
        write_lines(folder / "set" / split / "metadata.jsonl", named)
    assert len(samples(folder / "set")) == 1
    assert len(list(read_samples(load_task(f"{folder / 'set'}:train")))) == 3


def test_an_imagefolder_of_splits_and_classes_is_named_by_them(folder: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / "pets" / place).mkdir(parents=True)
        (folder / "pets" / place / "1.png").write_bytes(png(9, 9, len(place)))
    found = samples(folder / "pets")
    assert [s.target for s in found if isinstance(s, Sample)] == [["cat"], ["dog"]]
    assert load_task(str(folder / "pets")).full_name == "pets:test"
    pictures = [p.source for s in found if isinstance(s, Sample) for p in s.messages[0].content[:1]]  # type: ignore[union-attr]
    assert pictures == [folder / "pets/test/cat/1.png", folder / "pets/test/dog/1.png"]


def test_several_pictures_take_the_places_that_the_text_marks(folder: Path) -> None:
    row = {"images": ["1.png", "2.png"], "question": "Is <image 2> darker than <image 1>?"}
    sample = one(write_lines(folder / "my.jsonl", [row]))
    assert asked(sample) == "Is <> darker than <>?"
    pictures = [p for p in sample.messages[0].content if isinstance(p, Image)]
    assert [p.source for p in pictures] == [folder / "2.png", folder / "1.png"]


def test_rows_may_have_columns_of_their_own(folder: Path) -> None:
    (folder / "clip.mp4").write_bytes(b"a clip")
    rows = [
        {"video": "clip.mp4", "question": "What moves?", "answer": "x"},
        {"image": "1.png", "question": "What?", "answer": "y", "video": None},
        {"image": ["1.png", "2.png"], "video": "clip.mp4", "question": "Same?", "answer": "z"},
    ]
    found = samples(write_lines(folder / "my.jsonl", rows))
    kinds = [
        [type(p).__name__ for p in s.messages[0].content] for s in found if isinstance(s, Sample)
    ]
    assert kinds == [["Video", "Text"], ["Image", "Text"], ["Image", "Image", "Video", "Text"]]


def test_a_tsv_of_vlmevalkit_loads_as_it_is(folder: Path) -> None:
    picture = base64.b64encode((folder / "1.png").read_bytes() + bytes(90)).decode()
    columns = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category"]
    lines = [
        [7, picture, "Which?", "Look.", "x", "NA", "", "", "B", "k"],
        [8, "7", "And now?", "", "x", "y", "z", "", "C", "k"],
        [9, f"['{picture}', '{picture}']", "Two?", "", "x", "y", "", "", "A", "k"],
        [10, "99", "Lost?", "", "x", "y", "", "", "A", "k"],
    ]
    file = write_table(folder / "MMSet.tsv", [dict(zip(columns, line)) for line in lines], "\t")
    first, second, third, lost = samples(file)
    assert isinstance(first, Sample) and isinstance(second, Sample) and isinstance(third, Sample)
    assert (first.id, first.target, first.choices) == ("7", 1, ("x", "NA"))
    assert asked(first).startswith("<>Hint: Look.\nWhich?\nA. x\nB. NA\nAnswer with")
    assert (second.choices, second.cluster) == (("x", "y", "z"), first.cluster)
    assert asked(third).startswith("<><>Two?")
    assert isinstance(lost, RowError) and "99: no such file" in lost.reason


TASK = """
dataset_path: json
dataset_kwargs: {data_files: {test: questions.json}}
task: mine
test_split: test
doc_to_visual: image
doc_to_text: "{{query}}"
doc_to_target: label
generation_kwargs: {max_new_tokens: 16}
metric_list:
  - {metric: anls, aggregation: mean, higher_is_better: true}
lmms_eval_specific_kwargs: {default: {pre_prompt: "", post_prompt: "\\nOne word."}}
metadata: [{version: 0.0}]
"""


def test_a_task_of_lmms_eval_that_only_names_local_data_loads_as_it_is(folder: Path) -> None:
    rows = [{"image": r["image"], "query": r["question"], "label": r["answer"]} for r in ROWS]
    (folder / "questions.json").write_text(json.dumps(rows))
    file = folder / "mine.yaml"
    file.write_text(TASK)
    task = load_task(str(file))
    assert (task.full_name, task.max_new_tokens) == ("mine:all", 16)
    assert [m.name for m in task.metrics] == ["anls"]
    first = next(s for s in read_samples(task) if isinstance(s, Sample))
    assert (asked(first), first.target) == ("<>What is the CODE?\nOne word.", ["610"])
    file.write_text(TASK.replace('"{{query}}"', "!function utils.text"))
    with pytest.raises(UsageError, match="doc_to_text: !function utils.text is code"):
        load_task(str(file))
    file.write_text(TASK + "process_results: x\n")
    with pytest.raises(UsageError, match="process_results is not read, and may change a score"):
        load_task(str(file))


def test_an_answer_ends_where_the_task_of_lmms_eval_says(folder: Path) -> None:
    write_lines(folder / "my.jsonl", ROWS)
    file = folder / "mine.yaml"
    file.write_text(
        "dataset_path: my.jsonl\ngeneration_kwargs: {until: [STOP], do_sample: false, top_p: 1.0}\n"
    )
    task = load_task(str(file))
    assert task.protocol.cut("610 STOP and more") == "610 "
    file.write_text('dataset_path: my.jsonl\ngeneration_kwargs: {until: ["", STOP]}\n')
    assert load_task(str(file)).protocol.cut("610 STOP and more") == "610 "


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("generation_kwargs: {temperature: 0.7}", "line 2: generation_kwargs.temperature"),
        ("generation_kwargs: {do_sample: true}", "answers are drawn with --temperature only"),
        ("generation_kwargs: {num_beams: 5}", "generation_kwargs.num_beams"),
        ("generation_kwargs: {max_new_tokens: 0}", "generation_kwargs.max_new_tokens"),
        ("generation_kwargs: {image_aspect_ratio: pad}", "generation_kwargs.image_aspect_ratio"),
        ("generation_kwargs: 16", "generation_kwargs: expected a mapping"),
        ("metric_list: {metric: anls}", "metric_list: expected a list"),
        ("metric_list: [{metric: bleu}]", "bleu is not computed here; name one of exact_match"),
        ("dataset_kwargs: [a]", "dataset_kwargs: expected a mapping"),
        ("lmms_eval_specific_kwargs: {default: x}", "default: expected a mapping"),
        ("num_fewshot: 5", "num_fewshot"),
        ("test_split: [a]", "test_split"),
        ("doc_to_text: !function [a]", "expected a scalar node"),
        ("5: x", "5 is not read, and may change a score"),
        ("? [a]\n: x", "unhashable key"),
    ],
)
def test_what_a_task_of_lmms_eval_says_oddly_is_refused_by_name(
    folder: Path, line: str, reason: str
) -> None:
    write_lines(folder / "my.jsonl", ROWS)
    (folder / "mine.yaml").write_text(f"dataset_path: my.jsonl\n{line}\n")
    with pytest.raises(UsageError) as refused:
        load_task(str(folder / "mine.yaml"))
    assert reason in str(refused.value)


def test_the_file_of_another_split_is_not_taken(folder: Path) -> None:
    write_lines(folder / "my.jsonl", ROWS)
    (folder / "mine.yaml").write_text(
        "dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {train: my.jsonl}}\n"
    )
    with pytest.raises(UsageError, match="expected one file of the split test"):
        load_task(str(folder / "mine.yaml"))


def test_one_bad_row_costs_one_row(folder: Path) -> None:
    good = json.dumps(ROWS[0])
    bad = {
        '{"image": "1.png", "question"': "line 2: no JSON",
        "[1, 2]": "is not an object with columns",
        '{"image": "1.png", "image": "2.png"}': "'image' stands there twice",
        '{"image": "1.png", "question": null, "answer": "x"}': "'question' is null",
        '{"image": "1.png", "question": "?", "answer": null}': "'answer' is null",
        '{"image": "1.png", "question": "?", "answer": {"a": 1}}': "not a text or a number",
        '{"image": null, "question": "?", "answer": "x"}': "'image': no picture or clip",
        '{"image": "https://x.org/1.png", "question": "?", "answer": "x"}': "is an address",
        '{"image": "/etc/hostname", "question": "?", "answer": "x"}': "lies outside",
        '{"image": "../../1.png", "question": "?", "answer": "x"}': "lies outside",
        '{"question": "?", "answer": "x"}': "no picture or clip",
    }
    for line, reason in bad.items():
        (folder / "my.jsonl").write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
        assert reason in why(folder / "my.jsonl"), line
    (folder / "my.jsonl").write_bytes(f"{good}\n".encode() + '{"image": "é"}\n'.encode("latin-1"))
    assert "is not UTF-8" in why(folder / "my.jsonl")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", ";"])
def test_tables_of_spreadsheets_are_read(folder: Path, encoding: str, end: str, mark: str) -> None:
    lines = ["image|question|answer", '1.png|"Größe,"" 大小?"|x', "2.png|only two"]
    text = end.join(line.replace("|", mark) for line in lines) + end
    (folder / "my.csv").write_bytes(text.encode(encoding))
    first, second = samples(folder / "my.csv")
    assert isinstance(first, Sample) and 'Größe," 大小?' in asked(first)
    assert isinstance(second, RowError) and "2 cells, where the header has 3" in second.reason


def test_two_columns_of_one_name_are_refused(folder: Path) -> None:
    (folder / "my.csv").write_text("image,answer,answer\n1.png,a,b\n")
    with pytest.raises(UsageError, match="two columns are called 'answer'"):
        load_task(str(folder / "my.csv"))


@pytest.mark.parametrize("name", ["empty.jsonl", "absent.jsonl", "notes.txt", "x" * 300])
def test_what_is_no_data_is_said(folder: Path, name: str) -> None:
    (folder / "empty.jsonl").write_text("")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no rows|no such file|questions are read from a"):
        load_task(str(folder / name))


@pytest.mark.parametrize("name", ["größe: 100 %.jsonl", "a?b [c].jsonl", "*.jsonl", "a,b:c.jsonl"])
def test_a_file_may_have_any_name(folder: Path, name: str) -> None:
    (task,) = tasks_of(str(write_lines(folder / name, ROWS[:1])))
    assert (task.name, len(list(read_samples(task)))) == (name.removesuffix(".jsonl"), 1)
