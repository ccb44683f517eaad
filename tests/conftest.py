"""Fixtures that several files of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit import code


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
