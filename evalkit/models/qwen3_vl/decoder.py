"""The language model of Qwen3-VL: a Qwen3 decoder, whose first layers are given features of the
vision tower once more (DeepStack; arXiv 2511.21631, section 2.2).

Queries and keys are normed per head before they are rotated, and projections have no bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from evalkit.engine.interface import Attend
from evalkit.models.qwen2_vl.attention import causal
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.decoder import Attention as Qwen2Attention
from evalkit.models.qwen2_vl.decoder import Decoder as Qwen2Decoder
from evalkit.models.qwen2_vl.decoder import RMSNorm, dense


class Skipped(RMSNorm):
    """A norm that does nothing, under the switch ``qk_norm=off``; its weight is still loaded."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Attention(Qwen2Attention):
    """The projections of an attention layer, with norms of queries and keys."""

    def __init__(self, config: TextConfig, qk_norm: str = "on") -> None:
        super().__init__(config)
        norm = RMSNorm if qk_norm == "on" else Skipped
        self.q_norm = norm(config.head_dim, config.rms_norm_eps)
        self.k_norm = norm(config.head_dim, config.rms_norm_eps)


class Decoder(Qwen2Decoder):
    """Embeddings, layers and final norm. ``injected`` are the layers behind which features are
    added, in the order in which the features lie beside the embeddings.
    """

    def __init__(
        self,
        config: TextConfig,
        injected: Sequence[int] = (),
        qk_norm: str = "on",
        mlp: Callable[..., nn.Module] = dense,
    ) -> None:
        super().__init__(config, partial(Attention, qk_norm=qk_norm), mlp)
        self.width, self.injected = config.hidden_size, injected

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend = causal) -> Tensor:
        """Hidden states after the final norm for embeddings x [batch, tokens, hidden] or, with
        features beside them, [batch, tokens, (1 + features) * hidden].
        """
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        x, *features = x.split(self.width, dim=-1)
        for number, layer in enumerate(self.layers):
            x = layer(x, cos, sin, attend)
            for at, added in zip(self.injected, features):
                if at == number:
                    x = x + added
        return self.norm(x)
