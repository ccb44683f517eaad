"""What other harnesses wrote comes in as cells: scored by their metric and ours, marked as
imported, paired with other cells.

The files here are in the exact formats of VLMEvalKit (``MODEL_DATASET.xlsx`` and ``.tsv``) and of
lmms-eval (``DATE_samples_TASK.jsonl`` with and without the row itself, ``DATE_results.json``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import evalkit
from evalkit.cli import main
from evalkit.errors import EvalkitError, UsageError
from evalkit.imports.cells import Imported, import_answers
from evalkit.imports.readers import read_answers
from evalkit.imports.scales import with_scales
from evalkit.results.cells import find_cells, take_inventory
from evalkit.results.leaderboard import Leaderboard
from evalkit.results.rescore import rescore
from evalkit.task import load_task, read_samples
from evalkit.types import Sample

VQA = [
    {"index": 1, "question": "Code?", "answer": "['610', 'six']", "prediction": "610"},
    {"index": 2, "question": "Goal?", "answer": "['harvest']", "prediction": "harvests"},
    {"index": 3, "question": "Name?", "answer": "['Ada']", "prediction": None},
]
CHOICES = [
    {"index": i, "question": "Which?", "A": "x", "B": "NA", "C": None, "answer": "B",
     "prediction": text, "category": "k", "hit": hit, "log": "Succeed"}
    for i, (text, hit) in enumerate([("B", 1), ("(B) NA", 1), ("I think it is B", 1), ("A", 0)])
]  # fmt: skip


def sheet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    if path.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(path, index=False, engine="openpyxl")
    else:
        frame.to_csv(path, sep="\t", index=False)
    return path


def lmms_lines(model_says: dict[str, str], with_doc: bool) -> list[dict[str, Any]]:
    """Lines about the first questions of docvqa:mini."""
    out = []
    samples = [s for s in read_samples(load_task("docvqa")) if isinstance(s, Sample)][:4]
    for number, sample in enumerate(samples):
        text = model_says.get(sample.id, sample.target[0])
        doc = {"questionId": sample.id, "question": "?", "answers": sample.target}
        out.append(
            {
                "doc_id": number,
                **({"doc": doc} if with_doc else {}),
                "target": str(sample.target),
                "filtered_resps": [text],
                "doc_hash": "0" * 64,
                "anls": float(text in sample.target),
                "input": "What is it?\nAnswer the question using a single word or phrase.",
            }
        )
    return out


def lmms_samples(folder: Path, lines: list[dict[str, Any]], model: str = "org/other") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "20260101_000000_results.json").write_text(json.dumps({"model_name": model}))
    file = folder / "20260101_000000_samples_docvqa_val.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def taken(file: Path, output: Path, **settings: Any) -> Imported:
    return import_answers(read_answers(file), output, **settings)


def values(imported: Imported) -> dict[str, float]:
    return {m.metric: round(m.value, 1) for m in imported.cell.results.metrics}


@pytest.mark.parametrize("suffix", ["xlsx", "tsv"])
def test_predictions_of_vlmevalkit_are_scored_by_ours(tmp_path: Path, suffix: str) -> None:
    file = sheet(tmp_path / "m_7b" / f"m_7b_DocVQA_VAL.{suffix}", VQA)
    imported = taken(file, tmp_path / "out", metric="anls")
    assert values(imported) == {"anls": 93.8}
    assert (imported.cell.model, imported.cell.task) == ("m_7b", "DocVQA_VAL:imported")
    assert (imported.cell.results.n, imported.cell.results.errors) == (2, 1)
    (lost,) = (r for r in imported.records if r.error)
    assert lost.error == "the file has no answer"


def test_what_a_file_scored_counts_though_nothing_was_said_or_is_readable(tmp_path: Path) -> None:
    """Else its mean would be another than the file's."""
    rows = [CHOICES[0], {**CHOICES[3], "prediction": None}, {**CHOICES[3], "answer": "AB"}]
    rows = [{**row, "index": i} for i, row in enumerate(rows)]
    imported = taken(sheet(tmp_path / "m_MMBench_DEV_EN_result.tsv", rows), tmp_path / "out")
    theirs, ours = imported.cell.results.metrics  # the headline is the one of all rows
    assert (ours.metric, ours.n, ours.value) == ("accuracy", 1, 100.0)
    assert "1 row without an answer: only the file's own score counts" in imported.remarks
    assert (theirs.metric, theirs.n) == ("hit (VLMEvalKit)", 3)
    assert theirs.value == pytest.approx(100 / 3)
    assert any("row 2: 'answer' is 'AB'" in r for r in imported.remarks)


def test_our_metric_and_theirs_are_set_side_by_side_and_row_by_row(tmp_path: Path) -> None:
    file = sheet(tmp_path / "m_MMBench_DEV_EN_gpt-4o_result.xlsx", CHOICES)
    imported = taken(file, tmp_path / "out")
    assert imported.cell.task == "MMBench_DEV_EN:imported"
    assert values(imported) == {"accuracy": 50.0, "hit (VLMEvalKit)": 75.0}
    (row,) = imported.differences()
    assert (row["id"], row["answer"]) == ("2", "I think it is B")
    paired = imported.agreement("accuracy", "hit (VLMEvalKit)")
    assert paired and paired.difference.value == -0.25 and paired.n == 4
    assert values(taken(file, tmp_path / "out", whose="ours")) == {"accuracy": 50.0}
    assert values(taken(file, tmp_path / "out", whose="theirs")) == {"hit (VLMEvalKit)": 75.0}
    by_category = {r.metadata["category"] for r in imported.records}
    assert (by_category, imported.records[0].choices) == ({"k"}, ("x", "NA"))


def test_scores_of_theirs_that_are_no_shares_stay_in_their_unit(tmp_path: Path) -> None:
    rows = [{**row, "score": score} for row, score in zip(VQA, (10, 5, 0))]
    file = sheet(tmp_path / "m_MMVet_gpt-4-turbo_score.tsv", rows)
    imported = taken(file, tmp_path / "out", metric="anls")
    assert values(imported) == {"anls": 93.8, "score (VLMEvalKit)": 5.0}
    assert imported.pairs() == [], "points of ten are not set against per cent"


@pytest.mark.parametrize("with_doc", [True, False])
def test_samples_of_lmms_eval_are_matched_with_a_task_and_scored_by_it(
    tmp_path: Path, with_doc: bool
) -> None:
    task = load_task("docvqa")
    file = lmms_samples(tmp_path, lmms_lines({}, with_doc))
    imported = taken(file, tmp_path / "out", task=task)
    assert imported.cell.model == "org/other"
    assert values(imported) == {"anls": 100.0, "exact_match": 100.0, "anls (lmms-eval)": 100.0}
    how = "by id" if with_doc else "by the number of its row"
    assert imported.remarks[0] == f"4 of 4 answers matched {how} with docvqa:mini"
    assert imported.records[0].metadata["tier"] == "easy"
    shifted = [{**line, "doc_id": line["doc_id"] + 3} for line in lmms_lines({}, False)]
    with pytest.raises(UsageError, match=r"not those of docvqa:mini(?s:.)*100% of the targets"):
        taken(lmms_samples(tmp_path / "other", shifted), tmp_path / "out", task=task)
    ids = [{**line, "doc": {"questionId": "x"}} for line in lmms_lines({}, True)]
    with pytest.raises(
        UsageError,
        match="not those of docvqa:mini: there ids are like .*, in the file like x, x, x",
    ):
        taken(lmms_samples(tmp_path / "third", ids), tmp_path / "out", task=task)


def test_imported_cells_are_compared_and_marked_and_never_taken_for_runs(tmp_path: Path) -> None:
    task, out = load_task("docvqa"), tmp_path / "out"
    first = read_samples(task)
    wrong = {next(first).id: "no", next(first).id: "nothing"}
    one = taken(lmms_samples(tmp_path / "a", lmms_lines({}, True), "one"), out, task=task)
    two = taken(lmms_samples(tmp_path / "b", lmms_lines(wrong, True), "two"), out, task=task)
    frame = evalkit.compare(one.cell.path, two.cell.path, out)
    assert set(frame["difference"]) == {50.0}
    rows = evalkit.load_results(out)
    assert (set(rows["data"]), set(rows["arm"])) == ({"imported"}, {"imported"})
    assert set(rows["adapter"]) == {"imported from lmms-eval"}
    assert "imported: another harness asked" in Leaderboard.of(out).markdown()
    with pytest.raises(EvalkitError, match="repeat `evalkit import`"):
        rescore(one.cell)
    before = one.cell.journal_path.read_bytes()
    assert main(["rescore", "--output", str(out)]) == 0
    again = taken(lmms_samples(tmp_path / "a", lmms_lines({}, True), "one"), out, task=task)
    assert (again.cell.path, again.cell.journal_path.read_bytes()) == (one.cell.path, before)
    assert len(take_inventory(out).cells) == 2
    assert len(find_cells("two", out)) == 1


def test_the_command_prints_both_metrics_and_keeps_all_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = sheet(tmp_path / "m_Set_result.tsv", CHOICES), tmp_path / "out"
    assert main(["import", str(file), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[-3:] == ["n", "errors", "unparsed"]
    assert "accuracy - hit (VLMEvalKit): -25.0" in printed
    assert "1 answers are scored differently" in printed
    (kept,) = out.rglob("differences.csv")
    assert list(pd.read_csv(kept)["answer"]) == ["I think it is B"]
    assert "imported" in (out / "leaderboard.md").read_text()


def test_the_command_is_told_how_the_model_writes_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample, *_) = (s for s in read_samples(load_task("refcoco")) if isinstance(s, Sample))
    line = {"doc": {"id": sample.id}, "doc_id": 0, "filtered_resps": ["[0.1, 0.1, 0.9, 0.9]"]}
    file, out = (
        lmms_samples(tmp_path / "in", [{**line, "target": "", "iou": 0.5}]),
        tmp_path / "out",
    )
    command = ["import", str(file), "--task", "refcoco", "--output", str(out), "--box-space"]
    assert main([*command, "norm1:list"]) == 0
    assert list(evalkit.load_samples(out)["unparsed"]) == [False]
    with pytest.raises(SystemExit):
        main([*command, "furlongs"])
    assert "expected UNIT or UNIT:FORM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (1.0, 1.0),
        (True, 1.0),
        ({"question_id": 1, "score": 0.5}, 0.5),
        ({"pred_answer": "A", "answer": "B"}, 0.0),
        ({"pred_answer": "A", "gt_answer": "A"}, 1.0),
        ({"pred_answer": "dog", "answer": ["dog", "a dog"]}, None),
        ({"pred_answer": "harvests", "answer": "harvest"}, None),
        ({"submission": "x"}, None),
        ("text", None),
        (float("nan"), None),
        (10**400, None),
    ],
)
def test_what_lmms_eval_writes_of_a_metric_is_read(
    tmp_path: Path, value: Any, score: float | None
) -> None:
    lines = [{**line, "anls": value} for line in lmms_lines({}, True)]
    (row, *_) = read_answers(lmms_samples(tmp_path, lines)).rows
    assert row.theirs.get("anls") == score


def test_rows_of_one_id_count_once_and_a_file_that_fails_costs_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sheet(tmp_path / "m_None.tsv", [{**VQA[0], "answer": "[1, {}]"}])
    twice = sheet(tmp_path / "m_Twice.tsv", [*VQA, *VQA])
    out = tmp_path / "out"
    assert main(["import", str(bad), str(twice), "--output", str(out)]) == 1
    printed = capsys.readouterr()
    assert "m_None.tsv: None: no answers (row 0: 'answer' is {}" in printed.err
    assert "m_Twice.tsv: Twice:imported, m" in printed.out
    assert "3 rows repeat an id: the first of each counts" in printed.out
    (cell,) = take_inventory(out).cells
    assert cell.intact and (cell.results.n, cell.results.errors) == (2, 1)


def test_damaged_lines_are_said_and_other_files_refused(tmp_path: Path) -> None:
    file = lmms_samples(tmp_path, lmms_lines({}, True))
    file.write_text(file.read_text() + '{"doc_id": 9\n{"other": 1}\n')
    answers = read_answers(file)
    assert len(answers.rows) == 4 and len(answers.remarks) == 2
    odd: list[dict[str, Any]] = [{"other": 1}, {"doc_id": None}, {"doc_id": 9, "target": {"a": 1}}]
    lines = [{"filtered_resps": ["x"], **o} for o in odd] + lmms_lines({}, True)
    answers = read_answers(lmms_samples(tmp_path, lines))
    assert len(answers.rows) == 4
    assert [remark[:6] for remark in answers.remarks] == ["row 0:", "row 1:", "row 2:"]
    named: list[dict[str, Any]] = [{**VQA[0], "index": None}, VQA[1], {"index": 5, "question": "?"}]
    (tmp_path / "m_d.json").write_text(json.dumps(named))
    answers = read_answers(tmp_path / "m_d.json")
    assert answers.remarks == ("row 0: no index",) and [r.text for r in answers.rows][1] is None
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(UsageError, match="a pickle may run code"):
        read_answers(tmp_path / "x.pkl")
    with pytest.raises(UsageError, match=r"is a folder: .*, m_d\.json\)"):
        read_answers(tmp_path)
    evalscope(tmp_path / "z", [review(0, "x", ["x"], {})])
    with pytest.raises(UsageError, match=r"holds z/reviews/org/m/set_val\.jsonl, "):
        read_answers(tmp_path)
    sheet(tmp_path / "x.tsv", [{"a": 1}])
    with pytest.raises(UsageError, match=r"no predictions of VLMEvalKit .*; it has: a"):
        read_answers(tmp_path / "x.tsv")


def test_logs_of_inspect_are_read_by_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in of the library, which has the attributes of its ``EvalLog``."""
    file = tmp_path / "log.eval"
    file.write_bytes(b"PK")
    monkeypatch.setattr("evalkit.imports.readers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'evalkit\[inspect\]'"):
        read_answers(file)
    samples = [
        SimpleNamespace(
            id=i, epoch=1, input="Which?", choices=["x", "y"], target="B", metadata={}, error=None,
            output=SimpleNamespace(completion=text),
            scores={"choice": SimpleNamespace(value=value)},
        )
        for i, (text, value) in enumerate([("B", "C"), ("ANSWER: B", "C"), ("A", "I")])
    ]  # fmt: skip
    log = SimpleNamespace(
        status="cancelled", samples=samples, eval=SimpleNamespace(task="set", model="p/m")
    )
    module = ModuleType("inspect_ai.log")
    module.read_eval_log = lambda path: log  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "inspect_ai", ModuleType("inspect_ai"))
    monkeypatch.setitem(sys.modules, "inspect_ai.log", module)
    monkeypatch.setattr("evalkit.imports.readers.find_spec", lambda name: object())
    imported = taken(file, tmp_path / "out")
    assert values(imported) == {"accuracy": 33.3, "choice (Inspect)": 66.7}
    assert imported.remarks == ("the run ended with status cancelled",)


def turns(text: str, picture: str = "", answer: str = "") -> list[dict[str, Any]]:
    """Messages as EvalScope writes them, but for what is null."""
    shown = [{"type": "image", "image": picture, "detail": "auto"}] if picture else []
    return [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [*shown, {"type": "text", "text": text}]},
        {"role": "assistant", "content": answer},
    ]


def review(
    index: int, said: str, target: list[str], value: dict[str, Any], **other: Any
) -> dict[str, Any]:
    """A line of reviews as EvalScope 1.14 writes it, but for what is null."""
    about = {"status": "success", "extracted_prediction": said[-1:], "metadata": {}}
    return {
        "index": index,
        "target": target,
        "messages": turns(other.pop("text", "Which?"), other.pop("picture", ""), said),
        "sample_score": {
            "score": {"value": value, "prediction": said, **about, **other.pop("score", {})},
            "sample_id": index,
            "group_id": other.pop("group", index),
            "sample_metadata": other.pop("about", {}),
        },
    }


def prediction(index: int, said: str | None) -> dict[str, Any]:
    message = {"message": {"role": "assistant", "content": said}}
    output = {"choices": [message] if said is not None else [], "error": None}
    return {"index": index, "model": "org/m", "model_output": output, "messages": turns("Which?")}


def report(
    name: str, metric: str, mean: float, highest: float = 1.0, **other: Any
) -> dict[str, Any]:
    return {
        "metrics": [
            {
                "identity": {"name": metric, "aggregation": "mean", "dimensions": {}},
                "categories": [{"subsets": [{"name": name, "score": mean}]}],
                "semantics": {"value_range": {"min": 0.0, "max": highest}, **other},
            }
        ],
        "execution_summary": {"subsets": {name: {"requested": 5, "errored": 1}}},
    }


def evalscope(
    folder: Path,
    reviews: Sequence[dict[str, Any]],
    predictions: Sequence[dict[str, Any]] = (),
    told: dict[str, Any] | None = None,
    name: str = "set_val",
) -> Path:
    """The folder of a run; the file that is named."""
    for kind, lines in (("reviews", reviews), ("predictions", predictions)):
        if lines:
            (folder / kind / "org" / "m").mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / kind / "org" / "m" / f"{name}.jsonl").write_text(text)
    if told:
        (folder / "reports" / "org" / "m").mkdir(parents=True)
        file = folder / "reports" / "org" / "m" / f"{name.partition('_')[0]}.json"
        file.write_text(json.dumps(told))
    return folder / ("reviews" if reviews else "predictions") / "org" / "m" / f"{name}.jsonl"


ASKED = (
    "The last line is 'ANSWER: [LETTER]', where [LETTER] is one of A,B.\n\nWhich?\n\n"
    "A) red\nB) blue"
)


def test_reviews_of_evalscope_are_read_with_options_pictures_and_both_scores(
    tmp_path: Path,
) -> None:
    says = ["Red.\nANSWER: A", "So it is B", "ANSWER: A"]
    lines = [
        review(i, said, ["A"], {"accuracy": float(i != 1)}, text=ASKED, picture=f"data:{i // 2}")
        for i, said in reversed(list(enumerate(says)))
    ]
    file = evalscope(tmp_path / "r", lines, told=report("val", "accuracy", 0.6667))
    imported = taken(file, tmp_path / "out")
    assert (imported.cell.model, imported.cell.task) == ("org/m", "set_val:imported")
    assert [r.id for r in imported.records] == ["0", "1", "2"]
    assert imported.records[0].choices == ("red", "blue")
    assert values(imported) == {"accuracy": 66.7, "accuracy (EvalScope)": 66.7}
    assert len({r.cluster for r in imported.records}) == 2, "two of one picture"
    assert imported.remarks == ("1 of 5 samples failed in EvalScope: they are in no file",)


def test_what_evalscope_could_not_score_is_no_zero(tmp_path: Path) -> None:
    lost = {"metadata": {"metric_errors": {"BLEU": "LookupError"}}}
    lines = [
        review(0, "red", ["red"], {"bleu-1": 0.0, "Rouge-L-R": 1.0}, score=lost),
        review(1, "red", ["red"], {"bleu-1": 0.5, "Rouge-L-R": 1.0}),
        review(2, "red", ["red"], {"bleu-1": 0.0}, score={"status": "parse_error"}),
        review(3, "red", ["red"], {"bleu-1": float("nan")}),
    ]
    answers = read_answers(evalscope(tmp_path / "r", lines))
    assert [dict(row.theirs) for row in answers.rows] == [
        {"Rouge-L-R": 1.0}, {"bleu-1": 0.5, "Rouge-L-R": 1.0}, {}, {},
    ]  # fmt: skip
    assert "1 rows: EvalScope could not compute BLEU: no score of these counts" in answers.remarks
    assert "1 rows: EvalScope's status is parse_error: no score of these counts" in answers.remarks


def test_predictions_without_reviews_are_answers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = [prediction(0, "red"), prediction(1, None), prediction(2, "")]
    file = evalscope(tmp_path / "r", [], says)
    imported = taken(file, tmp_path / "out")
    assert [r.text for r in imported.records] == ["red", "", ""]
    unscored = "no score in the file"
    assert [r.error for r in imported.records] == [unscored, "the file has no answer", unscored]
    assert imported.remarks == (
        "none of 3 answers has a score: name its --task, whose questions say what is right",
    )
    scored = [review(0, "red", ["red"], {"acc": 1.0}), review(1, "", ["red"], {"acc": 0.0})]
    both = evalscope(tmp_path / "r", scored, says)
    assert main(["import", str(both), str(file), "--output", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.count("set_val.jsonl: ") == 1, "one cell, shown once"
    for named in (both, file):  # whichever is named
        answers = read_answers(named)
        assert [row.text for row in answers.rows] == ["red", None, ""]
        assert [dict(row.theirs) for row in answers.rows] == [{"acc": 1.0}, {"acc": 0.0}, {}]
        assert answers.remarks == ("1 predictions have no review, so no score of EvalScope's",)


def test_several_answers_of_a_question_are_one_cluster_and_a_later_line_counts(
    tmp_path: Path,
) -> None:
    about = [{"questionId": "q7"}, {"questionId": "q7"}, {"questionId": "q9"}, {"questionId": "q9"}]
    lines = [
        review(i, "red", ["red"], {"acc": 0.0}, group=i // 2, about=a) for i, a in enumerate(about)
    ]
    lines.append(review(3, "red", ["red"], {"acc": 1.0}, group=1, about=about[3]))
    answers = read_answers(evalscope(tmp_path / "r", lines))
    assert [row.id for row in answers.rows] == ["q7#0", "q7#1", "q9#0", "q9#1"]
    assert [row.cluster for row in answers.rows] == ["q7", "q7", "q9", "q9"]
    assert (answers.rows[3].theirs["acc"], answers.by_number) == (1.0, False)
    assert answers.remarks == ("1 rows were written again: the last of each counts",)
    same = [review(i, "red", ["red"], {"acc": 0.0}, about={"id": "x"}) for i in range(2)]
    answers = read_answers(evalscope(tmp_path / "s", same))
    assert ([row.id for row in answers.rows], answers.by_number) == (["0", "1"], True)


def test_options_that_the_text_does_not_tell_surely_leave_the_file_s_own_score(
    tmp_path: Path,
) -> None:
    head = ASKED.partition("A) ")[0]
    texts = {
        "A) red\nB) blue\nor green": ("red", "blue\nor green"),
        "A) red\nB) blue\nC) or green": (),
        "A) red\nA) or blue": (),
    }
    lines = [review(i, "A", ["A"], {"acc": 1.0}, text=head + t) for i, t in enumerate(texts)]
    answers = read_answers(evalscope(tmp_path / "r", lines))
    assert [row.choices for row in answers.rows] == list(texts.values())
    assert len(answers.remarks) == 2
    assert all("options can't be told from the question's text" in r for r in answers.remarks)
    without = [review(0, "A", ["A"], {}, text=head + "A) red\nA) or blue")]
    assert not read_answers(evalscope(tmp_path / "s", without)).rows


@pytest.mark.parametrize(
    ("target", "read"),
    [
        (['["610", "six"]'], ["610", "six"]),
        ("610", ["610"]),
        (["[0.1, 0.2, 0.3, 0.4]"], ["[0.1, 0.2, 0.3, 0.4]"]),
        (["a", "b"], ["a", "b"]),
        (None, None),
    ],
)
def test_right_answers_of_evalscope(tmp_path: Path, target: Any, read: Any) -> None:
    (row,) = read_answers(evalscope(tmp_path / "r", [review(0, "x", target, {"acc": 1.0})])).rows
    assert row.target == read


def test_reviews_of_the_first_releases_are_read_and_those_before_refused(tmp_path: Path) -> None:
    line = review(0, "ANSWER: 610", [], {"anls": 1.0})
    del line["messages"]
    asked = "Say it in the form ANSWER: X\nWhat is the CODE?"
    text = f"**System**: \nBe short.\n\n**User**: \n{asked}\n![image](data:x)"
    line |= {"input": text, "target": '["610"]'}
    imported = taken(evalscope(tmp_path / "r", [line]), tmp_path / "out", metric="anls")
    assert values(imported)["anls"] == 100.0
    assert imported.records[0].question == asked
    assert imported.records[0].cluster.startswith("media ")
    old = {"answer_id": "a", "choices": [], "index": 0, "raw_input": {}, "subset_name": "val"}
    with pytest.raises(UsageError, match=r"EvalScope before 1\.0"):
        read_answers(evalscope(tmp_path / "old", [old]))


def test_a_line_that_a_stopped_run_left_is_said(tmp_path: Path) -> None:
    file = evalscope(tmp_path / "r", [review(0, "red", ["red"], {"acc": 1.0})])
    odd = [
        '{"index": 1, "sampl',
        "7",
        '{"index": true, "sample_score": 3}',
        '{"index": 4, "sample_score": 3}',
    ]
    file.write_text(file.read_text() + "\n".join(odd))
    answers = read_answers(file)
    assert [(row.id, row.text) for row in answers.rows] == [("0", "red"), ("4", None)]
    assert len(answers.remarks) == 3


def test_documents_of_vlmevalkit_are_scored_by_similarity_and_not_by_distance(
    tmp_path: Path,
) -> None:
    """``eval_score`` is the mean of the distances in ``eval_match``, so small where it is right."""
    rows = [
        {**VQA[0], "eval_match": "[0.0, 1.0]", "eval_score": 0.5},
        {**VQA[1], "eval_match": "[0.125]", "eval_score": 0.125},
        {**VQA[1], "index": 4, "prediction": "x", "eval_match": "[0.9]", "eval_score": 0.9},
        {**VQA[1], "index": 5, "eval_match": "[what]", "eval_score": 0.9},
    ]
    answers = read_answers(sheet(tmp_path / "m_DocVQA_VAL_results.tsv", rows))
    assert [dict(row.theirs) for row in answers.rows] == [
        {"eval_score": 1.0}, {"eval_score": 0.875}, {"eval_score": 0.0}, {},
    ]  # fmt: skip
    assert "1 rows whose eval_score says that no score was made: none counts" in answers.remarks
    chart = [{**VQA[0], "eval_match": "[True, False]", "eval_score": 0.5}]
    (row,) = read_answers(sheet(tmp_path / "m_ChartQA_TEST_results.tsv", chart)).rows
    assert row.theirs == {"eval_score": 1.0}
    (row,) = read_answers(sheet(tmp_path / "m_TextVQA_VAL_results.tsv", chart)).rows
    assert row.theirs == {"eval_score": 0.5}


def test_a_judge_or_a_server_that_failed_is_neither_a_score_nor_an_answer(tmp_path: Path) -> None:
    failed = "Failed to obtain answer via API."
    rows = [{**VQA[0], "score": -1}, {**VQA[1], "score": 3, "prediction": failed}]
    answers = read_answers(sheet(tmp_path / "m_MMBench-Video_score.tsv", rows))
    assert [(row.text, dict(row.theirs)) for row in answers.rows] == [
        ("610", {}), (None, {"score": 3.0}),
    ]  # fmt: skip


def scored(folder: Path, *scores: object, name: str = "Set") -> Path:
    rows = [{**VQA[0], "index": i, "score": score} for i, score in enumerate(scores)]
    return sheet(folder / f"{folder.name}_{name}_score.tsv", rows)


def test_files_of_one_data_set_have_one_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = scored(tmp_path / "bad", 0, 1), scored(tmp_path / "good", 40, 100)
    other, out = scored(tmp_path / "good", 1, 0, name="Other"), tmp_path / "out"
    command = ["import", str(bad), str(good), str(other), "--metrics-of", "theirs"]
    assert main([*command, "--output", str(out)]) == 0
    rows = evalkit.load_results(out).set_index(["task", "model"])["value"]
    assert rows["Set:imported", "bad"] == 0.5 and rows["Set:imported", "good"] == 70.0
    assert rows["Other:imported", "good"] == 50.0
    printed = capsys.readouterr().out
    assert "score has no value above 1, so 1 is taken for the highest" in printed
    assert "not of one scale in these files (Other: per cent of 1; Set: in its own unit)" in printed


def test_per_cent_and_points_of_two_imports_are_not_compared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = [scored(tmp_path / "bad", 0, 1), scored(tmp_path / "good", 40, 100)]
    one, two = (taken(file, out, metric="anls").cell for file in pair)
    frame = evalkit.compare(one.path, two.path, out)
    assert list(frame["metric"]) == ["anls"]
    assert "not compared, of another scale: score (VLMEvalKit)" in frame["remarks"][0]
    one, two = (taken(file, tmp_path / "t", whose="theirs").cell for file in pair)
    with pytest.raises(UsageError, match=r"score \(VLMEvalKit\) is of another scale in each"):
        evalkit.compare(one.path, two.path, tmp_path / "t")


def test_a_named_task_reads_answers_by_the_harness_s_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample, *_) = (s for s in read_samples(load_task("docvqa")) if isinstance(s, Sample))
    said = f"It says so.\nANSWER: {sample.target[0]}"
    line = review(
        0, said, [json.dumps(sample.target)], {"anls": 1.0}, about={"questionId": sample.id}
    )
    command = ["import", str(evalscope(tmp_path / "r", [line])), "--output", str(tmp_path / "out")]
    assert main([*command, "--task", "docvqa", "--metrics-of", "ours"]) == 0
    assert (
        main([*command, "--task", "docvqa", "--metrics-of", "ours", "--protocol", "evalscope"]) == 0
    )
    frame = evalkit.load_results(tmp_path / "out")
    assert sorted(frame[frame["metric"] == "anls"]["value"]) == [0.0, 100.0]
    assert main([*command, "--protocol", "evalscope"]) == 2
    assert "name the task with --task" in capsys.readouterr().err


def test_the_highest_value_is_the_user_s_to_say_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = scored(tmp_path / "bad", 0, 1), tmp_path / "out"
    command = ["import", str(bad), "--metrics-of", "theirs", "--output", str(out)]
    assert main(command) == 0
    assert main([*command, "--highest", "score=10"]) == 0
    assert sorted(evalkit.load_results(out)["value"]) == [5.0, 50.0], "two cells, neither mended"
    assert main([*command, "--highest", "score=0.5"]) == 2
    assert main([*command, "--highest", "hit=1"]) == 2
    printed = capsys.readouterr().err
    assert "highest score=0.5: Set has values from 0 to 1" in printed
    assert "highest hit: no file has this metric; there are score" in printed


def test_a_harness_s_own_word_on_a_scale_needs_no_guess(tmp_path: Path) -> None:
    hits = read_answers(sheet(tmp_path / "m_Set_result.tsv", CHOICES))
    right = [{**line, "acc": True} for line in lmms_lines({}, True)]
    files = [hits, read_answers(lmms_samples(tmp_path / "l", right))]
    points = report("val", "judge_score", 30.0, 100.0, direction="lower_is_better")
    lines = [review(i, "x", ["x"], {"judge_score": v}) for i, v in enumerate((0.0, 60.0))]
    files.append(read_answers(evalscope(tmp_path / "e", lines, told=points)))
    assert [dict(one.highest) for one in with_scales(files)] == [
        {"hit": 1.0}, {"anls": 1.0, "acc": 1.0}, {"judge_score": 100.0},
    ]  # fmt: skip
    assert not any("highest" in r for one in with_scales(files) for r in one.remarks)
    imported = taken(tmp_path / "e/reviews/org/m/set_val.jsonl", tmp_path / "out", whose="theirs")
    (metric,) = imported.cell.results.metrics
    assert (metric.value, metric.higher_is_better) == (30.0, False)
    odd = [{**CHOICES[0], "hit": 3}]
    (answers,) = with_scales([read_answers(sheet(tmp_path / "m_Odd_result.tsv", odd))])
    assert answers.highest == {"hit": None}
    assert answers.remarks == ("hit should end at 1 and goes from 3 to 3: as it is",)


def test_a_report_that_says_another_mean_is_said(tmp_path: Path) -> None:
    told = report("val", "accuracy", 0.9)
    file = evalscope(tmp_path, [review(0, "x", ["x"], {"acc": 1.0})], told=told)
    answers = read_answers(file)
    assert "its report has acc 0.9, these rows come to 1" in answers.remarks
    assert answers.highest == {}
