"""What a released model needs when it is shared out over cards: `python benchmarks/planning.py
[--family qwen2_vl] [--size 72b]`.

Memory and traffic by computation: the sizes of the release, cut as tensor parallelism cuts them.
Nothing is loaded. Traffic is what each card sends and receives in rings: 2 (N - 1) / N of what is
summed, and (N - 1) / N of what is gathered.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from evalkit.models.qwen2_vl.config import RELEASED, Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.parallel import Share

CARD = 80e9
"""Bytes of a card; a twentieth is left to CUDA and the allocator."""
BYTES = 2
"""Of a number in bfloat16."""
PACK = 2048
"""Prompt tokens that are prefilled at once."""


def table(config: Qwen2VLConfig, cards: tuple[int, ...] = (1, 2, 4, 8)) -> list[str]:
    """Markdown rows, one a number of cards."""
    with torch.device("meta"):
        model = Qwen2VL(config).to(torch.bfloat16)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    t, v = config.text, config.vision
    lines = [
        "| cards | weights GB a card | KV kB a token | pack GB | cache tokens | sent MB a prompt "
        "token | sent MB a step of 64 rows |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in cards:
        share = Share(config, 0, n)
        weights = 0
        for name, shape in shapes.items():
            if part := share.part(name, shape):
                size = len(part.ranges) * part.size
                shape = (size, *shape[1:]) if part.dim == 0 else (shape[0], size)
            weights += BYTES * math.prod(shape)
        kv = 2 * BYTES * t.num_hidden_layers * share.kv_heads * t.head_dim
        pack = PACK * model.activation_bytes
        left = int((0.95 * CARD - weights - pack) // kv)
        ring = 2 * (n - 1) / n * BYTES
        token = ring * (2 * t.num_hidden_layers + 1) * t.hidden_size
        logits = (n - 1) / n * BYTES * t.vocab_size
        lines.append(
            f"| {n} | {weights / 1e9:.1f} | {kv / 1e3:.0f} | {pack / 1e9:.1f} | "
            f"{f'{left:,}' if left > 0 else 'does not fit'} | {token / 1e6:.1f} | "
            f"{64 * (token + logits) / 1e6:.0f} |"
        )
    patch = 2 * BYTES * 2 * v.depth * v.width
    lines += ["", f"A visual token's four patches add {4 * patch / 2e6:.1f} MB x 2 (N - 1) / N."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="72B", choices=[*RELEASED])
    args = parser.parse_args()
    print("\n".join(table(RELEASED[args.size])))


if __name__ == "__main__":
    main()
