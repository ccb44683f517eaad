"""Our own count of a prompt's tokens, to hold a server's to: one that ignores the pixel limits, or
has another tokenizer, template or image processor, counts another number.

With the served model's tokenizer and image settings at hand the count is exact. Where only the
family is known, by the model's name, the visual tokens are, and the text lies within bounds: no
token is shorter than a byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.adapter import limits_of, media_of
from evalkit.errors import EvalkitError
from evalkit.media import decode_image
from evalkit.nano import shipped
from evalkit.types import BoxSpace, Image, Request, Text

if TYPE_CHECKING:
    from evalkit.model_adapters.reference_prompts import Prompts

QWEN2_VL = re.compile(r"qwen2[-_]?vl", re.IGNORECASE)
TEMPLATE = 256
"""More tokens than a chat template adds to a message."""


@dataclass(frozen=True)
class PromptTokens:
    """Counts by the checkpoint's own tokenizer and processor, or by the family's processor alone
    where there is no checkpoint.
    """

    checkpoint: Prompts | None

    @classmethod
    def of(cls, model: str, checkpoint: str | None) -> PromptTokens | None:
        """By ``checkpoint``, or by the model's name where that is a shipped one, a folder, or says
        that it is a Qwen2-VL; None where nothing is known. Raises EvalkitError for a checkpoint
        that can't be read.
        """
        from evalkit.model_adapters.reference_prompts import Prompts

        if checkpoint or model in shipped() or Path(model).is_dir():
            try:
                return cls(Prompts.of(checkpoint or model))
            except EvalkitError:
                if checkpoint:
                    raise
        return cls(None) if QWEN2_VL.search(model) else None

    @property
    def exact(self) -> bool:
        return self.checkpoint is not None

    @property
    def box_space(self) -> BoxSpace | None:
        return self.checkpoint.box_space if self.checkpoint else "norm1000"

    def compare(self, request: Request, counted: int) -> tuple[int, str]:
        """The visual tokens of a request, and what is wrong with a server's count of its whole
        prompt; empty when nothing is. Raises DataError for media that can't be read.
        """
        if self.checkpoint:
            ids = self.checkpoint.make(request).ids
            seen = self.checkpoint.visual_tokens(ids)
            low = high = len(ids)
        else:
            media = media_of(request.messages)
            if not all(isinstance(m, Image) for m in media):
                return 0, ""
            seen = _visual_tokens(request)
            text = [p for m in request.messages for p in m.content if isinstance(p, Text)]
            low, high = seen, seen + sum(len(p.text.encode()) for p in text)
            high += TEMPLATE * (len(request.messages) + 1)
        if low <= counted <= high:
            return seen, ""
        ours = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        limits = ", ".join(f"{k}={v}" for k, v in vars(request.budget).items() if v is not None)
        return seen, (
            f"the server counts {counted:,} tokens of this prompt, evalkit {ours}, {seen:,} of "
            f"them visual ({limits or 'no pixel limits sent'}): the server ignores the limits, or "
            "has another template or image processor; pixels=resize makes pictures smaller here, "
            "verify=false takes its answers as they are"
        )


def _visual_tokens(request: Request) -> int:
    """As every released Qwen2-VL sees its pictures."""
    from evalkit.models.qwen2_vl.processing import Processor
    from evalkit.models.qwen2_vl.rope import grid_tokens

    processor, limits = Processor(), limits_of(request.budget)
    images = [m for m in media_of(request.messages) if isinstance(m, Image)]
    return sum(
        grid_tokens(processor.image_patches(decode_image(i), limits)[1].grid) for i in images
    )
