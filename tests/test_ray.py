"""Runs over a Ray cluster of several nodes on this machine: the same cell, whatever dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import evalkit
from evalkit.errors import EvalkitError
from evalkit.executor.cluster import ClusterExecutor
from evalkit.results import write_leaderboard
from evalkit.store import cells
from evalkit.types import Message, Request, Text

pytestmark = [pytest.mark.ray, pytest.mark.skipif(not find_spec("ray"), reason="no ray")]
PLUGINS = Path(__file__).parent / "plugins"
SUMS, ADDER, FRAIL = (str(PLUGINS / name) for name in ("sums.py", "adder.py", "frail.py"))


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A node without room, to which others are added."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Any:
    """The head and two nodes of one core each."""
    for node in list(head.worker_nodes)[2:]:
        head.remove_node(node)
    while len(head.worker_nodes) < 2:
        head.add_node(num_cpus=1)
    return head


def requests(n: int) -> Iterator[Request]:
    return (Request(str(i), (Message("user", (Text(str(i)),)),)) for i in range(n))


def what_is_told(output: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The records but for their order; the leaderboard but for dates, seconds and the command."""
    (cell,) = cells(output)
    with write_leaderboard(output)[0].open() as file:
        rows = list(csv.DictReader(file))
    changing = "created", "seconds", "command"
    told = [{k: v for k, v in row.items() if k not in changing} for row in rows]
    return sorted(json.dumps(r.to_json()) for r in cell.records().values()), told


def test_one_process_four_three_shards_and_a_cluster_tell_the_same(
    tmp_path: Path, cluster: Any
) -> None:
    ways: dict[str, list[dict[str, Any]]] = {
        "one": [{}],
        "four": [{"devices": "cpu:4"}],
        "shards": [{"shard": f"{i}/3"} for i in (3, 1, 2)],
        "ray": [{"executor": f"ray:{cluster.address}"}],
    }
    for way, runs in ways.items():
        for how in runs:
            evalkit.evaluate(SUMS, adapter=ADDER, output=tmp_path / way, **how)
    told = {way: what_is_told(tmp_path / way) for way in ways}
    assert len(told["one"][0]) == 40 and len(told["one"][1]) == 2  # a line each metric
    assert all(said == told["one"] for said in told.values())
    (cell,) = cells(tmp_path / "ray")
    assert sum(w["answered"] for w in cell.results.stats["workers"]) == 40


def test_a_sweep_over_a_cluster_gives_the_tables_of_cells_in_turn(
    tmp_path: Path, cluster: Any
) -> None:
    path = tmp_path / "sums.yaml"
    settings = {"axes": {"wrong": [5, 3, 2]}, "baseline": {"wrong": 5}}
    about = {"name": "sums", "question": "Which?", "adapter": ADDER, "tasks": [SUMS]}
    path.write_text(json.dumps(about | settings))
    one = evalkit.sweep(path, output=tmp_path / "one")
    many = evalkit.sweep(path, output=tmp_path / "ray", executor=f"ray:{cluster.address}")
    assert not many.errors and len(one.frame) == 3
    assert many.frame.drop(columns="seconds").equals(one.frame.drop(columns="seconds"))


def test_a_node_that_dies_costs_what_it_had_in_hand(cluster: Any) -> None:
    executor = ClusterExecutor(FRAIL, "slow", {}, cluster.address, "cpu")
    got: list[str] = []
    for completion in executor.generate(requests(400)):
        got.append(completion.id)
        if len(got) == 100:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    executor.close()
    assert sorted(got, key=int) == [str(i) for i in range(400)] and executor.deaths


def test_a_node_that_joins_takes_work(cluster: Any) -> None:
    cluster.remove_node(next(iter(cluster.worker_nodes)))
    executor = ClusterExecutor(FRAIL, "slow", {}, cluster.address, "cpu")
    got: list[str] = []
    for completion in executor.generate(requests(1500)):
        got.append(completion.id)
        if len(got) == 750:
            cluster.add_node(num_cpus=1)
    workers = executor.stats["workers"]
    executor.close()
    assert len(got) == 1500 and [w["answered"] > 0 for w in workers] == [True, True]


def test_a_request_that_kills_its_replica_is_an_error_of_its_own(cluster: Any) -> None:
    executor = ClusterExecutor(FRAIL, "killed by 7", {}, cluster.address, "cpu")
    got = {c.id: c.error for c in executor.generate(requests(40))}
    executor.close()
    assert len(got) == 40 and [id for id, error in got.items() if error] == ["7"]
    assert "died 3 times" in str(got["7"])


def test_a_driver_that_is_killed_and_repeated_asks_only_the_rest(
    tmp_path: Path, cluster: Any
) -> None:
    call = (
        f"import evalkit; evalkit.evaluate({SUMS!r}, adapter={ADDER!r}, seconds=0.05, "
        f"output={str(tmp_path)!r}, executor='ray:{cluster.address}', progress=False)"
    )
    driver = subprocess.Popen([sys.executable, "-c", call])
    while not any(len(c.records()) >= 8 for c in cells(tmp_path)):
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (cell,) = cells(tmp_path)
    kept = len(cell.records())
    done = evalkit.evaluate(
        SUMS,
        adapter=ADDER,
        seconds=0.05,
        output=tmp_path,
        executor=f"ray:{cluster.address}",
    )
    assert (done.outcomes[0].reused, done.outcomes[0].made) == (kept, 40 - kept)


def test_a_cluster_without_room_ends_the_run(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.executor.cluster.PATIENCE", 1.0)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    executor = ClusterExecutor(FRAIL, "slow", {}, cluster.address, "cpu")
    with pytest.raises(EvalkitError, match="no node of the Ray cluster has had room"):
        list(executor.generate(requests(3)))
    executor.close()


def test_a_cluster_for_one_run_asks_for_a_token_and_leaves_none(tmp_path: Path) -> None:
    home, output = tmp_path / "home", str(tmp_path / "out")
    home.mkdir()
    call = (
        "import os, evalkit; evalkit.evaluate"
        f"({SUMS!r}, adapter={ADDER!r}, output={output!r}, executor='ray', devices='cpu:1'); "
        "print(os.environ['RAY_AUTH_MODE'])"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    env = {**kept, "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", call], env=env, capture_output=True, text=True)
    assert done.stdout.endswith("token\n"), done.stderr
    (cell,) = cells(tmp_path / "out")
    assert cell.results.complete and not (home / ".ray").exists()
