"""The numbers that define a Qwen2.5-VL: the released sizes, and what any ``config.json`` says.

Sizes are those of the released 3B, 7B and 72B (arXiv 2502.13923, table 1, where it agrees with
their files). The layouts are those of Qwen2-VL: flat on the hub, nested as transformers 5 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from evalkit.errors import CheckpointError
from evalkit.models.qwen2_5_vl.switches import Switches
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, Tower


@dataclass(frozen=True)
class VisionConfig(Tower):
    """The vision tower. The defaults are those of transformers, which leaves values equal to them
    out of the files that it writes; the releases have others.

    window_size: pixels on a side of a window, in all blocks but ``fullatt_block_indexes``.
    tokens_per_second: positions on the decoder's time axis to a second of video.
    """

    depth: int = 32
    hidden_size: int = 3584
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 3584
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: int = 4
    rope_theta: float = 10_000.0
    hidden_act: ClassVar[str] = "silu"
    model_type: ClassVar[str] = "qwen2_5_vl"

    def __post_init__(self) -> None:
        if self.window_size < self.patch_size * self.spatial_merge_size:
            raise CheckpointError(
                f"config: vision window_size {self.window_size} is less than one visual token"
            )

    @property
    def width(self) -> int:
        return self.hidden_size

    @property
    def output(self) -> int:
        return self.out_hidden_size

    @property
    def inner(self) -> int:
        return self.intermediate_size


@dataclass(frozen=True)
class Qwen2_5VLConfig(Qwen2VLConfig):
    """A whole model."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    architecture: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    tower: ClassVar[type[Tower]] = VisionConfig

    vision: VisionConfig

    @cached_property
    def trained(self) -> Switches:
        """All switches as the weights were trained."""
        own = Switches(theta=self.text.rope_theta, tokens_per_second=self.vision.tokens_per_second)
        return own.with_(self.trained_with)


def _released(
    hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, vision_inner: int
) -> Qwen2_5VLConfig:
    vision = VisionConfig(
        hidden_size=1280,
        intermediate_size=vision_inner,
        out_hidden_size=hidden,
        tokens_per_second=2,
    )
    text = TextConfig(
        vocab, hidden, inner, layers, heads, kv, max_position_embeddings=128_000, rms_norm_eps=1e-6
    )
    return Qwen2_5VLConfig(vision, text, tie_word_embeddings=hidden == 2048)


RELEASED: Mapping[str, Qwen2_5VLConfig] = {
    "Qwen2.5-VL-3B": _released(2048, 11_008, 36, 16, 2, 151_936, 3420),
    "Qwen2.5-VL-7B": _released(3584, 18_944, 28, 28, 4, 152_064, 3420),
    "Qwen2.5-VL-72B": _released(8192, 29_568, 80, 64, 8, 152_064, 3456),
}
"""The released sizes."""
