"""Inputs of every family but Qwen2-VL: by the processor that its repository names, without the part
for videos, which needs torchvision. A video is shown as some of its frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor

from evalkit.adapter import chat_messages, media_of
from evalkit.errors import CheckpointError, DataError
from evalkit.pretrained.checkpoint import FAILURES, Checkpoint
from evalkit.pretrained.families import vision_language
from evalkit.pretrained.inputs import Inputs
from evalkit.pretrained.pictures import most_frames, pictures, sheet, spread
from evalkit.types import Image, MediaBudget, Message, Request, Video

ALONG_TEXT = ("attention_mask", "token_type_ids", "mm_token_type_ids", "image_attention_mask")
"""Inputs with a value for each token of the prompt, beside ``input_ids``."""
QWEN = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


class ProcessorInputs:
    """Inputs of a model by its processor. ``frames`` of a video are shown as so many images, or on
    one sheet where a model takes one image; ``prompt`` takes the place of the chat template.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: Any, frames: int, prompt: str | None
    ) -> None:
        self.config, self.frames = config, frames
        self.family = vision_language(config.model_type)
        self.processor = processor_of(checkpoint)
        self.tokenizer = self.processor.tokenizer
        self.template = bool(getattr(self.processor, "chat_template", None)) and not prompt
        self.prompt = prompt or self.family.prompt
        if not self.template and not self.prompt:
            raise CheckpointError(
                f"{checkpoint.folder}: no chat template; give one for {config.model_type}: "
                "prompt='{images}{question}'"
            )
        self.mark = str(getattr(self.processor, "image_token", None) or "<image>")
        if "num_query_tokens" in vars(self.processor) and not self.processor.num_query_tokens:
            self.processor.num_query_tokens = config.num_query_tokens

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        image_processor = type(self.processor.image_processor).__name__
        shown = "on one sheet" if self.family.one_image else "as images"
        told = {"image_processor": image_processor, "video": f"{self.frames} frames {shown}"}
        return told if self.template else told | {"prompt": self.prompt}

    def prepare(self, request: Request) -> Inputs:
        images = [self._shown(part, request.budget) for part in media_of(request.messages)]
        flat = [image for some in images for image in some]
        if self.family.one_image and len(flat) > 1:
            raise DataError(f"{len(flat)} images, and a {self.config.model_type} model takes one")
        text = self._text(request.messages, [len(some) for some in images])
        if self.config.model_type == "idefics":
            out = self.processor(text=[_interleaved(text, self.mark, flat)], return_tensors="pt")
        else:
            bos = self.tokenizer.bos_token
            doubled = self.template and bos is not None and text.startswith(bos)
            out = self.processor(
                text=[text],
                images=flat or None,
                return_tensors="pt",
                **self._size(request.budget),
                **({"add_special_tokens": False} if doubled else {}),
            )
        return {k: v for k, v in out.items() if k != "labels" and isinstance(v, Tensor)}

    def _shown(self, part: Image | Video, budget: MediaBudget) -> list[PILImage.Image]:
        """What a model is shown of an image or a video."""
        shown = pictures(part, budget, self.frames)
        return [sheet(shown)] if self.family.one_image and len(shown) > 1 else shown

    def choose(self, total: int, fps: float, budget: MediaBudget) -> list[int]:
        return spread(total, most_frames(budget, self.frames))

    def _text(self, messages: Sequence[Message], counts: Sequence[int]) -> str:
        """The prompt's text, with a mark for each image."""
        media, marks = iter(counts), sum(counts)
        chat = [
            {**m, "content": [p for part in m["content"] for p in _repeated(part, media)]}
            for m in chat_messages(messages)
        ]
        if self.template:
            from transformers import ProcessorMixin

            # not SmolVLM's own, which asks its part for videos
            text = ProcessorMixin.apply_chat_template(
                self.processor, chat, add_generation_prompt=True
            )
        else:
            said = [p["text"] for m in chat for p in m["content"] if p["type"] == "text"]
            marks = marks if "{images}" in self.prompt else 0
            text = self.prompt.format(images=self.mark * marks, question="\n".join(said))
        if text.count(self.mark) != marks:
            raise DataError(
                "the text contains a visual placeholder token that belongs to no image or video"
            )
        return text

    def _size(self, budget: MediaBudget) -> dict[str, Any]:
        """Bounds of pixels, of families that have such; the others resize by rules of their own."""
        if self.config.model_type not in QWEN:
            return {}
        own = dict(self.processor.image_processor.size)
        least = budget.min_pixels or own["shortest_edge"]
        return {
            "size": {
                "shortest_edge": least,
                "longest_edge": max(budget.max_pixels or own["longest_edge"], least),
            }
        }

    def collate(self, items: list[Inputs]) -> Inputs:
        """Texts are padded on the left; other inputs at the end, and stacked."""
        if len(items) == 1:
            return items[0]
        length = max(i["input_ids"].shape[1] for i in items)
        pads = dict.fromkeys(ALONG_TEXT, 0) | {"input_ids": self._pad(self.tokenizer)}
        out: Inputs = {}
        for name in dict.fromkeys(name for item in items for name in item):
            values = [item[name] for item in items if name in item]
            if name in pads:
                values = [_left(v, length, pads[name]) for v in values]
            elif name == "qformer_input_ids":
                # a BERT tokenizer of its own; its positions count from the first token
                pads[name] = self._pad(self.processor.qformer_tokenizer)
            out[name] = torch.cat(_equal(values, pads.get(name, 0)))
        return out

    def _pad(self, tokenizer: Any) -> int:
        pad = tokenizer.pad_token_id
        return int(tokenizer.eos_token_id or 0) if pad is None else int(pad)

    def visual_tokens(self, inputs: Inputs) -> int:
        names = ("image_token_id", "image_token_index")
        token = next((t for n in names if (t := getattr(self.config, n, None)) is not None), None)
        if token is None:
            token = getattr(self.processor, "image_token_id", None)
        return 0 if token is None else int((inputs["input_ids"] == token).sum())

    def seen(self, inputs: Inputs) -> tuple[int, int] | None:
        if self.config.model_type not in QWEN or "image_grid_thw" not in inputs:
            return None
        _, height, width = inputs["image_grid_thw"][0].tolist()
        patch = self.processor.image_processor.patch_size
        return width * patch, height * patch


def _repeated(part: Mapping[str, Any], counts: Iterator[int]) -> list[dict[str, Any]]:
    """A part of a message, one image part for each image that is shown of it."""
    return [dict(part)] if part["type"] == "text" else [{"type": "image"}] * next(counts)


def _interleaved(text: str, mark: str, images: Sequence[PILImage.Image]) -> list[Any]:
    """Texts and images in their order, the form in which Idefics' processor takes a prompt."""
    pieces, rest = text.split(mark), iter(images)
    out: list[Any] = [pieces[0]]
    for piece in pieces[1:]:
        out += [next(rest), piece]
    if any(re.match(r"\s*https?:", piece) for piece in pieces):
        raise DataError("Idefics' processor would fetch a text that begins with an address")
    return [item for item in out if item != ""]


def _left(value: Tensor, length: int, pad: int) -> Tensor:
    """[1, tokens, ...] padded on the left to ``length`` tokens."""
    before = (length - value.shape[1], 0)
    return torch.nn.functional.pad(value, (0, 0) * (value.dim() - 2) + before, value=pad)


def _equal(values: Sequence[Tensor], pad: int) -> list[Tensor]:
    """Tensors padded at the end of all sides but the first, to one shape."""
    sides = [max(v.shape[d] for v in values) for d in range(1, values[0].dim())]
    out = []
    for value in values:
        ends = [n for d in reversed(range(len(sides))) for n in (0, sides[d] - value.shape[d + 1])]
        out.append(torch.nn.functional.pad(value, ends, value=pad))
    return out


def processor_of(checkpoint: Checkpoint) -> Any:
    """The processor of a checkpoint, without its part for videos. Raises CheckpointError."""
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        cls = None if checkpoint.trust_remote_code else PROCESSOR_MAPPING[type(checkpoint.config())]
        if cls is None or "video_processor" not in cls.get_attributes():
            return AutoProcessor.from_pretrained(
                checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code
            )
        return _image_only(cls).from_pretrained(checkpoint.folder)
    except FAILURES as e:
        raise CheckpointError(
            f"{checkpoint.folder}: transformers can't build the model's processor: {e}"
        ) from e


def _image_only(cls: Any) -> Any:
    """A processor's class without its part for videos."""
    from transformers import ProcessorMixin

    module = import_module(cls.__module__)
    if vars(module).get("num2words", cls) is None:
        vars(module)["num2words"] = str  # SmolVLM spells numbers of frames, and asks for it always

    class NoVideo(ProcessorMixin):  # type: ignore[misc]
        def __init__(self, image_processor: Any, tokenizer: Any, *_: None, **more: Any) -> None:
            super().__init__(image_processor, tokenizer, **more)

    class Images(cls, NoVideo):  # type: ignore[misc]
        @classmethod
        def get_attributes(_) -> list[str]:
            return [name for name in cls.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(_, args: list[Any], said: Any, **more: Any) -> Any:
            return super().from_args_and_dict([*args, None], said, **more)

    Images.__name__ = cls.__name__
    return Images
