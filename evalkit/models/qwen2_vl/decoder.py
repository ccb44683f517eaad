"""The language model: a Qwen2 decoder with grouped-query attention and rotary positions given from
outside (paper section 2.1).

How queries meet keys (padded batches, packs, a cache) is not the decoder's business: each layer
hands its q, k and v to an attention backend (``Attend``) and takes back the attention output. The
default is plain causal attention over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.interface import Attend
from evalkit.models.qwen2_vl.attention import causal
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.rope import rotate


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (arXiv 1910.07467), always in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


class Attention(nn.Module):
    """The projections of an attention layer: q, k, v with bias, output without, as in Qwen2.

    ``q_norm`` and ``k_norm`` do nothing here; Qwen3 has norms there.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.qkv_bias
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., hidden] -> queries [..., heads, head_dim], keys and values [..., kv_heads,
        head_dim].
        """
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.q_norm(q), self.k_norm(k), v


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias)
        self.up_proj = nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def dense(config: TextConfig, number: int) -> nn.Module:
    """The MLP of the layer with that number, which is alike in all of them."""
    return MLP(config.hidden_size, config.intermediate_size)


class DecoderLayer(nn.Module):
    """Norm, attention, norm, MLP, each pair added to the residual stream. ``project`` and
    ``finish`` are what lies before and behind attention; both act on each token alone.
    """

    def __init__(
        self, config: TextConfig, number: int, attention: Attention, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.number = number
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., hidden] -> rotated queries [..., heads, head_dim] and keys, and values, [...,
        kv_heads, head_dim].
        """
        q, k, v = self.self_attn.qkv(self.input_layernorm(x))
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output [..., hidden] for its input ``x`` [..., hidden] and the attention
        output [..., heads, head_dim].
        """
        x = x + self.self_attn.o_proj(attended.flatten(-2))
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        return self.finish(x, attend(self.number, *self.project(x, cos, sin)))


class Decoder(nn.Module):
    """Embeddings, layers and final norm; the head that makes logits of it is the model's."""

    def __init__(
        self,
        config: TextConfig,
        attention: Callable[[TextConfig], Attention] = Attention,
        mlp: Callable[..., nn.Module] = dense,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, attention(config), mlp(config, i))
            for i in range(config.num_hidden_layers)
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
