"""The numbers that define a dense Qwen3-VL: the released sizes, and what any ``config.json`` says.

Sizes are those of the released 2B, 4B, 8B and 32B. Files are nested: ``text_config`` and
``vision_config``, with ``rope_scaling`` and ``rope_theta`` (the releases) or ``rope_parameters``
(transformers 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from evalkit.errors import CheckpointError
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, Tower, read_text
from evalkit.models.qwen2_vl.config import TextConfig as Qwen2TextConfig
from evalkit.models.qwen3_vl.switches import Switches


@dataclass(frozen=True)
class VisionConfig(Tower):
    """The vision tower; the defaults are those of transformers, and of the 8B but for the output.

    num_position_embeddings: entries of the learned position table, a square.
    deepstack_visual_indexes: the blocks whose output goes to the decoder, too.
    """

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    out_hidden_size: int = 3584
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)
    rope_theta: float = 10_000.0
    patch_size: ClassVar[int] = 16
    hidden_act: ClassVar[str] = "gelu_pytorch_tanh"
    model_type: ClassVar[str] = "qwen3_vl"

    def __post_init__(self) -> None:
        if self.table_side**2 != self.num_position_embeddings:
            raise CheckpointError(
                f"config: vision num_position_embeddings {self.num_position_embeddings} is no "
                "square number"
            )
        blocks = self.deepstack_visual_indexes
        if list(blocks) != sorted(set(blocks)) or any(b >= self.depth for b in blocks):
            raise CheckpointError(
                f"config: vision deepstack_visual_indexes {list(blocks)}: expected numbers of its "
                f"{self.depth} blocks, from 0, in order"
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

    @property
    def table_side(self) -> int:
        """Positions on a side of the learned table."""
        return math.isqrt(self.num_position_embeddings)

    def written(self) -> dict[str, Any]:
        raw = super().written()
        del raw["spatial_patch_size"]
        return raw | {"in_channels": raw.pop("in_chans")}


@dataclass(frozen=True)
class TextConfig(Qwen2TextConfig):
    """The Qwen3 language model, whose heads have a width of their own."""

    vocab_size: int = 151_936
    hidden_size: int = 4096
    intermediate_size: int = 22_016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 128_000
    rms_norm_eps: float = 1e-6
    rope_theta: float = 500_000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    head_dim: int = 128
    qkv_bias: ClassVar[bool] = False
    mrope_interleaved: ClassVar[bool] = True
    own_head_dim: ClassVar[bool] = True


@dataclass(frozen=True)
class Qwen3VLConfig(Qwen2VLConfig):
    """A whole model."""

    model_type: ClassVar[str] = "qwen3_vl"
    architecture: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    tower: ClassVar[type[Tower]] = VisionConfig
    text_kind: ClassVar[type[TextConfig]] = TextConfig
    nested: ClassVar[bool] = True
    further_keys: ClassVar[frozenset[str]] = frozenset(["attention_bias"])

    vision: VisionConfig
    text: TextConfig

    @cached_property
    def trained(self) -> Switches:
        """All switches as the weights were trained."""
        return Switches(theta=self.text.rope_theta).with_(self.trained_with)

    @classmethod
    def read_text(cls, raw: Mapping[str, Any]) -> TextConfig:
        """The language model of a ``text_config``. Raises CheckpointError."""
        if raw.get("attention_bias"):
            raise CheckpointError("config: attention_bias true; every Qwen3-VL has false")
        known = {k: v for k, v in raw.items() if k != "attention_bias"}
        for key in ("rope_scaling", "rope_parameters"):
            rope = dict(raw.get(key) or {})
            if rope.pop("mrope_interleaved", True) is not True:
                raise CheckpointError(
                    f"config: {key}.mrope_interleaved is not true; every Qwen3-VL has true"
                )
            known[key] = rope
        return read_text(known, cls.text_kind)

    def to_dict(self) -> dict[str, Any]:
        """The nested layout of the released ``config.json``; inverse of ``from_dict``."""
        flat = super().to_dict()
        own = {k: v for k, v in asdict(self.text).items() if k not in ("mrope_section", "yarn")}
        scaling = flat["rope_scaling"] | {"mrope_interleaved": True}
        scaling |= {} if self.text.yarn else {"rope_type": "default"}
        scaling.pop("type")
        text = own | {
            "model_type": f"{self.model_type}_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": flat["bos_token_id"],
            "eos_token_id": flat["eos_token_id"],
            "dtype": self.dtype,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "use_cache": True,
            "rope_scaling": scaling,
        }
        at_root: tuple[str, ...] = ("architectures", "model_type", "tie_word_embeddings", "evalkit")
        at_root += tuple(k for k in flat if k.startswith(("image_", "video_", "vision_")))
        return {k: flat[k] for k in flat if k in at_root} | {"text_config": text}


def _released(
    hidden: int, inner: int, layers: int, heads: int, vision: Mapping[str, Any]
) -> Qwen3VLConfig:
    text = TextConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        max_position_embeddings=262_144,
        rope_theta=5_000_000.0,
    )
    tower = VisionConfig(out_hidden_size=hidden, **vision)
    return Qwen3VLConfig(tower, text, tie_word_embeddings=hidden < 4096)


_LARGE: Mapping[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": (5, 11, 17),
}
RELEASED: Mapping[str, Qwen3VLConfig] = {
    "Qwen3-VL-2B": _released(2048, 6144, 28, 16, _LARGE),
    "Qwen3-VL-4B": _released(2560, 9728, 36, 32, _LARGE),
    "Qwen3-VL-8B": _released(4096, 12_288, 36, 32, {}),
    "Qwen3-VL-32B": _released(5120, 25_600, 64, 64, {}),
}
"""The released dense sizes."""
