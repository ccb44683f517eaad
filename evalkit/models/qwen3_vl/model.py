"""Qwen3-VL: Qwen2-VL with another vision tower and decoder, and with frame pairs apart (arXiv
2511.21631).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from evalkit.engine.interface import Media
from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.decoder import dense
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen3_vl.chat import pairs_of
from evalkit.models.qwen3_vl.config import Qwen3VLConfig
from evalkit.models.qwen3_vl.decoder import Decoder
from evalkit.models.qwen3_vl.switches import Switches
from evalkit.models.qwen3_vl.vision import VisionTransformer


class Qwen3VL(Qwen2VL):
    """The whole model. Features are as wide as the embedding and what DeepStack adds together."""

    Config: ClassVar[type[Qwen3VLConfig]] = Qwen3VLConfig
    mlp: ClassVar[Callable[..., nn.Module]] = staticmethod(dense)
    config: Qwen3VLConfig
    switches: Switches
    visual: VisionTransformer
    model: Decoder

    def parts(self) -> tuple[VisionTransformer, Decoder]:
        """The vision tower and the decoder. Raises UsageError for layers that it doesn't have."""
        c, s = self.config, self.switches
        blocks = range(len(c.vision.deepstack_visual_indexes))
        chosen = blocks if s.deepstack.chosen is None else s.deepstack.chosen
        layers = blocks if s.deepstack_layers.numbers is None else s.deepstack_layers.numbers
        if any(k not in blocks for k in chosen):
            raise UsageError(f"deepstack={s.deepstack}: this model has {len(blocks)} features")
        if len(layers) != len(blocks):
            raise UsageError(
                f"deepstack_layers={s.deepstack_layers}: expected {len(blocks)} layers, one for "
                "each feature"
            )
        if s.deepstack_layers.numbers and max(layers) >= c.text.num_hidden_layers:
            raise UsageError(
                f"deepstack_layers={s.deepstack_layers}: the decoder has "
                f"{c.text.num_hidden_layers} layers, counted from 0"
            )
        decoder = Decoder(c.text, [layers[k] for k in chosen], s.qk_norm, self.mlp)
        return VisionTransformer(c.vision, s), decoder

    @property
    def activation_bytes(self) -> int:
        """Bytes that a visual token holds at its peak, DeepStack's features among them."""
        beside = len(self.model.injected) * self.config.text.hidden_size * self.dtype.itemsize
        return super().activation_bytes + beside

    def position_ids(
        self, ids: Sequence[int], media: Sequence[Media] = (), following: int = 0
    ) -> Tensor:
        """Position ids [components, tokens + following]; a frame pair is placed as an image is."""
        if self.switches.time == "text":
            media = [part for m in media for part in pairs_of(m)]
        return super().position_ids(ids, media, following)
