"""The report in headless Chromium. Run by ``make test-browser``, which installs the browser
(Debian's package).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.results import write_report
from tests.report_data import ATTACKS, HOSTILE, write_hostile_results, write_results

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.fail("no chromium: `make test-browser` installs it, or name one in CHROMIUM")
    folder = tmp_path_factory.mktemp("report")
    write_report(write_results(folder, 300), folder / "page.html")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1300, "height": 900})
        opened.faults = []
        opened.on(
            "console",
            lambda m: opened.faults.append(m.text) if m.type in ("error", "warning") else None,
        )
        opened.on("pageerror", lambda e: opened.faults.append(str(e)))
        opened.goto((folder / "page.html").as_uri())
        opened.wait_for_selector(".row")
        yield opened
        browser.close()


def count(page: Any) -> str:
    return page.locator("#count").inner_text()


def choose(page: Any, a: int = 0, b: int = -1, only: str = "all", words: str = "") -> None:
    page.select_option("#a", str(a))
    page.select_option("#b", str(b))
    page.select_option("#only", only)
    page.fill("#words", words)


def test_it_loads_without_a_fault_and_draws_few_rows(page: Any) -> None:
    choose(page)
    assert count(page) == "300 of 300"
    assert 10 < page.locator(".row").count() < 60
    assert page.faults == []


def test_filters_count_what_they_show(page: Any) -> None:
    for only, there in (("error", 1), ("unparsed", 1), ("all", 300)):
        choose(page, a=1, only=only)
        assert count(page) == f"{there} of 300"
    choose(page, a=1, b=0, only="changed")
    assert count(page) == "32 of 300"
    choose(page, only="wrong")
    wrong = int(count(page).split()[0])
    choose(page, only="right")
    assert wrong + int(count(page).split()[0]) == 300
    choose(page, words="thing 299")
    assert count(page) == "1 of 300"


def test_hostile_text_stays_text(page: Any) -> None:
    choose(page, words="thing 3?")
    assert page.title() == "evalkit report"
    assert HOSTILE in page.locator("#detail .said-a").text_content()
    choose(page, a=1, only="error")
    assert HOSTILE in page.locator("#detail").text_content()
    assert page.title() == "evalkit report" and page.faults == []


@pytest.mark.parametrize("model", ["@@CONTENTS@@", ATTACKS[1]])
def test_nothing_in_a_hostile_report_runs_or_reaches_out(
    page: Any, tmp_path: Path, model: str
) -> None:
    write_report(write_hostile_results(tmp_path, model), tmp_path / "page.html")
    opened = page.context.browser.new_page()
    ran, asked, faults = [], [], []
    opened.expose_function("ran", lambda how: ran.append(how))
    opened.on("request", lambda r: asked.append(r.url))
    opened.on("dialog", lambda d: ran.append(d.message))
    opened.on("pageerror", lambda e: faults.append(str(e)))
    opened.goto((tmp_path / "page.html").as_uri())
    opened.wait_for_selector(".row")
    for a, b in ((0, 1), (1, 0)):
        choose(opened, a, b)
        assert count(opened) == f"{len(ATTACKS)} of {len(ATTACKS)}"
        opened.locator("h2", has_text="Samples").click()
        for _ in ATTACKS:
            opened.keyboard.press("j")
        opened.locator("#detail").click()
    text = opened.locator("body").text_content()
    assert model in text and ATTACKS[3] in text
    assert (ran, faults) == ([], []) and len(asked) == 1
    assert (
        opened.locator("script, img, iframe, a, form, base, meta[http-equiv=refresh]").count() == 1
    )
    # what escapes anything else is stopped by the page's policy
    opened.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=ran(1)>')")
    opened.wait_for_timeout(100)
    assert ran == []
    opened.close()


def test_boxes_lie_where_they_were_said(page: Any) -> None:
    choose(page, words="thing 7?")
    rects = page.locator(".picture rect")
    assert [rects.nth(i).get_attribute("x") for i in range(2)] == ["10", "12"]
    image, svg = (
        page.locator(".picture img").bounding_box(),
        page.locator(".picture svg").bounding_box(),
    )
    assert all(abs(image[k] - svg[k]) <= 1 for k in ("x", "y", "width", "height"))
    page.locator("h2", has_text="Samples").click()
    page.keyboard.press("b")
    assert rects.count() == 0
    page.keyboard.press("b")


def test_the_true_box_is_drawn_where_the_answer_has_none(page: Any) -> None:
    choose(page, a=1, only="unparsed")
    rects = page.locator(".picture rect")
    assert [rects.nth(i).get_attribute("x") for i in range(rects.count())] == ["10"]
    choose(page, a=1, only="error")
    assert page.locator(".picture rect").count() == 1


def test_keys_walk_the_samples_and_the_theme_turns(page: Any) -> None:
    choose(page)
    page.locator("h2", has_text="Samples").click()
    before = page.locator("#detail").inner_text()
    page.keyboard.press("j")
    assert page.locator("#detail").inner_text() != before
    page.keyboard.press("k")
    assert page.locator("#detail").inner_text() == before
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.keyboard.press("t")
    assert page.evaluate(paper) != light
    page.keyboard.press("t")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
