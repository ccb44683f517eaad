"""The numbers that define a Qwen3-VL with experts: the released sizes, and what any ``config.json``
says.

Sizes are those of the released 30B-A3B and 235B-A22B. ``num_experts`` is the releases' name of what
transformers 5 writes as ``num_local_experts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from evalkit.errors import CheckpointError
from evalkit.models.qwen3_vl.config import Qwen3VLConfig, VisionConfig
from evalkit.models.qwen3_vl.config import TextConfig as Qwen3TextConfig

EXPERTS = ("num_experts", "num_local_experts")
TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class TextConfig(Qwen3TextConfig):
    """A Qwen3 language model in which experts take the place of MLPs.

    intermediate_size: of the MLPs that are left; moe_intermediate_size: of an expert.
    num_experts: of a layer; num_experts_per_tok: that a token passes.
    decoder_sparse_step: the distance between layers with experts, 1 for all; mlp_only_layers:
        numbers, from 0, of those that have none all the same.
    """

    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    moe_intermediate_size: int = 1408
    num_experts: int = 60
    num_experts_per_tok: int = 4
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_experts_per_tok > self.num_experts:
            raise CheckpointError(
                f"config: num_experts_per_tok {self.num_experts_per_tok}: the model has only "
                f"num_experts {self.num_experts}"
            )

    def has_experts(self, layer: int) -> bool:
        """Whether the layer with that number, from 0, has experts in place of an MLP."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


@dataclass(frozen=True)
class Qwen3VLMoeConfig(Qwen3VLConfig):
    """A whole model."""

    model_type: ClassVar[str] = "qwen3_vl_moe"
    architecture: ClassVar[str] = "Qwen3VLMoeForConditionalGeneration"
    further_keys: ClassVar[frozenset[str]] = Qwen3VLConfig.further_keys | {
        *(*EXPERTS, "num_experts_per_tok", "moe_intermediate_size"),
        *("decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"),
        *("output_router_logits", "router_aux_loss_coef"),  # of training
    }

    text_kind: ClassVar[type[Qwen3TextConfig]] = TextConfig

    text: TextConfig

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """As in Qwen3-VL, but the head is tied to the embedding only where the root says so: what
        transformers 5 writes says true in ``text_config``, and is not tied.
        """
        if text := raw.get("text_config"):
            raw = {**raw, "text_config": {k: v for k, v in text.items() if k != TIED}}
        return super().from_dict(raw)

    @classmethod
    def read_text(cls, raw: Mapping[str, Any]) -> Qwen3TextConfig:
        """The language model of a ``text_config``. Raises CheckpointError."""
        if raw.get("norm_topk_prob") not in (None, True):
            raise CheckpointError(
                f"config: norm_topk_prob {raw['norm_topk_prob']!r}: every Qwen3-VL has true, which "
                "transformers takes whatever is said here; remove it where the weights were "
                "trained so"
            )
        numbers = [n for k in EXPERTS if (n := raw.get(k)) is not None]
        if len({*numbers}) > 1:
            raise CheckpointError(
                f"config: {' and '.join(EXPERTS)} are two names of one number, here {numbers[0]} "
                f"and {numbers[1]}; remove the wrong one"
            )
        text = super().read_text({**raw, **({"num_experts": numbers[0]} if numbers else {})})
        if raw.get("head_dim") is None:
            text = replace(text, head_dim=text.hidden_size // text.num_attention_heads)
        return text

    def to_dict(self) -> dict[str, Any]:
        """The nested layout of the released ``config.json``; inverse of ``from_dict``."""
        raw = super().to_dict()
        layers = list(self.text.mlp_only_layers)
        raw["text_config"] |= {"mlp_only_layers": layers, "norm_topk_prob": True}
        return raw


def _released(hidden: int, inner: int, layers: int, heads: int, expert: int) -> Qwen3VLMoeConfig:
    text = TextConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        max_position_embeddings=262_144,
        rope_theta=5_000_000.0,
        moe_intermediate_size=expert,
        num_experts=128,
        num_experts_per_tok=8,
    )
    return Qwen3VLMoeConfig(VisionConfig(out_hidden_size=hidden), text)


RELEASED: Mapping[str, Qwen3VLMoeConfig] = {
    "Qwen3-VL-30B-A3B": _released(2048, 6144, 48, 32, 768),
    "Qwen3-VL-235B-A22B": _released(4096, 12_288, 94, 64, 1536),
}
"""The released sizes with experts."""
