"""The reference adapter: evalkit's own Qwen2-VL through its engine, with every ablation switch as
an argument.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property, lru_cache, partial
from typing import Any

from evalkit.adapter import ModelAdapter, check_arguments
from evalkit.engine import Engine, Media, Output, Prompt, Visual
from evalkit.engine.budget import choose
from evalkit.errors import CheckpointError, UsageError, reason
from evalkit.malloc import Tidy
from evalkit.models.device import DTYPES, checked_device, without_emulation
from evalkit.models.qwen2_vl.chat import Chat, generation
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.fused import compile_parts, fuse
from evalkit.models.qwen2_vl.processing import Processor, ProcessorConfig, normalised, visual_tokens
from evalkit.models.qwen2_vl.switches import BLIND, Switches
from evalkit.models.switch import Switch
from evalkit.models.weights import weights_digest
from evalkit.types import Completion, Image, MediaBudget, Request, TokenCounts, Video

from .qwen2vl_inputs import chat_messages, checkpoint_folder, decoded, media_of, prefetch

ROOM = 32 << 20
"""Bytes of freed memory that may lie in the process, for the next tensors, before it is given back
to the system.
"""
PREPARED, PREPARED_FOR_GPU = 16 << 20, 256 << 20
"""Bytes of 8-bit pixels that may wait for the engine; a page of 1,000 visual tokens has 2.4
million. A GPU takes many pages at once.
"""


class ReferenceAdapter(ModelAdapter):
    """evalkit's Qwen2-VL.

    ``model`` is a shipped name (nano), a checkpoint folder or a hub id. ``dtype`` None keeps the
    checkpoint's, or takes float32 on a CPU that would emulate it; ``device`` None takes a GPU when
    there is one. ``batch_size`` sequences run at once in packs of at most ``batch_tokens`` prompt
    tokens, both chosen from free memory if None; neither changes an answer. ``compile`` fuses
    element-wise operations, which pays on long runs only. All further arguments are the switches of
    the model family (``switches``).
    """

    name = "reference"
    box_space = "norm1000"

    def __init__(
        self,
        model: str = "nano",
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        workers: int = 2,
        compile: bool = False,
        **switches: Any,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        for name, value in (
            ("batch_size", batch_size),
            ("batch_tokens", batch_tokens),
            ("workers", workers),
        ):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name}={value!r}: expected a whole number above 0")
        check_arguments(type(self), model, switches)
        self.folder = checkpoint_folder(model)
        self.config = Qwen2VLConfig.load(self.folder)
        self.switched = self.config.trained.with_(switches)
        self.changed = self.config.trained.changed(switches)
        self.device = checked_device(device)
        self.dtype = dtype or without_emulation(self.config.dtype, self.device)
        self.batch_size, self.batch_tokens, self.workers, self.compile = (
            batch_size,
            batch_tokens,
            workers,
            compile,
        )
        self.prepared = PREPARED if self.device == "cpu" else PREPARED_FOR_GPU
        self.chat = Chat(self.folder, self.config)
        self.processor = Processor(ProcessorConfig.load(self.folder), self.switched)
        self._visual = lru_cache(maxsize=4)(self._process)

    @classmethod
    def switches(cls, model: str) -> Mapping[str, Switch]:
        return Switches.switches()

    @property
    def blind(self) -> Mapping[str, Any]:
        return BLIND

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "adapter": self.name,
            "weights": weights_digest(self.folder),
            "dtype": self.dtype,
            "switches": self.changed,
            "trained_with": dict(self.config.trained_with),
            "inference_probe": Switches.probes(self.changed),
            "generation": generation(
                self.chat.stop_ids, *self.config.eos_token_ids, self.config.bos_token_id
            ),
        }

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "device": self.device,
            "batch_size": self.batch_size or "chosen",
            "batch_tokens": self.batch_tokens or "chosen",
            "min_pixels": self.switched.min_pixels or self.processor.config.min_pixels,
            "max_pixels": self.switched.max_pixels or self.processor.config.max_pixels,
        }

    @cached_property
    def engine(self) -> Engine:
        model = fuse(load(self.folder, self.dtype, self.device, self.switched))
        if self.compile:
            compile_parts(model)
        budget = choose(model, self.batch_size, self.batch_tokens)
        return Engine(model, self.chat.stop_ids, budget)

    @property
    def stats(self) -> Mapping[str, Any]:
        return asdict(self.engine.stats) | asdict(self.engine.budget)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._run(requests, ranked=False)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._run(requests, ranked=True)

    def _run(self, requests: Iterable[Request], ranked: bool) -> Iterator[Completion]:
        self.engine.stats.reset()
        under_way: dict[str, tuple[Sequence[str], TokenCounts]] = {}
        failed: list[Completion] = []

        def prompts() -> Generator[Prompt]:
            ahead = self.engine.budget.rows
            with closing(
                prefetch(
                    self._prepare,
                    requests,
                    self.workers,
                    ahead,
                    _held,
                    self.prepared,
                    self._spare_cores(),
                )
            ) as ready:
                for request, made in ready:
                    if isinstance(made, Completion):
                        failed.append(made)
                    else:
                        seen = visual_tokens([m.grid for m in made.media])
                        under_way[made.id] = (
                            request.choices,
                            TokenCounts(len(made.ids) - seen, seen),
                        )
                        yield made

        tidy = Tidy(ROOM)
        with (
            closing(prompts()) as source
        ):  # an interrupt's traceback would keep it open, and its threads would wait for ever
            for output in (self.engine.rank if ranked else self.engine.generate)(source):
                yield self._completion(*under_way.pop(output.id), output)
                tidy()
                while failed:
                    yield failed.pop()
        yield from failed

    def _spare_cores(self) -> bool:
        """Whether there are cores that the model doesn't use."""
        import torch

        return self.device != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    def _prepare(self, request: Request) -> tuple[Request, Prompt | Completion]:
        try:
            visuals = tuple(
                self._visual(part, request.budget) for part in media_of(request.messages)
            )
            images = [v.media.grid for v in visuals if not v.media.is_video]
            videos = [v.media.grid for v in visuals if v.media.is_video]
            ids = self.chat.encode(
                self.chat.render(chat_messages(request.messages)), images, videos
            )
            choices = tuple(tuple(self.chat.encode(c)) for c in request.choices)
            prefix = len(ids) - next(
                (i for i, t in enumerate(reversed(ids)) if t in self.chat.visual_ids), len(ids)
            )
            return request, Prompt(
                request.id, tuple(ids), visuals, request.max_new_tokens, choices, prefix
            )
        except CheckpointError:
            raise
        except Exception as e:
            return request, Completion(request.id, finish_reason="error", error=reason(e))

    def _process(self, part: Image | Video, budget: MediaBudget) -> Visual:
        pixels = decoded(part, budget, self.switched)
        key = (
            type(part).__name__,
            part.digest,
            getattr(part, "start", None),
            getattr(part, "end", None),
            budget,
        )
        cut = (
            self.processor.image_patches
            if isinstance(part, Image)
            else self.processor.video_patches
        )
        patches, grid = cut(pixels, budget.min_pixels, budget.max_pixels)
        normalise = partial(normalised, lookup=self.processor.lookup)
        return Visual(patches, Media(grid, isinstance(part, Video)), key, normalise)

    def _completion(
        self, choices: Sequence[str], tokens: TokenCounts, output: Output
    ) -> Completion:
        if output.error:
            return Completion(output.id, finish_reason="error", error=output.error)
        if output.logprobs:
            best = max(range(len(output.logprobs)), key=output.logprobs.__getitem__)
            text, reason = choices[best], "rank"
        else:
            text, reason = self.chat.decode(output.ids), "stop" if output.stopped else "length"
        return Completion(
            output.id,
            text,
            reason,  # type: ignore[arg-type]
            replace(tokens, out=len(output.ids)),
            output.seconds,
            output.logprobs,
            self.box_space,
        )


def _held(made: tuple[Request, Prompt | Completion]) -> int:
    """Bytes of the pixels of a prepared request."""
    return sum(v.patches.nbytes for v in made[1].visuals) if isinstance(made[1], Prompt) else 0
