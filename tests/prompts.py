"""Random prompts for the engine, with images and clips of random size."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from evalkit.engine import Media, Prompt, Visual
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor, cut, normalised
from evalkit.models.qwen2_vl.rope import grid_tokens

CPU = torch.device("cpu")
NORMALISE = partial(normalised, lookup=Processor().lookup)


def prompt(model: Qwen2VL, seed: int, kinds: str, limit: int = 12) -> Prompt:
    """Random text with images ('i') and two-pair clips ('v') of random size."""
    rng = np.random.default_rng(seed)
    c = model.config
    ids = [int(x) for x in rng.integers(0, 256, rng.integers(1, 9))]
    visuals: list[Visual] = []
    for kind in kinds:
        h, w = (28 * int(x) for x in rng.integers(1, 6, 2))
        frames = rng.integers(0, 256, (2 if kind == "i" else 4, 3, h, 2 * w), dtype=np.uint8)
        pixels, grid = cut(torch.from_numpy(frames))
        media, key = Media(grid, kind == "v"), (seed, kind, len(visuals))
        if rng.integers(2):
            visuals.append(Visual(pixels, media, key, NORMALISE))
        else:
            visuals.append(Visual(NORMALISE(pixels), media, key))
        token = c.video_token_id if kind == "v" else c.image_token_id
        ids += [
            c.vision_start_token_id,
            *[token] * grid_tokens(grid),
            c.vision_end_token_id,
        ]
        ids += [int(x) for x in rng.integers(0, 256, rng.integers(1, 5))]
    prefix = max(
        (i + 1 for i, t in enumerate(ids) if t in (c.image_token_id, c.video_token_id)), default=0
    )
    return Prompt(str(seed), tuple(ids), tuple(visuals), limit, prefix=prefix)


def of_kind(p: Prompt, is_video: bool) -> list[Visual]:
    return [v for v in p.visuals if v.media.is_video == is_video]
