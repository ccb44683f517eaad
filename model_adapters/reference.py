"""The reference adapter: evalkit's own implementation of a model family through its engine, with
every ablation switch as an argument.

It knows no family: what a checkpoint is it asks ``evalkit.models.registry``; requests become
prompts in ``reference_prompts``.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.model_adapters.reference_prompts import Prompts

from evalkit.adapter import ModelAdapter, check_arguments
from evalkit.errors import CheckpointError, UsageError, reason
from evalkit.malloc import Tidy
from evalkit.media import Times
from evalkit.models.registry import FAMILIES, Family, family, family_of, model_type
from evalkit.models.switch import Switch
from evalkit.models.weights import (
    check_unchanged,
    headers,
    tensors_digest,
    weight_files,
    weights_digest,
)
from evalkit.nano import checkpoint_folder
from evalkit.prefetch import prefetch
from evalkit.types import (
    BoxSpace,
    Completion,
    FinishReason,
    MediaBudget,
    Request,
    TokenCounts,
    Video,
)

if TYPE_CHECKING:
    from torch import nn

    from evalkit.engine import Engine, Output, Prompt, Replicas
    from evalkit.engine.sequence import RunningSequence

_Choices = Sequence[tuple[str, tuple[int, ...]]]
_About = tuple[_Choices, TokenCounts, BoxSpace | None, tuple[Times, ...]]
"""Of a request under way: its choices and their tokens, its prompt's tokens, how boxes in its
answer are meant, and the times of its clips' frames.
"""
TRIM_THRESHOLD = 32 << 20
"""Bytes of freed memory that may lie in the process, for the next tensors, before it is given back
to the system.
"""
MAX_WAITING, MAX_WAITING_FOR_GPU = 16 << 20, 256 << 20
"""Bytes of 8-bit pixels that may wait for the engine; a page of 1,000 visual tokens has 2.4
million. A GPU takes many pages at once.
"""
READY_SOON = 0.05
"""Seconds that answers under way wait for a request which is being prepared."""


class ReferenceAdapter(ModelAdapter):
    """A model of a family that evalkit implements.

    ``model`` is a shipped name (nano), a checkpoint folder or a hub id; or a model in memory, of a
    family's own class, whose tokenizer, chat template and image settings come from the checkpoint
    ``companions``. ``dtype`` None keeps the checkpoint's, or takes float32 on a CPU that would
    emulate it; ``device`` None takes a GPU when there is one. ``batch_size`` sequences run at once
    in packs of at most ``batch_tokens`` prompt tokens, both chosen from free memory if None; in
    float32 neither changes an answer, but under 8-bit activations, and seldom with experts.
    ``workers`` threads prepare media. ``compile`` fuses element-wise operations, which pays on long
    runs only. ``tensor_parallel`` processes hold the model together, which ``devices`` are given
    for.
    ``chat_template`` is a file whose Jinja template takes the place of the checkpoint's. All
    further arguments are switches of the family (``switches``).
    """

    name = "reference"
    can_sample = True

    def __init__(
        self,
        model: str | nn.Module = "nano",
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        workers: int = 2,
        compile: bool = False,
        tensor_parallel: int = 1,
        companions: str | None = None,
        chat_template: str | None = None,
        **switches: Any,
    ) -> None:
        from evalkit.models.device import checked_device, chosen_dtype

        for name, value in (
            ("batch_size", batch_size),
            ("batch_tokens", batch_tokens),
            ("workers", workers),
            ("tensor_parallel", tensor_parallel),
        ):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value > 0):
                raise UsageError(f"{name}={value!r}: expected a whole number above 0")
        check_arguments(type(self), model, switches)
        self.family = _family(model)
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.workers, self.compile = workers, compile
        self.tensor_parallel = tensor_parallel
        if tensor_parallel > 1 and not hasattr(self.family, "load_parallel"):
            raise UsageError(f"tensor_parallel={tensor_parallel}: this family can't be shared out")
        if tensor_parallel > 1 and (compile or not isinstance(model, str)):
            raise UsageError(
                f"tensor_parallel={tensor_parallel} goes with neither compile nor a model in memory"
            )
        self.live: Any = None
        if isinstance(model, str):
            if companions is not None:
                raise UsageError("companions: only for a model in memory; a checkpoint has its own")
            self.folder = checkpoint_folder(model)
            self.config = self.family.Config.load(self.folder)
            self.switched = self.config.trained.with_(switches)
            self.changed = self.config.trained.changed(switches)
            known = self.switched.switches()
            if tensor_parallel > 1 and (late := [n for n in self.changed if not known[n].trained]):
                raise UsageError(f"tensor_parallel={tensor_parallel}: not with {', '.join(late)}")
            self.device = checked_device(device)
            self.dtype = chosen_dtype(dtype, self.config.dtype, self.device)
        else:
            if dtype or device or compile:
                raise UsageError("dtype, device, compile: a model in memory is run as it is")
            self.live = model
            self.config = self.live.config
            self.folder = checkpoint_folder(str(_companions(model, companions)))
            self.switched = _live_switches(self.live, switches)
            self.changed = self.config.trained.changed(
                {name: getattr(self.switched, name) for name in self.switched.switches()}
            )
            self.device = str(self.live.device)
            self.dtype = str(self.live.dtype).removeprefix("torch.")
        self.box_space = self.family.box_space
        self.max_waiting = MAX_WAITING if self.device == "cpu" else MAX_WAITING_FOR_GPU
        self.given_template = _template(chat_template) if chat_template else None
        self.prompts = Prompts(
            self.family, self.folder, self.config, self.switched, self.given_template
        )
        self.chat = self.prompts.chat

    @classmethod
    def switches(cls, model: str | nn.Module) -> Mapping[str, Switch]:
        return _family(model).Switches.switches()

    @property
    def blind(self) -> Mapping[str, Any] | None:
        return self.family.blind

    @property
    def code(self) -> tuple[str, ...]:
        return (type(self).__module__, self.family.__name__)  # type: ignore[attr-defined]

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "adapter": self.name,
            "weights": self._folder_digest if self.live is None else self._live_digest(),
            "dtype": self.dtype,
            "switches": self.changed,
            "trained_with": dict(self.config.trained_with),
            "inference_probe": self.switched.probes(self.changed),
            "generation": self.chat.generation,
            **({"chat_template": _sha256(self.given_template)} if self.given_template else {}),
        }

    @cached_property
    def _folder_digest(self) -> str:
        return weights_digest(self.folder)

    def _check_unchanged(self) -> None:
        """Raises CheckpointError where the weights that were loaded are others than those told."""
        if "_folder_digest" in vars(self):
            check_unchanged(self.folder, self._folder_digest, weights_digest(self.folder))

    def _live_digest(self) -> str:
        """Of the weights as they are now: a model in memory may have been trained since."""
        about = repr(self.config), self._folder_digest
        return tensors_digest(self.live.state_dict(), *about)

    @property
    def weight_bytes(self) -> int:
        """Bytes of this process's weights as they lie in memory; none is read."""
        numbers = sum(math.prod(h.shape) for h in headers(weight_files(self.folder)))
        return numbers * (4 if self.dtype == "float32" else 2) // self.tensor_parallel

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "device": self.device,
            "batch_size": self.batch_size or "chosen",
            "batch_tokens": self.batch_tokens or "chosen",
            **({"tensor_parallel": n} if (n := self.tensor_parallel) > 1 else {}),
            "min_pixels": self.prompts.processor.limits.min_pixels,
            "max_pixels": self.prompts.processor.limits.max_pixels,
        }

    @property
    def engine(self) -> Engine:
        """The one that answers alone."""
        return self.replicas.single

    @cached_property
    def replicas(self) -> Replicas:
        from evalkit.engine import Replicas
        from evalkit.engine.budget import choose

        if self.tensor_parallel > 1:
            return self._shared()
        model = self.live
        if model is None:
            model = self.family.load(self.folder, self.dtype, self.device, self.switched)
            self._check_unchanged()
        if self.compile:
            self.family.compile_parts(model)
        budget = choose(model, self.batch_size, self.batch_tokens)
        return Replicas(model, self.chat.stop_ids, budget)

    def _shared(self) -> Replicas:
        """One engine on this process's share of the model. Raises UsageError outside of a group of
        processes.
        """
        import torch
        import torch.distributed as dist

        from evalkit.engine import Replicas
        from evalkit.engine.budget import agreed, choose
        from evalkit.engine.replicas import Cores

        if not dist.is_initialized() or dist.get_world_size() != self.tensor_parallel:
            raise UsageError(
                f"tensor_parallel={self.tensor_parallel}: name as many devices, such as "
                f"--devices cuda:0-{self.tensor_parallel - 1} or cpu:{self.tensor_parallel}"
            )
        model = self.family.load_parallel(self.folder, self.dtype, self.device, self.switched)
        self._check_unchanged()
        budget = agreed(choose(model, self.batch_size, self.batch_tokens))
        out = Replicas(model, self.chat.stop_ids, budget)
        out.cores = Cores(1, torch.get_num_threads())  # sums over all ranks come in one order
        return out

    def close(self) -> None:
        self.__dict__.pop("replicas", None)

    @property
    def stats(self) -> Mapping[str, Any]:
        """What the engines did and were given, and once it was measured how they use a CPU."""
        from evalkit.engine.products import chosen

        cores = self.replicas.cores
        return {
            **asdict(self.replicas.stats),
            **asdict(self.replicas.budget),
            **(asdict(cores) if cores else {}),
            **({"cpu": ways} if (ways := chosen()) else {}),
        }

    @property
    def lanes(self) -> int:
        return self.replicas.lanes(min(self.chat.stop_ids, default=0))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._run(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._run(requests, ranked=True)

    def _run(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        self.replicas.reset()
        under_way: dict[str, _About] = {}
        failed: list[Completion] = []

        def prompts() -> Generator[Prompt]:
            prepared = prefetch(
                self._prepare,
                requests,
                workers=self.workers,
                depth=self.engine.budget.rows,
                size=_pixel_bytes,
                max_size=self.max_waiting,
                overlap=self._has_spare_cores(),
            )
            with closing(prepared) as ready:
                for request, prompt in ready:
                    if isinstance(prompt, Completion):
                        failed.append(prompt)
                    else:
                        under_way.setdefault(prompt.id, self._about(request, prompt))
                        yield prompt

        tidy = Tidy(TRIM_THRESHOLD)
        # An interrupt's traceback would keep the generator open, and its threads waiting for ever.
        with closing(prompts()) as source:
            for output in (self.replicas.rank if ranked else self.replicas.generate)(source):
                if output.error:  # of a repeated id: the first one's answer is still to come
                    yield Completion(output.id, finish_reason="error", error=output.error)
                else:
                    yield self._completion(*under_way.pop(output.id), output)
                tidy()
                while failed:
                    yield failed.pop()
        yield from failed

    def converse(
        self, requests: Iterator[Request | None], said: Callable[[str, Callable[[], str]], bool]
    ) -> Iterator[Completion]:
        """As in the base class, in one call of an engine: a request joins those under way."""
        under_way: dict[str, _About] = {}
        failed: list[Completion] = []
        preparing: list[Future[tuple[Request, Prompt | Completion]]] = []

        def prompts(pool: ThreadPoolExecutor) -> Iterator[Prompt | None]:
            while True:
                # no more than these: the rest may find another lane free
                while len(preparing) < self.workers and (asked := next(requests, None)):
                    preparing.append(pool.submit(self._prepare, asked))
                # those under way wait a moment for one that could join them, not for a long clip
                if not preparing or (under_way and not wait(preparing[:1], READY_SOON).done):
                    yield None
                    continue
                request, prompt = preparing.pop(0).result()
                if isinstance(prompt, Completion):
                    failed.append(prompt)
                else:
                    under_way[prompt.id] = self._about(request, prompt)
                    yield prompt

        def watch(running: Sequence[RunningSequence]) -> set[str]:
            return {
                s.prompt.id
                for s in running
                if said(s.prompt.id, partial(self.chat.decode, s.generated))
            }

        tidy = Tidy(TRIM_THRESHOLD)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="prepare") as pool:
            again = True
            while again:
                for output in self.replicas.converse(prompts(pool), watch):
                    if output.error:
                        under_way.pop(output.id, None)
                        yield Completion(output.id, finish_reason="error", error=output.error)
                    else:
                        yield self._completion(*under_way.pop(output.id), output)
                    tidy()
                    while failed:
                        yield failed.pop()
                again = bool(preparing)  # one that was refused kept others from being waited for
        yield from failed

    def _has_spare_cores(self) -> bool:
        """Whether there are cores that the model doesn't use."""
        import torch

        return self.device != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    def _prepare(self, request: Request) -> tuple[Request, Prompt | Completion]:
        try:
            return request, self.prompts.make(request)
        except (CheckpointError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as e:  # also a panic of a native library
            return request, Completion(request.id, finish_reason="error", error=reason(e))

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        return self.prompts.frame_times(clip, budget)

    def _about(self, request: Request, prompt: Prompt) -> _About:
        seen = self.prompts.visual_tokens(prompt.ids)
        counts = TokenCounts(len(prompt.ids) - seen, seen)
        frames = tuple(v.times for v in prompt.visuals if v.times)
        choices = list(zip(request.choices, prompt.choices))
        return choices, counts, self.prompts.boxes(prompt), frames

    def _completion(
        self,
        choices: _Choices,
        tokens: TokenCounts,
        box_space: BoxSpace | None,
        frames: tuple[Times, ...],
        output: Output,
    ) -> Completion:
        finish_reason: FinishReason
        if output.logprobs:
            best = max(range(len(output.logprobs)), key=output.logprobs.__getitem__)
            text, finish_reason = choices[best][0], "rank"
        else:
            text = self.chat.decode(output.ids)
            finish_reason = "stop" if output.stopped else "length"
        return Completion(
            output.id,
            text,
            finish_reason,
            tokens=replace(tokens, out=len(output.ids)),
            seconds=output.seconds,
            logprobs=output.logprobs,
            box_space=box_space,
            frames=frames,
            token_logprobs=tuple(
                tuple(zip(ids, logprobs))
                for (_, ids), logprobs in zip(choices, output.token_logprobs)
            ),
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"chat_template={path}: can't be read ({e})") from e


def _family(model: str | nn.Module) -> Family:
    """The family of a checkpoint or of a model in memory. Raises EvalkitError."""
    if isinstance(model, str):
        folder = checkpoint_folder(model)
        if (kind := model_type(folder)) not in FAMILIES:
            raise CheckpointError(
                f"{folder}: model_type is {kind!r}; evalkit's own implementations are "
                f"{', '.join(sorted(FAMILIES))}; others run with --adapter transformers"
            )
        return family_of(folder)
    what = f"{type(model).__module__}.{type(model).__name__}"
    its_type = str(getattr(getattr(model, "config", None), "model_type", None))
    try:
        own = family(its_type)
    except CheckpointError as e:
        raise UsageError(f"a model in memory, {what}: {e}") from None
    if not isinstance(model, own.Model):
        raise UsageError(
            f"a model in memory must be evalkit's own {own.Model.__name__}, this is {what}: save "
            "it and give its folder"
        )
    return own


def _companions(model: nn.Module, named: str | None) -> Any:
    """The checkpoint that a model in memory takes its tokenizer and processor from."""
    folder = named or getattr(model, "folder", None)
    if folder is None:
        raise UsageError(
            "a model in memory has no tokenizer: name the checkpoint whose tokenizer, chat "
            "template and image settings it takes, companions=FOLDER"
        )
    return folder


def _live_switches(model: Any, given: Mapping[str, Any]) -> Any:
    """A live model's switches: how much it is shown may be set, how it works was decided when it
    was built.
    """
    known = model.switches.switches()
    fixed = [n for n in model.switches.changed(given) if not known[n].budget]
    if fixed:
        raise UsageError(
            f"{', '.join(fixed)}: a model in memory runs under the switches that it was built "
            f"with: {type(model).__name__}(config, switches)"
        )
    for name, one in known.items():
        if not one.trained and (value := getattr(model.switches, name)) != one.default:
            raise UsageError(
                f"{name}={value}: only of a checkpoint, as it is loaded: save the model and give "
                "its folder"
            )
    return model.switches.with_(given)


def _pixel_bytes(prepared: tuple[Request, Prompt | Completion]) -> int:
    """Bytes of the pixels of a prepared request."""
    _, prompt = prepared
    return 0 if isinstance(prompt, Completion) else sum(v.patches.nbytes for v in prompt.visuals)
