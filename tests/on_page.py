"""What tests of the page do in a browser."""

from __future__ import annotations

from typing import Any

import pytest


def opened(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.faults = []
    page.on(
        "console",
        lambda m: page.faults.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    page.goto(address)
    page.wait_for_selector("header.top")
    return page


def to_samples(page: Any, *words: str) -> None:
    """Opens the samples of the first cell, beside the second one, with filters."""
    keys = page.evaluate(
        "JSON.parse(document.getElementById('document-overview').textContent).cells.map(c => c.key)"
    )
    cells = "".join(f"&cell={key}" for key in keys)
    page.evaluate(f"location.hash = '#samples?task=boxes:all{cells}{''.join(words)}'")
    page.wait_for_selector("article.detail")


def until(page: Any, holds: str, seconds: int = 10) -> None:
    """Waits for an expression; from here, since the page's policy forbids it there."""
    for _ in range(20 * seconds):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {holds}")


def count(page: Any) -> str:
    return page.locator("#count").inner_text()
