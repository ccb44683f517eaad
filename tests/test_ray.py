"""Runs over a Ray cluster of several nodes on this machine: the same cell, whatever dies."""

from __future__ import annotations

import json
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


def test_a_cluster_gives_the_cell_of_one_process(tmp_path: Path, cluster: Any) -> None:
    evalkit.evaluate(SUMS, adapter=ADDER, output=tmp_path / "one")
    evalkit.evaluate(
        SUMS, adapter=ADDER, output=tmp_path / "ray", executor=f"ray:{cluster.address}"
    )
    one, spread = (
        (c.name, c.results.metrics, sorted(json.dumps(r.to_json()) for r in c.records().values()))
        for c in (*cells(tmp_path / "one"), *cells(tmp_path / "ray"))
    )
    assert one == spread
    (cell,) = cells(tmp_path / "ray")
    assert sum(w["answered"] for w in cell.results.stats["workers"]) == 40


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
