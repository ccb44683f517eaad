"""The language model: a Qwen2 decoder with grouped-query attention and rotary positions given from
outside (paper section 2.1).

How queries meet keys (padded batches, packs, a cache) is not the decoder's business: each layer
hands its q, k and v to an ``Attend`` function and takes back the mixture. The default is plain
causal attention over the whole sequence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.interface import Attend
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.rope import rotate


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over whole sequences without padding; an ``Attend``."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


class Masked:
    """Attention under a boolean mask [batch, 1, tokens, tokens] (True: may attend); an
    ``Attend``.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, enable_gqa=True
        ).transpose(1, 2)


class CrossModal:
    """Attention between visual tokens and text, scaled; an ``Attend`` around another.

    ``visual`` [batch, tokens] marks the visual tokens. ``multiply``: logits of pairs of unlike kind
    times ``scale`` (which raises negative ones); ``bias``: log ``scale`` added to them, so that
    their weights are ``scale`` times those of like pairs before normalisation. Both are written
    into wider queries and keys, so that caches and kernels stay as they are: a query's block for
    its own kind meets a key's blocks, one for queries of text, one for visual queries.
    """

    def __init__(self, attend: Attend, visual: Tensor, form: str, scale: float) -> None:
        self.attend, self.form, self.scale = attend, form, scale
        self.own = torch.stack((~visual, visual), -1).long()[..., None, :, None]
        self.unlike = 1 - self.own

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        d = q.shape[-1]
        own, unlike = self.own.to(q.dtype), self.unlike.to(q.dtype)
        if self.form == "multiply":
            q = (own * q[..., None, :]).flatten(-2)
            k = ((own + self.scale * unlike) * k[..., None, :]).flatten(-2)
        else:
            q, k = (
                torch.cat((x, y.expand(*x.shape[:-1], 2, 1).flatten(-2)), -1)
                for x, y in ((q, own), (k, unlike))
            )
            k[..., d:] *= d**0.5 * math.log(self.scale)
        return self.attend(layer, q * (q.shape[-1] / d) ** 0.5, k, v)

    @staticmethod
    def key_dim(form: str, head_dim: int) -> int:
        """How wide keys become."""
        return 2 * head_dim if form == "multiply" else head_dim + 2


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


class Attention(nn.Module):
    """q, k, v with bias, output without, as in Qwen2."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.o_proj = nn.Linear(
            config.num_attention_heads * config.head_dim, config.hidden_size, bias=False
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(self.layer, rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.o_proj(mixed.flatten(-2))


class MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend = causal) -> Tensor:
        """Hidden states after the final norm for embeddings x [batch, tokens, hidden]; cos and sin
        are [batch, tokens, head_dim].
        """
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        return self.norm(x)
