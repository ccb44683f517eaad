"""The report: one page that holds every answer, shows no markup that others wrote, and says what it
can't show.
"""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results import take_inventory, write_report
from evalkit.results.report import media
from evalkit.task import Metric
from evalkit.types import Message, Sample, Text
from tests.report_data import HOSTILE, write_results
from tests.stored import cell, moved, record


def contents(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script id="contents" type="application/json">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found
    return json.loads(found[1])


def test_the_page_holds_all_samples_and_answers_once(tmp_path: Path) -> None:
    output = write_results(tmp_path, 40)
    assert write_report(output, tmp_path / "page.html") == []
    holds = contents(tmp_path / "page.html")
    (task,) = holds["tasks"]
    assert len(task["samples"]) == 40 and len(holds["pictures"]) == 40
    assert [len(cell["answers"]) for cell in holds["cells"]] == [40, 40]
    first = next(s for s in task["samples"] if s["id"] == "0")
    assert first["question"] == "Where is thing 0? <b>"
    picture = holds["pictures"][first["media"][0]]
    assert picture["src"].startswith("data:image/webp;base64,") and (
        picture["width"],
        picture["height"],
    ) == (100, 60)
    (error,) = [a for a in holds["cells"][1]["answers"] if "error" in a]
    assert error["error"] == HOSTILE and "score" not in error


def test_what_others_wrote_never_becomes_markup(tmp_path: Path) -> None:
    output = write_results(tmp_path, 20)
    write_report(output, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "document.title='broken'</script>" not in text
    assert "<i>" not in text.split('<script id="contents"')[0]
    assert len(re.findall(r"<script", text)) == 2
    assert (
        html.unescape(contents(tmp_path / "page.html")["cells"][0]["answers"][3]["text"]) == HOSTILE
    )


def test_pictures_may_lie_beside_the_page_or_be_left_out(tmp_path: Path) -> None:
    output = write_results(tmp_path, 5)
    write_report(output, tmp_path / "page.html", "folder")
    holds = contents(tmp_path / "page.html")
    assert all((tmp_path / p["src"]).is_file() for p in holds["pictures"])
    write_report(output, tmp_path / "page.html", "none")
    assert {p["src"] for p in contents(tmp_path / "page.html")["pictures"]} == {""}


def test_without_the_data_the_answers_are_still_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write_results(tmp_path, 5)
    (tmp_path / "boxes.py").unlink()
    assert main(["report", "--output", str(output), "--save", str(tmp_path / "page.html")]) == 0
    assert "questions and pictures are not shown" in capsys.readouterr().err
    holds = contents(tmp_path / "page.html")
    assert len(holds["cells"][0]["answers"]) == 5 and holds["faults"]


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
    assert [len(c["answers"]) for c in holds["cells"]] == [5, 5]
    assert "ZeroDivisionError: division by zero" in holds["pictures"][0]["fault"]
    assert faults == ["boxes:all: 1 samples are no longer in the data"]
    monkeypatch.setattr(media, "read_samples", lambda *_: 1 / 0)
    (fault,) = write_report(output, tmp_path / "page.html")
    assert "questions and pictures are not shown: ZeroDivisionError" in fault
    questions = {s["question"] for s in contents(tmp_path / "page.html")["tasks"][0]["samples"]}
    assert "Where is thing 4? <b>" in questions  # as the journal has it


def test_what_is_no_image_costs_its_picture_only() -> None:
    gallery = media.Gallery(media.embed)
    shown = gallery.show(
        Sample("1", (Message("user", (Text("Which?"), object())),), None)  # type: ignore[arg-type]
    )
    assert shown.question == "Which?" and len(shown.media) == 1
    assert "object is not an Image or a Video" in gallery.pictures[0].fault


def test_data_are_read_from_where_the_run_had_them(tmp_path: Path) -> None:
    output = write_results(tmp_path, 3)
    seen: list[Path | None] = []
    for i, stored in enumerate(take_inventory(output).cells):
        stored.write_run(replace(stored.run, data_path=f"/data/{i}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "read_samples", lambda _, data: seen.append(data) or iter(()))
        write_report(output, tmp_path / "page.html")
        write_report(output, tmp_path / "page.html", data={"boxes:all": Path("/elsewhere")})
    assert seen == [Path("/data/0"), Path("/elsewhere")]


def test_two_data_sets_of_one_task_stand_side_by_side(tmp_path: Path) -> None:
    output = write_results(tmp_path, 3)
    second = take_inventory(output).cells[1]
    moved(second, data={"kind": "hub"})
    write_report(output, tmp_path / "page.html")
    names = [t["name"] for t in contents(tmp_path / "page.html")["tasks"]]
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
    ranges = [(c["best"], c["worst"]) for c in contents(tmp_path / "page.html")["cells"]]
    assert ranges == [(1.0, 0.0), (0.0, 3.0)]


def test_a_placeholder_in_a_models_name_stays_text(tmp_path: Path) -> None:
    cell(tmp_path, [record(0, 1.0)], model="@@CONTENTS@@")
    write_report(tmp_path, tmp_path / "page.html")
    assert len(contents(tmp_path / "page.html")["cells"]) == 1
    assert "@@CONTENTS@@" in (tmp_path / "page.html").read_text()


def test_without_matplotlib_the_page_says_so_and_has_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell(tmp_path, [record(i, i % 2, metadata={"tier": "abc"[i % 3]}) for i in range(9)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    faults = write_report(tmp_path, tmp_path / "page.html")
    assert any("pip install 'evalkit[plots]'" in fault for fault in faults)
    assert len(contents(tmp_path / "page.html")["cells"][0]["answers"]) == 9


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results under"):
        write_report(tmp_path, tmp_path / "page.html")
