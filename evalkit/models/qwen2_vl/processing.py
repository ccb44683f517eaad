"""From decoded pixels to what the model reads: target sizes, frame choice, patches (paper section
2.1).

The pipeline is the official one (``qwen-vl-utils`` 0.0.8 in front of the released image processor):
sides are rounded to multiples of 28 within a pixel budget, resized bicubically, normalised with
CLIP's mean and deviation, and cut into patches whose 2x2 merge blocks are contiguous. Rounding is
Python's, half to even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evalkit.errors import CheckpointError, DataError
from evalkit.models.qwen2_vl.rope import Grid, grid_tokens
from evalkit.models.qwen2_vl.switches import Limits, Switches, media_limits
from evalkit.models.weights import read_json

FACTOR = 28
FRAME_FACTOR = 2
FPS = 2.0
MIN_FRAMES, MAX_FRAMES = 4, 768
VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS, VIDEO_TOTAL_PIXELS = (
    128 * FACTOR**2,
    768 * FACTOR**2,
    24_576 * FACTOR**2,
)

Frames = NDArray[np.uint8]
"""Decoded video frames [frames, height, width, 3]."""


@dataclass(frozen=True)
class ProcessorConfig:
    """A checkpoint's ``preprocessor_config.json``. Pixel bounds are areas; the defaults are those
    of the released files.
    """

    min_pixels: int = 4 * FACTOR**2
    max_pixels: int = 16_384 * FACTOR**2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def load(cls, folder: Path) -> ProcessorConfig:
        """Reads the file, or gives the released defaults when the folder has none. Raises
        CheckpointError on other patch sizes, and on values that are none."""
        path = folder / "preprocessor_config.json"
        raw = read_json(path) if path.is_file() else {}
        sizes = (
            raw.get("patch_size", 14),
            raw.get("temporal_patch_size", 2),
            raw.get("merge_size", 2),
        )
        if sizes != (14, 2, 2):
            raise CheckpointError(
                f"{path}: patch, temporal patch and merge size {sizes}; Qwen2-VL has (14, 2, 2)"
            )
        size = raw.get("size") or {}
        default = cls()
        try:
            low = int(raw.get("min_pixels") or size.get("shortest_edge") or default.min_pixels)
            high = int(raw.get("max_pixels") or size.get("longest_edge") or default.max_pixels)
            mean, std = (
                tuple(map(float, raw.get(k, getattr(default, k))))
                for k in ("image_mean", "image_std")
            )
        except (TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(f"{path}: a value has the wrong type ({e})") from e
        if not 0 < low <= high or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise CheckpointError(
                f"{path}: expected 0 < min_pixels <= max_pixels, and three numbers in "
                "image_mean and image_std, these above 0"
            )
        return cls(low, high, mean, std)


def smart_resize(
    height: int,
    width: int,
    min_pixels: int,
    max_pixels: int,
    variant: Literal["utils", "hf"] = "utils",
    rounding: str = "round",
) -> tuple[int, int]:
    """The (height, width) nearest to the original that are multiples of 28 with an area in
    [min_pixels, max_pixels].

    ``utils`` is qwen-vl-utils 0.0.8 (sides at least 28 before the budget), ``hf`` is transformers
    5.23; they differ only for extreme shapes. ``rounding`` ceil and floor are ablations. Raises
    DataError when one side is over 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) / min(height, width) > 200:
        raise DataError(
            f"an image of {width}x{height} pixels: one side is over 200 times the other"
        )
    rules: dict[str, Callable[[float], int]] = {
        "round": round,
        "ceil": math.ceil,
        "floor": math.floor,
    }
    nearest = rules[rounding]
    h, w = nearest(height / FACTOR) * FACTOR, nearest(width / FACTOR) * FACTOR
    if variant == "utils":
        h, w = max(FACTOR, h), max(FACTOR, w)
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        w = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * beta / FACTOR) * FACTOR
        w = math.ceil(width * beta / FACTOR) * FACTOR
    return h, w


def exact_tokens(height: int, width: int, tokens: int) -> tuple[int, int]:
    """The (height, width) of exactly ``tokens`` visual tokens whose aspect ratio is closest to the
    original's.

    The constant number of tokens of the paper's table 7. A number with few divisors distorts:
    prefer 64, 576, 1600, 3136.
    """
    half = [(n, tokens // n) for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0]
    pairs = sorted({*half, *((b, a) for a, b in half)})
    h, w = min(pairs, key=lambda p: (abs(math.log(p[0] / p[1] * width / height)), p[0]))
    return h * FACTOR, w * FACTOR


def target_size(
    height: int, width: int, switches: Switches, task: Limits, checkpoint: Limits
) -> tuple[int, int]:
    """The (height, width) an image or frame is resized to, under the resolution switch and the
    pixel bounds of switches, task and checkpoint.
    """
    mode, numbers = switches.resolution.mode, switches.resolution.numbers
    if mode == "tokens":
        return exact_tokens(height, width, numbers[0])
    if mode == "size":
        return numbers[0], numbers[1]
    limits = media_limits(switches, task, checkpoint)
    assert limits.min_pixels and limits.max_pixels
    return smart_resize(
        height, width, limits.min_pixels, limits.max_pixels, rounding=switches.rounding
    )


def sample_frames(
    total: int,
    video_fps: float,
    fps: float = FPS,
    max_frames: int | None = None,
    frames: int | None = None,
) -> list[int]:
    """Indices of the frames that are shown: an even number, evenly spaced from the first to the
    last.

    Aims at ``fps`` frames a second within [4, 768] (or exactly ``frames``, rounded to even). Raises
    DataError for clips of fewer than two frames.
    """
    if frames is not None:
        n = round(frames / FRAME_FACTOR) * FRAME_FACTOR
    else:
        low = math.ceil(MIN_FRAMES / FRAME_FACTOR) * FRAME_FACTOR
        high = (max_frames or min(MAX_FRAMES, total)) // FRAME_FACTOR * FRAME_FACTOR
        n = round(min(max(total / video_fps * fps, low), high) / FRAME_FACTOR) * FRAME_FACTOR
    if not FRAME_FACTOR <= n <= total:
        raise DataError(
            f"a video of {total} frames can't give {n}: at least {FRAME_FACTOR} are needed, "
            "at most all"
        )
    return [int(i) for i in torch.linspace(0, total - 1, n).round().long()]


def frame_pixels(frames: int) -> tuple[int, int]:
    """(min_pixels, max_pixels) of each frame when ``frames`` of them share the video budget."""
    high = max(
        min(VIDEO_MAX_PIXELS, VIDEO_TOTAL_PIXELS / frames * FRAME_FACTOR),
        int(VIDEO_MIN_PIXELS * 1.05),
    )
    return VIDEO_MIN_PIXELS, int(high)


class Processor:
    """Turns decoded images and frames into patches under a checkpoint's settings and the ablation
    switches.
    """

    def __init__(
        self, config: ProcessorConfig = ProcessorConfig(), switches: Switches = Switches()
    ) -> None:
        self.config = config
        self.switches = switches
        levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        mean, std = (
            np.array(x, dtype=np.float32)[:, None] for x in (config.image_mean, config.image_std)
        )
        self.table = torch.from_numpy((levels - mean) / std)

    def image(
        self, image: Image.Image, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> tuple[Tensor, Grid]:
        """Patches [h * w, 1176] (float32) and grid (1, h, w) of one image; the bounds replace the
        checkpoint's. Raises DataError.
        """
        levels, grid = self.image_levels(image, min_pixels, max_pixels)
        return normalised(levels, self.table), grid

    def image_levels(
        self, image: Image.Image, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> tuple[Tensor, Grid]:
        """``image`` before it is normalised: an eighth of the bytes."""
        rgb = image.convert("RGB")
        height, width = target_size(
            rgb.height,
            rgb.width,
            self.switches,
            Limits(min_pixels, max_pixels),
            Limits(self.config.min_pixels, self.config.max_pixels),
        )
        resized = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC))
        return cut(torch.from_numpy(resized.copy()).permute(2, 0, 1)[None], pair=False)

    def video(
        self, frames: Frames, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> tuple[Tensor, Grid]:
        """Patches [t * h * w, 1176] and grid (t, h, w) of sampled frames; an odd last frame is
        repeated. Raises DataError.
        """
        levels, grid = self.video_levels(frames, min_pixels, max_pixels)
        return normalised(levels, self.table), grid

    def video_levels(
        self, frames: Frames, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> tuple[Tensor, Grid]:
        """``video`` before it is normalised: a quarter of the bytes."""
        size = target_size(
            frames.shape[1],
            frames.shape[2],
            self.switches,
            Limits(min_pixels, max_pixels),
            Limits(*frame_pixels(len(frames))),
        )
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        pair = self.switches.tube != "per_frame"
        if pair and len(clip) % FRAME_FACTOR:
            clip = torch.cat((clip, clip[-1:]))
        if tuple(clip.shape[-2:]) != size:
            wide = F.interpolate(clip.float(), size, mode="bicubic", antialias=True)
            clip = wide.clamp_(0, 255).round_().to(torch.uint8)
        return cut(clip, pair)


def cut(pixels: Tensor, pair: bool = True) -> tuple[Tensor, Grid]:
    """8-bit patches [t * h * w, 3, 2, 14 * 14] and grid of uint8 frames [2 * t, 3, height, width],
    sides multiples of 28.

    Without ``pair`` frames are [t, 3, height, width], and so are the patches [..., 3, 1, 14 * 14]:
    each frame is to be shown twice. Rows run over t, then merge blocks, then the 2x2 inside each.
    """
    frames, channels, height, width = pixels.shape
    own = FRAME_FACTOR if pair else 1
    t, h, w = frames // own, height // 14, width // 14
    patches = pixels.reshape(t, own, channels, h // 2, 2, 14, w // 2, 2, 14).permute(
        0, 3, 6, 4, 7, 2, 1, 5, 8
    )
    return patches.reshape(t * h * w, channels, own, -1), (t, h, w)


def normalised(levels: Tensor, table: Tensor) -> Tensor:
    """What the model reads [patches, 1176], features ordered (channel, frame, y, x), of 8-bit
    patches; ``table`` [channels, 256] says which value a level stands for."""
    out = levels.new_empty((*levels.shape[:2], FRAME_FACTOR, levels.shape[-1]), dtype=table.dtype)
    for channel, values in enumerate(table.to(levels.device)):
        out[:, channel] = values[levels[:, channel].int()]
    return out.flatten(1)


def visual_tokens(grids: Sequence[Grid]) -> int:
    """Tokens that the decoder sees for these grids."""
    return sum(map(grid_tokens, grids))
