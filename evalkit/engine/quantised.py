"""Linear layers with weights of 8 or 4 bits, and with activations of 8: what deployments of a model
make of it.

To nearest, symmetric about zero and without calibration: a factor for each row of a weight, or for
each 128 of its inputs, and, where activations are rounded, one for each token. The numbers are
those of compressed-tensors 0.20 (which llm-compressor writes and vLLM reads), with factors in
float32. A layer's sums of whole numbers are exact, whatever the batch. What it is given is not:
attention and norms differ in their last bit with the batch, and rounding makes a step of it where a
number lies between two. So batches change answers as they do in bfloat16, also in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.products import Linear, linear

Numbers = Literal["int8", "int4", "fp8"]

RANGES = {"int8": (-128.0, 127.0), "int4": (-8.0, 7.0), "fp8": (-448.0, 448.0)}
"""Least and largest number of a kind; fp8 is E4M3."""
SCHEMES: dict[str, tuple[Numbers, int | None, bool]] = {
    "w8a8": ("int8", None, True),
    "fp8": ("fp8", None, True),
    "w8a16": ("int8", None, False),
    "w4a16": ("int4", 128, False),
}
"""Numbers of the weights, how many of a row share a factor (None: all), and whether activations are
rounded too.
"""
ROWS, BLOCK = 128, 1 << 17
"""Tokens that a CPU rounds at a time, and sums that it scales at a time, so that they stay in
cache; the product between the two takes all tokens, and reads the weight once.
"""
ALIGNED, FEWEST = 16, 32
"""A GPU's products want whole multiples of so many inputs and outputs, and so many tokens."""


def rounded(x: Tensor, kind: Numbers) -> tuple[Tensor, Tensor]:
    """Each row of x [..., n] as numbers of that kind, [..., n], and the factors [..., 1] in float32
    that give it back.
    """
    low, high = RANGES[kind]
    x = x.float()
    factor = x.abs().amax(-1, keepdim=True) / ((high - low) / 2)
    x = (x / factor.clamp_min(torch.finfo(torch.float32).tiny)).clamp_(low, high)
    return (x.to(torch.float8_e4m3fn) if kind == "fp8" else x.round_().to(torch.int8)), factor


def rounded_weight(weight: Tensor, kind: Numbers, group: int | None = None) -> Tensor:
    """A weight [outputs, inputs] as its rounded numbers give it back, in its own dtype; ``group``
    inputs share a factor, the last ones where they don't divide.
    """
    parts = (rounded(w, kind) for w in weight.split(group or weight.shape[1], 1))
    return torch.cat([q * factor for q, factor in parts], 1).to(weight.dtype)


class QuantisedLinear(nn.Module):
    """A linear layer whose weight is in 8 bits, as is what it is given; ``kind`` says in which."""

    weight: Tensor
    factor: Tensor

    def __init__(self, layer: Linear, kind: Numbers) -> None:
        super().__init__()
        weight, factor = rounded(layer.weight, kind)  # [outputs, inputs], [outputs, 1]
        dtype, device = layer.weight.dtype, layer.weight.device
        self.outputs, self.inputs = weight.shape
        self.aligned = wants_alignment(device)
        self.kind: Numbers = kind
        self.by_floats = kind == "fp8" and not scaled_products_serve(device, dtype)
        # exact: a float8 is a bfloat16 and a float32; float16 has no room for their products
        self.floats = torch.float32 if dtype is torch.float16 else dtype
        if self.by_floats:
            weight = weight.to(self.floats)
        elif self.aligned:
            raw = weight.view(torch.int8)
            raw = F.pad(raw, (0, -self.inputs % ALIGNED, 0, -self.outputs % ALIGNED))
            factor = F.pad(factor, (0, 0, 0, -self.outputs % ALIGNED))
            weight = raw.view(weight.dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("factor", factor.T.contiguous())  # [1, outputs]
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        # x: [..., inputs] -> [..., outputs]
        out = self._product(x.reshape(-1, self.inputs))
        return out.view(*x.shape[:-1], self.outputs)

    def _product(self, x: Tensor) -> Tensor:
        in_blocks = x.device.type == "cpu" and not torch.compiler.is_compiling()
        q, factor = self._rounded(x, ROWS if in_blocks else len(x))  # [tokens, inputs], [tokens, 1]
        if self.by_floats:
            sums = linear(q.to(self.floats), self.weight)  # [tokens, outputs]
        elif self.kind == "fp8":
            q = self._filled(q.view(torch.int8), 0).view(q.dtype)
            out = torch._scaled_mm(
                q, self.weight.T, scale_a=factor, scale_b=self.factor, out_dtype=x.dtype
            )[:, : self.outputs]
            return out if self.bias is None else out + self.bias
        else:
            q = self._filled(q, max(FEWEST - len(x), 0))
            sums = torch._int_mm(q, self.weight.T)[: len(x), : self.outputs]
        if not in_blocks:
            return self._scaled(sums, factor).to(x.dtype)
        out = x.new_empty(len(x), self.outputs)
        rows = max(BLOCK // self.outputs, 1)
        for start in range(0, len(x), rows):
            some = slice(start, start + rows)
            out[some] = self._scaled(sums[some], factor[some])
        return out

    def _rounded(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        if len(x) <= rows:
            return rounded(x, self.kind)
        q, factor = zip(*(rounded(some, self.kind) for some in x.split(rows)))
        return torch.cat(q), torch.cat(factor)

    def _scaled(self, sums: Tensor, factor: Tensor) -> Tensor:
        out = sums.float().mul_(factor).mul_(self.factor[:, : self.outputs])
        return out if self.bias is None else out.add_(self.bias)

    def _filled(self, q: Tensor, tokens: int) -> Tensor:
        """q with zeros up to what a GPU's products want; zeros add nothing."""
        return F.pad(q, (0, -self.inputs % ALIGNED, 0, tokens)) if self.aligned else q


def wants_alignment(device: torch.device) -> bool:
    """Whether a device's 8-bit products take only whole multiples of ALIGNED."""
    return device.type == "cuda"


@lru_cache
def scaled_products_serve(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies float8 with a factor for each row on a device, and rightly."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return False
    generator = torch.Generator(device).manual_seed(0)
    x, w = (torch.randn(n, 64, device=device, generator=generator) for n in (32, 48))
    (a, by_a), (b, by_b) = rounded(x, "fp8"), rounded(w, "fp8")
    try:
        got = torch._scaled_mm(a, b.T, scale_a=by_a, scale_b=by_b.T.contiguous(), out_dtype=dtype)
    except RuntimeError:  # a card or a build without
        return False
    return torch.allclose(got.float(), (a.float() * by_a) @ (b.float() * by_b).T, atol=0.05)


def quantise(parts: Iterable[nn.Module], scheme: str) -> None:
    """Rounds the linear layers of ``parts``, in place; one of SCHEMES. No part's weights are held
    when the next is begun.
    """
    kind, group, activations = SCHEMES[scheme]
    for whole in parts:
        for part in [*whole.modules()]:
            for name, child in part.named_children():
                if isinstance(child, Linear) and activations:
                    part.add_module(name, QuantisedLinear(child, kind))
                elif isinstance(child, Linear):
                    child.weight.data = rounded_weight(child.weight.data, kind, group)
