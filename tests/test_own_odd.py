"""Data of one's own as they come out of spreadsheets, notebooks and other systems: what can be
meant in one way only is read, what can't is one row's error with its reason.
"""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalkit.errors import UsageError
from evalkit.task import RowError, load_task, read_samples
from evalkit.types import Completion, Image, Sample, Text
from tests.pictures import png
from tests.test_own import asked, folder, one, samples, why, write_lines

__all__ = ["folder"]  # the fixture

ROW = {"image": "1.png", "question": "?", "answer": "x"}
LINE = json.dumps(ROW)


def raw(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(sample: Sample) -> Any:
    (part,) = (p for p in sample.messages[0].content if isinstance(p, Image))
    return part.source


# Files


def test_rows_that_a_stray_quote_would_join_are_an_error(folder: Path) -> None:
    head = "image\tquestion\tanswer\n"
    joined = raw(
        folder / "a.tsv", f'{head}1.png\t"open\tx\n1.png\t?\ty\n1.png\tq"\tz\n1.png\t?\tx\n'
    )
    _, whole = samples(joined)
    assert "a.tsv, line 2 to 4: one row by its quotes, and 3 by its tabs" in why(joined)
    assert isinstance(whole, Sample) and whole.target == ["x"]
    long = raw(folder / "b.tsv", f'{head}1.png\t"one\ntwo\t3\nfour"\tx\n')
    (sample,) = samples(long)
    assert isinstance(sample, Sample) and sample.target == ["x"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "save_to_disk"])
def test_a_number_is_the_text_that_it_was_written_as(
    folder: Path, kind: pa.DataType, saved: bool
) -> None:
    picture = (folder / "1.png").read_bytes()
    columns: dict[str, Any] = {
        "image": pa.array([picture] * 3),
        "question": pa.array([0.1, 2.5, 3.0], kind),
        "answer": pa.array([[0.1, 0.2], [3.0], [None, 0.7]], pa.list_(kind)),
        "about": pa.array([{"a": 0.1}, None, {"a": None}], pa.struct([("a", kind)])),
    }
    path = folder / "numbers.parquet"
    pq.write_table(pa.table(columns), path)
    if saved:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))
        table.save_to_disk(path := folder / "saved")
    first, second, third = samples(path)
    assert [s.target for s in (first, second)] == [["0.1", "0.2"], ["3"]]
    assert isinstance(third, RowError)
    texts = [p.text.splitlines()[0] for p in first.messages[0].content if isinstance(p, Text)]
    assert texts == ["0.1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + f"{LINE}\r\n\r\n  \r\n{LINE}".encode()),
        ("wide.jsonl", f"{LINE}\n{LINE}\n".encode("utf-16")),
        ("lines.json", f"{LINE}\n{LINE}\n"),
        ("sep.csv", "sep=;\r\nimage;question;answer\r\n1.png;?;x\r\n1.png;?;x\r\n"),
        ("tabs.csv", "image\tquestion\tanswer\n1.png\t?, !\tx\n1.png\t?\tx\n"),
        ("late.csv", "\n\nimage,question,answer\n1.png,?,x\n\n1.png,?,x"),
        ("Capitals.CSV", "Image, Question ,ANSWER\n1.png,?,x\n1.png,?,x\n"),
        ("blanks.csv", '"image", "question", "answer"\n1.png, "?, !", "x"\n1.png, ?, x\n'),
    ],
)
def test_a_file_as_other_programs_write_it(folder: Path, name: str, content: str | bytes) -> None:
    found = samples(raw(folder / name, content))
    assert [s.target for s in found if isinstance(s, Sample)] == [["x"], ["x"]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("header.csv", "image,Größe\n1.png,x\n".encode("latin-1"), "its header is not UTF-8"),
        ("list.jsonl", f"[{LINE}]", "line 1: .* is not an object with columns"),
        ("pretty.jsonl", json.dumps(ROW, indent=1), "line 1: no JSON"),
        ("columns.json", json.dumps({"image": {"0": "1.png"}}), "neither a list of objects"),
        ("header.csv", "image,question,answer\n", "no rows"),
        ("open.csv", 'image,answer\n1.png,x\n1.png,"x\n1.png,y\n', "line 3 to 4: a quote opens"),
    ],
)
def test_a_file_that_can_mean_anything_is_refused(
    folder: Path, name: str, content: str | bytes, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        load_task(str(raw(folder / name, content)))


def test_a_cell_with_stray_quotes_costs_its_row(folder: Path) -> None:
    lines = ["image,question,answer", '1.png,"5"" disk",x', '1.png,"5" disk,x', '1.png,"?\n!",x']
    path = raw(folder / "my.csv", "\n".join(lines))
    first, _, last = samples(path)
    assert [asked(s).split("\nPlease")[0] for s in (first, last) if isinstance(s, Sample)] == [
        '<>5" disk',
        "<>?\n!",
    ]
    assert "line 3: ',' expected after" in why(path)


def test_two_columns_of_one_name_are_refused_in_every_format(folder: Path) -> None:
    cells = [[*ROW, "answer"], [*ROW.values(), "y"]]
    table = pa.Table.from_arrays([pa.array([c]) for c in cells[1]], names=cells[0])
    pq.write_table(table, folder / "my.parquet")
    pd.DataFrame(cells).to_excel(folder / "my.xlsx", header=False, index=False)
    for name in ("my.parquet", "my.xlsx"):
        with pytest.raises(UsageError, match="two columns are called 'answer'"):
            load_task(str(folder / name))


@pytest.mark.parametrize("kind", ["jsonl", "xlsx", "parquet"])
def test_a_column_without_a_name_is_none(folder: Path, kind: str) -> None:
    """It is a row's number, as notebooks write it, and neither a hint nor a picture."""
    frame = pd.DataFrame([{"": 7, **ROW}])
    path = folder / f"my.{kind}"
    if kind == "jsonl":
        write_lines(path, frame.to_dict("records"))
    elif kind == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_parquet(path)
    assert asked(one(path)).startswith("<>?\nPlease")


# Media


def test_pictures_are_found_under_the_names_that_other_systems_write(folder: Path) -> None:
    (folder / "größe").mkdir()
    there = folder / "größe" / unicodedata.normalize("NFC", "é 1.png")
    there.write_bytes(png(20, 10, 7))
    name = f"größe/{there.name}"
    names: list[Any] = [
        name,
        unicodedata.normalize("NFD", name),
        name.replace("/", "\\"),
        f" {name}\n",
    ]
    names += [f"file://{there}", {"path": name}, {"bytes": None, "path": name}, [name]]
    found = samples(write_lines(folder / "my.jsonl", [{**ROW, "image": n} for n in names]))
    assert [picture(s) for s in found if isinstance(s, Sample)] == [there] * len(names)


def test_a_name_that_is_there_is_taken_as_it_is(folder: Path) -> None:
    for name in ("a\\1.png", " 1.png"):
        (folder / name).write_bytes(png(9, 9))
        assert picture(one(write_lines(folder / "my.jsonl", [{**ROW, "image": name}]))) == (
            folder / name
        )


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "'image': no picture or clip"),
        ("  ", "'image': no picture or clip"),
        (float("nan"), "'image': no picture or clip"),
        (None, "'image': no picture or clip"),
        ([], "'image': no picture or clip"),
        (["1.png", None], "'image' holds no image, but null"),
        (True, "'image' holds no image, but True"),
        ("2.PNG", "no such file"),
        ("data:image/png;base64,AAAA", "holds no picture or clip in base64"),
        ("..\\..\\1.png", "no such file"),
        ("file:///etc/hostname", "no such file"),
        ("a\0.png", "is no path"),
        ("x" * 300, "is no path"),
    ],
)
def test_a_cell_without_a_picture_says_what_it_holds(folder: Path, cell: Any, reason: str) -> None:
    assert reason in why(write_lines(folder / "my.jsonl", [{**ROW, "image": cell}]))


# Answers, options, names


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (123456789012345678901234567890, ["123456789012345678901234567890"]),
        (10**400, [str(10**400)]),
        (7.0, ["7"]),
        (1e300, ["1e+300"]),
        (["a", 1, 2.5], ["a", "1", "2.5"]),
        ('["a", "b"]', ["a", "b"]),
        ("['a' 'b c']", ["a", "b c"]),
        ("['a'\n \"b\"]", ["a", "b"]),
        ("[citation needed]", ["[citation needed]"]),
        ("{1}", ["{1}"]),
        ("NA", ["NA"]),
    ],
)
def test_answers_are_texts_and_numbers_in_any_writing(
    folder: Path, answer: Any, texts: list[str]
) -> None:
    assert one(write_lines(folder / "my.jsonl", [{**ROW, "answer": answer}])).target == texts


@pytest.mark.parametrize(
    ("answer", "said", "value"),
    [
        ("1,000", "1000", 1),
        (1234567.5, "1,234,567.5", 1),
        (-5, "\N{MINUS SIGN}5", 1),
        (5, "\N{FULLWIDTH DIGIT FIVE}", 1),
        ("50%", "50 %", 1),
        (12, "1,2", 0),
        (500, "0,500", 0),
        (53, "5\N{SUPERSCRIPT THREE}", 0),
        (1000, "1.000", 0),
    ],
)
def test_numbers_of_any_writing_are_compared_as_numbers(
    folder: Path, answer: Any, said: str, value: float
) -> None:
    path = write_lines(folder / "my.jsonl", [{**ROW, "answer": answer}])
    score = load_task(str(path)).score(one(path), Completion("0", said))
    assert score.values == {"relaxed_accuracy": value}


def test_a_comma_for_the_decimals_is_a_text(folder: Path) -> None:
    path = write_lines(folder / "my.jsonl", [{**ROW, "answer": "0,5"}])
    assert load_task(str(path)).metrics[0].name == "exact_match"


def test_decimals_of_a_database_are_numbers(folder: Path) -> None:
    frame = pd.DataFrame({**ROW, "answer": [Decimal("1.50"), Decimal("2.00")]})
    frame.to_parquet(folder / "my.parquet")
    task = load_task(str(folder / "my.parquet"))
    assert task.metrics[0].name == "relaxed_accuracy"
    assert [s.target for s in read_samples(task) if isinstance(s, Sample)] == [["1.50"], ["2.00"]]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("NaN", "'answer' is empty"),
        ("Infinity", "'answer' is inf, not a finite number"),
        ("1e400", "'answer' is inf, not a finite number"),
        ("9" * 5000, "no JSON"),
        ("[null]", "'answer' is null"),
        ('[""]', "'answer' is empty"),
        ("true", "'answer' is True, not a text or a number"),
        ('{"text": ["x"]}', "not a text or a number"),
        ("[" * 5000 + "]" * 5000, "no JSON"),
    ],
)
def test_an_answer_that_is_none_is_its_row_s_error(folder: Path, answer: str, reason: str) -> None:
    line = '{"image": "1.png", "question": "?", "answer": ' + answer + "}"
    assert reason in why(raw(folder / "my.jsonl", f"{LINE}\n{line}\n"))


@pytest.mark.parametrize(
    ("options", "answer", "index"),
    [
        (["A. x", "B. y"], "B. y", 1),
        (["x", "y"], "B) y", 1),
        ([3, 1, 2], 1, 1),
        ([0.5, 1.5], 1.5, 1),
        ('{"A": "x", "B": "y"}', "B", 1),
        ("['x' 'y']", "y", 1),
        ({"B": "y", "A": "x"}, "y", 1),
        ({"b": "y", "a": "x"}, "A", 0),
        ({"1": "y", "0": "x"}, 1, 1),
        ({"A": "x", "B": "y", "C": None}, "B", 1),
        (["1", "2", "3"], "1", 0),
        (["x", "y"], 1.0, 1),
    ],
)
def test_options_and_their_answer_in_any_writing(
    folder: Path, options: Any, answer: Any, index: int
) -> None:
    row = {**ROW, "options": options, "answer": answer}
    assert one(write_lines(folder / "my.jsonl", [row])).target == index


@pytest.mark.parametrize(
    ("options", "answer", "reason"),
    [
        (["x"], "A", "not a list of 2 to 26 options"),
        ("x, y", "x", "not a list of 2 to 26 options"),
        ([str(i) for i in range(27)], 0, "not a list of 2 to 26 options"),
        (["x", "", "y"], "x", "'options' is empty"),
        (["x", None], "x", "'options' is null"),
        ([True, False], "A", "not a text or a number"),
        (["x", "x", "y"], "x", "could be two options"),
        (["x", "y"], "B. x", "names no option"),
        (["x", "y"], 2, "names no option"),
        (["x", "y"], -1, "names no option"),
        (["x", "y"], 10**30, "names no option"),
        (["1", "2", "3"], 1, "could be two options"),
        ({"1": "x", "2": "y"}, "1", "names its options 1, 2: name them A, B"),
        ({"A": "x", "C": "y"}, "C", "names its options A, C"),
    ],
)
def test_options_that_leave_it_open_are_their_row_s_error(
    folder: Path, options: Any, answer: Any, reason: str
) -> None:
    row = {**ROW, "options": options, "answer": answer}
    assert reason in why(write_lines(folder / "my.jsonl", [row]))


@pytest.mark.parametrize("said", ["\u00e9", "e\u0301"])
@pytest.mark.parametrize("more", [{}, {"options": ["e\u0300", "e\u0301"]}])
def test_letters_with_accents_are_equal_in_one_piece_and_in_parts(
    folder: Path, said: str, more: dict[str, Any]
) -> None:
    file = write_lines(folder / "my.jsonl", [{**ROW, "answer": "e\u0301", **more}])
    score = load_task(str(file)).score(one(file), Completion("0", said))
    assert next(iter(score.values.values())) == 1.0


@pytest.mark.parametrize("column", ["id", "question", "answer", "cluster"])
def test_half_a_character_is_said(folder: Path, column: str) -> None:
    line = json.dumps({**ROW, "id": "1", "cluster": "c", column: "a\ud800"})
    first = json.dumps({**ROW, "id": "0", "cluster": "c"})
    reason = why(raw(folder / "my.jsonl", f"{first}\n{line}\n"))
    assert "holds half of a character (a lone surrogate)" in reason


def test_names_that_a_table_made_numbers_of_and_rows_without_one(folder: Path) -> None:
    rows = [{**ROW, "id": i} for i in (1.0, "1", 2.5, None, True, 10**30)]
    found = samples(write_lines(folder / "my.jsonl", rows))
    assert [s.id for s in found if isinstance(s, Sample)] == ["1", str(10**30)]
    said = [s.reason for s in found if isinstance(s, RowError)]
    assert "the id '1' is that of a sample of row 0" in said[0]
    assert all("not a name or a whole number" in reason for reason in said[1:])


def test_a_row_without_a_cluster_or_a_hint_has_none(folder: Path) -> None:
    nothing: list[dict[str, Any]] = [
        {},
        {"cluster": None},
        {"cluster": float("nan")},
        {"cluster": " "},
    ]
    row = {**ROW, "options": ["x", "y"]}
    rows = [{**row, "cluster": 3.0, "hint": "Look."}, *({**row, **n} for n in nothing)]
    rows.append({**row, "hint": float("nan"), "cluster": 3})
    found = [s for s in samples(write_lines(folder / "my.jsonl", rows)) if isinstance(s, Sample)]
    alone = found[1].cluster
    assert [s.cluster for s in found] == ["3", *[alone] * 4, "3"] and len(alone) == 16
    assert ["Hint: " in asked(s) for s in found] == [True, *[False] * 5]


# Boxes


@pytest.mark.parametrize(
    "cell",
    [
        *("[2, 2, 8, 4]", "(2, 2, 8, 4)", "2,2,8,4", "2 2 8 4", "[2. 2. 8. 4.]"),
        *('["2", "2", "8", "4"]', ["2", "2", "8", "4"], [[2, 2, 8, 4]]),
    ],
)
def test_a_box_is_four_numbers_in_any_writing(folder: Path, cell: Any) -> None:
    row = {"image": "1.png", "question": "it", "bbox": cell}
    assert one(write_lines(folder / "my.jsonl", [row])).target == [2, 2, 10, 6]


@pytest.mark.parametrize(
    ("name", "box", "reason"),
    [
        ("bbox", [0.1, 0.2, 0.5, 0.5], "lies within the first pixel: give pixels"),
        ("bbox", [10, 5, 18, 9], "read as [x, y, width, height] in pixels, reaches far out"),
        ("box", [-9, 1, 5, 5], "read as [x1, y1, x2, y2] in pixels, reaches far out"),
        ("bbox", [120, 300, 400, 700], "lies outside its picture of 20x10"),
        ("box", [10, 6, 2, 2], "has no area"),
        ("bbox", [1, 2, 3], "not [x, y, width, height] in pixels"),
        ("bbox", {"x": 1, "y": 2, "w": 3, "h": 4}, "not [x, y, width, height] in pixels"),
        ("bbox", [1, 2, 3, float("nan")], "is not of finite numbers"),
        ("bbox", [1, 2, 3, 10**400], "not [x, y, width, height] in pixels"),
        ("bbox", "", "'bbox' is empty"),
        ("bbox", None, "'bbox' is empty"),
    ],
)
def test_a_box_in_another_convention_is_its_row_s_error(
    folder: Path, name: str, box: Any, reason: str
) -> None:
    row = {"image": "1.png", "question": "it", name: box}
    assert reason in why(write_lines(folder / "my.jsonl", [row]))


def test_a_box_may_end_a_little_beside_its_picture(folder: Path) -> None:
    row = {"image": "1.png", "question": "it", "box": [-0.5, 0, 20.6, 10.4]}
    assert one(write_lines(folder / "my.jsonl", [row])).target == [-0.5, 0, 20.6, 10.4]
