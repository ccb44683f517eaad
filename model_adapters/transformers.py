"""The transformers adapter: any image-text-to-text model that `transformers` loads, as users run
it.

Qwen2-VL gets inputs of its own, through `transformers`' tokenizer, image processor and
``generate``: its stock processor needs torchvision, and would choose the frames of a video by a
rule other than the official one. Other models go through their own processor, one request at a
time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image as PILImage
from torch import Tensor

from evalkit.adapter import (
    ModelAdapter,
    chat_messages,
    check_arguments,
    check_length,
    limits_of,
    media_of,
)
from evalkit.errors import CheckpointError, DataError, UsageError, reason
from evalkit.media import decode_image, decode_video, frame_times
from evalkit.models.device import checked_device, without_emulation
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.chat import generation, stop_ids
from evalkit.models.qwen2_vl.processing import Processor, ProcessorConfig, target_size
from evalkit.models.qwen2_vl.rope import grid_tokens
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.registry import FAMILIES, family
from evalkit.models.switch import Switch
from evalkit.models.weights import read_json, refuse_adapter, weights_digest
from evalkit.nano import checkpoint_folder
from evalkit.types import (
    BoxSpace,
    Completion,
    Image,
    MediaBudget,
    Request,
    TokenCounts,
    Video,
)

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
"""Where an image or a video stands in the text of a prompt."""
GREEDY = {
    "do_sample": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": 1.0,
}
Inputs = dict[str, Tensor]
"""Arguments of a model's ``generate`` by name: ``input_ids`` [1, tokens], patches and grids."""


class TransformersAdapter(ModelAdapter):
    """A model of `transformers`.

    ``model`` is a shipped name, a folder or a hub id. ``batch_size`` pads on the left (Qwen2-VL
    only). ``box_space`` declares how the model writes boxes; it is known for Qwen2-VL.
    ``trust_remote_code`` runs the model repository's own code: off unless asked for. The pixel and
    frame switches are honoured for Qwen2-VL; architecture switches need the reference adapter.
    """

    name = "transformers"

    def __init__(
        self,
        model: str = "nano",
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int = 1,
        attn_implementation: str | None = None,
        box_space: BoxSpace | None = None,
        trust_remote_code: bool = False,
        **switches: Any,
    ) -> None:
        check_arguments(type(self), model, switches)
        from transformers import AutoConfig

        self.folder = checkpoint_folder(model)
        refuse_adapter(self.folder)
        try:
            self.config = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{model}: transformers can't read its config: {e}") from e
        self.is_qwen2vl = self.config.model_type == "qwen2_vl"
        trained_with = dict((getattr(self.config, "evalkit", None) or {}).get("trained_with") or {})
        if Switches.probes(Switches().changed(trained_with)):
            given = ", ".join(f"{k}={v}" for k, v in trained_with.items())
            raise UsageError(
                f"{model}: its weights were trained with {given}, which transformers can't run; "
                "the reference adapter can"
            )
        trained = Switches().with_(trained_with)
        self.switched = trained.with_(switches)
        self.changed = trained.changed(switches)
        known = FAMILIES.get(self.config.model_type)
        own_space = family(self.config.model_type).box_space if known else None
        self.box_space = box_space or own_space
        self.device = checked_device(device)
        own = str(getattr(self.config, "dtype", None) or "float32").removeprefix("torch.")
        self.dtype = dtype or without_emulation(own, self.device)
        self.batch_size = batch_size if self.is_qwen2vl else 1
        self.attn_implementation, self.trust_remote_code = attn_implementation, trust_remote_code

    @classmethod
    def switches(cls, model: str) -> Mapping[str, Switch]:
        """Pixels and frames, for Qwen2-VL."""
        path = checkpoint_folder(model) / "config.json"
        if not path.is_file() or read_json(path).get("model_type") != "qwen2_vl":
            return {}
        return {name: s for name, s in Switches.switches().items() if s.budget}

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        import transformers

        text = self.config.get_text_config()
        eos, bos = getattr(text, "eos_token_id", None), getattr(text, "bos_token_id", None)
        return {
            "adapter": self.name,
            "transformers": transformers.__version__,
            "weights": weights_digest(self.folder),
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            "box_space": self.box_space,
            "switches": self.changed,
            "inference_probe": False,
            "generation": generation(
                stop_ids(self.folder, eos), *(eos if isinstance(eos, list) else [eos]), bos
            ),
        }

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "model_type": self.config.model_type,
        }

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForImageTextToText

        try:
            model, info = AutoModelForImageTextToText.from_pretrained(
                self.folder,
                dtype=self.dtype,
                attn_implementation=self.attn_implementation,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"{self.folder}: transformers can't load the model: {e}") from e
        _check_loaded(self.folder, info)
        return model.eval().to(self.device)

    @cached_property
    def inputs(self) -> InputMaker:
        return (
            Qwen2VLInputs(self.folder, self.config, self.switched)
            if self.is_qwen2vl
            else ProcessorInputs(self.folder, self.trust_remote_code)
        )

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        processor = self.inputs.processor if isinstance(self.inputs, Qwen2VLInputs) else Processor()
        task = limits_of(budget)
        return frame_times(clip, lambda total, fps: processor.frames(total, fps, task))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source = iter(requests)
        while group := list(islice(source, self.batch_size)):
            ready: list[tuple[Request, Inputs]] = []
            for request in group:
                try:
                    inputs = self.inputs.prepare(request)
                    check_length(inputs["input_ids"].shape[1], _max_tokens(self.config))
                    ready.append((request, inputs))
                except (CheckpointError, KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as e:  # also a panic of a native library
                    yield Completion(request.id, finish_reason="error", error=reason(e))
            if ready:
                yield from self._answer(ready)

    @torch.inference_mode()
    def _answer(self, ready: list[tuple[Request, Inputs]]) -> Iterator[Completion]:
        started = time.perf_counter()
        batch = {
            k: v.to(self.device) for k, v in self.inputs.collate([i for _, i in ready]).items()
        }
        limit = max(r.max_new_tokens for r, _ in ready)
        out = self.model.generate(**batch, max_new_tokens=limit, **GREEDY)[
            :, batch["input_ids"].shape[1] :
        ].cpu()
        eos = self.model.generation_config.eos_token_id
        stops = set(eos if isinstance(eos, list) else [eos])
        seconds = time.perf_counter() - started
        for (request, inputs), ids in zip(ready, out.tolist()):
            end = next((i for i, t in enumerate(ids) if t in stops), None)
            kept = ids[
                : request.max_new_tokens if end is None else min(end, request.max_new_tokens)
            ]
            stopped = end is not None and end < request.max_new_tokens
            seen = self.inputs.visual_tokens(inputs)
            yield Completion(
                request.id,
                self.inputs.tokenizer.decode(
                    kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
                "stop" if stopped else "length",
                TokenCounts(inputs["input_ids"].shape[1] - seen, seen, len(kept)),
                seconds,
                box_space=self.box_space,
            )


def _max_tokens(config: Any) -> int:
    """Tokens of the longest prompt that a model of `transformers` is made for; YaRN and its like
    extend what ``max_position_embeddings`` says.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or sys.maxsize
    rope = getattr(text, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    return max(most, round(original * (rope.get("factor") or 1))) if original else int(most)


class InputMaker(Protocol):
    """How requests become a model's inputs. ``tokenizer`` decodes its answers."""

    tokenizer: Any

    def prepare(self, request: Request) -> Inputs:
        """The inputs of one request. Raises DataError for media that can't be read."""

    def collate(self, items: list[Inputs]) -> Inputs:
        """One batch of the inputs of several requests."""

    def visual_tokens(self, inputs: Inputs) -> int:
        """How many of the ids of one request's inputs stand for media."""


class Qwen2VLInputs:
    """Inputs of Qwen2-VL by `transformers`' own tokenizer, chat template and image processor; video
    patches by ours.
    """

    def __init__(self, folder: Any, config: Any, switches: Switches) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder)
        self.limits = ProcessorConfig.load(folder)
        self.processor = Processor(self.limits, switches)
        self.config = config

    def prepare(self, request: Request) -> Inputs:
        text = self.tokenizer.apply_chat_template(
            chat_messages(request.messages), tokenize=False, add_generation_prompt=True
        )
        visuals: dict[str, list[Tensor]] = {}
        tokens: dict[str, list[int]] = {IMAGE_PAD: [], VIDEO_PAD: []}  # of each visual, in order
        for part in media_of(request.messages):
            task = limits_of(request.budget)
            pixels = _decoded(part, self.processor, task, resize=True)
            if isinstance(part, Image):
                patches, grid = self._image(pixels, task)
                pixel_name, grid_name, pad = "pixel_values", "image_grid_thw", IMAGE_PAD
            else:
                patches_8bit, media = self.processor.video_patches(pixels)
                patches, grid = self.processor.normalise(patches_8bit), torch.tensor([media.grid])
                pixel_name, grid_name, pad = "pixel_values_videos", "video_grid_thw", VIDEO_PAD
            visuals.setdefault(pixel_name, []).append(patches)
            visuals.setdefault(grid_name, []).append(grid)
            tokens[pad].append(grid_tokens(tuple(grid[0].tolist())))
        for pad, counts in tokens.items():
            pieces = text.split(pad)
            if len(pieces) != len(counts) + 1:
                raise DataError(
                    "the text contains a visual placeholder token that belongs to no image or video"
                )
            text = pieces[0] + "".join(pad * n + piece for n, piece in zip(counts, pieces[1:]))
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        return {"input_ids": ids, **{k: torch.cat(v) for k, v in visuals.items()}}

    def _image(self, picture: PILImage.Image, task: Limits) -> tuple[Tensor, Tensor]:
        rgb = picture.convert("RGB")
        checkpoint = Limits(self.limits.min_pixels, self.limits.max_pixels)
        height, width = target_size(
            rgb.height, rgb.width, self.processor.switches, task, checkpoint
        )
        resized = rgb.resize((width, height), PILImage.Resampling.BICUBIC)
        size = {
            "shortest_edge": min(self.limits.min_pixels, height * width),
            "longest_edge": max(height * width, 3136),
        }
        out = self.image_processor(images=[resized], size=size, return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]

    def collate(self, items: list[Inputs]) -> Inputs:
        """Pads on the left and packs the media of all rows in order."""
        length = max(i["input_ids"].shape[1] for i in items)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(items), length), pad)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(items):
            n = item["input_ids"].shape[1]
            ids[row, length - n :] = item["input_ids"][0]
            mask[row, length - n :] = 1
        names = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
        media = {
            n: torch.cat([i[n] for i in items if n in i])
            for n in names
            if any(n in i for i in items)
        }
        types = (ids == self.config.image_token_id).int() + 2 * (
            ids == self.config.video_token_id
        ).int()
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, **media}

    def visual_tokens(self, inputs: Inputs) -> int:
        ids = inputs["input_ids"]
        return int(
            ((ids == self.config.image_token_id) | (ids == self.config.video_token_id)).sum()
        )


class ProcessorInputs:
    """Inputs of any other model, by the processor that its repository names."""

    def __init__(self, folder: Any, trust_remote_code: bool) -> None:
        from transformers import AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, ImportError) as e:
            raise CheckpointError(
                f"{folder}: transformers can't build the model's processor: {e}"
            ) from e
        self.tokenizer = self.processor.tokenizer

    def prepare(self, request: Request) -> Inputs:
        media = iter(
            [
                _decoded(part, Processor(), limits_of(request.budget))
                for part in media_of(request.messages)
            ]
        )
        messages = chat_messages(request.messages)
        for message in messages:
            for part in message["content"]:
                if part["type"] != "text":
                    part[part["type"]] = next(media)
        out = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return dict(out)

    def collate(self, items: list[Inputs]) -> Inputs:
        return items[0]

    def visual_tokens(self, inputs: Inputs) -> int:
        token = getattr(self.processor, "image_token_id", None)
        return 0 if token is None else int((inputs["input_ids"] == token).sum())


def _decoded(part: Image | Video, processor: Processor, task: Limits, resize: bool = False) -> Any:
    """A PIL image, or the frames [frames, height, width, 3] that are shown of a video; with
    ``resize`` at the size at which Qwen2-VL sees them.
    """
    if isinstance(part, Image):
        return decode_image(part)
    return decode_video(
        part,
        lambda total, fps: processor.frames(total, fps, task),
        (lambda frame, total: processor.resize_frame(frame, total, task)) if resize else None,
    )


def _check_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises CheckpointError where weights and model did not fit: `transformers` fills what is
    missing with random numbers and only warns.
    """
    faults = {
        what: sorted(str(n) for n in info.get(key) or ())
        for what, key in (
            ("missing", "missing_keys"),
            ("surplus", "unexpected_keys"),
            ("of another shape", "mismatched_keys"),
        )
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in faults.items()
            if names
        )
        raise CheckpointError(
            f"{folder}: its weights are not those of the model that config.json describes: {told}; "
            "a LoRA or a wrapped model must be merged and saved again"
        )
