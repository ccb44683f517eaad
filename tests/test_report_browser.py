"""The page in headless Chromium. Run by ``make test-browser``, which installs the browser (Debian's
package).
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evalkit.cell_results import seen_of
from evalkit.lab.stored import load_studies
from evalkit.results import write_report
from evalkit.results.report.live import Live
from evalkit.results.report.notes import load_notes
from evalkit.results.report.server import Server
from evalkit.types import Metric
from evalkit.units import Counted
from tests.on_page import count, opened, to_samples, until
from tests.report_data import ATTACKS, HOSTILE, write_hostile_results, write_results
from tests.stored import cell, record

pytestmark = pytest.mark.browser
SECOND = "select#cell-1"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(write_results(folder, 300), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    page = opened(browser, file.as_uri())
    yield page
    assert page.faults == []
    page.close()


def test_from_a_score_to_a_wrong_sample_to_its_link_by_mouse(page: Any) -> None:
    page.locator("a.score").first.click()
    page.wait_for_selector(".row")
    assert count(page) == "300 of 300" and 10 < page.locator(".row").count() < 80
    page.locator(".filters label", has_text="wrong").first.click()
    until(page, "document.getElementById('count').textContent.startsWith('138 ')")
    page.locator(".row").nth(3).click()
    until(page, "location.hash.includes('sample=')")
    id = page.locator("article.detail h2").inner_text()
    address = page.locator("a.link").get_attribute("href")
    other = opened(page.context.browser, page.url.split("#")[0] + address)
    other.wait_for_selector("article.detail")
    assert other.locator("article.detail h2").inner_text() == id and other.faults == []
    other.close()
    again = opened(page.context.browser, page.url)  # the whole view, filters and all
    again.wait_for_selector("article.detail")
    assert count(again) == "138 of 300" and again.locator("article.detail h2").inner_text() == id
    again.close()


def test_the_same_by_keys(page: Any) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('score')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("article.detail")
    first = page.locator("article.detail h2").inner_text()
    page.keyboard.press("j")
    until(page, f"document.querySelector('article.detail h2').innerText !== '{first}'")
    page.keyboard.press("k")
    until(page, f"document.querySelector('article.detail h2').innerText === '{first}'")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("thing 299?")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('count').textContent === '1 of 300'")
    page.keyboard.press("Escape")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.keyboard.press("t")
    until(page, f"{paper} !== '{light}'")
    page.keyboard.press("1")
    page.wait_for_selector("a.score")


def test_two_models_have_both_boxes_over_one_picture(page: Any) -> None:
    to_samples(page, "&sample=7")
    rects = page.locator("button.picture rect")
    until(page, "document.querySelectorAll('button.picture rect').length === 3")
    assert [rects.nth(i).get_attribute("x") for i in range(3)] == ["10", "12", "12"]
    image, svg = (page.locator(f"button.picture {tag}").bounding_box() for tag in ("img", "svg"))
    assert all(abs(image[k] - svg[k]) <= 1 for k in ("x", "y", "width", "height"))
    page.keyboard.press("b")
    until(page, "!document.querySelector('button.picture rect')")
    page.keyboard.press("z")
    page.wait_for_selector("dialog[open] img")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog')")


def test_the_true_box_is_drawn_where_the_answer_has_none(page: Any) -> None:
    to_samples(page, "&filter=1~result~unparsed")
    rects = page.locator("button.picture rect")
    page.wait_for_selector("button.picture rect")
    assert [rects.nth(i).get_attribute("x") for i in range(rects.count())] == ["10", "12"]


def test_two_cells_are_counted_against_each_other(page: Any) -> None:
    to_samples(page)
    cells = page.locator("table.two button")
    n = [int(cells.nth(i).inner_text()) for i in range(4)]
    assert sum(n) == 299  # one has an error
    cells.nth(0).click()
    until(page, f"document.getElementById('count').textContent === '{n[0]} of 300'")
    assert "difference" in page.locator(".summary").inner_text()


def test_filters_of_any_field_count_what_they_show(page: Any) -> None:
    to_samples(page, "&filter=1~result~error")
    assert count(page) == "1 of 300"
    to_samples(page, "&filter=0~iou~0.75..", "&filter=~lang~%3Ci%3E")
    shown = int(count(page).split()[0])
    assert shown == sum(i % 11 / 10 >= 0.75 and i % 2 == 1 for i in range(300))


def test_hostile_text_stays_text(page: Any) -> None:
    to_samples(page, "&sample=3")
    until(page, "document.querySelector('article.detail h2').innerText === '3'")
    assert HOSTILE in page.locator("article.detail").text_content()
    to_samples(page, "&filter=1~result~error")
    assert HOSTILE in page.locator("article.detail").text_content()
    assert "broken" not in page.title()


@pytest.mark.parametrize("model", ["@@DOCUMENTS@@", ATTACKS[1]])
@pytest.mark.parametrize("live", [False, True])
def test_nothing_in_hostile_results_runs_or_reaches_out(
    browser: Any, tmp_path: Path, model: str, live: bool
) -> None:
    output = write_hostile_results(tmp_path, model)
    if live:
        server = Server(Live(output)).start()
        address = server.address
    else:
        write_report(output, tmp_path / "page.html")
        address = (tmp_path / "page.html").as_uri()
    page = browser.new_page()
    ran, asked, faults = [], [], []
    page.expose_function("ran", lambda how: ran.append(how))
    page.on("request", lambda r: asked.append(r.url))
    page.on("dialog", lambda d: ran.append(d.message))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto(address)
    page.wait_for_selector("a.score, td a")
    assert model in page.locator("body").text_content()
    for view in ("overview", "groups", "samples", "charts", "sweeps", "notes"):
        page.evaluate(f"location.hash = '#{view}'")
        page.wait_for_timeout(300)
    page.evaluate("location.hash = '#samples'")
    page.wait_for_selector("article.detail")
    assert count(page) == f"{len(ATTACKS)} of {len(ATTACKS)}"
    for _ in ATTACKS:
        page.keyboard.press("j")
    assert (ran, faults) == ([], [])
    assert all(url.startswith((address.split("#")[0], "data:")) for url in asked)
    assert page.locator("iframe, form, base, meta[http-equiv=refresh], [onerror]").count() == 0
    # what escapes anything else is stopped by the page's policy
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=ran(1)>')")
    page.wait_for_timeout(100)
    assert ran == []
    page.close()
    if live:
        server.shutdown()


@pytest.mark.parametrize(
    ("target", "said", "absent", "added"),
    [
        ("كتاب جديد", "كتاب جديت", "د", "ت"),
        ("किताब नई", "किताव नई", "ब", "व"),
        ("北京大学", "北京太学", "大", "太"),
        ("e\u0301te\u0301", "ete\u0301", "e\u0301", "e"),  # a letter with its accent is one
    ],
)
def test_answers_are_compared_letter_by_letter_in_any_script(
    browser: Any, tmp_path: Path, target: str, said: str, absent: str, added: str
) -> None:
    cell(tmp_path, [record(0, 0.0, text=said, target=target)])
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#samples")
    page.wait_for_selector(".letters")
    assert page.locator(".letters del").all_inner_texts() == [absent]
    assert page.locator(".letters ins").all_inner_texts() == [added]
    assert page.locator(".letters").get_attribute("dir") == "auto" and page.faults == []
    page.close()


def test_a_live_page_shows_a_run_that_grows_and_keeps_notes(browser: Any, tmp_path: Path) -> None:
    output = write_results(tmp_path, 8)
    from evalkit.store import cells

    first = cells(output)[0]
    whole = first.journal_path.read_bytes()
    first.results_path.unlink()
    first.journal_path.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    server = Server(Live(output)).start()
    page = opened(browser, server.address)
    page.wait_for_selector(".running li")
    assert re.search(r"3 of 8 samples", page.locator(".running").inner_text())
    first.journal_path.write_bytes(whole)
    until(page, "!document.querySelector('.running')")
    page.locator("a.score").first.click()
    page.wait_for_selector(".note-editor input")
    page.fill(".note-editor input", "the box is another thing's")
    page.locator(".note-editor button", has_text="label wrong").click()
    page.wait_for_selector("nav a:has-text('Notes (1)')")
    (note,) = load_notes(output)
    assert (note.flag, note.text) == ("label wrong", "the box is another thing's")
    page.locator(".filters summary", has_text="note").click()
    assert "1" in page.locator(".filters li", has_text="label wrong").inner_text()
    until(page, "document.querySelector('button.picture img').naturalWidth > 0")
    assert page.faults == []
    page.close()
    server.shutdown()


def test_a_clip_shows_its_frames_and_plays(browser: Any, tmp_path: Path) -> None:
    import av
    import numpy as np

    clip = io.BytesIO()
    with av.open(clip, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height = 64, 48
        for i in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * 15, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "clip.mp4").write_bytes(clip.getvalue())
    task = (Path(__file__).parent / "data" / "clip_task.py").read_text()
    (tmp_path / "clips.py").write_text(task)
    from evalkit.cell import Cell
    from evalkit.runner import run_cell
    from evalkit.task import load_task
    from tests.plugins.looker import Looker

    made = Cell.make(load_task(str(tmp_path / "clips.py")), Looker("m"), "m", tmp_path / "out")
    run_cell(made, progress=False)
    server = Server(Live(tmp_path / "out")).start()
    page = opened(browser, server.address + "#samples")
    until(page, "document.querySelector('button.picture img')?.naturalWidth > 700")
    assert page.locator("video").count() == 1
    until(page, "document.querySelector('video').readyState > 0")
    # 16 frames, 8 a second, of which the adapter decoded four
    assert "shown, at 0.00, 0.63, 1.25, 1.88 s" in page.locator("figcaption").inner_text()
    marks = page.locator(".timeline line:not(.grid) title")
    assert marks.all_text_contents() == ["0.00 s", "0.63 s", "1.25 s", "1.88 s"]
    for _ in range(2):
        page.get_by_role("button", name="the next frame that").click()
    until(page, "Math.abs(document.querySelector('video').currentTime - 1.25) < 0.01")
    page.close()
    server.shutdown()


@pytest.mark.parametrize(
    "metric",
    [
        Metric("right", weight="weight"),
        Metric("right", units=("question",)),
        Metric("right", group="kind", scale=200.0, units=("", "question"), total=True),
    ],
    ids=["weighted", "units", "sum of groups"],
)
def test_numbers_over_filters_are_those_of_the_metric(
    browser: Any, tmp_path: Path, metric: Metric
) -> None:
    records = [
        record(
            i,
            0,
            scores={} if i == 3 else {"right": float(i * 7 % 5 > 1), "weight": 1.0 + i % 3},
            **({"error": "lost", "failed_in": "adapter"} if i == 3 else {}),
            metadata={"question": i // 2} | ({"kind": "abc"[i // 2 % 3]} if i < 58 else {}),
        )
        for i in range(60)
    ]
    made = cell(tmp_path, records, metrics=(metric,))
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#samples")
    page.wait_for_selector(".mean strong")
    (whole,) = made.results.metrics
    assert page.locator(".mean strong").inner_text() == f"{whole.value:.1f}"
    page.locator(".filters summary", has_text="kind").click()
    page.locator(".filters label", has_text="b").last.click()
    until(page, "document.getElementById('count').textContent === '20 of 60'")
    of_b = [r for r in records if r.metadata.get("kind") == "b"]
    of_kind = Counted.of(seen_of(of_b, metric), metric)
    value = of_kind.mean * of_kind.added * metric.scale
    assert page.locator(".mean strong").inner_text() == f"{value:.1f}"
    assert page.faults == []
    page.close()


def test_five_questions_of_someone_who_sees_the_page_for_the_first_time(page: Any) -> None:
    """By visible names alone; each comment says how many clicks it takes."""
    link, button = partial(page.get_by_role, "link"), partial(page.get_by_role, "button")
    # Which language is worst? Two: the view, and the property (when it is not the first one).
    link(name="Groups").click()
    page.get_by_role("combobox", name="by", exact=True).select_option("lang")
    worst = page.locator("td.worst").first.inner_text()
    assert re.fullmatch(r".+ [\d.]+", worst)
    # How long did it take? One: a column of the overview.
    link(name="Overview").click()
    assert button(name="seconds of the run").is_visible()
    # Why are these unparsed? One: the number leads to them, the detail says what was not read.
    page.get_by_role("region", name="All cells").get_by_role("link", name="1").last.click()
    page.get_by_text("could not be read (unparsed)").wait_for()
    # What do both models miss? Three: a score, the other model, the field where neither is right.
    link(name="Overview").click()
    page.locator("a.score").first.click()
    page.get_by_role("combobox", name="beside").select_option(index=1)
    button(name="first not right, second not right").click()
    until(page, "!document.getElementById('count').textContent.startsWith('300 ')")
    # Send me that sample. One: all that there is of it, as a text.
    page.evaluate("navigator.clipboard.writeText = (text) => { window.sent = text; }")
    button(name="copy as text").click()
    until(page, "window.sent?.includes('target: ') && window.sent.includes('#samples?')")


def test_dragging_over_bars_filters(page: Any) -> None:
    page.evaluate("location.hash = '#charts?task=boxes:all'")
    page.wait_for_selector("svg.brushed")
    svg = page.locator("figure", has_text="IoU of the answers").locator("svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    slot, y = (box["width"] - 58) / 10, box["y"] + 60
    page.mouse.move(box["x"] + 46 + 2.5 * slot, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 46 + 4.5 * slot, y)
    page.mouse.up()
    page.wait_for_selector("article.detail")
    assert "filter=0%7Eiou%7E0.2..0.4999" in page.url.replace("~", "%7E")


def test_below_the_bars_of_many_models_nothing_overlaps(browser: Any, tmp_path: Path) -> None:
    for k, n in enumerate((340, 320, 310, 303)):
        records = [record(i, float(i % 3 > 0), tokens=14 + i, seconds=1.0) for i in range(n)]
        cell(tmp_path, records, model=f"m{k}")
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#charts")
    notes = page.locator("figure", has_text="by visual tokens").locator("text.faint")
    notes.first.wait_for()
    boxes = [box for i in range(notes.count()) if (box := notes.nth(i).bounding_box())]
    assert len(boxes) > 5
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    page.get_by_text("seconds from request to answer (those of", exact=False).first.wait_for()
    assert page.faults == []
    page.close()


def test_a_sweeps_differences_lead_to_their_samples(browser: Any, tmp_path: Path) -> None:
    from evalkit.results import sweep_tables
    from evalkit.results.sweep_values import Arm

    base, other = (
        cell(tmp_path, [record(i, float(i % k > 0)) for i in range(40)], model=f"m{k}")
        for k in (2, 3)
    )
    arms = [Arm("m2", "m2", base, base), Arm("m3", "m2", other, base)]
    found = sweep_tables.compare_arms("models", "which?", "x", arms)
    sweep_tables.write(found, arms, tmp_path)
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#sweeps")
    page.get_by_role("link", name="quiz:all, m3: ").click()
    page.wait_for_selector("table.two")
    assert page.locator(".chosen-cell").count() == 2 and page.faults == []
    page.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with a study in it, and of one arm a learning curve."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(Path(__file__).parent.parent / "results" / "lab" / "positions", folder / "lab")
    curve = "".join(f"1,1D,row,{step},{2 - step / 100}\n" for step in range(0, 100, 10))
    (folder / "lab" / "curves.csv").write_text(f"schema_version,arm,kind,step,nll\n{curve}")
    return folder


@pytest.mark.parametrize("live", [False, True])
def test_a_study_is_shown_as_charts(browser: Any, study: Path, live: bool) -> None:
    (stored,), _ = load_studies(study)
    if live:
        server = Server(Live(study)).start()
        address = server.address
    else:
        write_report(study, study / "page.html")
        address = (study / "page.html").as_uri()
    page = opened(browser, address)
    page.wait_for_selector(".found")
    for said in (stored.question, *stored.sentences):
        assert said in page.locator("main").inner_text()
    at = stored.effects[0].condition
    forest = [e for e in stored.effects if e.condition == at]
    marks = page.locator("figure", has_text="NLL minus that of").locator("circle")
    assert marks.count() == len(forest)
    clear = page.locator("figure", has_text="NLL minus that of").locator("circle.found").count()
    assert clear == sum(not e.low <= 0 <= e.high for e in forest)
    (score, *_) = stored.scores
    heat = page.get_by_role("region", name=f"right answers, {score.kind}")
    assert heat.locator("td.heat").first.inner_text() == f"{100 * score.right:.1f}"
    assert page.locator("polyline").get_attribute("aria-label") == "1D: 1.10 at the end"
    page.get_by_role("combobox", name="condition").select_option("12 s")
    until(page, "location.hash.includes('by=12')")
    page.get_by_text("12 s; 95 % intervals over seeds").wait_for()
    assert page.faults == []
    page.close()
    if live:
        server.shutdown()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious_in_a_study(browser: Any, study: Path, dark: bool) -> None:
    write_report(study, study / "page.html")
    assert serious(browser, (study / "page.html").as_uri(), dark) == []


@pytest.mark.parametrize("view", ["overview", "groups", "samples", "charts", "notes"])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(browser: Any, file: Path, view: str, dark: bool) -> None:
    assert serious(browser, f"{file.as_uri()}#{view}?task=boxes:all", dark) == []


def serious(browser: Any, address: str, dark: bool) -> list[tuple[str, str]]:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(browser, address)
    page.wait_for_timeout(700)
    if dark:
        page.keyboard.press("t")
    found = Axe().run(page).response["violations"]
    page.close()
    return [
        (v["id"], v["nodes"][0]["html"][:200])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


def test_a_phones_width_works(browser: Any, file: Path) -> None:
    page = opened(browser, file.as_uri() + "#samples")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_selector("article.detail")
    assert page.evaluate("document.documentElement.scrollWidth") <= 392
    page.close()
