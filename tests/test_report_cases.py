"""Cases in which pages of results misled their readers, each once, in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.results import load_results, write_report
from evalkit.stats import mean_interval
from evalkit.types import Metric
from tests.on_page import opened, until
from tests.stored import cell, record

pytestmark = pytest.mark.browser
TIERS = ("easy", "medium", "hard")


def written(browser: Any, folder: Path, view: str = "") -> Any:
    write_report(folder, folder / "page.html")
    return opened(browser, (folder / "page.html").as_uri() + view)


@pytest.fixture
def charts(browser: Any, tmp_path: Path) -> Any:
    """Of two cells on three tiers: the first is always wrong, and has no sample of ``hard``; the
    second is always right on ``easy``.
    """
    asked = [record(i, 0.0, seconds=1.0, metadata={"tier": TIERS[i % 3]}) for i in range(60)]
    cell(tmp_path, [r for r in asked if r.metadata["tier"] != "hard"], model="alpha")
    right = [
        record(i, float(i % 5 > 2 or i % 3 == 0), seconds=9.0, metadata={"tier": TIERS[i % 3]})
        for i in range(60)
    ]
    cell(tmp_path, right, model="beta-with-a-name-that-is-rather-long")
    page = written(browser, tmp_path, "#charts")
    page.wait_for_selector("svg .error-bar", state="attached")
    yield page
    assert page.faults == []
    page.close()


def test_a_charts_legend_names_every_cell_also_one_that_is_absent_from_a_group(charts: Any) -> None:
    names = charts.locator(".legend").first.inner_text()
    assert "alpha" in names and "beta-with" in names
    tier = charts.locator("figure", has_text="accuracy by tier")
    said = [a.get_attribute("aria-label") for a in tier.locator("svg a").all()]
    assert [s.split(":")[0].split(",")[0] for s in said] == ["easy"] * 2 + ["medium"] * 2 + ["hard"]
    # each bar in its cell's colour, as the legend has it
    last = tier.locator("svg a rect").last.get_attribute("style")
    assert last == tier.locator("svg a rect").nth(1).get_attribute("style")


def test_a_charts_groups_have_their_n_and_title_and_lie_inside_its_frame(charts: Any) -> None:
    tier = charts.locator("figure", has_text="accuracy by tier")
    assert tier.locator("figcaption").inner_text() == "accuracy by tier"
    texts = tier.locator("svg text.faint").all_text_contents()
    assert texts == ["n 20", "n 20", "n 0, 20"]
    frame = tier.locator("svg").bounding_box()
    for bar in tier.locator("svg a rect").all():
        box = bar.bounding_box()
        assert frame["x"] < box["x"] and box["x"] + box["width"] < frame["x"] + frame["width"]
    # a bar stands over its own name
    name = tier.locator("svg text", has_text="hard").bounding_box()
    box = tier.locator("svg a rect").last.bounding_box()
    assert abs(name["x"] + name["width"] / 2 - box["x"] - box["width"] / 2) < 20


def test_bars_that_are_all_nought_have_an_axis_from_nought_and_their_intervals(
    charts: Any,
) -> None:
    tier = charts.locator("figure", has_text="accuracy by tier")
    ticks = tier.locator("svg g > text[text-anchor=end]").all_text_contents()
    assert ticks == ["0", "20", "40", "60", "80", "100"]
    # all wrong, or all right: the same interval as that of a run, where the others are approximate
    nought, one = (mean_interval([v] * 20, list(range(20))) for v in (0.0, 1.0))
    said = [a.get_attribute("aria-label") for a in tier.locator("svg a").all()]
    assert nought.high is not None and one.low is not None
    assert said[0].endswith(f": 0.0 (0.0 to {100 * nought.high:.1f}), n 20")
    assert said[1].endswith(f": 100.0 ({100 * one.low:.1f} to 100.0), n 20")


def test_a_charts_names_of_points_are_not_cut_off(charts: Any) -> None:
    cost = charts.locator("figure", has_text="Score and cost")
    cost.get_by_role("combobox").select_option("tokens")
    frame = cost.locator("svg").bounding_box()
    for name in cost.locator("svg a text").all():
        box = name.bounding_box()
        assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"]


def test_cells_that_differ_in_adapter_or_data_alone_are_told_apart(
    browser: Any, tmp_path: Path
) -> None:
    records = [record(i, float(i % 2)) for i in range(4)]
    differ: tuple[dict[str, Any], ...] = (
        {"fingerprint": {"adapter": "reference"}},
        {"fingerprint": {"adapter": "transformers"}},
        {"data": {"kind": "folder", "sha256": "1"}},
        {"data": {"kind": "folder", "sha256": "2"}},
    )
    for about in differ:
        cell(tmp_path, records, **about)
    page = written(browser, tmp_path)
    page.wait_for_selector("a.score")
    cells = page.get_by_role("region", name="All cells").locator("tbody tr")
    told = [
        row.locator("td").nth(0).inner_text() + row.locator("td").nth(1).inner_text()
        for row in cells.all()
    ]
    assert len(set(told)) == 4
    heads = page.get_by_role("region", name="Headline scores").locator("thead th").all_inner_texts()
    digests = {d[:6] for d in load_results(tmp_path).data_digest if d}
    assert sum(any(d in head for d in digests) for head in heads) == 3
    page.get_by_role("link", name="Charts").click()
    page.wait_for_selector(".legend")
    names = page.locator(".legend li").all_inner_texts()
    assert sorted(n.split(", ")[-1] for n in names) == ["reference", "transformers"]
    page.get_by_role("link", name="Samples").click()
    page.wait_for_selector("select#cell-0")
    options = page.locator("select#cell-0 option").all_inner_texts()
    assert len(set(options)) == 2
    tasks = page.locator("select#task option").all_inner_texts()
    assert len(set(tasks)) == 3 and sum("local data" in t for t in tasks) == 2
    page.close()


def test_a_scores_table_sorts_and_has_every_metric_and_its_samples_a_click_away(
    browser: Any, tmp_path: Path
) -> None:
    for k, model in enumerate("abc"):
        records = [record(i, 0, scores={"acc": float(i % 4 > k), "iou": i / 9}) for i in range(8)]
        cell(tmp_path, records, model=model, metrics=(Metric("acc"), Metric("iou")))
    page = written(browser, tmp_path)
    page.wait_for_selector("a.score")
    cells = page.get_by_role("region", name="All cells")
    assert cells.locator("tbody tr").count() == 6
    page.get_by_role("region", name="Headline scores").get_by_role(
        "button", name="quiz:all acc"
    ).click()
    scores = [float(t.split()[0]) for t in page.locator("a.score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.locator("a.score").last.click()
    page.wait_for_selector("article.detail")
    top = page.locator(".list").bounding_box()["y"]
    assert top < 300 and "cell=c%2F" in page.url
    page.close()


def test_options_stand_once_and_an_iou_too(browser: Any, tmp_path: Path) -> None:
    """As they were sent, or, where each has its log-probability, as a list."""
    asked = {
        "question": "Which?\nA. left\nB. right",
        "choices": ("A. left", "B. right"),
        "target": 1,
    }
    cell(tmp_path, [record(0, 1.0, **asked), record(1, 1.0, logprobs=(-1.0, -2.0), **asked)])
    page = written(browser, tmp_path, "#samples?sample=0")
    page.wait_for_selector("article.detail")
    detail = page.locator("article.detail").inner_text()
    assert detail.count("A. left") == 1 and "Choices" not in detail
    page.keyboard.press("j")
    until(page, "document.querySelector('article.detail h2').innerText === '1'")
    assert page.locator("ol.choices li").all_inner_texts() == ["A. left−1.00", "B. right−2.00"]
    page.close()
    boxes = {"target": [0.0, 0.0, 9.0, 9.0], "parsed": [0.0, 0.0, 9.0, 8.0]}
    cell(
        tmp_path,
        [record(0, 1, scores={"acc@0.5": 1.0, "iou": 0.889}, **boxes)],
        task="ref:all",
        metrics=(Metric("acc@0.5"),),
    )
    page = written(browser, tmp_path, "#samples?task=ref%3Aall")
    page.wait_for_selector("article.detail")
    assert page.locator("article.detail dl").first.inner_text().lower().count("iou") == 1
    page.close()
