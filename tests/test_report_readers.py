"""What somebody expects who sees the page for the first time, in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.results import write_report
from evalkit.results.report.live import Live
from evalkit.results.report.server import Server
from evalkit.types import Metric
from tests.on_page import count, opened, until
from tests.report_data import write_results
from tests.stored import cell, record

pytestmark = pytest.mark.browser
KEEP = "void (navigator.clipboard.writeText = async (text) => { window.sent = text; })"
SELECTED = (
    "(({value: v, selectionStart: a, selectionEnd: b}) => v.slice(a, b))(document.activeElement)"
)
TOP = "document.querySelector('.detail h2')?.getBoundingClientRect().top"
REFUSE = "void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions on numbers, two from each page: every third answer is wrong, one is empty."""
    folder = tmp_path_factory.mktemp("readers")
    cell(
        folder,
        [
            record(
                f"documents-validation-{i:05d}",
                float(i % 3 > 0),
                text="" if i == 6 else "57" if i % 3 == 0 else "32",
                target="32",
                unparsed=i == 6,
                cluster=str(i // 2),
                metadata={"kind": "ab"[i % 2]},
                question=f"How many, {i}?",
            )
            for i in range(40)
        ],
        model="a-model-with-a-long-name",
    )
    write_report(folder, folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    page = opened(browser, file.as_uri() + "#samples?filter=0~result~wrong&sort=-~id")
    page.wait_for_selector("article.detail")
    yield page
    assert page.faults == []
    page.close()


def test_a_click_on_the_link_copies_it_with_the_filters_and_says_so(page: Any) -> None:
    before = page.url
    page.evaluate(KEEP)
    page.get_by_role("link", name="link to this sample").click()
    page.get_by_role("status").get_by_text("copied").wait_for()
    assert (count(page), page.url) == ("13 of 40", before)
    other = opened(page.context.browser, page.evaluate("window.sent"))
    other.wait_for_selector("article.detail")
    assert count(other) == "13 of 40" and "validation-00039" in other.url
    assert other.locator("article.detail h2").inner_text() == "documents-validation-00039"
    other.close()


def test_a_link_that_may_not_be_copied_is_selected(page: Any) -> None:
    page.evaluate(REFUSE)
    page.keyboard.press("l")
    page.wait_for_selector(".by-hand")
    assert "sample=documents-validation-00039" in page.evaluate(SELECTED)


def test_the_link_opens_in_a_new_window_as_any_other(page: Any) -> None:
    with page.context.expect_page() as opens:
        page.get_by_role("link", name="link to this sample").click(modifiers=["Control"])
    opens.value.wait_for_selector("article.detail")
    assert "sample=documents-validation-00039" in opens.value.url


def test_keys_go_on_from_a_box_that_was_ticked(page: Any) -> None:
    page.get_by_role("checkbox", name="right").check()
    until(page, "document.getElementById('count').textContent.startsWith('39 ')")
    page.get_by_role("checkbox", name="right").focus()
    page.keyboard.press("j")
    until(page, "document.querySelector('article.detail h2').innerText.endsWith('00038')")


def test_a_page_of_this_machine_says_what_can_be_sent(browser: Any, tmp_path: Path) -> None:
    server = Server(Live(write_results(tmp_path, 3))).start()
    page = opened(browser, server.address + "#samples")
    page.get_by_text("The link opens on this machine only").wait_for()
    assert "evalkit report" in page.locator(".reach").inner_text()
    page.close()
    server.shutdown()


def test_one_score_has_one_interval_until_a_filter_asks_for_another(page: Any) -> None:
    page.get_by_role("link", name="Overview").click()
    shown = page.locator("a.score small").inner_text()
    page.locator("a.score").click()
    page.wait_for_selector(".mean small")
    assert page.locator(".mean small").inner_text() == f"{shown}, n 40"
    assert page.locator(".intervals").inner_text() == "95 % intervals as in the overview"
    page.get_by_role("checkbox", name="wrong").check()
    page.get_by_text("approximate, over these samples alone").wait_for()


def test_what_the_colours_of_groups_mean_holds_in_light_and_dark(page: Any) -> None:
    page.get_by_role("link", name="Groups").click()
    page.get_by_text("The fuller the colour, the better").wait_for()


def test_intervals_that_are_not_the_runs_own_are_called_approximate(
    browser: Any, tmp_path: Path
) -> None:
    """In groups, in charts, and for the differences of the overview; the scores there are exact."""
    for k, model in enumerate(("a", "b")):
        records = [
            record(i, float(i % (2 + k) > 0), metadata={"kind": "xy"[i % 2]}) for i in range(40)
        ]
        cell(tmp_path, records, model=model)
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri())
    approximate = page.get_by_text("Intervals (95 %) are approximate: cluster-robust")
    page.wait_for_selector("a.score")
    assert approximate.count() == 0
    page.get_by_role("combobox", name="difference to").select_option(index=1)
    page.wait_for_selector(".verdict")
    assert approximate.is_visible()
    assert page.locator(".verdict").get_attribute("title").startswith("approximate 95 % interval")
    for view in ("Groups", "Charts"):
        page.get_by_role("link", name=view).click()
        until(page, f"document.title.startsWith('{view}')")
        approximate.wait_for()
    page.close()


def test_the_list_has_headings_and_cut_ids_keep_their_end(page: Any) -> None:
    heads = page.locator(".heads span")
    assert [h for h in heads.all_inner_texts() if h] == [
        "sample",
        "accuracy",
        "answer",
        "target",
        "question",
    ]
    first, heading = page.locator(".row").first, page.locator(".heads")
    end = first.locator(".id span").last
    assert first.locator(".id").get_attribute("title") == "documents-validation-00039"
    assert end.inner_text().endswith("00039")
    edge = first.locator(".id").bounding_box()
    assert end.bounding_box()["x"] + end.bounding_box()["width"] <= edge["x"] + edge["width"] + 1
    columns = [row.locator(".text").nth(1).bounding_box()["x"] for row in (first, heading)]
    assert abs(columns[0] - columns[1]) <= 1
    page.locator(".list").focus()
    page.keyboard.press("End")
    until(page, "document.querySelector('article.detail h2').innerText.endsWith('00000')")
    last, box = page.locator(".row.chosen").bounding_box(), page.locator(".list").bounding_box()
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1


def test_a_phone_shows_the_sample_of_a_link_and_of_a_tap(browser: Any, file: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    in_sight = f"{TOP} >= 0 && {TOP} < 200"
    page.goto(file.as_uri() + "#samples?sample=documents-validation-00021")
    until(page, in_sight)
    page.evaluate("scrollTo(0, 0)")
    page.locator(".row").nth(2).click()
    until(page, in_sight)
    page.get_by_role("button", name="back to the list").click()
    assert page.locator(".list").bounding_box()["y"] == pytest.approx(0, abs=2)
    page.evaluate("location.hash = '#overview'")
    page.wait_for_selector("a.score")
    name = page.get_by_role("cell", name="a-model-with-a-long-name").first
    lines = name.evaluate("(cell) => cell.getBoundingClientRect().height / 22")
    assert lines < 5 and page.evaluate("document.documentElement.scrollWidth") <= 392
    page.close()


def test_a_wrong_answers_letters_stand_apart_and_are_explained(page: Any) -> None:
    page.locator(".legend-of-letters").wait_for()
    legend = page.locator(".legend-of-letters").inner_text()
    assert legend == "abc in the target, not in the answer; abc in the answer alone"
    lacks, adds = (page.locator(f".letters {tag}") for tag in ("del", "ins"))
    assert (lacks.inner_text(), adds.inner_text()) == ("32", "57")
    end = lacks.bounding_box()["x"] + lacks.bounding_box()["width"]
    assert adds.bounding_box()["x"] - end >= 4


def test_an_answer_without_a_letter_is_seen_to_be_empty(page: Any) -> None:
    page.evaluate("location.hash = '#samples?filter=0~result~unparsed'")
    page.get_by_text("could not be read (unparsed): the answer is empty").wait_for()
    page.wait_for_selector(".row .text:has-text('(empty)')")
    assert page.locator(".answer .said").inner_text() == "(empty)"


@pytest.mark.parametrize(
    ("text", "about", "why"),
    [
        ("maybe", {"target": "yes"}, "neither yes nor no"),
        ("E", {"target": 1, "choices": ("a", "b")}, "does not name exactly one of the options"),
        ("E", {"target": 1, "choices": ("a", "b"), "parsed": "E"}, "“E” is not among the options"),
        ("there", {"target": [1.0, 2.0, 3.0, 4.0], "metric": "acc@0.5"}, "no box in it"),
        ("so", {"target": "x", "finish_reason": "length"}, "cut off at the limit of tokens"),
    ],
)
def test_an_unparsed_answer_says_why(
    browser: Any, tmp_path: Path, text: str, about: dict[str, Any], why: str
) -> None:
    metric = Metric(about.get("metric", "accuracy"))
    cell(tmp_path, [record(0, 0.0, text=text, unparsed=True, **about)], metrics=(metric,))
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#samples")
    page.get_by_text(why).wait_for()
    page.close()


def test_times_and_dates_say_what_they_are_of(browser: Any, tmp_path: Path) -> None:
    both = (Metric("accuracy"), Metric("anls"))
    for task, seconds in (("quiz:all", 40.0), ("exam:all", 2.5)):
        records = [record(0, 1.0, scores={"accuracy": 1.0, "anls": 1.0})]
        cell(tmp_path, records, task=task, metrics=both, seconds=seconds)
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri())
    assert page.locator(".made").inner_text().startswith("page made by evalkit ")
    scores = page.get_by_role("region", name="Headline scores")
    assert scores.locator("tbody td").last.inner_text() == "42.5"
    page.get_by_text("once on the line of each of its metrics").wait_for()
    page.close()


def test_the_table_of_two_says_what_is_not_right(browser: Any, tmp_path: Path) -> None:
    for model in ("a", "b"):
        cell(tmp_path, [record(i, i / 2) for i in range(3)], model=model)
    write_report(tmp_path, tmp_path / "page.html")
    page = opened(browser, (tmp_path / "page.html").as_uri() + "#samples")
    page.get_by_role("combobox", name="beside").select_option(index=1)
    page.get_by_text("not: partly right, wrong or unparsed").wait_for()
    page.close()
