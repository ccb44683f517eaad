"""The numbers that define a Qwen2-VL: the three released sizes, and what any released
``config.json`` says.

Sizes are those of the released checkpoints (arXiv 2409.12191, table 1, and their ``config.json``).
Both layouts are read: the flat one on the hub, and the nested one (``text_config``) that newer
versions of transformers write. The flat one is written. How strictly a file is read is said in
``evalkit.models.config_json``; the configurations of the later generations are built on this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from evalkit.errors import CheckpointError, UsageError
from evalkit.models.config_json import (
    WINDOW_KEYS,
    Yarn,
    checked,
    no_others,
    no_window,
    read_yarn,
    triple,
    typed,
)
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.weights import read_config


class Tower:
    """What the vision towers of all generations have, under names that don't change with them.

    width: of a patch's features within the tower; output: of the merger's, the decoder's.
    """

    depth: int
    num_heads: int
    rope_theta: float
    patch_size: ClassVar[int] = 14
    temporal_patch_size: ClassVar[int] = 2
    spatial_merge_size: ClassVar[int] = 2
    in_channels: ClassVar[int] = 3
    hidden_act: ClassVar[str] = "quick_gelu"
    model_type: ClassVar[str] = "qwen2_vl"

    @property
    def width(self) -> int:
        raise NotImplementedError

    @property
    def output(self) -> int:
        raise NotImplementedError

    @property
    def inner(self) -> int:
        """The width between the two layers of an MLP."""
        raise NotImplementedError

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def patch_features(self) -> int:
        """Values in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The tower of a ``vision_config``. Raises CheckpointError."""
        patch = cls.patch_size
        fixed: dict[str, Any] = {
            "patch_size": patch,
            "spatial_patch_size": patch,
            "temporal_patch_size": cls.temporal_patch_size,
            "spatial_merge_size": cls.spatial_merge_size,
            "in_channels": cls.in_channels,
            "in_chans": cls.in_channels,
            "hidden_act": cls.hidden_act,
        }
        for name, expected in fixed.items():
            if raw.get(name, expected) not in (expected, [expected] * 2):
                raise CheckpointError(
                    f"config: vision {name} {raw[name]!r}; every model of this family has "
                    f"{expected!r}"
                )
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # subclasses are dataclasses
        no_others(raw, {*fixed, *names, "rope_parameters"}, "vision_config.")
        rope = raw.get("rope_parameters") or {}
        no_others(rope, {"type", "rope_type", "rope_theta"}, "vision_config.rope_parameters.")
        if rope.get("rope_type", "axial") not in ("axial", "default"):
            raise CheckpointError(
                f"config: vision rope_type {rope['rope_type']!r} is not implemented"
            )
        given = {**raw, **{k: rope[k] for k in ("rope_theta",) if k in rope}}
        return cls(**typed(cls, {k: given[k] for k in names if given.get(k) is not None}))

    def written(self) -> dict[str, Any]:
        """A ``vision_config`` as released; inverse of ``read``."""
        own: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        theta = own.pop("rope_theta")
        raw = {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in own.items()},
            "patch_size": self.patch_size,
            "spatial_patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "spatial_merge_size": self.spatial_merge_size,
            "in_chans": self.in_channels,
            "hidden_act": self.hidden_act,
            "model_type": self.model_type,
        }
        if theta != type(self).rope_theta:
            raw["rope_parameters"] = {"rope_type": "axial", "rope_theta": theta}
        return raw


@dataclass(frozen=True)
class VisionConfig(Tower):
    """The vision tower; the same in all released sizes but for ``hidden_size``, the width of the
    merger's output. The patch sizes are those of every Qwen2-VL; others are refused.
    """

    depth: int = 32
    embed_dim: int = 1280
    num_heads: int = 16
    hidden_size: int = 3584
    mlp_ratio: int = 4
    rope_theta: float = 10_000.0

    @property
    def width(self) -> int:
        return self.embed_dim

    @property
    def output(self) -> int:
        return self.hidden_size

    @property
    def inner(self) -> int:
        return self.embed_dim * self.mlp_ratio


@dataclass(frozen=True)
class TextConfig:
    """The Qwen2 language model. The defaults are those of transformers, which leaves values equal
    to them out of the files that it writes.
    """

    vocab_size: int = 152_064
    hidden_size: int = 8192
    intermediate_size: int = 29_568
    num_hidden_layers: int = 80
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    yarn: Yarn | None = None
    qkv_bias: ClassVar[bool] = True
    mrope_interleaved: ClassVar[bool] = False
    own_head_dim: ClassVar[bool] = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that the model is made for."""
        if self.yarn is None:
            return self.max_position_embeddings
        extended = round(self.yarn.factor * self.yarn.original_max_position_embeddings)
        return max(self.max_position_embeddings, extended)


Text = TypeVar("Text", bound=TextConfig)


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A whole model. ``trained_with`` holds the ablation switches the weights were trained under
    (empty: the release).

    nested: whether released files are in the layout, and their tensors under the names, that
    transformers 5 has; further_keys: that ``read_text`` of the generation reads.
    """

    model_type: ClassVar[str] = "qwen2_vl"
    architecture: ClassVar[str] = "Qwen2VLForConditionalGeneration"
    tower: ClassVar[type[Tower]] = VisionConfig
    nested: ClassVar[bool] = False
    further_keys: ClassVar[frozenset[str]] = frozenset()

    vision: Tower
    text: TextConfig
    tie_word_embeddings: bool = False
    image_token_id: int = 151_655
    video_token_id: int = 151_656
    vision_start_token_id: int = 151_652
    vision_end_token_id: int = 151_653
    bos_token_id: int = 151_643
    eos_token_ids: tuple[int, ...] = (151_645,)
    dtype: str = "bfloat16"
    trained_with: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        t, v = self.text, self.vision
        uneven = t.hidden_size % t.num_attention_heads and not t.own_head_dim
        if uneven or t.num_attention_heads % t.num_key_value_heads:
            raise CheckpointError(
                f"config: hidden_size {t.hidden_size}, num_attention_heads "
                f"{t.num_attention_heads} and num_key_value_heads {t.num_key_value_heads} do not "
                "divide each other"
            )
        if sum(t.mrope_section) * 2 != t.head_dim:
            raise CheckpointError(
                f"config: mrope_section {list(t.mrope_section)} must sum to half of head_dim "
                f"{t.head_dim}"
            )
        if v.width % v.num_heads or v.head_dim % 4:
            raise CheckpointError(
                f"config: the vision tower's width {v.width} / num_heads {v.num_heads} must be a "
                "multiple of 4"
            )
        if v.output != t.hidden_size:
            raise CheckpointError(
                f"config: the merger's output (vision {v.output}) is not the decoder's "
                f"hidden_size {t.hidden_size}"
            )
        try:
            self.trained.check_trained()
        except UsageError as e:
            raise CheckpointError(f"config: the weights were trained with {e}") from e

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that the model is made for."""
        return self.text.max_tokens

    @cached_property
    def trained(self) -> Switches:
        """All switches as the weights were trained."""
        return Switches(theta=self.text.rope_theta).with_(self.trained_with)

    @classmethod
    def read_text(cls, raw: Mapping[str, Any]) -> TextConfig:
        """The language model of a flat config or of a ``text_config``. Raises CheckpointError."""
        return read_text(raw, TextConfig)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Reads a released ``config.json``, flat or nested. Raises CheckpointError for another
        model type, and for keys and values that would make another model.
        """
        if raw.get("model_type") != cls.model_type:
            raise CheckpointError(
                f"config: a model of type {raw.get('model_type')!r}, not {cls.model_type!r}"
            )
        text_raw = raw.get("text_config") or raw
        vision_raw = raw.get("vision_config") or {}
        both = {**text_raw, **{k: v for k, v in raw.items() if v is not None}}
        own = {f.name for f in fields(cls)} - {"vision", "text", "trained_with", "eos_token_ids"}
        known = (
            own | {f.name for f in fields(TextConfig)} | {*WINDOW_KEYS, "hidden_act", "head_dim"}
        )
        known |= {"rope_scaling", "rope_parameters", "partial_rotary_factor", "eos_token_id"}
        known |= cls.further_keys
        no_others(text_raw, known | {"text_config", "vision_config", "evalkit"}, "")
        no_others(raw, known | {"text_config", "vision_config", "evalkit"}, "")
        text = cls.read_text(text_raw)
        settings = typed(cls, {k: both[k] for k in own if both.get(k) is not None})
        # transformers ties where either of the two places says so.
        tied = [s.get("tie_word_embeddings") for s in (raw, text_raw)]
        dtype = raw.get("dtype") or raw.get("torch_dtype") or text_raw.get("dtype") or "float32"
        ends = both.get("eos_token_id")
        if ends is not None:
            ends = tuple(ends) if isinstance(ends, list) else (ends,)
            settings["eos_token_ids"] = tuple(checked("eos_token_id", e, int) for e in ends)
        extra = raw.get("evalkit") or {}
        return cls(
            **{
                **settings,
                "vision": cls.tower.read(vision_raw),
                "text": text,
                "tie_word_embeddings": any(
                    checked("tie_word_embeddings", t, bool) for t in tied if t is not None
                ),
                "dtype": str(dtype).removeprefix("torch."),
                "trained_with": dict(extra.get("trained_with") or {}),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The flat layout of the released ``config.json``; inverse of ``from_dict``."""
        v, t = self.vision, self.text
        flat: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "use_cache": True,
            "use_sliding_window": False,
            "sliding_window": t.max_position_embeddings,
            "max_window_layers": t.num_hidden_layers,
            "torch_dtype": self.dtype,
        }
        flat |= {k: v for k, v in asdict(t).items() if k not in ("mrope_section", "yarn")}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("vision", "text", "dtype", "trained_with", "eos_token_ids"):
            del own[name]
        ends = self.eos_token_ids
        flat |= own | {"eos_token_id": ends[0] if len(ends) == 1 else list(ends)}
        flat["rope_scaling"] = {"type": "mrope", "mrope_section": list(t.mrope_section)}
        if t.yarn:
            flat["rope_scaling"] |= {"type": "yarn", "rope_type": "yarn", **asdict(t.yarn)}
        flat["vision_config"] = v.written()
        if self.trained_with:
            flat["evalkit"] = {"schema_version": 1, "trained_with": dict(self.trained_with)}
        return flat

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ``folder/config.json``. Raises CheckpointError, with the file, for one that is
        absent or can't be this model's.
        """
        path = folder / "config.json"
        raw = read_config(folder)
        try:
            return cls.from_dict(raw)
        except CheckpointError as e:
            raise CheckpointError(f"{path}: {str(e).removeprefix('config: ')}") from e
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as e:
            raise CheckpointError(f"{path}: a value has the wrong type or size ({e})") from e


def read_text(raw: Mapping[str, Any], cls: type[Text]) -> Text:
    """The language model of a flat config or of a ``text_config``. Raises CheckpointError."""
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"config: hidden_act {raw['hidden_act']!r}; released models have 'silu'"
        )
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    given = {**raw, **{k: rope[k] for k in ("rope_theta", "mrope_section") if k in rope}}
    names = {f.name for f in fields(cls)} - {"mrope_section", "yarn"}
    values = typed(cls, {k: given[k] for k in names if given.get(k) is not None})
    if "num_key_value_heads" in raw and raw["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values.get("num_attention_heads", cls.num_attention_heads)
    if given.get("mrope_section") is not None:
        values["mrope_section"] = triple(given["mrope_section"])
    text = cls(**values)
    for name, expected in (("head_dim", text.head_dim), ("partial_rotary_factor", 1.0)):
        for section in (raw, rope):
            if section.get(name) not in (None, expected):
                raise CheckpointError(f"config: {name} {section[name]}; this model has {expected}")
    no_window(raw, text.num_hidden_layers)
    return replace(text, yarn=read_yarn(rope, text.max_position_embeddings))


def _released(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool = False
) -> Qwen2VLConfig:
    text = TextConfig(vocab, hidden, inner, layers, heads, kv_heads, rms_norm_eps=1e-6)
    return Qwen2VLConfig(VisionConfig(hidden_size=hidden), text, tie_word_embeddings=tied)


RELEASED: Mapping[str, Qwen2VLConfig] = {
    "2B": _released(1536, 8960, 28, 12, 2, 151_936, tied=True),
    "7B": _released(3584, 18_944, 28, 28, 4, 152_064),
    "72B": _released(8192, 29_568, 80, 64, 8, 152_064),
}
"""The released sizes by the name their model cards give them."""
