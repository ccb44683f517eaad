"""What other harnesses wrote comes in as cells: scored by their metric and ours, marked as
imported, paired with other cells.

The files here are in the exact formats of VLMEvalKit (``MODEL_DATASET.xlsx`` and ``.tsv``) and of
lmms-eval (``DATE_samples_TASK.jsonl`` with and without the row itself, ``DATE_results.json``).
"""

from __future__ import annotations

import json
import sys
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
