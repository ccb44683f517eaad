"""Text that no page expects, in every place where others write: nothing runs, nothing breaks the
layout, and filters and links mean what they show. In headless Chromium.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.results import sweep_tables, write_report
from evalkit.results.cells import data_digest
from evalkit.results.report.live import Live
from evalkit.results.report.notes import add_note
from evalkit.results.report.server import Server
from evalkit.results.sweep_values import Arm
from evalkit.store import JOURNAL, RUN
from evalkit.task import Metric
from tests.on_page import count, opened, until
from tests.report_data import ATTACKS
from tests.stored import cell, record

pytestmark = pytest.mark.browser
LONG = "w" * 700
ATTACK = f"{ATTACKS[1]}|~&#%\u202e"
NAMES = (
    *("a|b", "a", "b", "\\", "\\|", "c~d", "e..f", "", "  ", "%7C", "&sort=-~id", "<i>"),
    *("\u202e", LONG, "__proto__", "null", "b#c?d=e", "g\nh", "/../i", " lead", "😀", "e\u0301"),
)
STUDY = Path(__file__).parent.parent / "results" / "lab" / "positions"


def records() -> Iterator[Any]:
    """A sample for each name, which is its id, its class and its cluster."""
    for i, name in enumerate(NAMES):
        texts = ("z\u0336" * 3000, "\x00\x1b[31m", LONG, "")
        numbers = {"big": 10**400 if i % 2 else 3, "length": i * 1.5}
        nested = {"a": {"b": [1, {"c": name}]}}
        metadata = {
            "kind": name,
            "k~e|y": name,
            "": name,
            "toString": "f",
            "nested": nested,
        } | numbers
        yield record(
            name, float(i % 2), cluster=name, text=texts[i % 4], target=[nested], metadata=metadata
        )


@pytest.fixture(params=["file", "live"])
def address_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Where the page of an output folder is, as a file in a folder of hostile name or served."""
    servers: list[Server] = []

    def address(output: Path) -> str:
        if request.param == "live":
            servers.append(Server(Live(output)).start())
            return servers[0].address
        file = tmp_path / "re port 50%#1?<b>&'\".html"
        write_report(output, file, "folder")
        return file.as_uri()

    yield address
    for server in servers:
        server.shutdown()
        server.server_close()


def watched(browser: Any, address: str) -> Any:
    """The page, with what ran and what asked elsewhere."""
    page = browser.new_page(viewport={"width": 1300, "height": 850})
    page.ran, page.asked, page.faults = [], [], []
    page.expose_function("ran", lambda how: page.ran.append(how))
    page.on("request", lambda r: page.asked.append(r.url))
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    page.goto(address)
    page.wait_for_selector("header.top")
    return page


def checked(page: Any, address: str) -> None:
    """Looks at every view, and closes the page."""
    for view in ("overview", "groups", "samples", "charts", "sweeps", "notes", "studies"):
        page.evaluate(f"location.hash = '#{view}'")
        page.wait_for_timeout(250)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1300, view
    assert (page.ran, page.faults) == ([], [])
    base = address.split("#")[0].rpartition("/")[0]
    assert all(url.startswith((base, "data:")) for url in page.asked)
    page.close()


def test_filters_and_links_mean_what_they_show_whatever_names_are(
    browser: Any, tmp_path: Path, address_of: Any
) -> None:
    output = tmp_path / "a #1 50% <img src=x onerror=ran(1)>?&"
    cell(output, records(), model=LONG)
    address = address_of(output)
    page = watched(browser, f"{address}#samples")
    page.wait_for_selector("article.detail")
    whole = f"{len(NAMES)} of {len(NAMES)}"
    for field in ("kind", "k~e|y"):
        details = page.locator(".filters details", has=page.get_by_text(field, exact=True))
        for i in range(len(NAMES)):
            if not details.evaluate("d => d.open"):
                details.locator("summary").click()
            details.locator("input").nth(i).click()
            until(page, f"document.getElementById('count').textContent === '1 of {len(NAMES)}'")
            details.locator("input").nth(i).click()
            until(page, f"document.getElementById('count').textContent === '{whole}'")
    for _ in NAMES:
        title = page.locator("article.detail h2").text_content()
        link = page.locator("a.link").get_attribute("href")
        other = opened(browser, address + link)
        other.wait_for_selector("article.detail")
        assert other.locator("article.detail h2").text_content() == title
        other.close()
        page.keyboard.press("j")
    assert count(page) == whole
    checked(page, address)


def test_tasks_and_metrics_of_any_name_have_their_samples(
    browser: Any, tmp_path: Path, address_of: Any
) -> None:
    for task, metric in (
        ("a~b|c&d:all", "acc~x|y..z"),
        ("__proto__:all", "__proto__"),
        ("x#y?z:s", ATTACK),
    ):
        made = [record(i, i % 2, metric=metric) for i in range(4)]
        cell(tmp_path / "out", made, task=task, metrics=(Metric(metric),), model=ATTACKS[0])
    address = address_of(tmp_path / "out")
    page = watched(browser, address)
    for i in range(3):
        page.evaluate("location.hash = '#overview'")
        page.locator("a.score").nth(i).click()
        until(page, "document.getElementById('count')?.textContent === '4 of 4'")
    checked(page, address)


def test_sweeps_notes_studies_and_damaged_cells_of_others_stay_text(
    browser: Any, tmp_path: Path, address_of: Any
) -> None:
    out = tmp_path / "out"
    run = {"command": f"evalkit run --tasks '{ATTACK}' --limit 3", "data_path": ATTACK}
    a, b = (
        cell(
            out,
            [record(f"{ATTACK}{i}", float(i % k > 0)) for i in range(12)],
            model=f"{ATTACK}{k}",
            run=run,
        )
        for k in (2, 3)
    )
    arms = [Arm(f"{ATTACK}a", f"{ATTACK}a", a, a), Arm(f"{ATTACK}b{LONG}", f"{ATTACK}a", b, a)]
    findings = sweep_tables.compare_arms("sweep", f"{ATTACK}?{LONG}", "x", arms)
    (out / "sweep").mkdir()
    findings.save(out / "sweep" / sweep_tables.FINDINGS)
    about = {"task": a.task, "data": data_digest(a), "flag": "other"}
    for i, text in enumerate((ATTACK, LONG, "\u202e\x00\x1b")):
        add_note(out, {**about, "id": f"{ATTACK}{i}", "text": text})
    study = out / "lab" / ATTACK.replace("/", "")
    shutil.copytree(STUDY, study)
    for name, old in (
        ("README.md", "positions"),
        ("effects.csv", "interleaved"),
        ("scores.csv", "when"),
    ):
        text = (study / name).read_text().replace(old, f"{ATTACK}{LONG}".replace(",", ";"))
        (study / name).write_text(text)
    damaged = out / "runs" / "<img src=x onerror=ran(5)>" / "quiz-all-00000000 <b>"
    damaged.mkdir(parents=True)
    (damaged / RUN).write_text("{")
    (damaged / JOURNAL).write_text('{"x": "\\ud800')
    shutil.copytree(STUDY, out / "lab" / "<img src=x onerror=ran(6)>")
    (out / "lab" / "<img src=x onerror=ran(6)>" / "scores.csv").write_text("arm\nx\n")
    address = address_of(out)
    page = watched(browser, address)
    page.evaluate("location.hash = '#sweeps'")
    page.get_by_text(f"{ATTACK}?").wait_for()
    page.evaluate("location.hash = '#notes'")
    page.get_by_role("cell", name=LONG).wait_for()
    page.evaluate("location.hash = '#studies'")
    page.get_by_role("alert").get_by_text("ran(6)").wait_for()
    page.locator(".faults summary").click()
    page.locator(".faults").get_by_text("ran(5)").wait_for()
    checked(page, address)
