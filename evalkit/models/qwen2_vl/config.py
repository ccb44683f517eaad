"""The numbers that define a Qwen2-VL: the three released sizes, and what any released
``config.json`` says.

Sizes are those of the released checkpoints (arXiv 2409.12191, table 1, and their ``config.json``).
Both layouts are read: the flat one on the hub, and the nested one (``text_config``) that newer
versions of transformers write. The flat one is written. A key that this code doesn't know is
refused by name, since it may change what the model computes; ``HARMLESS`` lists those that don't.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from evalkit.errors import CheckpointError, UsageError
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.weights import read_config

HARMLESS = frozenset(
    # names and versions
    "architectures model_type _name_or_path transformers_version _commit_hash auto_map "
    "processor_class tokenizer_class torch_dtype dtype unsloth_fixed unsloth_version "
    # how transformers runs a model
    "attn_implementation _attn_implementation _attn_implementation_autoset "
    "_attn_implementation_internal use_cache return_dict use_return_dict output_attentions "
    "output_hidden_states torchscript use_bfloat16 pruned_heads chunk_size_feed_forward "
    "is_encoder_decoder is_decoder add_cross_attention cross_attention_hidden_size "
    "tie_encoder_decoder tf_legacy_loss gradient_checkpointing "
    # training
    "initializer_range attention_dropout hidden_dropout dropout problem_type finetuning_task "
    "id2label label2id num_labels task_specific_params "
    # generation, which evalkit does greedily
    "max_length max_new_tokens min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
    "prefix pad_token_id sep_token_id decoder_start_token_id "
    # a token that no prompt holds
    "vision_token_id".split()
)
"""Keys of ``config.json`` that don't change what the model computes."""
ROPE_KEYS = ("type", "rope_type", "rope_theta", "mrope_section", "partial_rotary_factor")
WINDOW_KEYS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower; the same in all released sizes but for ``hidden_size``, the width of the
    merger's output. The patch sizes are those of every Qwen2-VL; others are refused.
    """

    depth: int = 32
    embed_dim: int = 1280
    num_heads: int = 16
    hidden_size: int = 3584
    mlp_ratio: int = 4
    rope_theta: float = 10_000.0
    patch_size: ClassVar[int] = 14
    temporal_patch_size: ClassVar[int] = 2
    spatial_merge_size: ClassVar[int] = 2
    in_channels: ClassVar[int] = 3

    @property
    def patch_features(self) -> int:
        """Values in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071), by which the model cards extend the context.

    factor: by how much the slow frequencies are slowed down.
    original_max_position_embeddings: tokens of context that the weights were trained with.
    attention_factor: factor on cos and sin, so its square on the attention logits.
    beta_fast, beta_slow: rotations within the original context above which a frequency is left as
        it is, and below which it is slowed down wholly.
    truncate: whether the frequencies between them are counted in whole numbers.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


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


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A whole model. ``trained_with`` holds the ablation switches the weights were trained under
    (empty: the release).
    """

    model_type: ClassVar[str] = "qwen2_vl"

    vision: VisionConfig
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
        if t.hidden_size % t.num_attention_heads or t.num_attention_heads % t.num_key_value_heads:
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

        try:
            self.trained  # noqa: B018 - invalid values are refused as the file is read
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
    def from_dict(cls, raw: Mapping[str, Any]) -> Qwen2VLConfig:
        """Reads a released ``config.json``, flat or nested. Raises CheckpointError for another
        model type, and for keys and values that would make another model.
        """
        if raw.get("model_type") != "qwen2_vl":
            raise CheckpointError(
                f"config: a model of type {raw.get('model_type')!r}, not 'qwen2_vl'"
            )
        text_raw = raw.get("text_config") or raw
        vision_raw = raw.get("vision_config") or {}
        both = {**text_raw, **{k: v for k, v in raw.items() if v is not None}}
        own = {f.name for f in fields(cls)} - {"vision", "text", "trained_with", "eos_token_ids"}
        known = (
            own | {f.name for f in fields(TextConfig)} | {*WINDOW_KEYS, "hidden_act", "head_dim"}
        )
        known |= {"rope_scaling", "rope_parameters", "partial_rotary_factor", "eos_token_id"}
        _no_others(text_raw, known | {"text_config", "vision_config", "evalkit"}, "")
        _no_others(raw, known | {"text_config", "vision_config", "evalkit"}, "")
        text = _text(text_raw)
        settings = _typed(cls, {k: both[k] for k in own if both.get(k) is not None})
        # transformers ties where either of the two places says so.
        tied = [s.get("tie_word_embeddings") for s in (raw, text_raw)]
        dtype = raw.get("dtype") or raw.get("torch_dtype") or text_raw.get("dtype") or "float32"
        ends = both.get("eos_token_id")
        if ends is not None:
            ends = tuple(ends) if isinstance(ends, list) else (ends,)
            settings["eos_token_ids"] = tuple(_value("eos_token_id", e, int) for e in ends)
        extra = raw.get("evalkit") or {}
        return cls(
            **{
                **settings,
                "vision": _vision(vision_raw),
                "text": text,
                "tie_word_embeddings": any(
                    _value("tie_word_embeddings", t, bool) for t in tied if t is not None
                ),
                "dtype": str(dtype).removeprefix("torch."),
                "trained_with": dict(extra.get("trained_with") or {}),
            }
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
        flat |= {k: v for k, v in asdict(t).items() if k not in ("mrope_section", "yarn")}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("vision", "text", "dtype", "trained_with", "eos_token_ids"):
            del own[name]
        ends = self.eos_token_ids
        flat |= own | {"eos_token_id": ends[0] if len(ends) == 1 else list(ends)}
        flat["rope_scaling"] = {"type": "mrope", "mrope_section": list(t.mrope_section)}
        if t.yarn:
            flat["rope_scaling"] |= {"type": "yarn", "rope_type": "yarn", **asdict(t.yarn)}
        flat["vision_config"] = {
            **{k: v for k, v in asdict(v).items() if k != "rope_theta"},
            "patch_size": v.patch_size,
            "spatial_patch_size": v.patch_size,
            "temporal_patch_size": v.temporal_patch_size,
            "spatial_merge_size": v.spatial_merge_size,
            "in_chans": v.in_channels,
            "hidden_act": "quick_gelu",
            "model_type": "qwen2_vl",
        }
        if v.rope_theta != VisionConfig.rope_theta:
            flat["vision_config"]["rope_parameters"] = {
                "rope_type": "axial",
                "rope_theta": v.rope_theta,
            }
        if self.trained_with:
            flat["evalkit"] = {"schema_version": 1, "trained_with": dict(self.trained_with)}
        return flat

    @classmethod
    def load(cls, folder: Path) -> Qwen2VLConfig:
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


def _text(raw: Mapping[str, Any]) -> TextConfig:
    """The language model of a flat config or of a ``text_config``."""
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config: hidden_act {raw['hidden_act']!r}; Qwen2-VL has 'silu'")
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    given = {**raw, **{k: rope[k] for k in ("rope_theta", "mrope_section") if k in rope}}
    names = {f.name for f in fields(TextConfig)} - {"mrope_section", "yarn"}
    values = _typed(TextConfig, {k: given[k] for k in names if given.get(k) is not None})
    if "num_key_value_heads" in raw and raw["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values.get("num_attention_heads", 64)
    if given.get("mrope_section") is not None:
        values["mrope_section"] = _triple(given["mrope_section"])
    text = TextConfig(**values)
    for name, expected in (("head_dim", text.head_dim), ("partial_rotary_factor", 1.0)):
        for section in (raw, rope):
            if section.get(name) not in (None, expected):
                raise CheckpointError(f"config: {name} {section[name]}; Qwen2-VL has {expected}")
    _no_window(raw, text.num_hidden_layers)
    return replace(text, yarn=_yarn(rope, text))


def _vision(raw: Mapping[str, Any]) -> VisionConfig:
    """The vision tower of a ``vision_config``."""
    c = VisionConfig
    sizes: dict[str, Any] = {
        "patch_size": c.patch_size,
        "spatial_patch_size": c.patch_size,
        "temporal_patch_size": c.temporal_patch_size,
        "spatial_merge_size": c.spatial_merge_size,
        "in_channels": c.in_channels,
        "in_chans": c.in_channels,
        "hidden_act": "quick_gelu",
    }
    for name, expected in sizes.items():
        if raw.get(name, expected) not in (expected, [expected] * 2):
            raise CheckpointError(
                f"config: vision {name} {raw[name]!r}; every Qwen2-VL has {expected!r}"
            )
    names = {f.name for f in fields(c)}
    _no_others(raw, {*sizes, *names, "rope_parameters"}, "vision_config.")
    rope = raw.get("rope_parameters") or {}
    _no_others(rope, {"type", "rope_type", "rope_theta"}, "vision_config.rope_parameters.")
    if rope.get("rope_type", "axial") not in ("axial", "default"):
        raise CheckpointError(f"config: vision rope_type {rope['rope_type']!r} is not implemented")
    given = {**raw, **{k: rope[k] for k in ("rope_theta",) if k in rope}}
    return c(**_typed(c, {k: given[k] for k in names if given.get(k) is not None}))


def _yarn(rope: Mapping[str, Any], text: TextConfig) -> Yarn | None:
    """The context extension that ``rope_scaling`` asks for; None for plain M-RoPE."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "mrope"):
        _no_others(rope, ROPE_KEYS, "rope_scaling.")
        return None
    if kind != "yarn":
        raise CheckpointError(
            f"config: rope_scaling of type {kind!r} is not implemented; default (mrope) and yarn "
            "are"
        )
    names = {f.name for f in fields(Yarn)}
    _no_others(rope, {*ROPE_KEYS, *names, "mscale", "mscale_all_dim"}, "rope_scaling.")
    given = {k: v for k, v in rope.items() if v is not None}
    original = given.setdefault("original_max_position_embeddings", text.max_position_embeddings)
    factor = given.setdefault("factor", text.max_position_embeddings / original)

    def amplitude(scale: float) -> float:
        """The paper's section 3.4 for a scale of 1; other scales are DeepSeek's."""
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    scales = given.get("mscale"), given.get("mscale_all_dim")
    plain = amplitude(1.0)
    given.setdefault(
        "attention_factor",
        amplitude(scales[0]) / amplitude(scales[1]) if scales[0] and scales[1] else plain,
    )
    return Yarn(**_typed(Yarn, {k: v for k, v in given.items() if k in names}))


def _no_window(raw: Mapping[str, Any], layers: int) -> None:
    """Raises CheckpointError where some layer attends to a sliding window only."""
    window, first = raw.get("sliding_window", 4096), raw.get("max_window_layers", 80)
    kinds = raw.get("layer_types") or ()
    slides = "sliding_attention" in kinds if kinds else first is not None and first < layers
    if raw.get("use_sliding_window") and window is not None and slides:
        raise CheckpointError(
            f"config: use_sliding_window with a window of {window} tokens from layer {first} on is "
            "not implemented; the released checkpoints don't use one"
        )
    if others := set(kinds) - {"full_attention", "sliding_attention"}:
        raise CheckpointError(f"config: layer_types {', '.join(map(str, others))} not implemented")


def _no_others(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises CheckpointError for keys with a value that are neither ``known`` nor harmless."""
    others = [k for k, v in raw.items() if v is not None and k not in HARMLESS and k not in known]
    if others:
        raise CheckpointError(
            f"config: {', '.join(where + k for k in others)}: unknown here, and may change what "
            "the model computes; remove what is known to make no difference"
        )


def _typed(cls: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw``, its values checked against the types of the fields of ``cls``; numbers are above
    0.
    """
    hints = get_type_hints(cls)
    return {k: _value(k, v, hints[k]) for k, v in raw.items()}


def _value(name: str, value: Any, kind: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, float) and is_number:
        least = 0 if name.endswith("token_id") else 1e-30
        if math.isfinite(value) and value >= least and (kind is float or value == int(value)):
            return kind(value)
    elif kind not in (int, float) and isinstance(value, kind):
        return value
    raise CheckpointError(f"config: {name} is {value!r}, not {_EXPECTED.get(kind, kind)}")


_EXPECTED = {int: "a whole number above 0", float: "a number above 0", bool: "true or false"}


def _triple(section: Sequence[int]) -> tuple[int, int, int]:
    t, h, w = (_value("mrope_section", n, int) for n in section)
    return t, h, w


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
