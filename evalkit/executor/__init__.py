"""Requests spread over whatever computes: processes on this machine, one for each device
(``--devices cuda:0-3``), or the nodes of a Ray cluster (``--executor ray``).

The parent reads rows, scores and journals; a worker holds an adapter of its own and answers small
batches that the parent hands out (``backlog.py``), so a fast worker simply takes more of them. No
collectives and no barriers: a worker that dies, whatever it was doing, costs what it had in hand.
Answers are those of one process.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from evalkit.adapter import ModelAdapter, adapter_class
from evalkit.errors import UsageError
from evalkit.executor.backlog import BATCH
from evalkit.types import Completion, Request

DEVICES = re.compile(r"(?P<kind>[a-z]+)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")
Recipe = tuple[str | type[ModelAdapter], str, Mapping[str, Any]]
"""What a worker builds its adapter from: the adapter's name or class, the model, arguments."""


class Executor(Protocol):
    """Answers requests as an adapter does, by workers. They start with the first request and stay
    for the next task; ``close`` ends them.
    """

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Those of a worker's adapter: what can change an answer is the same in all."""

    @property
    def stats(self) -> Mapping[str, Any]:
        """How many answers each worker gave, and how many workers died."""

    @property
    def outlook(self) -> str:
        """Which workers there would be, in words; none is started."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As ``ModelAdapter.generate``. Raises EvalkitError when no worker can go on."""

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As ``ModelAdapter.rank``. Raises EvalkitError when no worker can go on."""

    def close(self) -> None:
        """Ends the workers; what they have in hand is lost."""


def executor_for(
    recipe: Recipe, devices: str = "", executor: str = "", batch: int = BATCH
) -> Executor:
    """``executor`` (``local``, ``ray``, ``ray:HOST:PORT``) over ``devices``, handing out so many
    requests at a time. Raises UsageError for what there is none of.
    """
    if recipe[2].get("max_cost") is not None:
        raise UsageError(
            "max_cost: each worker would spend as much; leave out devices and executor, and ask "
            "more at once by --model-args concurrency=N"
        )
    kind, _, address = executor.partition(":")
    if kind == "ray":
        from evalkit.executor.cluster import ClusterExecutor

        device, most = replicas_of(devices or "auto")
        return ClusterExecutor(*recipe, address, device, most, batch)
    if executor not in ("", "local"):
        raise UsageError(f"executor {executor!r}: expected local, ray or ray:HOST:PORT")
    from evalkit.executor.local import LocalExecutor

    return LocalExecutor(*recipe, devices_of(devices or "auto"), batch)


def devices_of(text: str) -> list[str]:
    """The device of each worker. ``cpu:2`` is two workers on the CPU, ``cuda:0-3`` one on each of
    four GPUs, ``cuda:1,cuda:3`` on two; ``auto`` is every GPU, or a worker for each core. Raises
    UsageError.
    """
    if text == "auto":
        import torch

        n = torch.cuda.device_count()
        return [f"cuda:{i}" for i in range(n)] or ["cpu"] * (os.cpu_count() or 1)
    out = []
    for part in text.replace(" ", "").split(","):
        m = DEVICES.fullmatch(part)
        if m is None or (m["last"] and (m["kind"] == "cpu" or int(m["last"]) < int(m["first"]))):
            raise UsageError(
                f"devices {text!r}: expected cpu:2 (two workers), cuda:0-3, cuda:0,cuda:2 or auto"
            )
        if m["kind"] == "cpu":
            out += ["cpu"] * int(m["first"] or 1)
        elif m["first"] is None:
            out.append(m["kind"])
        else:
            numbers = range(int(m["first"]), int(m["last"] or m["first"]) + 1)
            out += [f"{m['kind']}:{i}" for i in numbers]
    if not out or len(out) > 1024:
        raise UsageError(f"devices {text!r}: that is {len(out)} workers")
    return out


def replicas_of(text: str) -> tuple[str, int]:
    """What each replica of a cluster takes, and how many there are at most (0: as many as there is
    room for), of ``cuda``, ``cpu``, ``cpu:8`` or ``auto``. Raises UsageError.
    """
    m = DEVICES.fullmatch(text.strip())
    if m is None or m["last"] or (m["first"] and m["kind"] != "cpu") or m["first"] == "0":
        raise UsageError(
            f"devices {text!r}: on a Ray cluster cuda, cpu, cpu:8 (eight workers at most) or auto"
        )
    return m["kind"], int(m["first"] or 0)


def ranks_of(arguments: Mapping[str, Any]) -> int:
    """Processes that hold one model together. Raises UsageError for no number of them."""
    ranks = arguments.get("tensor_parallel", 1)
    if not isinstance(ranks, int) or ranks < 1:
        raise UsageError(f"tensor_parallel={ranks!r}: expected a whole number above 0")
    return ranks


def on_device(
    adapter: str | type[ModelAdapter], arguments: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """An adapter's arguments with its device. Raises UsageError where an adapter that knows no
    devices is given one beside the CPU.
    """
    cls = adapter_class(adapter) if isinstance(adapter, str) else adapter
    if "device" in inspect.signature(cls).parameters:
        return {**arguments, "device": device}
    if device != "cpu":
        raise UsageError(f"adapter {cls.name!r} takes no device, so it can't run on {device}")
    return dict(arguments)
