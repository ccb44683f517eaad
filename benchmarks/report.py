"""The report at 10,000 samples in headless Chromium: `python benchmarks/report.py [--samples N]
[--save FILE]`.

First paint is the browser's own first-contentful-paint; filter and key times run from the event to
the next painted frame.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from evalkit.results import write_report
from tests.report_data import write_results

TIMED = """(work) => new Promise((done) => { const from = performance.now(); eval(work);
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - from))); })"""
FILTERS = {
    "filter: wrong": "document.getElementById('only').value = 'wrong'; "
    "document.getElementById('only').dispatchEvent(new Event('change'))",
    "filter: changed between two cells": "document.getElementById('only').value = 'changed'; "
    "document.getElementById('only').dispatchEvent(new Event('change'))",
    "search in all texts": "document.getElementById('only').value = 'all'; "
    "document.getElementById('words').value = '99'; "
    "document.getElementById('words').dispatchEvent(new Event('input'))",
    "next sample": "dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as p:
        output = write_results(Path(scratch), args.samples)
        began = time.perf_counter()
        write_report(output, Path(scratch) / "page.html")
        written = time.perf_counter() - began
        size = (Path(scratch) / "page.html").stat().st_size / 2**20
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        paints, ready, times = [], [], {name: [] for name in FILTERS}
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.goto((Path(scratch) / "page.html").as_uri())
            page.wait_for_selector(".row")
            ready.append(page.evaluate("performance.now()"))
            paints.append(
                page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            page.select_option("#b", index=1)
            for name, work in FILTERS.items():
                times[name].append(page.evaluate(TIMED, work))
            page.close()
        version = browser.version
        browser.close()
    rows = [("first paint", paints), ("all rows there", ready), *times.items()]
    lines = [
        f"# The report at {args.samples:,} samples, two cells",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, headless Chromium "
        f"{version}; median and worst of 5 loads.",
        f"Page of {size:.1f} MiB, pictures in a folder beside it, written in {written:.1f} s.",
        "",
        "| | median ms | worst ms |",
        "|---|---|---|",
        *(f"| {name} | {statistics.median(v):.0f} | {max(v):.0f} |" for name, v in rows),
        "",
    ]
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
