"""Which Ray cluster a run joins, and what it says of one that is not there. Ray is a stand-in that
notes what it is asked for; ``test_ray.py`` has the real one.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.errors import UsageError
from evalkit.executor.cluster import ClusterExecutor
from tests.plugins.adder import Adder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What ``ray.init`` was given; nothing that Ray reads is set or there."""
    calls: list[dict[str, Any]] = []
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **given: calls.append(given),
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


@pytest.fixture
def dead() -> str:
    """An address at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def left_behind(folder: Path, address: str) -> None:
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(address)


def join(address: str = "") -> None:
    ClusterExecutor(Adder, "model", {}, address, "cpu")


def test_without_an_address_a_cluster_of_its_own_is_started(
    asked: list[dict[str, Any]], dead: str, tmp_path: Path
) -> None:
    """Not the one whose address a cluster left behind that is no more."""
    left_behind(tmp_path, dead)
    join()
    assert [given["address"] for given in asked] == ["local"]


@pytest.mark.parametrize("way", ["named", "ray://", "variable", "auto", "auto by variable"])
def test_a_cluster_that_is_not_there_is_said_at_once(
    way: str,
    asked: list[dict[str, Any]],
    dead: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "variable" in way:
        monkeypatch.setenv("RAY_ADDRESS", dead)
    elif way == "auto":
        left_behind(tmp_path, dead)
    given = {"named": dead, "ray://": f"ray://{dead}", "variable": ""}.get(way, "auto")
    began = time.monotonic()
    with pytest.raises(UsageError, match=rf"nothing answers at \S*{dead} .*refused.*ray start"):
        join(given)
    assert time.monotonic() - began < 5 and not asked


def test_a_cluster_that_answers_is_joined(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        left_behind(tmp_path, address)
        join(address)
        join("auto")
    assert [given["address"] for given in asked] == [address, "auto"]


def test_a_head_that_refuses_makes_one_think_of_its_token(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(sys.modules["ray"], "init", refuse)
    with pytest.raises(UsageError, match="Failed to connect.*RAY_AUTH_MODE=token"):
        join()
