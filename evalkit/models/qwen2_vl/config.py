"""The numbers that define a Qwen2-VL: the three released sizes, and what any released
``config.json`` says.

Sizes are those of the released checkpoints (arXiv 2409.12191, table 1, and their ``config.json``).
Both layouts are read: the flat one on the hub, and the nested one (``text_config``) that newer
versions of transformers write. The flat one is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from evalkit.errors import CheckpointError
from evalkit.models.weights import read_json

T = TypeVar("T")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower; the same in all released sizes but for ``hidden_size``, the width of the
    merger's output.
    """

    depth: int = 32
    embed_dim: int = 1280
    num_heads: int = 16
    hidden_size: int = 3584
    mlp_ratio: int = 4
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    rope_theta: float = 10_000.0

    @property
    def patch_features(self) -> int:
        """Values in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def factor(self) -> int:
        """Pixels on a side of one visual token: image sides are multiples of it."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True)
class TextConfig:
    """The Qwen2 language model."""

    vocab_size: int = 152_064
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A whole model. ``trained_with`` holds the ablation switches the weights were trained under
    (empty: the release).
    """

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    tie_word_embeddings: bool = False
    image_token_id: int = 151_655
    video_token_id: int = 151_656
    vision_start_token_id: int = 151_652
    vision_end_token_id: int = 151_653
    bos_token_id: int = 151_643
    eos_token_id: int = 151_645
    dtype: str = "bfloat16"
    trained_with: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        t, v = self.text, self.vision
        if t.hidden_size % t.num_attention_heads or t.num_attention_heads % t.num_key_value_heads:
            raise CheckpointError(
                f"config: hidden_size {t.hidden_size}, num_attention_heads "
                f"{t.num_attention_heads} and "
                f"num_key_value_heads {t.num_key_value_heads} do not divide each other"
            )
        if sum(t.mrope_section) * 2 != t.head_dim:
            raise CheckpointError(
                f"config: mrope_section {list(t.mrope_section)} must sum to half of head_dim "
                f"{t.head_dim}"
            )
        if v.embed_dim % v.num_heads or v.head_dim % 4:
            raise CheckpointError(
                f"config: vision embed_dim {v.embed_dim} / num_heads {v.num_heads} must be a "
                "multiple of 4"
            )
        if v.hidden_size != t.hidden_size:
            raise CheckpointError(
                f"config: the merger's output (vision hidden_size {v.hidden_size}) is not "
                f"the decoder's hidden_size {t.hidden_size}"
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Qwen2VLConfig:
        """Reads a released ``config.json``, flat or nested. Raises CheckpointError for another
        model type.
        """
        if raw.get("model_type") != "qwen2_vl":
            raise CheckpointError(
                f"config: model_type is {raw.get('model_type')!r}, not 'qwen2_vl'"
            )
        text_raw = raw.get("text_config", raw)
        vision_raw = dict(raw.get("vision_config", {}))
        vision_raw.setdefault("in_channels", vision_raw.get("in_chans", 3))
        vision_raw.pop("rope_theta", None)
        vision = _pick(VisionConfig, vision_raw)
        rope = text_raw.get("rope_parameters") or text_raw.get("rope_scaling") or {}
        text = _pick(
            TextConfig,
            {**text_raw, **{k: v for k, v in rope.items() if k in ("rope_theta", "mrope_section")}},
        )
        text = replace(text, mrope_section=_triple(text.mrope_section))
        if "hidden_size" not in raw.get("vision_config", {}):
            vision = replace(vision, hidden_size=text.hidden_size)
        merged = {**text_raw, **{k: v for k, v in raw.items() if v is not None}}
        merged["dtype"] = (
            raw.get("dtype") or raw.get("torch_dtype") or text_raw.get("dtype") or "float32"
        )
        merged["trained_with"] = dict(raw.get("evalkit", {}).get("trained_with", {}))
        for name in ("vision", "text"):
            merged.pop(name, None)
        return (
            replace(_pick(cls, merged), vision=vision, text=text) if merged else cls(vision, text)
        )

    def to_dict(self) -> dict[str, Any]:
        """The flat layout of the released ``config.json``; inverse of ``from_dict``."""
        v, t = self.vision, self.text
        flat: dict[str, Any] = {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "model_type": "qwen2_vl",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "use_cache": True,
            "use_sliding_window": False,
            "sliding_window": t.max_position_embeddings,
            "max_window_layers": t.num_hidden_layers,
            "torch_dtype": self.dtype,
        }
        flat |= {f.name: getattr(t, f.name) for f in fields(t) if f.name != "mrope_section"}
        flat |= {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("vision", "text", "dtype", "trained_with")
        }
        flat["rope_scaling"] = {"type": "mrope", "mrope_section": list(t.mrope_section)}
        flat["vision_config"] = {
            f.name: getattr(v, f.name)
            for f in fields(v)
            if f.name not in ("in_channels", "rope_theta")
        }
        flat["vision_config"] |= {
            "in_chans": v.in_channels,
            "spatial_patch_size": v.patch_size,
            "hidden_act": "quick_gelu",
        }
        flat["vision_config"]["model_type"] = "qwen2_vl"
        if self.trained_with:
            flat["evalkit"] = {"schema_version": 1, "trained_with": dict(self.trained_with)}
        return flat

    @classmethod
    def load(cls, folder: Path) -> Qwen2VLConfig:
        """Reads ``folder/config.json``. Raises CheckpointError, with the file, for one that is
        absent or can't be this model's.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; --model takes a folder with a released checkpoint"
            )
        raw = read_json(path)
        try:
            return cls.from_dict(raw)
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as e:
            raise CheckpointError(f"{path}: a value has the wrong type or size ({e})") from e


def _triple(section: Sequence[int]) -> tuple[int, int, int]:
    t, h, w = section
    return t, h, w


def _pick(cls: type[T], raw: Mapping[str, Any]) -> T:
    return cls(**{f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None})  # type: ignore[arg-type]


RELEASED: Mapping[str, Qwen2VLConfig] = {
    "2B": Qwen2VLConfig(
        VisionConfig(hidden_size=1536),
        TextConfig(
            vocab_size=151_936,
            hidden_size=1536,
            intermediate_size=8960,
            num_attention_heads=12,
            num_key_value_heads=2,
        ),
        tie_word_embeddings=True,
    ),
    "7B": Qwen2VLConfig(),
    "72B": Qwen2VLConfig(
        VisionConfig(hidden_size=8192),
        TextConfig(
            hidden_size=8192,
            intermediate_size=29_568,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        ),
    ),
}
"""The released sizes by the name their model cards give them."""
