"""The report: one page that holds every answer, shows no markup that others wrote, and says what it
can't show.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results import write_report
from tests.report_data import HOSTILE, write_results


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
    errors = [a for a in holds["cells"][1]["answers"] if a[5]]
    assert len(errors) == 1 and errors[0][5] == HOSTILE and errors[0][2] is None


def test_what_others_wrote_never_becomes_markup(tmp_path: Path) -> None:
    output = write_results(tmp_path, 20)
    write_report(output, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "document.title='broken'</script>" not in text
    assert "<i>" not in text.split('<script id="contents"')[0]
    assert len(re.findall(r"<script", text)) == 2
    assert html.unescape(contents(tmp_path / "page.html")["cells"][0]["answers"][3][1]) == HOSTILE


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


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results under"):
        write_report(tmp_path, tmp_path / "page.html")
