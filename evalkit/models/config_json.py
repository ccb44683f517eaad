"""``config.json`` read strictly, whatever the family: its values checked, and what would change the
mathematics unnoticed refused by name.

A key that a family doesn't know is refused, since it may change what the model computes;
``HARMLESS`` lists those that don't. Rotary settings are read in both spellings (``rope_scaling`` of
the releases, ``rope_parameters`` of transformers 5), YaRN included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from evalkit.errors import CheckpointError

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
class Yarn:
    """YaRN (arXiv 2309.00071), by which the model cards extend the context.

    factor: what the low frequencies are divided by.
    original_max_position_embeddings: tokens of context that the weights were trained with.
    attention_factor: factor on cos and sin, so its square on the attention logits.
    beta_fast, beta_slow: rotations within the original context above which a frequency is left as
        it is, and below which it is divided by the whole factor.
    truncate: whether the frequencies between them are counted in whole numbers.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


def read_yarn(rope: Mapping[str, Any], max_position_embeddings: int) -> Yarn | None:
    """The context extension that ``rope_scaling`` asks for; None for plain M-RoPE. Raises
    CheckpointError for another type, and for unknown keys.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "mrope"):
        no_others(rope, ROPE_KEYS, "rope_scaling.")
        return None
    if kind != "yarn":
        raise CheckpointError(
            f"config: rope_scaling of type {kind!r} is not implemented; default (mrope) and yarn "
            "are"
        )
    names = {f.name for f in fields(Yarn)}
    no_others(rope, {*ROPE_KEYS, *names, "mscale", "mscale_all_dim"}, "rope_scaling.")
    given = {k: v for k, v in rope.items() if v is not None}
    original = given.setdefault("original_max_position_embeddings", max_position_embeddings)
    factor = given.setdefault("factor", max_position_embeddings / original)

    def amplitude(scale: float) -> float:
        """The paper's section 3.4 for a scale of 1; other scales are DeepSeek's."""
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    scales = given.get("mscale"), given.get("mscale_all_dim")
    plain = amplitude(1.0)
    given.setdefault(
        "attention_factor",
        amplitude(scales[0]) / amplitude(scales[1]) if scales[0] and scales[1] else plain,
    )
    return Yarn(**typed(Yarn, {k: v for k, v in given.items() if k in names}))


def no_window(raw: Mapping[str, Any], layers: int) -> None:
    """Raises CheckpointError where one of a model's ``layers`` attends to a sliding window only, or
    is of an unknown kind.
    """
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


def no_others(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises CheckpointError for keys with a value that are neither ``known`` nor harmless."""
    others = [k for k, v in raw.items() if v is not None and k not in HARMLESS and k not in known]
    if others:
        raise CheckpointError(
            f"config: {', '.join(where + k for k in others)}: unknown here, and may change what "
            "the model computes; remove what is known to make no difference"
        )


def typed(cls: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw``, its values checked against the types of the fields of ``cls``; numbers are above
    0. Raises CheckpointError as ``checked``.
    """
    hints = get_type_hints(cls)
    return {k: checked(k, v, hints[k]) for k, v in raw.items()}


def checked(name: str, value: Any, kind: Any) -> Any:
    """``value`` as a ``kind``. Raises CheckpointError that names the key."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, float) and is_number:
        least = 0 if name.endswith("token_id") else 1e-30
        if math.isfinite(value) and value >= least and (kind is float or value == int(value)):
            return kind(value)
    elif kind == tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(n) is int and n >= 0 for n in value):
            return tuple(value)
    elif kind not in (int, float) and isinstance(value, kind):
        return value
    raise CheckpointError(f"config: {name} is {value!r}, not {_EXPECTED.get(kind, kind)}")


_EXPECTED = {
    int: "a whole number above 0",
    float: "a number above 0",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers",
}


def triple(section: Sequence[int]) -> tuple[int, int, int]:
    """``mrope_section``: frequencies of time, rows and columns."""
    t, h, w = (checked("mrope_section", n, int) for n in section)
    return t, h, w
