"""``evalkit view``: it shows a run while it grows, serves nothing but results and their media, and
keeps notes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import evalkit
from evalkit.errors import UsageError
from evalkit.results.report.live import Live
from evalkit.results.report.notes import FILE, Note, add_note, load_notes
from evalkit.results.report.server import Server
from evalkit.store import CellFolder, cells
from tests.report_data import write_results


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = Server(Live(write_results(tmp_path, 8))).start()
    yield served
    served.shutdown()
    served.server_close()


def asked(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    about = {"Host": f"127.0.0.1:{server.server_port}", **headers}
    method = "GET" if body is None else "POST"
    connection.request(method, path, body=body, headers=about)
    answer = connection.getresponse()
    return answer.status, answer.read()


def document(server: Server, name: str) -> dict[str, Any]:
    status, body = asked(server, f"/documents/{name}.json")
    assert status == 200
    return json.loads(body)


def cut(folder: CellFolder, lines: int) -> bytes:
    """Leaves the first lines of a cell's journal alone, as in a run that has just begun; returns
    what was there.
    """
    whole = folder.journal_path.read_bytes()
    folder.results_path.unlink()
    folder.journal_path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
    return whole


def test_a_run_is_seen_while_it_grows(tmp_path: Path) -> None:
    output = write_results(tmp_path, 8)
    first = cells(output)[0]
    whole = cut(first, 5)  # a header, what is run, three answers
    live = Live(output)
    (part,), (mine, _) = live.document("overview")["parts"], live.document("overview")["cells"]
    assert (mine["asked"], mine["running"], part["total"]) == (3, True, 8)
    place = live.document(part["doc"])["ids"]
    with first.journal_path.open("ab") as journal:
        journal.write(
            whole[first.journal_path.stat().st_size :][:-20]
        )  # the last line is half there
    (mine, _) = live.document("overview")["cells"]
    assert mine["asked"] == 8 and mine["running"]
    first.journal_path.write_bytes(whole)
    (mine, _) = live.document("overview")["cells"]
    assert mine["asked"] == 8 and not mine["running"]
    assert live.document(part["doc"])["ids"] == place  # a sample keeps its place


def test_a_growing_journal_is_read_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalkit import contents

    output = write_results(tmp_path, 8)
    first = cells(output)[0]
    whole = cut(first, 5)
    live = Live(output)
    live.refresh()
    read: list[bytes] = []
    parsed = contents.parsed
    monkeypatch.setattr(contents, "parsed", lambda text: read.append(text) or parsed(text))
    first.journal_path.write_bytes(whole[:-1] + b"\n")
    live.refresh()
    assert len(read) == len(whole.splitlines()) - 5


def test_media_are_served_by_the_places_of_samples(server: Server) -> None:
    part = document(server, "overview")["parts"][0]["doc"]
    media = json.loads(asked(server, f"/media/{part}/3.json")[1])["media"]
    assert (media[0]["width"], media[0]["height"]) == (100, 60)
    status, picture = asked(server, f"/{media[0]['src']}")
    assert status == 200 and picture[8:12] == b"WEBP"
    assert asked(server, f"/thumbnails/{part}/3.webp")[0] == 200
    assert asked(server, f"/media/{part}/2.json")[0] == 200  # going back


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/documents/../../boxes.py",
        "/documents/%2e%2e/x.json",
        "/runs",
        "/media/p0/999999.json",
        "/media/p99/0.json",
        "/pictures/p0/0/9.webp",
        "/documents/p0-samples-x.json",
        "/documents/c0-answers-99999999999999999999999.json",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    document(server, "overview")
    status, body = asked(server, path)
    assert status == 404 and json.loads(body).keys() == {"error"}


def test_other_sites_are_refused(server: Server) -> None:
    own = f"http://127.0.0.1:{server.server_port}"
    note = json.dumps({"task": "boxes:all", "data": "", "id": "1", "flag": "ambiguous"})
    kind = {"Content-Type": "application/json"}
    assert asked(server, "/", Host="evil.invalid")[0] == 403
    assert asked(server, "/", Origin="http://evil.invalid")[0] == 403
    assert asked(server, "/notes", note, Origin="http://evil.invalid", **kind)[0] == 403
    assert asked(server, "/notes", note, **kind)[0] == 403  # a form of another page has no Origin
    assert asked(server, "/notes", note, Origin=own)[0] == 415
    assert asked(server, "/notes", note, Origin=own, **kind)[0] == 200
    assert asked(server, "/", Origin=own)[0] == 200


def test_a_note_is_kept_taken_back_and_merged(tmp_path: Path) -> None:
    about = {"task": "docvqa:mini", "data": "abc", "id": "7"}
    add_note(tmp_path, {**about, "flag": "label wrong", "text": "it says 12"})
    (note,) = load_notes(tmp_path)
    assert (note.flag, note.text, note.key) == ("label wrong", "it says 12", tuple(about.values()))
    add_note(tmp_path, {**about, "flag": None})
    assert load_notes(tmp_path) == []
    mine = (tmp_path / FILE).read_text()
    theirs = json.dumps({**about, "id": "8", "flag": "ambiguous", "created": "2020-01-01"})
    (tmp_path / FILE).write_text(f"{theirs}\nno note\n{mine}")
    assert load_notes(tmp_path) == [Note("docvqa:mini", "abc", "8", "ambiguous", "", "2020-01-01")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"flag": "nonsense"},
        {"flag": "other", "text": "x" * 3000},
        {"flag": "other", "id": 3},
        {"flag": "other", "task": ""},
    ],
)
def test_a_note_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="note"):
        add_note(tmp_path, {"task": "t:s", "data": "", "id": "1", **wrong})
    assert not (tmp_path / FILE).exists()


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    with pytest.raises(UsageError, match="can't be used"):
        Server(server.live, server.server_port)


def test_scores_stand_with_and_without_flagged_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.cli import main
    from evalkit.results.cells import data_digest
    from tests.stored import cell, record

    made = cell(tmp_path, [record(i, float(i > 1)) for i in range(4)])
    assert main(["leaderboard", "--notes", "--output", str(tmp_path)]) == 2
    assert "no scored sample" in capsys.readouterr().err
    about = {"task": made.task, "data": data_digest(made), "flag": "label wrong"}
    for id in ("0", "not there"):
        add_note(tmp_path, {**about, "id": id})
    add_note(tmp_path, {**about, "id": "1", "data": "of other data"})
    assert main(["leaderboard", "--notes", "--output", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["value"], row["n"], row["flagged"]) == (50.0, 4, 1)
    assert round(row["value_without"], 1) == 66.7


@pytest.mark.parametrize("form", ["pdf", "svg", "png"])
def test_figures_for_papers_are_written_in_each_form(tmp_path: Path, form: str) -> None:
    from evalkit.cli import main
    from tests.stored import cell, record

    cell(tmp_path, [record(i, i % 2, metadata={"tier": "abc"[i % 3]}) for i in range(9)])
    assert main(["plot", "--format", form, "--output", str(tmp_path)]) == 0
    (file,) = (tmp_path / "figures").glob("*by-tier*")
    head = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[form]
    assert file.read_bytes().startswith(head) and file.suffix == f".{form}"
    assert main(["plot", "--task", "other:all", "--output", str(tmp_path)]) == 2


def test_a_page_from_python_takes_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    output = write_results(tmp_path, 4)
    served = evalkit.view(f"~/{output.relative_to(tmp_path)}")
    assert asked(served, "/")[0] == 200
    served.shutdown()
    served.server_close()
