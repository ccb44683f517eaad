"""Benchmarks of video, screens and games over rows in their official layouts: asked, answered and
scored, each odd row one counted error; and how published evaluations read answers.
"""

from __future__ import annotations

import random
import re
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from evalkit.tasks import card_games

from evalkit import evaluate
from evalkit.adapter import with_subtitles
from evalkit.cell import Cell
from evalkit.errors import DataError, UsageError
from evalkit.metrics import clicks, video_readers
from evalkit.metrics.boxes import parse_point
from evalkit.metrics.clicks import lmms_eval_box, lmms_eval_point, vlmevalkit_click
from evalkit.runner import run_cell
from evalkit.task import Row, RowError, Task, load_task, read_samples
from evalkit.types import Completion, Sample, Text, Video
from model_adapters.reference import ReferenceAdapter
from tests.official import ANSWERS, BUILDERS, ROWS
from tests.pictures import png
from tests.plugins.looker import Looker


def said(text: str, **changes: Any) -> Completion:
    return Completion("x", text, **changes)


def samples(task: Task, data: Path | None = None) -> list[Sample]:
    return [s for s in read_samples(task, data) if isinstance(s, Sample)]


def text_of(sample: Sample) -> str:
    return "".join(
        p.text if isinstance(p, Text) else "<media>" for p in sample.messages[-1].content
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", BUILDERS)
def test_ten_official_rows_are_asked_by_each_protocol_and_the_odd_one_is_counted(
    name: str, tmp_path: Path
) -> None:
    data = BUILDERS[name](tmp_path / "data")
    prompts = set()
    for protocol in load_task(name).subset.all_protocols:
        task = load_task(name, protocol)
        adapter = Looker("x", answer=ANSWERS.get(name, "A"))
        cell = Cell.make(task, adapter, "x", tmp_path / "out", data)
        results = run_cell(cell, progress=False).results
        assert (results.n, results.errors) == (ROWS.get(name, 10), 1)
        score = results.metrics[0].value
        assert 0 < score < 100 or "screen" in name
        if protocol != "qwen2-vl":
            text = text_of(samples(task, data)[0])
            prompts.add((text, task.protocol.reader, task.budget, task.max_new_tokens))
    others = set(load_task(name).subset.all_protocols) - {"default", "qwen2-vl"}
    assert len(prompts) == 1 + len(others)


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("adapter", ["reference", "transformers"])
@pytest.mark.parametrize("name", [*BUILDERS, "card_games:point24"])
def test_models_answer_them_under_each_protocol(name: str, adapter: str, tmp_path: Path) -> None:
    drawn = name.startswith("card_games")
    data = {} if drawn else {name: BUILDERS[name](tmp_path / "data")}
    frames = {} if drawn or "screen" in name else {"max_frames": 2}
    for protocol in load_task(name).subset.all_protocols:
        run = evaluate(
            name,
            "nano",
            adapter=adapter,
            protocol=protocol,
            data=data,
            output=tmp_path,
            limit=10 if drawn else None,
            progress=False,
            max_pixels=28 * 28 * 4,
            **frames,
        )
        (outcome,) = run.outcomes
        assert (outcome.results.n, outcome.results.errors) == (ROWS.get(name, 10), int(not drawn))


@pytest.mark.usefixtures("cache")
def test_mvbench_cuts_clips_and_reads_folders_of_frames(tmp_path: Path) -> None:
    task, data = load_task("mvbench"), BUILDERS["mvbench:all"](tmp_path / "data")
    by_table = {s.metadata["table"]: s for s in samples(task, data)}
    assert len(by_table) == 20
    (error,) = (s for s in read_samples(task, data) if isinstance(s, RowError))
    assert "not one of the candidates" in error.reason
    clip = next(p for p in by_table["action_sequence"].messages[0].content if isinstance(p, Video))
    assert (clip.start, clip.end, clip.fps) == (1.0, 3.5, None)
    frames = next(
        p for p in by_table["episodic_reasoning"].messages[0].content if isinstance(p, Video)
    )
    assert (frames.start, frames.end, frames.fps) == (1.0, 3.5, 3.0)
    sample = by_table["action_antonym"]
    assert (sample.id, sample.cluster, sample.target) == (
        "action_antonym-0",
        "ssv2_video/action_antonym.mp4",
        2,
    )
    assert text_of(sample).endswith(
        "Question: What happened?\nOptions:\n(A) It fell.\n(B) It rose.\n(C) Nothing.<media>\n"
        "Only give the best option.Best option:("
    )
    assert task.metrics[0].group == "table"
    one = load_task("mvbench:action_antonym")
    assert [s.id for s in samples(one, data)] == ["action_antonym-0"]
    assert task.source.count(data) == 21


@pytest.mark.usefixtures("cache")
def test_a_changed_table_or_clip_of_mvbench_is_other_data(tmp_path: Path) -> None:
    task, data = load_task("mvbench"), BUILDERS["mvbench:all"](tmp_path / "data")
    told = [task.describe_data(data)]
    table = data / "json" / "state_change.json"
    table.write_text(table.read_text().replace("It fell.", "It fell"))
    told.append(task.describe_data(data))
    (data / "video" / "2.zip").unlink()
    told.append(task.describe_data(data))
    assert len({repr(t) for t in told}) == 3


@pytest.mark.usefixtures("cache")
def test_hidden_answers_give_no_score(tmp_path: Path) -> None:
    for name, builder in (
        ("egoschema:full", "egoschema:subset"),
        ("perceptiontest:test", "perceptiontest:val"),
    ):
        task = load_task(name)
        sample, *_ = samples(task, BUILDERS[builder](tmp_path / name))
        score = task.score(sample, said("B"))
        assert (sample.target, score.values, score.parsed) == (None, {}, "B")


@pytest.mark.usefixtures("cache")
def test_subtitles_are_those_of_the_shown_frames(tmp_path: Path) -> None:
    task, data = load_task("video_qa:videomme_sub"), BUILDERS["video_qa:videomme_sub"](tmp_path)
    first, *_, last = samples(task, data)
    shown, silent = (
        with_subtitles(ReferenceAdapter("nano"), s.messages, task.budget)[-1].content[-1]
        for s in (first, last)
    )
    assert isinstance(shown, Text)
    assert "listed below:\nHello.\nGoodbye.\nSelect the best" in shown.text
    assert isinstance(silent, Text)
    assert "listed below:\n\nSelect the best" in silent.text
    (few,) = with_subtitles(Looker("x"), first.messages, task.budget)  # at 0, 1.6, 3.2, 4.9 s
    assert "Hello.\nGoodbye.\nSelect" in text_of(Sample(messages=(few,)))
    plain = samples(load_task("video_qa:videomme"), data)[0]
    assert "subtitles" not in text_of(plain)


def test_a_click_counts_within_the_box(tmp_path: Path) -> None:
    data = BUILDERS["screenspot:v1"](tmp_path)
    task = load_task("screenspot:v1")
    sample, other, third, *_ = samples(task, data)
    assert sample.target == (20.0, 20.0, 40.0, 30.0)
    assert sample.metadata["platform"] == "mobile"
    assert sample.cluster == other.cluster != third.cluster
    assert {s.metadata["platform"] for s in samples(task, data)} == {"mobile", "desktop", "web"}
    for text, value, unparsed in (
        ("(250,500),(500,750)", 1.0, False),
        ("(0,0),(300,1000)", 0.0, False),  # its centre is not inside
        ("(250,500)", 1.0, False),  # an edge
        ("click (375,760)", 0.0, False),
        ("(500,750),(250,500)", 1.0, False),  # no box: a point, at its first corner
        ("at the left", 0.0, True),
    ):
        score = task.score(sample, said(text, box_space="norm1000"))
        assert (score.values["accuracy"], score.unparsed) == (value, unparsed), text
    with pytest.raises(UsageError, match="declares no box space"):
        task.score(sample, said("(250,500)"))
    clicks = load_task("screenspot:v1", "vlmevalkit")
    assert clicks.score(sample, said("pyautogui.click(x=0.3, y=0.6)")).values["accuracy"] == 1
    assert clicks.score(sample, said("pyautogui.click(x=24, y=24)")).values["accuracy"] == 1
    v2 = load_task("screenspot:v2")
    assert len({s.cluster for s in samples(v2, data)}) == 10


def test_a_click_on_a_large_screen_counts_in_parts_thousandths_or_pixels(tmp_path: Path) -> None:
    name, data = "screenspot:pro", BUILDERS["screenspot:pro"](tmp_path)
    first, second, third, *_ = samples(load_task(name), data)
    assert (first.id, first.target) == ("inventor_windows_0", (40.0, 40.0, 80.0, 60.0))
    assert first.cluster == second.cluster != third.cluster
    assert first.metadata == {
        "data_type": "text",
        "platform": "windows",
        "group": "CAD",
        "application": "inventor",
        "width": 160,
        "height": 80,
    }
    for protocol, text, value in (
        ("", "(250,500),(500,750)", 1),
        ("", "(250,500)", 1),
        ("", "nowhere", 0),
        ("vlmevalkit", "pyautogui.click(x=0.3, y=0.6)", 1),
        ("vlmevalkit", "pyautogui.click(x=48, y=48)", 1),
        ("lmms-eval", "[0.3, 0.6]", 1),
        ("lmms-eval", "[48, 48]", 1),
        ("lmms-eval", "300, 600", 0),  # pixels there
        ("evalscope", "At [0.9, 0.9].\nAnswer: [0.3, 0.6]", 1),
        ("evalscope", "Answer: x=300, y=600", 1),
        ("evalscope", "I see 300, 600", 0),
        ("evalscope", "[300, 600] and so on", 1),
    ):
        score = load_task(name, protocol).score(first, said(text, box_space="norm1000"))
        assert score.values["accuracy"] == value, (protocol, text)
    for changed in ({"img_size": [0, 80]}, {"img_size": "160x80"}, {"bbox": [1, 2, 3]}, {"id": ""}):
        row = {"id": "x", "image": {"bytes": png(8, 8, 1), "path": None}, "bbox": [1, 1, 2, 2]}
        row |= {"img_size": [8, 8], "instruction": "go", "ui_type": "icon", "platform": "macos"}
        row |= {"application": "excel", "group": "Office"} | changed
        with pytest.raises(DataError, match=f"'{next(iter(changed))}' is"):
            list(load_task(name).samples(Row(row)))


def points_by_rule(text: str, harness: str) -> tuple[float, float] | None:
    """Of ScreenSpot-Pro in lmms-eval and EvalScope, on a screen of 2,000 by 1,000."""

    def value(number: str) -> float:
        return float(number.strip("%")) / (100 if "%" in number else 1)

    def read(part: str, last: bool, loose: bool) -> tuple[float, float] | None:
        number, at = r"-?[0-9]+(?:\.[0-9]+)?%?", -1 if last else 0
        tags = re.findall(r"(?is)<\s*bbox[^>]*>(.*?)<\s*/\s*bbox\s*>", part)
        n = [value(x) for x in re.findall(number, tags[at])] if tags else []
        if len(n) > 3:
            return (n[0] + n[2]) / 2, (n[1] + n[3]) / 2
        if two := re.findall(rf"[\[(]\s*({number})\s*[,\s]\s*({number})\s*[\])]", part):
            return value(two[at][0]), value(two[at][1])
        between = r"[^\d\-]*?" if last else ".*?"
        named = rf"(?is)x['\"]?\s*[:=]\s*({number}){between}y['\"]?\s*[:=]\s*({number})"
        if loose and (two := re.findall(named, part)):
            return value(two[at][0]), value(two[at][1])
        n = [value(x) for x in re.findall(number, part)] if loose else []
        if not last and len(n) > 3 and re.search("(?i)box|rect", part):
            return (n[0] + n[2]) / 2, (n[1] + n[3]) / 2
        return ((n[-2], n[-1]) if last else (n[0], n[1])) if len(n) > 1 else None

    if harness == "lmms-eval":
        point = read(text, last=False, loose=True)
    else:
        point = None
        if marks := [*re.finditer(r"(?i)answer\s*[:：]", text)]:
            line = text[marks[-1].end() :].lstrip().split("\n")[0]
            point = read(line, last=True, loose=True)
        point = point or read(text, last=True, loose=False)
    if point is None or (max(point) > 1 and harness == "lmms-eval") or max(point) > 1000:
        return point
    return (point[0] * 2000, point[1] * 1000) if max(point) <= 1 else (point[0] * 2, point[1])


def test_a_long_answer_without_a_point_is_read_in_no_time() -> None:
    started = time.process_time()
    for piece in ("x=1", "<bbox", "<bbox>", "<bbox><", "answer:", "[1, "):
        clicks.evalscope_point(piece * 80_000, 10, 10)
        clicks.lmms_eval_pixels(piece * 80_000, 10, 10)
    clicks.evalscope_point("[1" + " " * 80_000, 10, 10)
    assert time.process_time() - started < 5  # marks that each look for their end take minutes


def test_points_on_large_screens_are_read_as_their_harnesses_do() -> None:
    chance, met = random.Random(3), 0
    pieces = (
        "[0.5, 0.25]|(120, 300)|[2000,1500]|50%|x=0.1|y: 0.3|x: 12, y: 900|0.5|7|-3|[1 2]|box|\n|"
        "<bbox>0.1 0.2 0.3 0.4</bbox>|<bbox>1 2</bbox>|answer:|Final Answer:|, | click |(a)"
    ).split("|")
    for _ in range(3000):
        text = chance.choice(("", " ")).join(chance.choices(pieces, k=chance.randint(0, 6)))
        for harness, reader in (
            ("lmms-eval", clicks.lmms_eval_pixels),
            ("evalscope", clicks.evalscope_point),
        ):
            expected, found = points_by_rule(text, harness), reader(text, 2000, 1000)
            assert (found is None) is (expected is None), (harness, text)
            assert found is None or found == pytest.approx(expected), (harness, text)
            met += found is not None
    assert met > 1000


@pytest.mark.parametrize(
    ("text", "space", "point"),
    [
        ("(250,500)", "norm1000", (20.0, 20.0)),
        ('{"point_2d": [20, 30]}', "pixel:json", (20.0, 30.0)),
        ("at [0.5, 0.25]", "norm1:list", (40.0, 10.0)),
        ("<loc0512><loc0256>", "loc1024", (20.0, 20.0)),
        ("[308, 238]", "resized:list@616x476", (40.0, 20.0)),
        ("250,500", "norm1000", None),
    ],
)
def test_a_point_is_read_in_the_declared_space(
    text: str, space: str, point: tuple[float, float] | None
) -> None:
    assert parse_point(text, space, 80, 40) == point


# ---- readers, against their rules written down a second time


def generated(count: int, seed: int) -> list[str]:
    """Answers as models give them, and worse."""
    chance = random.Random(seed)
    openings = [
        "",
        "The best answer is ",
        "Answer: ",
        "(",
        "I think ",
        "a ",
        "**",
        "\n",
        "No. ",
        "5,000 ",
    ]
    middles = [
        "A",
        "B",
        "C",
        "D",
        "E",
        "b",
        "(C)",
        "D.",
        "A. a dog",
        "a cat",
        "Two birds.",
        "",
        "e.g. B",
        "B,C",
    ]
    endings = ["", ".", ")", " because it runs", "\n", ". a cat", " or C", "!", "  ", " x" * 11]
    return [
        chance.choice(openings) + chance.choice(middles) + chance.choice(endings)
        for _ in range(count)
    ]


OPTIONS = ["a dog", "a cat. It sleeps.", "Two birds.", "none of them"]


def videomme_by_rule(answer: str) -> str:
    answer = answer.strip()
    for lead in (
        *("The best answer is", "The correct answer is", "The answer is", "The answer"),
        *("The best option isThe correct option is", "Best answer:Best option:"),
        *("Answer:", "Option:"),
    ):
        answer = answer.replace(lead, "")
    if len(answer.split()) > 10 and not re.search("[ABCD]", answer):
        return ""
    found = re.search(r"[ABCD]", answer)
    return found[0] if found else ""


def mvbench_lmms_by_rule(answer: str) -> str:
    if option := re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE).match(answer.strip()):
        return option[1].upper()
    said = out = answer.replace("\n", " ").replace("\t", " ").strip()
    for p in [*';/[]"{}()=+\\_-><@`,?!']:
        if (p + " " in said or " " + p in said) or re.search(r"(\d)(\,)(\d)", said) is not None:
            out = out.replace(p, "")
        else:
            out = out.replace(p, " ")
    out = re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, 32)
    out = out.strip("'").strip('"').strip(")").strip("(").strip().lower()
    letter = re.search(r"\b([A-E])\b", out, re.IGNORECASE)
    return letter[1].upper() if letter else out


def egoschema_by_rule(answer: str) -> str | None:
    for char in [",", ".", "!", "?", ";", ":", "'"]:
        answer = answer.strip(char)
    answer = f" {answer} "
    candidates = [f"({c})" for c in "ABCD" if f"({c})" in answer]
    candidates += [f"{c} " for c in "ABCD" if f"{c} " in answer]
    candidates += [f"{c}." for c in "ABCD" if f"{c}." in answer]
    if not candidates and len(answer.split()) > 5:
        texts = {c: f"{c}. {o}" for c, o in zip("ABCD", OPTIONS)}
        inside = [c for c in texts if texts[c].lower() in answer.lower()]
        places = [answer.lower().rfind(texts[c].lower()) for c in inside]
        return inside[places.index(min(places))] if inside else None
    places = [answer.rfind(c) for c in candidates]
    return candidates[places.index(min(places))].strip("(). ") if candidates else None


def perceptiontest_by_rule(answer: str) -> int:
    match = re.search(r"\b([A-D])\b", answer.strip())
    index = {"A": 0, "B": 1, "C": 2, "D": 3}.get(match.group(1) if match else "", -1)
    return index if index < 3 else -1


def test_readers_follow_the_published_rules_on_a_thousand_answers() -> None:
    named = 0
    for answer in generated(1500, 7):
        read = video_readers.videomme(answer, OPTIONS)
        assert ("ABCD"[read] if read is not None else "") == videomme_by_rule(answer), answer
        lmms, expected = (
            video_readers.mvbench_lmms_eval(answer, OPTIONS),
            mvbench_lmms_by_rule(answer),
        )
        assert lmms == ("ABCD".index(expected) if expected in tuple("ABCD") else None), answer
        ego = video_readers.egoschema(answer, OPTIONS)
        assert (None if ego is None else "ABCD"[ego]) == egoschema_by_rule(answer), answer
        of_three = video_readers.perceptiontest(answer, OPTIONS[:3])
        assert (-1 if of_three is None else of_three) == perceptiontest_by_rule(answer), answer
        bare = video_readers.bare_letter(answer, OPTIONS[:3])
        assert (-1 if bare is None else bare) == {"A": 0, "B": 1, "C": 2}.get(answer, -1)
        named += lmms is not None
    assert 300 < named < 1400  # both outcomes are met


def test_mvbench_words_that_fit_several_options_are_not_right() -> None:
    """VLMEvalKit's rule takes whatever is in the right option's mark for right."""
    for answer in generated(1500, 8):
        word = answer.lower().strip().split(" ")[0]
        fits = [
            word.replace(".", "") in mark or mark in word for mark in ("(a)", "(b)", "(c)", "(d)")
        ]
        read = video_readers.mvbench_vlmevalkit(answer, OPTIONS)
        assert read == (fits.index(True) if sum(fits) == 1 else None), answer
    assert video_readers.mvbench_vlmevalkit("", OPTIONS) is None
    assert video_readers.mvbench_vlmevalkit("\n B) a cat", OPTIONS) == 1


@pytest.mark.parametrize(
    ("name", "protocol", "answer", "read"),
    [
        ("mvbench", "default", "a cat sleeps", None),
        ("mvbench", "lmms-eval", "a cat sleeps", "A"),
        ("mvbench", "vlmevalkit", "B) it sleeps", "B"),
        ("mvbench", "qwen2-vl", "B) it sleeps", "B"),
        ("video_qa:videomme", "default", "Answer: B, since it sleeps", None),
        ("video_qa:videomme", "qwen2-vl", "Answer: B, since it sleeps", "B"),
        ("video_qa:videomme_sub", "qwen2-vl", "The answer is C.", "C"),
        ("egoschema:subset", "lmms-eval", "A.", "A"),
        ("egoschema:subset", "lmms-eval", "(C) or (B).", "C"),
        ("egoschema:subset", "lmms-eval", "I would say it is b. two", "B"),
        ("egoschema:subset", "lmms-eval", "one.", None),
        ("perceptiontest:val", "lmms-eval", "A.", "A"),
        ("perceptiontest:val", "lmms-eval", "It is C, not B", "C"),
        ("perceptiontest:val", "lmms-eval", "D", None),
        ("perceptiontest:val", "default", "A.", "A"),
    ],
)
def test_a_protocol_reads_by_its_own_benchmarks_rule(
    name: str, protocol: str, answer: str, read: str | None
) -> None:
    sample = Sample("1", choices=("A. one", "B. two", "C. three"), target=0)
    assert load_task(name, protocol).score(sample, said(answer)).parsed == read


@pytest.mark.parametrize(
    ("text", "box", "point", "click"),
    [
        ("[0.25, 0.5, 0.5, 0.75]", (30.0, 25.0), (20.0, 20.0), None),
        ("(250, 500, 500, 750)", (30.0, 25.0), (20000.0, 20000.0), None),
        ("[0.5, 0.25]", None, (40.0, 10.0), None),
        ("<bbox>0.25 0.5 0.5 0.75</bbox>", None, (30.0, 25.0), None),
        ("(50% 25%)", None, (40.0, 10.0), None),
        ("x: 0.5, y: 0.25", None, (40.0, 10.0), None),
        ("click(x=0.5, y=0.25)", None, (40.0, 10.0), (40.0, 10.0)),
        ("click(x=30, y=10)", None, (2400.0, 400.0), (30.0, 10.0)),
        ("the box 0.25 0.5 0.5 0.75", None, (30.0, 25.0), None),
        ("0.5 and 0.25", None, (40.0, 10.0), None),
        ("nowhere", None, None, None),
        ("x=1.2.3, y=4", None, (96.0, 160.0), None),
    ],
)
def test_clicks_are_read_as_the_harnesses_do(
    text: str, box: object, point: object, click: object
) -> None:
    approx = pytest.approx
    for read, expected in (
        (lmms_eval_box, box),
        (lmms_eval_point, point),
        (vlmevalkit_click, click),
    ):
        found = read(text, 80, 40)
        assert (found is None) if expected is None else found == approx(expected), read


# ---- card games


@pytest.mark.parametrize("game", card_games.GAMES)
def test_no_state_of_a_game_is_drawn_twice(game: str) -> None:
    source = load_task(f"card_games:{game}").source
    states = [*card_games.GAMES[game](random.Random(0))]
    assert len(states) == source.count() == len({repr(s) for s in states})
    with pytest.raises(DataError, match="drawn from a seed and takes no data"):
        list(source.rows(Path("x")))


def test_games_are_drawn_alike_every_time() -> None:
    task = load_task("card_games:ezpoint")
    first, *rest = samples(task)
    assert first == next(iter(read_samples(task)))
    assert len({s.messages[0].content[0].source for s in (first, *rest)}) == 304
    known = task.describe_data()["sha256"]
    card_games.fingerprint.cache_clear()
    assert task.describe_data()["sha256"] == known


@pytest.mark.parametrize(
    ("answer", "success", "unparsed"),
    [
        ("+", 1, False),
        ('{\n "action": "+"\n}', 1, False),
        ("-", 0, False),
        ('{"action": "+"} or {"action": "-"}', 0, True),
        ("up", 0, True),
        ("", 0, True),
    ],
)
def test_a_move_on_the_number_line_comes_closer(answer: str, success: int, unparsed: bool) -> None:
    score = load_task("card_games:numberline").score(
        Sample("1", target={"target": 5, "current": 2}), said(answer)
    )
    assert (score.values, score.unparsed) == ({"success": success}, unparsed)


@pytest.mark.parametrize(
    ("game", "cards", "answer", "success", "unparsed"),
    [
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "(1+2+3)*4", 1, False),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "1 × 2 × 3 × 4 = 24.", 1, False),
        ("point24", [(3, "C"), (3, "D"), (8, "H"), (8, "S")], "8 / (3 - 8 / 3)", 1, False),
        ("point24", [(13, "C"), (12, "D"), (2, "H"), (2, "S")], "10+10+2+2", 1, False),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "4*3*2", 0, False),  # one is left
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "1*2*3*4 = 25", 0, True),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "4/(1-1)", 0, True),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "9**9**9**9", 0, True),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "__import__('os')", 0, True),
        ("point24", [(1, "C"), (2, "D"), (3, "H"), (4, "S")], "(" * 60, 0, True),
        ("ezpoint", [(11, "C"), (2, "D")], "10 + 2", 1, False),
        ("ezpoint", [(2, "C"), (6, "D")], "2*6=12", 1, False),
        ("ezpoint", [(2, "C"), (6, "D")], "6+6", 0, False),
        ("ezpoint", [(2, "C"), (6, "D")], "(2*6)", 0, False),  # the game has no brackets
        ("ezpoint", [(2, "C"), (6, "D")], "twelve", 0, True),
    ],
)
def test_a_formula_uses_each_card_once(
    game: str, cards: list[tuple[int, str]], answer: str, success: int, unparsed: bool
) -> None:
    score = load_task(f"card_games:{game}").score(
        Sample("1", target={"cards": cards}), said(answer)
    )
    assert (score.values, score.unparsed) == ({"success": success}, unparsed)


def played(hand: list[int], shown: int, move: str, chance: random.Random) -> int:
    """One game to its end by the rules, hands as lists of cards; after the first move the player
    does what the exact returns say is best.
    """

    def points(cards: list[int]) -> tuple[int, bool]:
        soft = 1 in cards and sum(cards) + 10 <= 21
        return sum(cards) + (10 if soft else 0), soft

    while move == "hit":
        hand = [*hand, chance.choice(card_games.DECK)]
        if points(hand)[0] > 21:
            return -1
        worth = card_games.returns(*points(hand), shown)
        move = max(worth, key=lambda m: worth[m])
    dealer = [shown, chance.choice(card_games.DECK)]
    while points(dealer)[0] < 17:
        dealer.append(chance.choice(card_games.DECK))
    end = points(dealer)[0] if points(dealer)[0] <= 21 else 0
    return (points(hand)[0] > end) - (points(hand)[0] < end)


@pytest.mark.parametrize(
    ("hand", "shown"), [([10, 6], 10), ([1, 6], 9), ([10, 10], 6), ([5, 6], 1), ([8, 4], 3)]
)
def test_returns_in_blackjack_are_those_of_played_games(hand: list[int], shown: int) -> None:
    chance = random.Random(0)
    for move, exact in card_games.returns(*card_games.total(hand), shown).items():
        mean = sum(played(hand, shown, move, chance) for _ in range(3000)) / 3000
        assert abs(mean - exact) < 0.06, move  # over three standard errors


def test_a_move_in_blackjack_is_right_where_its_return_is_higher() -> None:
    task = load_task("card_games:blackjack")
    state = {"dealer": [(10, "C")], "player": [(13, "H"), (10, "S")]}
    right = task.score(Sample("1", target=state), said('{"action": "stand"}'))
    wrong = task.score(Sample("1", target=state), said("Hit"))
    lost = task.score(Sample("1", target=state), said("double"))
    assert (right.values["success"], wrong.values["success"]) == (1.0, 0.0)
    assert right.values["return"] > wrong.values["return"] > lost.values["return"] == -1.0
    assert lost.unparsed
    assert sum(card_games.dealer(6, False).values()) == Fraction(1)
