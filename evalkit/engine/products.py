"""Products and attention on a CPU, each in the way that is the fastest on the processor.

For float32 torch has two libraries: MKL behind ``F.linear`` and in its attention kernel, and
oneDNN. On Intel's processors and AMD's Zen 4 they are level; on Zen 5, whose vectors have all 512
bits while MKL uses 256, oneDNN takes less than half of the time. In bfloat16 the attention kernel
multiplies as slowly as in float32 where a processor has bfloat16 instructions for vectors alone.
What serves is measured once in a process, in processor time and with a margin, so that a machine
takes the same every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = 512, 256, 512
"""Rows, inputs and outputs of the product that is timed: 3 ms at 50 GFLOP/s."""
ROUNDS, MARGIN = 5, 1.15
LONG = 512
"""Tokens of a sequence from which its attention may be products."""
SCORE_BYTES = 1 << 22
"""Bytes of scores that are made at a time, so that they stay in cache; but for at least 64 queries,
since oneDNN makes a kernel for each number of keys that a causal block sees.
"""
_faster: dict[str | tuple[str, int], bool] = {}
_measuring = RLock()


def faster(
    name: str | tuple[str, int], one: Callable[[], object], other: Callable[[], object]
) -> bool:
    """Whether ``one`` takes less than 1 / MARGIN of the time of ``other``; measured at the first
    call with that name, and remembered. In processor time, which is the same on a busy machine.
    """
    with _measuring:
        if name not in _faster:
            seconds = [float("inf"), float("inf")]
            for _ in range(ROUNDS):
                for i, way in enumerate((one, other)):
                    started = time.thread_time()
                    way()
                    seconds[i] = min(seconds[i], time.thread_time() - started)
            _faster[name] = seconds[0] * MARGIN < seconds[1]
    return _faster[name]


def chosen() -> dict[str, bool]:
    """What was measured in this process so far: whether oneDNN multiplies float32, and whether long
    sequences of a type and head width are attended to by products.
    """
    return {
        name if isinstance(name, str) else f"products attend to {name[0]} of {name[1]}": way
        for name, way in _faster.items()
    }


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., inputs] times the transpose of weight [outputs, inputs], plus bias [outputs]; without
    gradients where oneDNN serves.
    """
    if (
        x.dtype is torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _onednn_serves()
    ):
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()  # oneDNN takes a thousand times as long for any other layout
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _onednn_serves() -> bool:
    if (known := _faster.get("oneDNN")) is not None:
        return known
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # a build of torch without oneDNN
        return _faster.setdefault("oneDNN", False)
    rows, inputs, outputs = SHAPE
    x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs)
    return faster("oneDNN", lambda: _onednn(x, weight, None), lambda: F.linear(x, weight))


class Linear(nn.Module):
    """``nn.Linear`` by ``linear``, over the same weights; of several layers that see the same, one
    that gives what they give, end to end.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.weight = _joined([layer.weight for layer in layers])
        biases: list[Tensor] = [b for x in layers if isinstance(b := x.bias, Tensor)]
        self.bias = _joined(biases) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else nn.Parameter(torch.cat([*parts]), requires_grad=False)


def attend_by_products(out: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> None:
    """Attention of q over k and v into ``out``: two products and a softmax for each head and block
    of queries. ``out`` and q are [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim].
    """
    n, shared = len(q), q.shape[1] // k.shape[1]
    rows = min(max(SCORE_BYTES // (n * q.element_size()), 64), LONG)
    for head in range(q.shape[1]):
        # scaled here, since queries are fewer than scores
        queries = q[:, head] * q.shape[-1] ** -0.5
        if head % shared == 0:
            keys = k[:, head // shared].contiguous()  # [tokens, head_dim]
            values = v[:, head // shared].contiguous()
        for start in range(0, n, rows):
            end = min(start + rows, n)
            seen = end if causal else n
            scores = linear(queries[start:end], keys[:seen])  # [rows, seen]
            if causal:
                later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
                scores[:, start:].masked_fill_(later, -torch.inf)
            out[start:end, head] = linear(scores.softmax(-1), values[:seen].T)


def products_win(q: Tensor, tokens: int) -> bool:
    """Whether ``attend_by_products`` is the faster for sequences of so many tokens with heads as
    wide as those of q [..., head_dim]. Measured once, on 1,024 tokens of one head.
    """
    if tokens < LONG or q.device.type != "cpu" or torch.is_grad_enabled():
        return False
    like = torch.ones(2 * LONG, 1, q.shape[-1], dtype=q.dtype)

    def kernel() -> Tensor:
        x = like.transpose(0, 1)[None]  # [1, heads, tokens, head_dim]
        return F.scaled_dot_product_attention(x, x, x)

    def products() -> None:
        attend_by_products(torch.empty_like(like), like, like, like)

    return faster((str(q.dtype).removeprefix("torch."), q.shape[-1]), products, kernel)
