"""Workers on the nodes of a Ray cluster: one replica of the model an actor.

Ray places actors and carries batches; the queue stays here. It restarts no actor and repeats no
call: a batch whose actor or node died is asked again from the backlog, as with processes. (A call
that Ray repeats by itself may wait for ever for an actor that can't be placed any more.) The
cluster may grow and shrink while a run goes on: there are as many replicas as it has room for.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapter import ModelAdapter, make_adapter
from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.executor import Recipe, on_device, ranks_of
from evalkit.executor.backlog import BATCH, MOST_DEATHS, Backlog
from evalkit.executor.local import LocalExecutor
from evalkit.types import Completion, Request

logger = logging.getLogger("evalkit")
LOOK = 1.0
"""Seconds between two looks at what the cluster has room for."""
ANSWER = 5.0
"""Seconds in which a cluster's head takes a connection; Ray itself tries for minutes."""
PATIENCE = 120.0
"""Seconds that a run waits for a cluster to have room for one replica."""


class Answerer:
    """What lives in an actor: an adapter. What it can't do is a text, since an exception may be of
    a class that the driver can't read.
    """

    def __init__(self, recipe: Recipe, folder: str) -> None:
        self.recipe, self.folder = recipe, folder
        self.adapter: ModelAdapter | LocalExecutor | None = None

    def load(self) -> str:
        """Builds the adapter; why it can't be, or empty."""
        with suppress(OSError):  # paths are often relative to where the run was started
            os.chdir(self.folder)
        try:
            adapter, model, arguments = self.recipe
            if (ranks := ranks_of(arguments)) > 1:
                given = dict(arguments)
                device = given.pop("device")
                devices = [f"{device}:{i}" if device == "cuda" else device for i in range(ranks)]
                self.adapter = LocalExecutor(adapter, model, given, devices)
            else:
                self.adapter = make_adapter(adapter, model, arguments)
        except Exception as e:
            return reason(e)
        return ""

    def answer(self, ranked: bool, batch: list[Request]) -> list[Completion] | str:
        """The completions of a batch, or why there are none."""
        adapter: Any = self.adapter
        try:
            return list((adapter.rank if ranked else adapter.generate)(iter(batch)))
        except Exception as e:
            return reason(e)


@dataclass
class Replica:
    """An actor, the call that it works on, and what it has been handed."""

    actor: Any
    call: Any
    in_hand: dict[str, Request] = field(default_factory=dict)
    ready: bool = False
    answered: int = 0
    errors: int = 0


class ClusterExecutor:
    """An ``Executor`` of a Ray cluster. ``address``: of its head, ``host:port``, or ``auto`` for
    the one that was last started on this machine; empty for the one that RAY_ADDRESS names, or a
    new one on this machine. ``device``: what one replica takes: ``cuda`` (a GPU), ``cpu`` (a core),
    or ``auto``: a GPU where there are any. ``most``: the number of replicas at most, 0 for as many
    as there is room for. ``batch``: requests that one is handed at a time.

    Raises UsageError without Ray, or where no cluster can be reached.
    """

    def __init__(
        self,
        adapter: str | type[ModelAdapter],
        model: str,
        arguments: Mapping[str, Any],
        address: str = "",
        device: str = "auto",
        most: int = 0,
        batch: int = BATCH,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as e:
            raise UsageError("executor ray: pip install 'evalkit[ray]'") from e
        self.ray = ray
        self.joined = not ray.is_initialized()
        if self.joined:
            self._join(address)
        if device == "auto":
            device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
        self.device, self.most, self.batch = device, most, batch
        self.recipe: Recipe = adapter, model, on_device(adapter, arguments, device)
        self.ranks = ranks_of(arguments)
        self.replicas: list[Replica] = []
        self.deaths = self.tries = 0
        self.looked = 0.0
        self.waiting_since = time.monotonic()

    def _join(self, address: str) -> None:
        # without an address Ray, too, joins whatever was last started here, long dead or not
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        head = _last_started() if where == "auto" else where
        if why := _why_silent(head):
            raise UsageError(
                f"executor ray:{where}: nothing answers at {head} ({why}); start a head there (ray "
                "start --head), name another, or give ray alone for a new cluster on this machine"
            )
        # Ray would make this file for a cluster of its own, and later heads would ask for its token
        kept = (Path.home() / ".ray" / "auth_token").exists() or "RAY_AUTH_TOKEN_PATH" in os.environ
        if where == "local" and not kept:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            self.ray.init(
                address=where,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({"include_dashboard": False} if where == "local" else {}),
            )
        except ConnectionError as e:
            raise UsageError(
                f"executor ray:{where}: {reason(e)}; a head that found ~/.ray/auth_token asks for "
                "it: set RAY_AUTH_MODE=token here, with the same token"
            ) from e
        except (RuntimeError, ValueError, OSError) as e:
            raise UsageError(f"executor ray:{where}: {reason(e)}") from e

    @property
    def arguments(self) -> Mapping[str, Any]:
        """On a machine without a GPU the parent's adapter, which is asked nothing, is one for the
        CPU: of the same identity where the number format is given.
        """
        arguments = self.recipe[2]
        if "dtype" in arguments and arguments.get("device") == "cuda":
            import torch

            if not torch.cuda.is_available():
                return {**arguments, "device": "cpu"}
        return arguments

    @property
    def stats(self) -> Mapping[str, Any]:
        return {
            "workers": [
                {"device": self.device, "answered": r.answered, "errors": r.errors}
                for r in self.replicas
                if r.ready
            ],
            "worker_deaths": self.deaths,
        }

    @property
    def outlook(self) -> str:
        nodes = sum(map(bool, self._rooms()))
        return f"{self._room()} x {self.device} on {nodes} nodes of a Ray cluster, as it is now"

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._serve(requests, ranked=True)

    def close(self) -> None:
        for replica in self.replicas:
            self.ray.kill(replica.actor)
        self.replicas = []
        if self.joined:
            self.ray.shutdown()

    def _serve(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        backlog = Backlog(iter(requests), self.batch)
        self.waiting_since = time.monotonic()
        for replica in self.replicas:
            replica.answered = replica.errors = 0
        try:
            while True:
                self._fit()
                for replica in self.replicas:
                    if replica.ready and not replica.in_hand:
                        self._hand_out(replica, backlog, ranked)
                busy = [r for r in self.replicas if r.in_hand]
                if backlog.done and not busy:
                    return
                yield from self._hear(backlog)
        finally:
            for replica in [r for r in self.replicas if r.in_hand]:  # left early
                self._drop(replica)

    def _hear(self, backlog: Backlog) -> Iterator[Completion]:
        """What replicas come to within a moment."""
        calls = {r.call: r for r in self.replicas if r.call is not None}
        if not calls:
            time.sleep(LOOK / 10)
            return
        done, _ = self.ray.wait(list(calls), timeout=LOOK)
        for call in done:
            replica = calls[call]
            try:
                said = self.ray.get(call)
            except self.ray.exceptions.RayError as e:
                yield from self._bury(replica, backlog, e)
                continue
            replica.call = None
            if isinstance(said, str) and said:
                raise EvalkitError(f"worker on {self.device}: {said}")
            if isinstance(said, list):
                yield from self._heard(replica, said)
            else:
                replica.ready, self.tries = True, 0

    def _hand_out(self, replica: Replica, backlog: Backlog, ranked: bool) -> None:
        if batch := backlog.take(len(self.replicas)):
            replica.in_hand = {r.id: r for r in batch}
            replica.call = replica.actor.answer.remote(ranked, batch)

    def _heard(self, replica: Replica, completions: list[Completion]) -> Iterator[Completion]:
        left, replica.in_hand = replica.in_hand, {}
        for completion in completions:
            left.pop(getattr(completion, "id", ""), None)
            replica.answered += 1
            replica.errors += getattr(completion, "error", None) is not None
            yield completion
        for id in left:
            yield Completion(id, finish_reason="error", error="the adapter gave no answer")

    def _bury(self, replica: Replica, backlog: Backlog, e: Exception) -> Iterator[Completion]:
        """Its requests are asked again; ``_fit`` puts another in its place. Raises EvalkitError
        where replicas only ever die before they are ready.
        """
        self.deaths += 1
        self.tries += not replica.ready
        how = f"by {type(e).__name__}"
        logger.warning("a replica of the Ray cluster ended %s", how)
        yield from backlog.lost(replica.in_hand.values(), how)
        self._drop(replica)
        if self.tries >= MOST_DEATHS * max(1, self._room()):
            raise EvalkitError(
                f"no replica comes up: {self.tries} ended while they loaded the model, the last "
                f"{how}"
            )

    def _drop(self, replica: Replica) -> None:
        self.ray.kill(replica.actor)
        self.replicas.remove(replica)

    def _fit(self) -> None:
        """Starts as many replicas as the cluster has room for, and gives up those that wait for
        room that is gone. Raises EvalkitError when there has been none for long.
        """
        now = time.monotonic()
        if now - self.looked < LOOK and self.replicas:
            return
        self.looked, room = now, self._room()
        for replica in [r for r in self.replicas if not r.ready][: len(self.replicas) - room]:
            self._drop(replica)
        for _ in range(room - len(self.replicas)):
            actor = self._actor_class().remote(self.recipe, str(Path.cwd()))
            self.replicas.append(Replica(actor, actor.load.remote()))
        if self.replicas:
            self.waiting_since = now
        elif now - self.waiting_since > PATIENCE:
            raise EvalkitError(
                f"no node of the Ray cluster has had room for a replica ({self.device}) for "
                f"{PATIENCE:.0f} s"
            )

    def _room(self) -> int:
        room = sum(self._rooms())
        return min(room, self.most) if self.most else room

    def _rooms(self) -> list[int]:
        """Replicas that each node can hold."""
        kind = "GPU" if self.device == "cuda" else "CPU"
        alive = [n["Resources"] for n in self.ray.nodes() if n["Alive"]]
        return [int(resources.get(kind, 0)) // self.ranks for resources in alive]

    def _actor_class(self) -> Any:
        takes = {
            "num_cpus": 0,
            "num_gpus": 0,
            "num_gpus" if self.device == "cuda" else "num_cpus": self.ranks,
        }
        return self.ray.remote(**takes, max_restarts=0, max_task_retries=0)(Answerer)


def _last_started() -> str:
    """The address that ``auto`` stands for; empty where there is none."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    try:
        return (folder / "ray_current_cluster").read_text().strip()
    except (OSError, ValueError):
        return ""


def _why_silent(address: str) -> str:
    """Why nothing can be reached at ``host:port``, or ``ray://host:port``; empty where something
    can, and for what is no such address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError) as e:
        return str(e)
    return ""
