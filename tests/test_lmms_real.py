"""evalkit and the real lmms-eval on the same questions: `make test-lmms` installs it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from evalkit import evaluate
from evalkit.nano.mini import HERE
from evalkit.results.rescore import rescore
from evalkit.task import Row, load_task
from evalkit.types import Completion, Sample
from tests import catalogue
from tests.test_tasks import CHARTQA, DOCVQA, MTVQA, NEXTQA, OCRBENCH, REFCOCO, TEXTVQA, VIDEOMME

pytestmark = pytest.mark.lmms

TASK = """
task: docvqa_mini
dataset_path: parquet
dataset_kwargs: {{data_files: {{validation: {data}}}}}
test_split: validation
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answers
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false}}
process_results: !function utils.process_results
metric_list:
  - {{metric: exact, aggregation: mean, higher_is_better: true}}
"""
UTILS = """
import random
from evalkit.protocols import QWEN2_VL_WORDS

def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]

def doc_to_text(doc, **_):
    return QWEN2_VL_WORDS.text(question=doc["question"])

def process_results(doc, results):
    answer = results[0].strip() or random.choice(["a", "b"])
    return {"exact": float(answer in doc["answers"])}
"""
MINI = HERE / "docvqa"


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one task of lmms-eval over docvqa:mini."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = MINI / "validation-00000-of-00001.parquet"
    (folder / "docvqa_mini.yaml").write_text(TASK.format(data=data))
    (folder / "utils.py").write_text(UTILS)
    return folder


def test_lmms_eval_scores_evalkits_model_and_evalkit_its_task(tasks: Path, tmp_path: Path) -> None:
    """Nano answers the first questions of docvqa:mini, which are easy, without a fault."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "evalkit", "--tasks", "docvqa_mini"]
    command += ["--model_args", "pretrained=nano", "--limit", "8", "--batch_size", "1"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    results = sorted((tmp_path / "out").rglob("*results.json"))
    assert results, done.stdout[-2000:] + done.stderr[-3000:]
    theirs = json.loads(results[0].read_text())["results"]["docvqa_mini"]["exact,none"]
    ours = evaluate(
        f"lmms:{tasks / 'docvqa_mini.yaml'}", limit=8, output=tmp_path / "ours", progress=False
    )
    assert ours.outcomes[0].results.metrics[0].value == pytest.approx(theirs, abs=1e-9)
    assert theirs >= 0.75


def test_a_task_of_lmms_eval_is_rescored_without_its_data(tasks: Path, tmp_path: Path) -> None:
    name = f"lmms:{tasks / 'docvqa_mini.yaml'}"
    evaluation = evaluate(name, limit=4, output=tmp_path / "ours", progress=False)
    (outcome,) = evaluation.outcomes
    again = evaluate(name, limit=4, output=tmp_path / "ours", progress=False)
    assert (again.outcomes[0].made, again.outcomes[0].reused) == (0, 4)
    assert rescore(outcome.cell.stored)[1] == 0
    record = next(iter(outcome.cell.stored.records().values()))
    drawn = outcome.cell.task.score(record.sample(), Completion(record.id, " "))
    assert (drawn.unparsed, drawn.parsed) == (True, "drawn at random")


@dataclass(frozen=True)
class Beside:
    """A task of evalkit beside the one of lmms-eval."""

    task: str
    theirs: str
    metrics: Mapping[str, str]
    """Our names of metrics: lmms-eval's."""
    row: Mapping[str, Any]
    mini: str = ""
    """The embedded task whose rows have the same columns."""
    document: Callable[[Mapping[str, Any], Sample], Mapping[str, Any]] = lambda row, sample: row
    apart: Callable[[str], bool] = lambda answer: False
    """Answers that docs/metrics.md lists as scored otherwise on purpose."""
    answers: tuple[str, ...] = ()
    value: Callable[[Any], float] | None = None
    """The value in what lmms-eval makes of a sample, where that is no number by itself."""


def mtvqa(row: Mapping[str, Any], sample: Sample) -> Mapping[str, Any]:
    return {"answer": sample.target, "category": row["lang"], "question": "?"}


def rec(row: Mapping[str, Any], sample: Sample) -> Mapping[str, Any]:
    sides = (sample.metadata["width"], sample.metadata["height"]) * 2
    x, y, w, h = row["bbox"]
    box = [v / side for v, side in zip((x, y, x + w, y + h), sides)]
    return {"answer": "it", "bbox": box, "question_id": row["question_id"]}


BOXES = tuple(
    f"[{x}, {y}, {x2}, {y2}]"
    for x in ("0", "0.1", "0.25")
    for y in ("0.0", "0.3")
    for x2 in ("0.5", "0.9", "1")
    for y2 in ("0.2", "0.75", "1.0")
)
LETTERS = (
    *("A", "B.", "(C)", "D: a dog", "The answer is B", "I like A cat", "Answer: (D).", "", "none"),
    *("the best option is C, not B", "E", "b", "a. dog", "It shows a dog in the house", "答案是C"),
)
WORDS = (
    *("", "42", "42%", "0.42", "1,000", "1_000", "Yes", "yes.", "the two dogs", "Ｓｔｏｐ", "ß"),
    *("strasse STRASSE", "coke", "Coke's", "pepsi.", "$5.00", "a", "stop sign", "x ^ 2 + 1"),
)
ACCURACY = {"accuracy": "exact_match"}
REC = {f"acc@{t}": f"refcoco_ACC@{t}" for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
REC |= {"iou": "refcoco_IoU", "centre": "refcoco_Center_ACC"}
INFOVQA = {k: v for k, v in DOCVQA.items() if not k.startswith(("ucsf", "question_types"))}
INFOVQA |= {"image_url": "https://example.org/1.png", "answer_type": ["span"]}
MVBENCH = {
    "video": "a.mp4",
    "question": "How many jumps?",
    "candidates": ["one", "two", "a dog"],
    "answer": "two",
    "part": "action_count",
    "part_row": 0,
}
EGOSCHEMA = {
    "question_idx": "1",
    "question": "What is the theme?",
    "video_idx": "0-1",
    "option": [f"{letter}. C does {letter}." for letter in "ABCDE"],
    "answer": "1",
}
PERCEPTION = {
    "video_name": "v",
    "question": "Is it stable?",
    "question_id": "0",
    "options": ["yes", "no", "I don't know"],
    "answer_id": "1",
    "area": "physics",
    "reasoning": "descriptive",
    "tag": ["stability"],
}
SCREEN = {
    "image": REFCOCO["image"],
    "bbox": [0.25, 0.25, 0.5, 0.75],
    "instruction": "close",
    "data_type": "text",
    "data_source": "ios",
    "file_name": "1.png",
}
CLICKS = (
    *BOXES,
    *("(250, 300, 500, 750)", "[0.3, 0.5]", "(30% 50%)", "x: 0.3, y: 0.5", "<bbox>0 0 1 1</bbox>"),
    *("click(x=0.4, y=0.6)", "the box 0.2 0.3 0.6 0.9", "nowhere", "[300, 500]"),
)
YES = ("yes", "No", "Yes.", "no, it is not", "y", "N", "I know", "Yes, there is", "", "maybe")


BESIDE = (
    Beside("docvqa:val", "docvqa_val", {"anls": "anls"}, DOCVQA, "docvqa"),
    Beside("docvqa:infovqa_val", "infovqa_val", {"anls": "anls"}, INFOVQA),
    Beside("chartqa", "chartqa", {"relaxed_accuracy_micro": "relaxed_overall"}, CHARTQA),
    Beside("textvqa", "textvqa_val", {"vqa_accuracy": "exact_match"}, TEXTVQA,
           apart=lambda a: not a.strip()),
    Beside("ocrbench", "ocrbench", {"ocrbench": "ocrbench_accuracy"}, OCRBENCH),
    Beside("multilingual_ocr:mtvqa", "mtvqa", {"mtvqa_micro": "mtvqa_score"}, MTVQA,
           "multilingual_ocr", document=mtvqa),
    Beside("video_qa:videomme", "videomme", {"accuracy": "videomme_perception_score"},
           VIDEOMME | {"sub_category": "x"}, answers=LETTERS),
    Beside("video_qa:nextqa", "nextqa_mc_test", ACCURACY, NEXTQA, "video_qa", answers=LETTERS),
    Beside("mvbench:action_count", "mvbench_action_count", {"accuracy": "mvbench_accuracy"},
           MVBENCH, answers=LETTERS),
    Beside("refcoco:val", "refcoco_bbox_rec_val", REC, REFCOCO, "refcoco", document=rec,
           apart=lambda a: "[" not in a, answers=BOXES),
    Beside("mmmu:val", "mmmu_val", {"accuracy": "mmmu_acc"}, catalogue.mmmu(0), answers=LETTERS),
    Beside("mmmu:val", "mmmu_val", {"accuracy": "mmmu_acc"}, catalogue.mmmu(9), answers=LETTERS),
    Beside("mmmu_pro:standard_10", "mmmu_pro_standard", {"accuracy": "mmmu_acc"},
           catalogue.mmmu_pro(1), answers=LETTERS),
    Beside("mmmu_pro:vision", "mmmu_pro_vision", {"accuracy": "mmmu_acc"},
           catalogue.mmmu_pro_vision(1), answers=LETTERS),
    Beside("mmstar", "mmstar", {"accuracy": "average"}, catalogue.mmstar(1), answers=LETTERS),
    Beside("realworldqa", "realworldqa", ACCURACY, catalogue.realworldqa(4), answers=LETTERS,
           apart=lambda a: "D" in a),
    Beside("realworldqa", "realworldqa", ACCURACY, catalogue.realworldqa(1)),
    Beside("mmt_bench:val", "mmt_val", {"accuracy": "accuracy"}, catalogue.mmt(1),
           answers=(*LETTERS, "A B", "B or C", "so (B)", " C\n"), value=itemgetter("overall")),
    Beside("mme", "mme", {"accuracy": "mme_perception_score"}, catalogue.mme(1), answers=YES),
    Beside("pope:test", "pope", {"accuracy": "pope_accuracy"}, catalogue.pope(1), answers=YES),
    Beside("egoschema:subset", "egoschema_subset", {"accuracy": "score"}, EGOSCHEMA,
           answers=LETTERS, value=lambda made: made["pred"] == int(made["ground_truth"])),
    Beside("perceptiontest:val", "perceptiontest_val_mc", {"accuracy": "accuracy"}, PERCEPTION,
           answers=LETTERS, value=itemgetter("correct")),
    Beside("screenspot:v1", "screenspot_rec_test", {"accuracy": "screenspot_Center_ACC"}, SCREEN,
           answers=CLICKS),
    Beside("screenspot:v2", "screenspot_v2", {"accuracy": "screenspot_v2_action_acc"}, SCREEN,
           answers=CLICKS),
)  # fmt: skip


def near(answer: str, rng: random.Random) -> str:
    """An answer with a letter changed, a blank added, in other case, or in a sentence."""
    at = rng.randrange(len(answer) + 1)
    return rng.choice(
        [
            answer,
            answer.upper(),
            answer[:at] + rng.choice(" .,x0") + answer[at:],
            answer[:at] + answer[at + 1 :],
            f"The answer is {answer}.",
            f" {answer}\n",
        ]
    )


def answered(one: Beside, rng: random.Random) -> Iterator[tuple[Row, Sample, str]]:
    """Rows of the task with samples and answers: generated ones for the official row, nano's own
    for the embedded ones.
    """
    task = load_task(one.task, "lmms-eval")

    def samples(row: Row) -> Iterator[Sample]:
        yield from (s for s in task.samples(row) if isinstance(s, Sample))

    clip = next(iter((HERE / "video_qa" / "videos").glob("*.mp4")))
    row = Row({"clip": clip, **one.row})
    for sample in samples(row):
        target = sample.target
        right = [
            t for t in (target if isinstance(target, list) else [target]) if isinstance(t, str)
        ]
        yield from ((row, sample, a) for a in (*WORDS, *one.answers))
        yield from ((row, sample, near(a, rng)) for _ in range(60) for a in right)
        for _ in range(400):
            yield row, sample, near(rng.choice(one.answers or WORDS), rng)
    if one.mini:
        ours = evaluate(one.mini, protocol="lmms-eval", limit=40, seed=0, progress=False,
                        output=Path(os.environ["HF_HOME"]) / "nano")  # fmt: skip
        texts = {r.id: r.text or "" for r in ours.outcomes[0].cell.stored.scored().values()}
        for columns in load_task(one.mini).source.rows():
            row = Row(columns)
            yield from ((row, s, texts[s.id]) for s in samples(row) if s.id in texts)


@pytest.mark.parametrize("one", BESIDE, ids=lambda b: b.task)
def test_answers_score_as_lmms_eval_scores_them(
    one: Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from evalkit.integrations.lmms_tasks import sample_value, scorer, text_of

    task, compared = load_task(one.task, "lmms-eval"), 0
    for row, sample, answer in answered(one, random.Random(0)):
        score = task.score(sample, Completion(sample.id, answer))
        document = text_of(one.document(row, sample))
        theirs = scorer(one.theirs, document)
        random.seed(0)
        state = random.getstate()
        made = theirs.process_results(json.loads(document), [answer])
        if one.apart(answer) or random.getstate() != state:
            continue
        compared += 1
        for ours, name in one.metrics.items():
            found = one.value(made[name]) if one.value else sample_value(theirs, name, made[name])
            expected = float(found)
            assert score.values[ours] == pytest.approx(expected, abs=1e-9), (answer, sample.target)
    assert compared >= 200


OTHERS = {
    "ai2d": "ai2d",
    "blink:counting": "blink_counting",
    "countbenchqa": "countbench",
    "cv_bench:2d": "cv_bench_2d",
    "egoschema:subset": "egoschema_subset",
    "hallusionbench": "hallusion_bench_image",
    "hrbench:4k": "hrbench4k",
    "mathvision:test": "mathvision_test",
    "mathvista:testmini": "mathvista_testmini_format",
    "mmbench:dev_cn": "mmbench_cn_dev",
    "mmbench:dev_en": "mmbench_en_dev",
    "mmbench:test_cc": "mmbench_cn_cc",
    "mme": "mme",
    "mmmu:val": "mmmu_val",
    "mmmu_pro:standard_10": "mmmu_pro_standard",
    "mmstar": "mmstar",
    "mmt_bench:val": "mmt_val",
    "mmvp": "mmvp",
    "muirbench": "muirbench",
    "perceptiontest:val": "perceptiontest_val_mc",
    "pope:test": "pope",
    "realworldqa": "realworldqa",
    "scienceqa": "scienceqa_img",
    "screenspot:pro": "screenspot_pro",
    "screenspot:v1": "screenspot_rec_test",
    "screenspot:v2": "screenspot_v2",
    "seedbench": "seedbench",
    "vcr:en_easy": "vcr_wiki_en_easy",
    "visulogic": "visulogic",
    "vstar": "vstar_bench_direct_attributes",
}


@pytest.mark.parametrize(
    ("name", "theirs"), [*((b.task, b.theirs) for b in BESIDE), *OTHERS.items()]
)
def test_limits_are_those_of_the_task_files(name: str, theirs: str) -> None:
    """Read without the files' functions, some of which need packages that lmms-eval lacks."""
    from lmms_eval.utils import load_yaml_config

    from evalkit.integrations.lmms_tasks import yaml_of

    task = load_task(name, "lmms-eval")
    given = load_yaml_config(yaml_path=str(yaml_of(theirs)), mode="simple")
    given = given.get("generation_kwargs") or {}
    assert task.max_new_tokens == given.get("max_new_tokens", 128)
    assert list(task.protocol.stop) == given.get("until", ["\n\n"])
