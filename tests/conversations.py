"""Random conversations for models of any generation: ids, patches, grids, and what is known of the
times of clips, as ``forward`` and `transformers` take them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evalkit.engine import Media
from evalkit.models.qwen2_vl.rope import merged

IMAGE, VIDEO, START, END = 50, 51, 48, 49
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "bos_token_id": 0,
    "eos_token_ids": (1,),
}


def text(rng: np.random.Generator, most: int = 6) -> list[int]:
    return [int(x) for x in rng.integers(2, 40, rng.integers(1, most))]


def grid(rng: np.random.Generator, kind: str, most: int = 7) -> tuple[int, int, int]:
    """Of an image ('i'), a clip ('v'), or one with a side of one visual token ('l')."""
    h, w = (2 * int(n) for n in rng.integers(1, most + 1, 2))
    t = int(rng.integers(2, 5)) if kind == "v" else 1
    return (t, 2, w) if kind == "l" else (t, h, w)


def conversation(
    rng: np.random.Generator, kinds: str, features: int, steps: bool = False
) -> tuple[list[int], list[Media], dict[str, Any]]:
    """Ids of text with visuals of ``kinds`` in between, the media, and the arguments of a model.
    With ``steps`` each frame pair of a clip stands between delimiters of its own, after text.
    """
    ids, media = text(rng), []
    patches: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for kind in kinds:
        shape, is_video = grid(rng, kind), kind == "v"
        t, h, w = merged(shape)
        seconds = 2 / float(rng.uniform(0.5, 4)) if is_video else None
        media.append(Media(shape, is_video, seconds))
        patches[is_video].append(
            torch.from_numpy(rng.normal(size=(shape[0] * shape[1] * shape[2], features))).float()
        )
        token = VIDEO if is_video else IMAGE
        if is_video and steps:
            for _ in range(t):
                ids += [*text(rng), START, *[token] * (h * w), END]
        else:
            ids += [START, *[token] * (t * h * w), END]
        ids += text(rng)
    args: dict[str, Any] = {}
    for is_video, prefix, name in ((False, "image", ""), (True, "video", "_videos")):
        grids = [m.grid for m in media if m.is_video == is_video]
        if grids:
            args[f"pixel_values{name}"] = torch.cat(patches[is_video])
            args[f"{prefix}_grid_thw"] = grids
    return ids, media, args


def seconds(media: list[Media]) -> list[float]:
    """``second_per_grid_ts``, in the fp32 in which processors hand them over."""
    return [float(np.float32(m.seconds_per_step)) for m in media if m.is_video]
