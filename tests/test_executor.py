"""Requests spread over processes: the same answers, whatever dies."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

import evalkit
from evalkit.cli.main import main
from evalkit.errors import EvalkitError, UsageError
from evalkit.executor import devices_of, replicas_of
from evalkit.executor.backlog import BATCH, Backlog
from evalkit.executor.local import LocalExecutor
from evalkit.plan import plan as planned
from evalkit.results import write_leaderboard
from evalkit.store import cells
from evalkit.types import Image, Message, Request, Text

PLUGINS = Path(__file__).parent / "plugins"
SUMS, FRAIL = str(PLUGINS / "sums.py"), str(PLUGINS / "frail.py")


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu:2", ["cpu", "cpu"]),
        ("cpu", ["cpu"]),
        ("cuda:0-2", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1, cuda:3", ["cuda:1", "cuda:3"]),
        ("cuda", ["cuda"]),
    ],
)
def test_devices_are_read(text: str, devices: list[str]) -> None:
    assert devices_of(text) == devices


@pytest.mark.parametrize("text", ["", "cpu:0-2", "cuda:3-1", "2", "cpu:0", "cuda:x", "cpu:99999"])
def test_devices_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="devices"):
        devices_of(text)


@pytest.mark.parametrize(
    ("text", "replicas"), [("cuda", ("cuda", 0)), ("cpu:8", ("cpu", 8)), ("auto", ("auto", 0))]
)
def test_what_a_replica_takes_is_read(text: str, replicas: tuple[str, int]) -> None:
    assert replicas_of(text) == replicas


@pytest.mark.parametrize("text", ["cuda:0-3", "cuda:1", "cpu:0", "", "4"])
def test_what_no_replica_can_take_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="on a Ray cluster"):
        replicas_of(text)


def request(i: int, picture: int) -> Request:
    parts = (Image(f"p{picture}".encode()), Text(str(i)))
    return Request(str(i), (Message("user", parts),))


def test_batches_keep_pictures_together_and_shrink_at_the_end() -> None:
    source = Backlog(iter([request(i, i // 3) for i in range(200)]))
    batches = []
    while not source.done:
        batches.append([int(r.id) for r in source.take(2)])
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(batch[0] % 3 == 0 for batch in batches)
    assert len(batches[0]) >= BATCH and len(batches[-1]) <= 4


def test_questions_without_pictures_or_all_of_one_are_shared_out_too() -> None:
    text = Request("1", (Message("user", (Text("1"),)),))
    for requests in ([text] * 200, [request(i, 0) for i in range(200)]):
        source, sizes = Backlog(iter(requests)), []
        while not source.done:
            sizes.append(len(source.take(2)))
        assert sum(sizes) == 200 and max(sizes) <= 2 * BATCH and len(sizes) > 3


def answers(output: Path) -> dict[str, Any]:
    (cell,) = cells(output)
    return {id: (r.text, r.scores, r.error) for id, r in sorted(cell.records().items())}


def test_two_workers_give_the_answers_of_one_process(tmp_path: Path) -> None:
    adder = str(PLUGINS / "adder.py")
    evalkit.evaluate(SUMS, adapter=adder, output=tmp_path / "one")
    spread = evalkit.evaluate(SUMS, adapter=adder, output=tmp_path / "two", devices="cpu:2")
    assert answers(tmp_path / "one") == answers(tmp_path / "two") and not spread.errors
    (one,), (two,) = cells(tmp_path / "one"), cells(tmp_path / "two")
    assert one.name == two.name  # the same cell: how it was run is no part of it
    assert one.results.metrics == two.results.metrics
    assert sum(w["answered"] for w in two.results.stats["workers"]) == two.results.n


def test_a_request_that_kills_its_worker_is_an_error_of_its_own(tmp_path: Path) -> None:
    done = evalkit.evaluate(
        SUMS, "killed by sum/7", adapter=FRAIL, output=tmp_path, limit=20, devices="cpu:2"
    )
    (cell,) = cells(tmp_path)
    lost = {id: r.error for id, r in cell.records().items() if r.error}
    assert len(cell.records()) == 20 and list(lost) == ["sum/7"] and done.errors
    assert "its worker died 3 times, the last by signal 9" in lost["sum/7"]
    assert cell.results.stats["worker_deaths"] == 3


def test_workers_killed_at_random_cost_nothing(tmp_path: Path) -> None:
    executor = LocalExecutor(FRAIL, "slow", {}, ["cpu", "cpu"])
    stop = threading.Event()

    def kill() -> None:
        for n in range(4):
            while not stop.is_set() and not any(w.in_hand for w in list(executor.workers)):
                time.sleep(0.005)
            busy = [w for w in list(executor.workers) if w.in_hand]
            if stop.is_set() or not busy:
                return
            os.kill(busy[n % len(busy)].process.pid, signal.SIGKILL)
            time.sleep(0.5)

    threading.Thread(target=kill, daemon=True).start()
    got = [c.id for c in executor.generate(request(i, i) for i in range(150))]
    stop.set()
    executor.close()
    assert sorted(got, key=int) == [str(i) for i in range(150)] and executor.deaths >= 1


def test_a_worker_that_can_not_start_is_said(tmp_path: Path) -> None:
    done = evalkit.evaluate(
        SUMS, "never ready", adapter=FRAIL, output=tmp_path, limit=3, devices="cpu:2"
    )
    assert any("worker on cpu: " in e and "no such weights" in e for e in done.errors)


def test_devices_whose_workers_never_come_up_are_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = LocalExecutor(FRAIL, "dies loading", {}, ["cpu"])
    with pytest.raises(EvalkitError, match="no worker is left; the last, on cpu, ended with exit"):
        list(executor.generate([request(1, 1)]))
    executor.close()
    assert executor.deaths == 3 and "while it loaded the model" in caplog.text


def test_a_dry_run_says_what_goes_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "docvqa", "--limit", "4", "--output", str(tmp_path), "--dry-run"]
    main([*command, "--devices", "cpu:4", "--model-args", "tensor_parallel=2"])
    said = capsys.readouterr().out
    assert "0 of 4; 4 to go" in said
    assert re.search(r"workers: 2 x cpu\+cpu; 0\.0 GB of weights in each process", said)


def test_what_can_not_be_spread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no device"):
        evalkit.evaluate(SUMS, "m", adapter=FRAIL, output=tmp_path, devices="cuda:0-1")
    with pytest.raises(UsageError, match="expected local, ray"):
        evalkit.evaluate(SUMS, "m", adapter=FRAIL, output=tmp_path, executor="dask")
    with pytest.raises(UsageError, match="not both"):
        evalkit.evaluate("docvqa", output=tmp_path, devices="cpu:2", device="cpu")


@pytest.mark.slow
def test_nano_spread_over_two_workers_gives_the_same_tables(tmp_path: Path) -> None:
    for name, devices in (("one", ""), ("two", "cpu:2")):
        evalkit.evaluate(
            "docvqa,refcoco,video_qa,multilingual_ocr",
            output=tmp_path / name,
            limit=40,
            seed=3,
            devices=devices,
        )
    one, two = (
        {c.name: (c.results.metrics, {k: r.text for k, r in c.records().items()}) for c in found}
        for found in (cells(tmp_path / "one"), cells(tmp_path / "two"))
    )
    assert json.dumps(one, default=str, sort_keys=True) == json.dumps(
        two, default=str, sort_keys=True
    )


def same_cell(output: Path) -> tuple[list[str], list[str]]:
    """Records but for their order and seconds; the leaderboard but for dates, seconds, command."""
    (cell,) = cells(output)
    records = [json.dumps(replace(r, seconds=0.0).to_json()) for r in cell.records().values()]
    with write_leaderboard(output)[0].open() as file:
        rows = list(csv.DictReader(file))
    changing = "created", "seconds", "command"
    told = [json.dumps({k: v for k, v in r.items() if k not in changing}) for r in rows]
    return sorted(records), told


@pytest.mark.slow
def test_one_four_and_three_processes_and_twenty_kills_are_one_cell(tmp_path: Path) -> None:
    data = tmp_path / "numbers.jsonl"
    for n in range(100):
        PIL.new("RGB", (28, 28), (n, n, n)).save(tmp_path / f"{n}.png")
    rows = ({"image": f"{i // 6}.png", "question": f"{i}?", "answer": str(i)} for i in range(600))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name: str, **how: Any) -> tuple[list[str], list[str]]:
        evalkit.evaluate(
            str(data), "slow", adapter=FRAIL, output=tmp_path / name, progress=False, **how
        )
        return same_cell(tmp_path / name)

    one = run("one")
    assert len(one[0]) == 600 and run("four", devices="cpu:4") == one
    for shard in ("3/3", "1/3", "2/3"):
        three = run("three", shard=shard)
    assert three == one
    rng = random.Random(1)
    executor = LocalExecutor(FRAIL, "slow", {}, ["cpu"] * 3)
    plan = planned(str(data), "slow", adapter=FRAIL, output=tmp_path / "killed")
    stop, hit = threading.Event(), Counter[str]()
    kills: list[None] = []

    def kill() -> None:
        while not stop.is_set() and len(kills) < 20:
            time.sleep(rng.uniform(0.0, 0.2))
            if busy := [w for w in list(executor.workers) if w.in_hand]:
                held = list((worker := rng.choice(busy)).in_hand)
                # in hand at three deaths, a request would count as their cause
                if all(hit[id] < 2 for id in held):
                    hit.update(held)
                    kills.append(worker.process.kill())

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    replace(plan, executor=executor).run(progress=False)
    stop.set()
    thread.join()
    assert (
        len(kills) == 20 and executor.deaths >= 15
    )  # one may be killed twice before it is noticed
    assert same_cell(tmp_path / "killed") == one
