"""Makes docs/report.png: the report of nano on two tasks, in headless Chromium.

Run it from the repository's root: ``python docs/picture.py`` (half a minute of evaluation).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import evalkit
from evalkit.cli.main import main

WIDTH, HEIGHT = 1400, 820

if __name__ == "__main__":
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no Chromium here: install Debian's package chromium")
    with tempfile.TemporaryDirectory() as folder:
        for switches in ({}, {"position": "rope1d"}):
            evalkit.evaluate("docvqa,refcoco", output=folder, **switches)
        if code := main(["report", "--output", folder]):
            sys.exit(code)
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                "--virtual-time-budget=8000",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={Path('docs/report.png').resolve()}",
                (Path(folder) / "report.html").as_uri() + "#samples?task=refcoco:mini",
            ],
            check=True,
            timeout=120,
        )
