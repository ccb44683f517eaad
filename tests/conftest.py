"""Fixtures that several files of tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evalkit import code

# how long an example takes tells of the machine
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def recorded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of the code as it lies, which a test may change: for tests that must not depend on
    what is being edited.
    """
    path = tmp_path_factory.mktemp("code") / "recorded.json"
    path.write_text('{"versions": {}, "tasks": {}, "files": {}, "imports": {}}')
    monkeypatch.setattr(code, "RECORDED", path)
    code.renew(new_answers=False)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for tests that are marked `browser`."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.fail("no chromium: `make test-browser` installs it, or name one in CHROMIUM")
    with sync_playwright() as p:
        launched = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
