"""The page of results in headless Chromium: two cells of many samples, then many cells, as a
written report and as `evalkit view` serves it: `python benchmarks/report.py [--samples N]
[--cells N] [--save FILE]`.

"Usable" is from opening the address until rows (or scores) can be clicked; a filter or a search
runs from the click until the count has changed; memory is the JavaScript heap and, for the tab as a
whole, the resident size of its process. Medians of three.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from evalkit.results import write_report
from evalkit.results.report.live import Live
from evalkit.results.report.server import Server
from tests.stored import cell, record


def two_large_cells(output: Path, samples: int) -> None:
    for k, model in enumerate(("first", "second")):
        cell(
            output,
            (
                record(
                    f"sample-{i}",
                    float((i * 7 + k) % 5 > 1),
                    cluster=str(i // 4),
                    text=f"an answer of some words, number {i % 997}",
                    target=[f"target {i % 997}", "another"],
                    question=f"What is written in field {i % 61} of form {i}?",
                    metadata={"language": "abcdefgh"[i % 8], "tier": str(i % 3), "page": i},
                )
                for i in range(samples)
            ),
            model=model,
        )


def many_cells(output: Path, count: int) -> None:
    records = [record(i, float(i % 3 > 0)) for i in range(20)]
    for i in range(count):
        cell(output, records, task=f"task{i % 20}:all", model=f"model-{i // 20}")


def tab_mib() -> float:
    """Resident size of the largest renderer on this machine."""
    lines = subprocess.run(
        ["/bin/ps", "-eo", "rss,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sizes = [int(line.split()[0]) for line in lines if "--type=renderer" in line]
    return max(sizes, default=0) / 1024


def until(page: Any, holds: str) -> None:
    while not page.evaluate(holds):
        time.sleep(0.01)


def seconds_of(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(browser: Any, address: str, samples: int) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    keys = "JSON.stringify([...document.querySelectorAll('td a')].map(a => a.getAttribute('href')))"
    times: dict[str, float] = {}

    def overview() -> None:
        page.goto(address)
        page.wait_for_selector("a.score")

    times["overview usable"] = seconds_of(overview)
    if not samples:
        page.close()
        return times
    cells = [h for h in page.evaluate(keys).replace('"', "").strip("[]").split(",") if "cell=" in h]
    names = sorted({part for h in cells for part in h.split("&") if part.startswith("cell=")})
    hash = f"#samples?task=quiz%3Aall&{'&'.join(names)}"

    def rows() -> None:
        page.evaluate(f"location.hash = '{hash}'")
        page.wait_for_selector(".row .text")

    def counted(change: str, what: str) -> None:
        page.evaluate(f"location.hash = '{hash}{change}'")
        until(page, what)

    count = "document.getElementById('count').textContent"
    times["samples usable"] = seconds_of(rows)
    whole = page.evaluate(count)
    times["filter by result"] = seconds_of(
        lambda: counted("&filter=0~result~wrong", f"{count} !== '{whole}'")
    )
    wrong = page.evaluate(count)
    times["two filters"] = seconds_of(
        lambda: counted("&filter=0~result~wrong&filter=~language~b", f"{count} !== '{wrong}'")
    )
    times["sort by page"] = seconds_of(
        lambda: counted(
            "&sort=-~page", "document.querySelector('.row .id')?.textContent.endsWith('99')"
        )
    )
    times["search in all texts"] = seconds_of(
        lambda: counted(
            "&search=form 99999?" if samples > 99999 else "&search=form 999?",
            f"{count}.startsWith('1 of')",
        )
    )
    times["JavaScript heap, MiB"] = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    times["tab resident, MiB"] = tab_mib()
    page.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    rows: list[tuple[str, str, dict[str, list[float]]]] = []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as p:
        version = ""
        for name, fill, size in (
            (f"two cells of {args.samples:,}", two_large_cells, args.samples),
            (f"{args.cells:,} cells", many_cells, args.cells),
        ):
            output = Path(scratch) / name.replace(" ", "-")
            fill(output, size)
            samples = size if fill is two_large_cells else 0
            written = seconds_of(lambda o=output: write_report(o, o / "page.html", "folder"))
            server = Server(Live(output)).start()
            ways = {
                f"report (written in {written:.1f} s)": (output / "page.html").as_uri(),
                "view": server.address,
            }
            for way, address in ways.items():
                found: dict[str, list[float]] = {}
                for _ in range(3):
                    browser = p.chromium.launch(
                        executable_path=shutil.which("chromium"),
                        args=["--no-sandbox", "--enable-precise-memory-info"],
                    )
                    version = browser.version
                    for what, value in measure(browser, address, samples).items():
                        found.setdefault(what, []).append(value)
                    browser.close()
                rows.append((name, way, found))
            server.shutdown()
    lines = [
        "# The page of results, large",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, headless Chromium {version}; "
        "median and worst of 3, each in a new browser. The first look of `view` reads journals.",
        "",
        "| results | way | | median | worst |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {way} | {what} | {_text(what, statistics.median(v))} | "
            f"{_text(what, max(v))} |"
            for name, way, found in rows
            for what, v in found.items()
        ),
        "",
    ]
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join(lines), encoding="utf-8")


def _text(what: str, value: float) -> str:
    return f"{value:.0f}" if "MiB" in what else f"{value * 1000:.0f} ms"


if __name__ == "__main__":
    main()
