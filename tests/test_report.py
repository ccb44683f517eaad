"""The report: one page that holds every answer, shows no markup that others wrote, and says what it
can't show.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.columns import Columns
from evalkit.errors import UsageError
from evalkit.results import take_inventory, write_report
from evalkit.results.report import media
from evalkit.results.report.documents import error_kind
from evalkit.results.report.page import HERE, packed
from evalkit.store import RUN
from evalkit.task import Metric
from evalkit.types import Message, Sample, Text
from tests.report_data import HOSTILE, write_results
from tests.stored import cell, moved, record

VENDOR = HERE / "vendor"


def contents(page: Path) -> dict[str, Any]:
    """The documents inside a page, by name."""
    found = re.findall(
        r'<script type="application/json" id="document-([a-z0-9-]+)">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    return {name: json.loads(text) for name, text in found}


def answers(holds: dict[str, Any], cell: int) -> list[Any]:
    return holds[f"c{cell}-answers-0"]["answers"]


def test_the_page_holds_all_samples_and_answers_once(tmp_path: Path) -> None:
    output = write_results(tmp_path, 40)
    assert write_report(output, tmp_path / "page.html") == []
    holds = contents(tmp_path / "page.html")
    samples = holds["p0-samples-0"]["samples"]
    assert len(samples) == 40 and len(holds["pictures"]["srcs"]) == 40
    assert [len(answers(holds, i)) for i in (0, 1)] == [40, 40]
    first = samples[holds["p0"]["ids"].index("0")]
    assert first["question"] == "Where is thing 0? <b>"
    (picture,) = first["media"]
    assert (picture["width"], picture["height"]) == (100, 60)
    src = holds["pictures"]["srcs"][int(picture["src"].removeprefix("#"))]
    assert src.startswith("data:image/webp;base64,")
    (error,) = [a for a in answers(holds, 1) if "error" in a]
    assert error["error"] == HOSTILE and "scores" not in error


def test_columns_say_the_same_as_the_answers(tmp_path: Path) -> None:
    write_report(write_results(tmp_path, 12), tmp_path / "page.html")
    holds = contents(tmp_path / "page.html")
    columns, said = holds["c1"], answers(holds, 1)
    assert columns["scores"]["iou"] == [a.get("scores", {}).get("iou") for a in said]
    assert columns["unparsed"] == [int(a.get("unparsed", False)) for a in said]
    assert [c >= 0 for c in columns["error"]["codes"]] == ["error" in a for a in said]
    assert columns["tokens"] == [a["tokens"][2] for a in said]
    lang = holds["p0"]["fields"]["lang"]
    assert [lang["names"][c] for c in lang["codes"]] == [
        s["metadata"]["lang"] for s in holds["p0-samples-0"]["samples"]
    ]


def test_cells_of_different_samples_keep_each_in_its_place(tmp_path: Path) -> None:
    lost = {"error": "lost: no picture", "scores": {}, "failed_in": "row"}
    asked = {
        "a": [record(0, 1.0), record(1, 0.0, **lost), record(2, 0.0)],
        "b": [record(2, 1.0), record(1, 1.0, question="Which?"), record(5, 0.0, text=None, **lost)],
    }
    for model, records in asked.items():
        cell(tmp_path, records, model=model)
    write_report(tmp_path, tmp_path / "page.html")
    holds = contents(tmp_path / "page.html")
    assert holds["p0"]["ids"] == ["0", "1", "2", "5"]
    # of a sample that one cell lost with its row, another one tells
    assert holds["p0-samples-0"]["samples"][1]["question"] == "Which?"
    assert [c["scores"]["accuracy"] for c in (holds["c0"], holds["c1"])] == [
        [1.0, None, 0.0, None],
        [None, 1.0, 1.0, None],
    ]
    assert [a and a.get("text") for a in answers(holds, 1)] == [None, "x", "x", None]
    assert [a and a.get("error") for a in answers(holds, 0)] == [
        None,
        "lost: no picture",
        None,
        None,
    ]
    assert holds["c1"]["error"] == {"names": ["lost"], "codes": [-1, -1, -1, 0]}


def test_a_large_result_is_shown_without_an_object_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(i, i % 2, metadata={"width": 9, "height": 9}) for i in range(300)]
    made = cell(tmp_path, records)
    made.columns()
    monkeypatch.setattr(Columns, "records", lambda _: pytest.fail("made records"))
    write_report(tmp_path, tmp_path / "page.html")
    holds = contents(tmp_path / "page.html")
    assert holds["c0"]["scores"]["accuracy"][:4] == [0, 1, 0, 1]
    assert holds["p0"]["fields"]["image_area"]["names"] == ["under 10^4 pixels"]


def test_what_others_wrote_never_becomes_markup(tmp_path: Path) -> None:
    output = write_results(tmp_path, 20)
    write_report(output, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "document.title='broken'</script>" not in text
    holds = contents(tmp_path / "page.html")
    assert len(re.findall(r"<script", text)) == len(holds) + 2  # the place, and the one that runs
    assert HOSTILE in {a.get("text") for a in answers(holds, 0)}


def test_a_browser_runs_the_script_of_one_hash(tmp_path: Path) -> None:
    """Also where a secret of the environment stands in the script: it is masked in the data."""
    write_report(write_results(tmp_path, 2), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (stated,) = re.findall(r"'sha256-([^']+)'", text)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == stated


def test_vendored_scripts_are_those_that_were_published() -> None:
    lines = (VENDOR / "README.md").read_text(encoding="utf-8").splitlines()
    stated = {
        m[1]: m[2] for line in lines if (m := re.match(r"\| `(\S+)` .*`([0-9a-f]{64})`", line))
    }
    files = [f for f in VENDOR.iterdir() if f.suffix == ".js"]
    found = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert stated == found


def test_documents_and_pictures_may_lie_beside_the_page_or_pictures_be_left_out(
    tmp_path: Path,
) -> None:
    output = write_results(tmp_path, 5)
    write_report(output, tmp_path / "page.html", "folder")
    files = tmp_path / "page_files"
    assert set(contents(tmp_path / "page.html")) == {"overview", "notes"}
    name, value = json.loads(
        (files / "p0-samples-0.js").read_text().replace("evalkitDocument(", "[", 1)[:-1] + "]"
    )
    assert name == "p0-samples-0"
    assert all((tmp_path / s["media"][0]["src"]).is_file() for s in value["samples"])
    write_report(output, tmp_path / "page.html", "none")
    (first, *_) = contents(tmp_path / "page.html")["p0-samples-0"]["samples"]
    assert first["media"] == [{"width": 100, "height": 60}]


def test_without_the_data_the_answers_are_still_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write_results(tmp_path, 5)
    (tmp_path / "boxes.py").unlink()
    assert main(["report", "--output", str(output), "--save", str(tmp_path / "page.html")]) == 0
    assert "pictures are not shown" in capsys.readouterr().err
    holds = contents(tmp_path / "page.html")
    assert len(answers(holds, 0)) == 5 and holds["overview"]["faults"]


def test_whatever_a_task_does_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = write_results(tmp_path, 5)
    (tmp_path / "boxes.py").write_text(
        (tmp_path / "boxes.py")
        .read_text()
        .replace("        picture = io", "        if i == 1: {}['x']\n        picture = io")
    )
    monkeypatch.setattr(media, "preview", lambda *_: 1 / 0)
    faults = write_report(output, tmp_path / "page.html")
    holds = contents(tmp_path / "page.html")
    assert [len(answers(holds, i)) for i in (0, 1)] == [5, 5]
    samples = holds["p0-samples-0"]["samples"]
    assert "ZeroDivisionError: division by zero" in samples[0]["media"][0]["fault"]
    assert faults == ["boxes:all: 1 samples are no longer in the data"]
    monkeypatch.setattr(media, "read_samples", lambda *_: 1 / 0)
    (fault,) = write_report(output, tmp_path / "page.html")
    assert "pictures are not shown: ZeroDivisionError" in fault
    samples = contents(tmp_path / "page.html")["p0-samples-0"]["samples"]
    assert "Where is thing 4? <b>" in {s["question"] for s in samples}  # as the journal has it


def test_one_wrong_task_of_ones_own_costs_the_report_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It puts a PIL image in a message: the run says so, and the page has the other cells."""
    output = write_results(tmp_path, 3)
    wrong = (
        (tmp_path / "boxes.py")
        .read_text()
        .replace("Image(picture.getvalue())", "Picture.new('L', (9, 9))")
    )
    (tmp_path / "wrong.py").write_text(wrong.replace('name = "boxes"', 'name = "wrong"'))
    assert main(["run", "--tasks", str(tmp_path / "wrong.py"), "--output", str(output)]) == 1
    said = capsys.readouterr()
    assert "is not a Text with a string, an Image or a Video" in said.err
    assert "no row could be used" in said.err and RUN not in said.err
    assert "--errors" not in said.out  # nothing is kept that could be shown
    assert "not everything was scored" in said.err
    assert main(["report", "--output", str(output), "--save", str(tmp_path / "page.html")]) == 0
    assert len(answers(contents(tmp_path / "page.html"), 1)) == 3


def test_what_is_no_image_costs_its_picture_only() -> None:
    gallery = media.Gallery(media.none)
    (picture,) = gallery.show(
        Sample("1", (Message("user", (Text("Which?"), object())),), None)  # type: ignore[arg-type]
    )
    assert "object is not an Image or a Video" in picture.fault


def test_data_are_read_from_where_the_run_had_them(tmp_path: Path) -> None:
    output = write_results(tmp_path, 3)
    seen: list[Path | None] = []
    for i, stored in enumerate(take_inventory(output).cells):
        stored.write_run(replace(stored.run, data_path=f"/data/{i}"))

    def read(_: Any, data: Path | None) -> Iterator[Sample]:
        seen.append(data)
        return iter(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "read_samples", read)
        write_report(output, tmp_path / "page.html")
        write_report(output, tmp_path / "page.html", data={"boxes:all": Path("/elsewhere")})
    assert seen == [Path("/data/0"), Path("/elsewhere")]


def test_two_data_sets_of_one_task_stand_side_by_side(tmp_path: Path) -> None:
    output = write_results(tmp_path, 3)
    second = take_inventory(output).cells[1]
    moved(second, data={"kind": "hub"})
    write_report(output, tmp_path / "page.html")
    names = [p["name"] for p in contents(tmp_path / "page.html")["overview"]["parts"]]
    assert len(names) == 2 and names[1].startswith("boxes:all (official data ")


def test_scores_beyond_nought_and_one_have_their_own_best_and_worst(tmp_path: Path) -> None:
    errors = Metric("edits", higher_is_better=False, scale=1.0)
    cell(
        tmp_path,
        [record(i, s, metric="edits") for i, s in enumerate((0.0, 3.0))],
        metrics=(errors,),
    )
    cell(tmp_path, [record(0, 1.0)], task="other:all")
    write_report(tmp_path, tmp_path / "page.html")
    page = contents(tmp_path / "page.html")
    ranges = [page[p["doc"]]["range"] for p in page["overview"]["parts"]]
    assert ranges == [[0.0, 1.0], [3.0, 0.0]]  # worst, best


def test_a_number_that_json_has_not_is_null_on_the_page(tmp_path: Path) -> None:
    done = cell(tmp_path, [replace(record(0, 1.0), metadata={"width": 7.5}), record(1, 1.0)])
    journal = done.journal_path.read_text()
    done.journal_path.write_text(journal.replace("7.5", "1e999"))
    write_report(tmp_path, tmp_path / "page.html")
    (sample, _) = contents(tmp_path / "page.html")["p0-samples-0"]["samples"]
    assert sample["metadata"] == {"width": None}
    assert packed({"a file's name": "\udc80"}) == '{"a file\'s name":"\udc80"}'


def test_a_placeholder_in_a_models_name_stays_text(tmp_path: Path) -> None:
    cell(tmp_path, [record(0, 1.0)], model="@@DOCUMENTS@@")
    write_report(tmp_path, tmp_path / "page.html")
    (shown,) = contents(tmp_path / "page.html")["overview"]["cells"]
    assert shown["model"] == "@@DOCUMENTS@@"


def test_a_study_alone_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "positions"
    shutil.copytree(Path(__file__).parent.parent / "results" / "lab" / "positions", folder)
    assert main(["report", "--output", str(folder)]) == 0
    assert "written" in capsys.readouterr().out
    holds = contents(folder / "report.html")
    (study,) = holds["studies"]["studies"]
    assert study["name"] == "positions" and holds["overview"]["studies"]


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results under"):
        write_report(tmp_path, tmp_path / "page.html")


def test_a_kind_of_error_that_is_cut_says_so() -> None:
    assert error_kind("ValueError: " + "x" * 80) == "ValueError"
    assert error_kind("scoring failed") == "scoring failed"
    cut = error_kind("scoring failed: " + "x" * 80)
    assert len(cut) == 60 and cut.endswith("x…")
