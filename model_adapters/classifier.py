"""Classifiers with labels of their own: ResNet, EfficientNet, ViT, Swin, ConvNeXt and what else
`transformers` has for image classification; AlexNet, VGG and GoogLeNet (``pretrained.convnets``).

A choice is mapped to the labels that carry its name: labels are split into synonyms at commas, case
does not matter, and a choice that owns several labels has their probabilities' sum. Choices are
ranked by log-softmax over the mapped labels; one that no label names is ``UNSCORED``, which a task
counts as unparsed. The text of a question is not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from evalkit.adapter import ModelAdapter
from evalkit.errors import CheckpointError, UsageError, reason
from evalkit.models.device import checked_device, chosen_dtype
from evalkit.models.weights import read_json
from evalkit.pretrained import convnets
from evalkit.pretrained.checkpoint import Checkpoint, dtype_of
from evalkit.pretrained.labels import bare, by_name, name_of
from evalkit.pretrained.pictures import FRAMES, pictures_of
from evalkit.types import UNSCORED, Completion, Request


class ClassifierAdapter(ModelAdapter):
    """A model that ranks choices by its labels, or without choices answers the likeliest label.

    ``batch_size`` pictures run at once; in float32 it changes no answer. Of ``frames`` of a video,
    or of several pictures, the probabilities' mean is taken. Raises CheckpointError for a
    checkpoint without labels.
    """

    name = "classifier"

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 1,
        frames: int = FRAMES,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.checkpoint = Checkpoint.find(model)
        self.raw = read_json(self.checkpoint.folder / "config.json")
        self.plain = self.raw.get("model_type") in convnets.KINDS
        for name, value in (("batch_size", batch_size), ("frames", frames)):
            if not (type(value) is int and value > 0):
                raise UsageError(f"{name}={value!r}: expected a whole number above 0")
        self.batch_size, self.frames = batch_size, frames
        self.device = checked_device(device)
        config = None if self.plain else self.checkpoint.config()
        self.dtype = chosen_dtype(dtype, dtype_of(config), self.device)
        labels = self.raw.get("id2label") if self.plain else getattr(config, "id2label", None)
        if not isinstance(labels, dict) or not labels:
            raise CheckpointError(f"{self.checkpoint.folder / 'config.json'}: no id2label")
        self.labels = {int(i): str(label) for i, label in labels.items()}
        self.ids = by_name(self.labels)

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "adapter": self.name,
            **self.checkpoint.identity,
            "dtype": self.dtype,
            "frames": self.frames,
            "image_processor": (
                "torchvision's transforms"
                if self.plain
                else type(self.checkpoint.image_processor).__name__
            ),
        }

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "model_type": self.raw.get("model_type"),
            "labels": len(self.labels),
            "question": "not read",
        }

    @cached_property
    def model(self) -> Any:
        if self.plain:
            network = convnets.load(self.checkpoint.folder, self.raw)
            return network.to(self.device, getattr(torch, self.dtype))
        from transformers import AutoModelForImageClassification

        return self.checkpoint.model(AutoModelForImageClassification, self.dtype, self.device)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self.generate(requests)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source = iter(requests)
        while group := list(islice(source, self.batch_size)):
            ready: dict[tuple[int, ...], list[tuple[Request, Tensor]]] = {}
            for request in group:
                try:
                    pixels = self._pixels(request)
                    ready.setdefault(tuple(pixels.shape[1:]), []).append((request, pixels))
                except (CheckpointError, KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as e:  # also a panic of a native library
                    yield Completion(request.id, finish_reason="error", error=reason(e))
            for alike in ready.values():
                yield from self._answer(alike)

    def _pixels(self, request: Request) -> Tensor:
        """Pixels [pictures, 3, height, width] of a request."""
        shown = pictures_of(request, self.frames)
        if self.plain:
            return torch.stack([convnets.prepare(picture) for picture in shown])
        process = self.checkpoint.image_processor
        pixels: Tensor = process(images=shown, return_tensors="pt")["pixel_values"]
        return pixels

    @torch.inference_mode()
    def _answer(self, ready: list[tuple[Request, Tensor]]) -> Iterator[Completion]:
        pixels = torch.cat([p for _, p in ready]).to(self.device, getattr(torch, self.dtype))
        out = self.model(pixels)
        logits = (out if self.plain else out.logits).float().cpu()
        for (request, _), of_it in zip(ready, logits.split([len(p) for _, p in ready])):
            mean = of_it.log_softmax(-1).logsumexp(0) - math.log(len(of_it))
            yield self._completion(request, mean)

    def _completion(self, request: Request, logprobs: Tensor) -> Completion:
        """The answer by the log-probability [labels] of each label."""
        if not request.choices:
            return Completion(request.id, self.labels[int(logprobs.argmax())])
        owned = [self.ids.get(name_of(bare(choice)), ()) for choice in request.choices]
        mapped = sorted({i for ids in owned for i in ids})
        if not mapped:
            nothing = (UNSCORED,) * len(owned)
            return Completion(request.id, "", "rank", logprobs=nothing)
        whole = logprobs[mapped].logsumexp(0)
        values = tuple(
            float(logprobs[list(ids)].logsumexp(0) - whole) if ids else UNSCORED for ids in owned
        )
        best = max(range(len(values)), key=values.__getitem__)
        return Completion(request.id, request.choices[best], "rank", logprobs=values)
