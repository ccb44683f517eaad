"""Inputs of Qwen2-VL: its stock processor needs torchvision, and would choose the frames of a video
by a rule other than the official one.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor

from evalkit.adapter import chat_messages, limits_of, media_of
from evalkit.errors import DataError
from evalkit.media import decode_image, decode_video
from evalkit.models.limits import Limits
from evalkit.models.qwen2_vl.processing import Processor, ProcessorConfig, target_size
from evalkit.models.qwen2_vl.rope import grid_tokens
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.pretrained.checkpoint import Checkpoint
from evalkit.pretrained.inputs import Inputs
from evalkit.pretrained.processor_inputs import processor_of
from evalkit.types import Image, MediaBudget, Request, Video

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
"""Where an image or a video stands in the text of a prompt."""


class Qwen2VLInputs:
    """Inputs of Qwen2-VL by `transformers`' own tokenizer, chat template and image processor; video
    patches by ours.
    """

    def __init__(self, checkpoint: Checkpoint, config: Any, switches: Switches) -> None:
        theirs = processor_of(checkpoint)
        self.tokenizer, self.image_processor = theirs.tokenizer, theirs.image_processor
        template = theirs.chat_template or self.tokenizer.chat_template
        self.template = template.get("default") if isinstance(template, dict) else template
        self.limits = ProcessorConfig.load(checkpoint.folder)
        self.processor = Processor(self.limits, switches)
        self.config = config

    def prepare(self, request: Request) -> Inputs:
        text = self.tokenizer.apply_chat_template(
            chat_messages(request.messages),
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )
        visuals: dict[str, list[Tensor]] = {}
        tokens: dict[str, list[int]] = {IMAGE_PAD: [], VIDEO_PAD: []}  # of each visual, in order
        for part in media_of(request.messages):
            task = limits_of(request.budget)
            pixels = _decoded(part, self.processor, task)
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

    def choose(self, total: int, fps: float, budget: MediaBudget) -> list[int]:
        return self.processor.frames(total, fps, limits_of(budget))

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

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {}

    def seen(self, inputs: Inputs) -> None:
        return None


def _decoded(part: Image | Video, processor: Processor, task: Limits) -> Any:
    """A PIL image, or the frames [frames, height, width, 3] that are shown of a video, at
    the size at which Qwen2-VL sees them.
    """
    if isinstance(part, Image):
        return decode_image(part)
    return decode_video(
        part,
        lambda total, fps: processor.frames(total, fps, task),
        lambda frame, total: processor.resize_frame(frame, total, task),
    )
