"""Several models of a study trained and measured in one process, as one stack of tensors
(torch.func.vmap); on a GPU a step is one CUDA graph.

The arithmetic is that of ``trainer.train`` one model at a time, to rounding. It pays where starting
kernels costs more than running them, on a GPU; on a CPU with matrices of this size it doesn't, so
there studies train side by side in processes instead.

Models of one stack may differ in switches that act through positions, in seed, text jitter, stages
and factor on the rates (``stacks``). What indexes rows (embeddings, pictures of cells, answers)
is a product with a one-hot matrix here: the backward pass of an index sorts, which a graph can't
hold, and adds up in no fixed order.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.code import STACKED, code_of_module, source_of_module
from evalkit.lab.batches import Condition, visual_token
from evalkit.lab.packed import NOTHING, Array, Drawn, Packed, draw, padded
from evalkit.lab.pictures import Pictures
from evalkit.lab.steps import Steps, groups_of, schedule
from evalkit.lab.trainer import (
    LOGGED,
    CurvePoint,
    Measurement,
    Result,
    Run,
    Totals,
    begins_with,
    train,
)
from evalkit.models.qwen2_vl.vision import rotations, scopes
from evalkit.nano.batches import sees
from evalkit.nano.train import MaskedProduct, fresh

POSITIONAL = (
    "position layout next_position time tokens_per_second time_rounding combine ratio text_offset "
    "theta temporal_spacing"
).split()
"""Switches that act through position ids and rotations alone."""
OWN = {"seed", "text_jitter", "stages", "rate", "switches"}
"""Fields of a run in which models of one stack may differ."""
MOST = 96
"""Models in a stack."""
READ = ("code", "owner", "at", "cos", "sin")
"""What ``Answers`` reads."""
EAGER = 3
"""Steps before the one that is recorded as a graph."""


def stackable(run: Run) -> bool:
    """Whether a run can be trained in a stack: its tower sees single cells, nine pictures in
    all.
    """
    return run.shows.tower == "cell" and not run.shows.drawn


def stacks(runs: Sequence[Run]) -> list[list[int]]:
    """Which of the runs share a stack, by their number."""
    groups: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        others = {k: v for k, v in run.switches.items() if k not in POSITIONAL}
        alike = run.model_dump_json(exclude=OWN) + repr(sorted(others.items()))
        groups.setdefault(alike, []).append(i)
    return [g[i : i + MOST] for g in groups.values() for i in range(0, len(g), MOST)]


@dataclass(frozen=True)
class InStacks:
    """What trains the runs of a study in stacks on one device, and alone those that no stack
    takes.
    """

    device: str

    def key(self, run: Run, conditions: Mapping[str, Condition], source: bool = False) -> str:
        """The identity of a run: stacks on another kind of device round otherwise."""
        own = run.key(conditions, source)
        if not stackable(run):
            return own
        code = source_of_module(STACKED) if source else code_of_module(STACKED) or 1
        how = f"{own} stacked on {self.device.partition(':')[0]} {code}"
        return hashlib.sha256(how.encode()).hexdigest()[:12]

    def train(self, run: Run, conditions: Mapping[str, Condition]) -> Result:
        return train(run, conditions)


@dataclass(frozen=True)
class Job:
    """Runs of one stack, with what they read on its way: for each of ``readers`` (runs that see
    the same scenes, by their number) what is drawn for them. ``begins``: the stack whose models
    they start from, and the number of each one's there.
    """

    runs: Sequence[Run]
    conditions: Mapping[str, Condition]
    readers: Sequence[Sequence[int]]
    drawn: Sequence[Future[Drawn]]
    begins: tuple[Job, Sequence[int]] | None = None


def order(
    pool: Executor,
    runs: Sequence[Run],
    conditions: Mapping[str, Condition],
    words: bool | None = None,
) -> Job:
    """Has other processes draw what a stack of these runs reads. ``words`` as in ``draw``."""
    alike: dict[tuple[int, int], list[int]] = {}
    for i, run in enumerate(runs):
        alike.setdefault((run.seed, run.text_jitter), []).append(i)
    readers = list(alike.values())
    begins = None
    if runs[0].start:
        before = [begins_with(r, r.start) for r in runs if r.start]
        apart = list({b.model_dump_json(): b for b in before}.values())
        job = order(pool, apart, {}, words=not runs[0].start.probe)
        begins = job, [apart.index(b) for b in before]
    drawn = [pool.submit(draw, [runs[i] for i in g], conditions, words) for g in readers]
    return Job(runs, conditions, readers, drawn, begins)


def train_job(job: Job, device: str) -> list[Result]:
    """``trainer.train`` of every run of the job, in one stack. Seconds are each one's share of the
    stack's, without the wait for what is drawn.
    """
    wait([*job.drawn, *(job.begins[0].drawn if job.begins else ())])
    began = time.perf_counter()
    stack, curves = trained_job(job, device)
    with torch.no_grad():
        measured = stack.measured()
    seconds = (time.perf_counter() - began) / len(job.runs)
    return [
        Result(round(seconds, 2), stack.size, curve, m, stack.made)
        for curve, m in zip(curves, measured)
    ]


def trained_job(job: Job, device: str) -> tuple[Stack, list[tuple[CurvePoint, ...]]]:
    """The stack of the job, trained, and the learning curves of its models."""
    weights = None
    if job.begins:
        before, of = job.begins
        given, _ = trained_job(before, device)
        weights = {k: v[list(of)] for k, v in given.params.items()}
    stack = Stack(job, device, weights)
    return stack, stack.fitted()


class Answers(nn.Module):
    """Logits of one model's answers; a module, so that its parameters can be exchanged."""

    def __init__(self, model: Any, run: Run, codes: Array, device: str) -> None:
        super().__init__()
        self.model, vocabulary = model.to(device), model.vocab_size
        pictures = codes >= vocabulary
        self.words = one_hot(torch.from_numpy(codes[~pictures]), vocabulary).to(device)
        self.pictures: tuple[Tensor, Any, Tensor] | None = None
        if pictures.any():
            table = Pictures(run.shows, model.switches).table.to(device)
            grids = [(1, 2, 2)] * (len(table) // 4)
            tower = model.visual
            turned = rotations(grids, tower.config, model.switches, table.device)
            around = *turned, scopes(grids, model.switches, table.device)
            chosen = torch.from_numpy(codes[pictures] - vocabulary)
            self.pictures = table, around, one_hot(chosen, len(grids)).to(device)

    def forward(self, code: Tensor, owner: Tensor, at: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[answers, vocabulary] for tokens and their owners [scenes, tokens], the answers' places
        among all tokens [answers], and rotations [scenes, tokens, head_dim].
        """
        model = self.model
        table = self.words @ model.model.embed_tokens.weight
        if self.pictures:
            patches, around, chosen = self.pictures
            features = chosen @ model.visual.read(patches, *around)
            if model.switches.vision_gate != 1.0:
                features = features * model.switches.vision_gate
            table = torch.cat((table, features))
        x = one_hot(code, len(table)) @ table
        ids = (code >= len(self.words)).long() * visual_token()
        hidden = model.decode(x, cos, sin, MaskedProduct(sees(owner)), ids).flatten(0, 1)
        return model.lm_head(one_hot(at, len(hidden)) @ hidden).float()


def one_hot(index: Tensor, n: int) -> Tensor:
    """[..., n] in fp32."""
    return (index[..., None] == torch.arange(n, device=index.device)).float()


class Stack:
    """The models of a job as one: parameters [models, ...]."""

    def __init__(self, job: Job, device: str, weights: Mapping[str, Tensor] | None) -> None:
        self.job, self.device, self.runs = job, device, job.runs
        drawn = [f.result() for f in job.drawn]
        self.models: list[Any] = []
        for run in self.runs:
            torch.manual_seed(run.seed)
            self.models.append(fresh(run.recipe))
        first = self.models[0]
        self.size = sum(p.numel() for p in first.parameters())
        self.made = f"torch {torch.__version__}, {name_of(device)}"
        self.kinds = self.runs[0].asks().kinds
        self.groups = groups_of(self.runs[0], first)
        drawn_weights = [dict(m.named_parameters()) for m in self.models]
        own = {k: torch.stack([w[k].detach() for w in drawn_weights]) for k in self.groups}
        self.params = {k: v.to(device) for k, v in (weights or own).items()}
        self.training = self._block([d.training for d in drawn])
        self.conditions = {
            name: self._block([d.conditions[name] for d in drawn]) for name in job.conditions
        }
        every = [self.training, *self.conditions.values()]
        codes = np.unique(np.concatenate([np.unique(b.arrays["code"]) for b in every])).astype(int)
        self.of_code = np.zeros(int(codes.max()) + 1, dtype=np.int16)
        self.of_code[codes] = np.arange(len(codes))
        self.answers = Answers(first, self.runs[0], codes, device)

    def _block(self, packs: Sequence[Packed]) -> Packed:
        """Packs of all readers as [batches, readers, ...], positions in the order of the runs."""
        arrays = {
            name: padded([p.arrays[name] for p in packs], NOTHING.get(name, 0)).swapaxes(0, 1)
            for name in packs[0].arrays
        }
        width = arrays["code"].shape[2:]
        places: dict[int, Array] = {}
        for group, p in zip(self.job.readers, packs):
            for i, own in zip(group, p.positions):
                room = [(0, 0), (0, 0), *((0, a - b) for a, b in zip(width, own.shape[2:]))]
                places[i] = np.pad(own, room)
        return Packed(arrays, tuple(places[i] for i in range(len(self.runs))))

    def _loaded(self, block: Packed) -> dict[str, Tensor]:
        """A block's arrays on the device, [batches, models, ...]."""
        a = dict(block.arrays)
        reader = np.zeros(len(self.runs), dtype=np.int64)
        for number, group in enumerate(self.job.readers):
            reader[list(group)] = number
        a["code"] = self.of_code[a["code"]]
        a["at"] = a.pop("row").astype(np.int32) * a["code"].shape[-1] + a.pop("column")
        a["label"], a["allowed"] = a["label"].astype(np.int64), a["allowed"].astype(np.int64)
        which = torch.from_numpy(reader).to(self.device)
        return {k: torch.from_numpy(v).to(self.device)[:, which] for k, v in a.items()}

    def _rotations(self, block: Packed, batches: slice) -> tuple[Tensor, Tensor]:
        """cos and sin [batches, models, scenes, tokens, head_dim]."""
        sides = []
        for model, positions in zip(self.models, block.positions):
            ids = torch.from_numpy(positions[batches]).to(self.device).movedim(1, 0)
            sides.append(model.rotary(ids))
        cos, sin = (torch.stack(side, dim=1) for side in zip(*sides))
        return cos, sin

    def _logits(self, params: Mapping[str, Tensor], *given: Tensor) -> Tensor:
        named = {f"model.{k}": v for k, v in params.items()}
        out: Tensor = functional_call(self.answers, named, given, tie_weights=True)
        return out

    def fitted(self) -> list[tuple[CurvePoint, ...]]:
        """Trains all models; gives their learning curves."""
        loaded, steps = self._loaded(self.training), self.runs[0].steps
        loaded.pop("allowed")
        plan = schedule(self.runs, reads_pictures=self.answers.pictures is not None)
        optimiser = Steps(self.params, self.groups, plan.to(self.device))
        now: dict[str, Tensor] = {k: v[0].clone() for k, v in loaded.items()}
        now |= dict(zip(("cos", "sin"), (x[0] for x in self._rotations(self.training, slice(1)))))
        sums = torch.zeros(len(self.runs), len(self.kinds), 3, device=self.device)

        def loss(params: dict[str, Tensor], label: Tensor, *given: Tensor) -> Any:
            logits = self._logits(params, *given)
            nll = F.cross_entropy(logits, label, reduction="none")  # 0 for padding
            asked = label != NOTHING["label"]
            right = (logits.argmax(-1) == label).float()
            return nll.sum() / asked.sum(), (nll.detach(), right, asked.float())

        def step() -> None:
            with sdpa_kernel(SDPBackend.MATH):
                grads, (_, seen) = vmap(grad_and_value(loss, has_aux=True))(
                    self.params, now["label"], *(now[k] for k in READ)
                )
            optimiser(grads)
            kinds = one_hot(now["kind"], len(self.kinds)) * seen[2][..., None]
            sums.add_(kinds.mT @ torch.stack(seen, dim=-1))

        run = Recorded(step, self.device)
        points: list[tuple[int, Any]] = []
        for number in range(steps):
            at = number % LOGGED
            if at == 0:
                turned = self._rotations(self.training, slice(number, number + LOGGED))
                loaded |= {"cos": turned[0], "sin": turned[1]}
            for name, value in loaded.items():
                now[name].copy_(value[at if name in ("cos", "sin") else number])
            optimiser.at(number)
            run()
            if at == LOGGED - 1 or number + 1 == steps:
                points.append((number + 1, sums.tolist()))
                sums.zero_()
        return [
            tuple(self._point(number, of_all[i]) for number, of_all in points)
            for i in range(len(self.runs))
        ]

    def _point(self, step: int, sums: Sequence[Sequence[float]]) -> CurvePoint:
        seen = {k: s for k, s in zip(self.kinds, sums) if s[2]}
        return CurvePoint(
            step,
            {k: round(s[0] / s[2], 4) for k, s in seen.items()},
            {k: round(s[1] / s[2], 4) for k, s in seen.items()},
        )

    def measured(self) -> list[dict[str, dict[str, Measurement]]]:
        """What each model answers under each condition."""
        out: list[dict[str, dict[str, Measurement]]] = [{} for _ in self.runs]
        for name, block in self.conditions.items():
            for i, of_run in enumerate(self._measured(block)):
                out[i][name] = of_run
        return out

    def _measured(self, block: Packed) -> list[dict[str, Measurement]]:
        loaded, n = self._loaded(block), len(self.kinds)
        loaded |= dict(zip(("cos", "sin"), self._rotations(block, slice(None))))
        totals = Totals(tuple(f"{i}" for i in range(n * len(self.runs))))
        model = torch.arange(len(self.runs), device=self.device)[:, None]
        for number in range(len(loaded["code"])):
            now = {k: v[number] for k, v in loaded.items()}
            with sdpa_kernel(SDPBackend.MATH):
                logits = vmap(self._logits)(self.params, *(now[k] for k in READ))
            nll = F.cross_entropy(logits.mT, now["label"], reduction="none")
            asked = now["label"] != NOTHING["label"]
            kinds = now["kind"].long() + n * model
            totals.add(
                *(x[asked] for x in (nll, logits, now["label"], kinds, now["allowed"])),
            )
        of_all = totals.measured()
        return [
            {k: of_all[key] for j, k in enumerate(self.kinds) if (key := f"{i * n + j}") in of_all}
            for i in range(len(self.runs))
        ]


class Recorded:
    """A function of no arguments that works on tensors in place. On a GPU its fourth call is
    recorded and later ones replay the record, which starts all kernels at once.
    """

    def __init__(self, function: Callable[[], None], device: str) -> None:
        self.function, self.calls = function, 0
        self.side = torch.cuda.Stream() if device != "cpu" else None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.graph:
            self.graph.replay()
        elif self.side is None:
            self.function()
        elif self.calls <= EAGER:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                self.function()
            torch.cuda.current_stream().wait_stream(self.side)
        else:
            self._record()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.function()
            self.graph = graph
            graph.replay()
        except RuntimeError as e:
            warnings.warn(f"a step can't be recorded, which makes it slow: {e}", stacklevel=3)
            torch.cuda.synchronize()
            self.side = None
            self.function()


def name_of(device: str) -> str:
    """The device as a page names it."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
