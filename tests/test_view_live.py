"""A run that is killed and resumed while its page is open, in headless Chromium."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evalkit.results.report.live import Live
from evalkit.results.report.server import Server
from tests.on_page import count, opened, until
from tests.test_kill import COMMAND

DONE = "Number(document.querySelector('.running strong')?.innerText.split(' ')[0] ?? 0)"


def started(output: Path) -> subprocess.Popen[bytes]:
    """A run of 40 samples, a few a second."""
    command = [*COMMAND, "--model-args", "seconds=0.25", "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.browser
def test_the_page_goes_on_with_a_run_that_was_killed_and_resumed(
    browser: Any, tmp_path: Path
) -> None:
    run = started(tmp_path)
    server = Server(Live(tmp_path)).start()
    page = opened(browser, server.address)
    until(page, f"{DONE} >= 5", 60)
    run.send_signal(signal.SIGKILL)
    run.wait()
    page.wait_for_timeout(3000)  # longer than between two looks
    done = page.evaluate(DONE)
    page.locator(".running a").click()
    page.wait_for_selector("article.detail")
    first = page.locator("article.detail h2").inner_text()
    page.locator(".row").nth(3).click()
    until(page, f"document.querySelector('article.detail h2').innerText !== {first!r}")
    chosen = page.locator("article.detail h2").inner_text()
    assert count(page) == f"{done} of {done}"
    run = started(tmp_path)
    until(page, f"Number(document.getElementById('count').textContent.split(' ')[0]) > {done}", 60)
    # the list grows under the reader, who keeps his sample
    assert page.locator("article.detail h2").inner_text() == chosen
    assert run.wait(60) == 0
    until(page, "document.getElementById('count').textContent === '40 of 40'", 60)
    assert page.locator("article.detail h2").inner_text() == chosen
    page.get_by_role("link", name="Overview").click()
    page.wait_for_selector("a.score")
    until(page, "!document.querySelector('.running')")
    assert page.faults == []
    page.close()
    server.shutdown()
