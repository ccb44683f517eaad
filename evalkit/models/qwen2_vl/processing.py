"""From decoded pixels to what the model reads: target sizes, frame choice, patches (paper section
2.1).

The pipeline is the official one (``qwen-vl-utils`` 0.0.8 in front of the released image processor):
sides are rounded to multiples of 28 within a pixel budget, resized bicubically, normalised with
CLIP's mean and deviation, and cut into patches whose 2x2 merge blocks are contiguous. Rounding is
Python's, half to even.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evalkit.bounds import bounds, over
from evalkit.engine.interface import Media
from evalkit.errors import CheckpointError, DataError
from evalkit.models.limits import Limits, media_limits
from evalkit.models.qwen2_vl.config import Tower
from evalkit.models.qwen2_vl.rope import Grid
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.sampling import Sampling
from evalkit.models.weights import read_json

log = logging.getLogger(__name__)

PATCH, MERGE = Tower.patch_size, Tower.spatial_merge_size
FACTOR = PATCH * MERGE
"""Pixels on a side of one visual token."""
FRAME_FACTOR = Tower.temporal_patch_size
FPS = 2.0
MIN_FRAMES, MAX_FRAMES = 4, 768
FRAME_MIN_TOKENS, FRAME_MAX_TOKENS, VIDEO_TOKENS = 128, 768, 24_576
"""Least and most visual tokens of a video's frame, and most of all its frame pairs."""
FIXED: Mapping[str, Any] = {
    "temporal_patch_size": FRAME_FACTOR,
    "merge_size": MERGE,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": Image.Resampling.BICUBIC.value,
}
"""Settings that all generations share; the processor is written for these values."""
SETTINGS = frozenset(
    "min_pixels max_pixels size image_mean image_std rescale_factor "
    # names, and where and in which form the result is handed over
    "image_processor_type video_processor_type feature_extractor_type processor_class auto_map "
    "data_format input_data_format return_tensors device disable_grouping default_to_square "
    "_valid_processor_keys "
    # which frames of a video: chosen before, by the official rule
    "do_sample_frames fps num_frames min_frames max_frames video_metadata return_metadata "
    "cap_pixels_per_frame max_video_tokens use_token_compression".split()
)
"""Further keys that are read here, or don't change pixels."""

Frames = NDArray[np.uint8]
"""Decoded video frames [frames, height, width, 3]."""


@dataclass(frozen=True)
class ProcessorConfig:
    """How a checkpoint prepares images and frames. Pixel bounds are areas; the defaults are those
    of the released ``preprocessor_config.json``.

    family, patch_size: of the models; kinds: how the names of its processors begin;
    unsaid: pixel bounds where the settings are there and name none, as transformers has them.
    """

    family: ClassVar[str] = "Qwen2-VL"
    patch_size: ClassVar[int] = PATCH
    kinds: ClassVar[tuple[str, ...]] = ("Qwen2VL",)
    unsaid: ClassVar[tuple[int, int]] = (4 * FACTOR**2, 1280 * FACTOR**2)
    min_pixels: int = 4 * FACTOR**2
    max_pixels: int = 16_384 * FACTOR**2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the settings from where transformers reads them: ``image_processor`` in
        ``processor_config.json``, else ``preprocessor_config.json``. A folder with neither gets the
        released values, and a warning.

        Raises CheckpointError on settings that this processor does not have, on values that are
        none, and where videos would be normalised otherwise than images.
        """
        image = _section(folder, "image_processor", "preprocessor_config.json")
        if image is None:
            log.warning(
                "%s: no preprocessor_config.json; the released settings of %s are used",
                folder,
                cls.family,
            )
            return cls()
        config = cls._read(*image)
        video = _section(folder, "video_processor", "video_preprocessor_config.json")
        if video is not None:
            # Its pixel bounds don't count: in the official pipeline frames are resized before.
            other = cls._read(
                video[0], {**video[1], "size": None, "min_pixels": None, "max_pixels": None}
            )
            if (other.image_mean, other.image_std) != (config.image_mean, config.image_std):
                raise CheckpointError(
                    f"{video[0]}: image_mean and image_std differ from those for images; one "
                    "normalisation for both is implemented"
                )
        return config

    @classmethod
    def _read(cls, path: Path, raw: Mapping[str, Any]) -> Self:
        given = {k: v for k, v in raw.items() if v is not None}
        fixed = {"patch_size": cls.patch_size, **FIXED}
        for name, expected in fixed.items():
            if given.get(name, expected) != expected:
                raise CheckpointError(
                    f"{path}: {name} is {given[name]!r}; every {cls.family} has {expected!r}"
                )
        others = [
            k for k in given if k not in fixed and k not in SETTINGS and given[k] is not False
        ]
        if others:
            raise CheckpointError(
                f"{path}: {', '.join(others)}: unknown here, and may change the pixels; remove "
                "what is known to make no difference"
            )
        named = given.get("image_processor_type", given.get("video_processor_type", cls.kinds[0]))
        if not str(named).startswith(cls.kinds):
            raise CheckpointError(f"{path}: the processor is a {named}, not one of {cls.family}")
        size = given.get("size", {})
        edges = {"shortest_edge", "longest_edge"}
        if not isinstance(size, dict) or {k for k in size if size[k] is not None} - edges:
            raise CheckpointError(
                f"{path}: size is {size}; expected areas as shortest_edge and longest_edge"
            )
        default = cls()
        try:
            low = int(given.get("min_pixels") or size.get("shortest_edge") or cls.unsaid[0])
            high = int(given.get("max_pixels") or size.get("longest_edge") or cls.unsaid[1])
            scale = float(given.get("rescale_factor", 1 / 255))
            mean, std = (
                tuple(map(float, given.get(k, getattr(default, k))))
                for k in ("image_mean", "image_std")
            )
        except (TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(f"{path}: a value has the wrong type ({e})") from e
        if (
            not 0 < low <= high
            or len(mean) != 3
            or len(std) != 3
            or min(std) <= 0
            or not math.isclose(scale, 1 / 255)
        ):
            raise CheckpointError(
                f"{path}: expected 0 < min_pixels <= max_pixels, three numbers in image_mean and "
                "image_std, these above 0, and a rescale_factor of 1/255"
            )
        return cls(low, high, mean, std)


def _section(folder: Path, name: str, legacy: str) -> tuple[Path, dict[str, Any]] | None:
    """The settings of the image or video processor, with the file that holds them."""
    path = folder / "processor_config.json"
    section = read_json(path).get(name) if path.is_file() else None
    if section is not None:
        if not isinstance(section, dict):
            raise CheckpointError(f"{path}: {name} is {section!r}, not a JSON object")
        return path, section
    path = folder / legacy
    return (path, read_json(path)) if path.is_file() else None


def smart_resize(
    height: int,
    width: int,
    min_pixels: int,
    max_pixels: int,
    rounding: str = "round",
    factor: int = FACTOR,
) -> tuple[int, int]:
    """The (height, width) nearest to the original that are multiples of ``factor`` with an area in
    [min_pixels, max_pixels].

    The rule of qwen-vl-utils: sides are at least a token before the budget. That of transformers
    5.23 differs only where a side is below half a token. ``rounding`` ceil and floor are ablations.
    Raises DataError when one side is over 200 times the other.
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
    h = max(factor, nearest(height / factor) * factor)
    w = max(factor, nearest(width / factor) * factor)
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * beta / factor) * factor
        w = math.ceil(width * beta / factor) * factor
    return h, w


def exact_tokens(height: int, width: int, tokens: int, factor: int = FACTOR) -> tuple[int, int]:
    """The (height, width) of exactly ``tokens`` visual tokens whose aspect ratio is closest to the
    original's.

    The constant number of tokens of the paper's table 7. A number with few divisors distorts:
    prefer 64, 576, 1600, 3136.
    """
    half = [(n, tokens // n) for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0]
    pairs = sorted({*half, *((b, a) for a, b in half)})
    h, w = min(pairs, key=lambda p: (abs(math.log(p[0] / p[1] * width / height)), p[0]))
    return h * factor, w * factor


def target_size(
    height: int,
    width: int,
    switches: Switches,
    task: Limits,
    checkpoint: Limits,
    factor: int = FACTOR,
    most: int | None = None,
) -> tuple[int, int]:
    """The (height, width) an image or frame is resized to, under the resolution switch and the
    pixel bounds of switches, task and checkpoint. ``factor``: pixels on a side of a token;
    ``most``: pixels that no bound exceeds. Raises DataError for a size over the bound of pictures:
    a request may ask for any.
    """
    size = _target(height, width, switches, task, checkpoint, factor, most)
    if math.prod(size) > bounds().image_pixels:
        raise DataError(f"an image shown at {size[1]}x{size[0]} pixels: {over('image_pixels')}")
    return size


def _target(
    height: int,
    width: int,
    switches: Switches,
    task: Limits,
    checkpoint: Limits,
    factor: int,
    most: int | None,
) -> tuple[int, int]:
    mode, numbers = switches.resolution.mode, switches.resolution.numbers
    if mode == "tokens":
        return exact_tokens(height, width, numbers[0], factor)
    if mode == "size":
        return numbers[0], numbers[1]
    limits = media_limits(switches, task, checkpoint)
    assert limits.min_pixels and limits.max_pixels
    high = min(limits.max_pixels, most or limits.max_pixels)
    return smart_resize(
        height, width, min(limits.min_pixels, high), high, switches.rounding, factor
    )


def sample_frames(
    total: int,
    video_fps: float,
    fps: float = FPS,
    max_frames: int | None = None,
    whole: Callable[[float], int] = round,
) -> list[int]:
    """Indices of the frames that are shown: an even number, evenly spaced from the first to the
    last. ``whole``: how the number of pairs is made whole.

    Aims at ``fps`` frames a second, at least 4 and at most ``max_frames`` (768 by default), and
    never more than the clip has. Raises DataError for clips of fewer than two frames.
    """
    low = math.ceil(MIN_FRAMES / FRAME_FACTOR) * FRAME_FACTOR
    high = min(max_frames or MAX_FRAMES, total) // FRAME_FACTOR * FRAME_FACTOR
    n = whole(min(max(total / video_fps * fps, low), high) / FRAME_FACTOR) * FRAME_FACTOR
    if n < FRAME_FACTOR:
        most = f", and at most {max_frames} may be shown" if max_frames else ""
        raise DataError(f"a video of {total} frames{most}: at least {FRAME_FACTOR} are needed")
    return [int(i) for i in torch.linspace(0, total - 1, n).round().long()]


def frame_pixels(
    frames: int, video_tokens: int = VIDEO_TOKENS, factor: int = FACTOR
) -> tuple[int, int]:
    """(min_pixels, max_pixels) of each frame when ``frames`` of them share the video budget."""
    low, most = FRAME_MIN_TOKENS * factor**2, FRAME_MAX_TOKENS * factor**2
    share = video_tokens * factor**2 / frames * FRAME_FACTOR
    return low, int(max(min(most, share), int(low * 1.05)))


class Processor:
    """Turns decoded images and frames into patches under a checkpoint's settings and the ablation
    switches.

    settings, video_tokens: the generation's settings, and the budget of a video; whole: how its
    number of frame pairs is made whole. capped: whether a larger ``max_pixels`` than a frame's
    share of that budget counts for nothing, as it does from qwen-vl-utils 0.0.10 on.
    """

    settings: ClassVar[type[ProcessorConfig]] = ProcessorConfig
    video_tokens: ClassVar[int] = VIDEO_TOKENS
    whole: ClassVar[Callable[[float], int]] = round
    capped: ClassVar[bool] = False

    def __init__(
        self, config: ProcessorConfig | None = None, switches: Switches = Switches()
    ) -> None:
        self.config = config = config or self.settings()
        self.switches = switches
        self.patch, self.factor = config.patch_size, config.patch_size * MERGE
        values = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        mean, std = (
            np.array(x, dtype=np.float32)[:, None] for x in (config.image_mean, config.image_std)
        )
        # [channels, 256]: what each 8-bit value of a channel becomes. Exact, and an eighth of the
        # bytes of normalised pixels wait for the model.
        self.lookup = torch.from_numpy((values - mean) / std)

    @classmethod
    def load(cls, folder: Path, switches: Switches) -> Self:
        """With the settings of a checkpoint's folder. Raises CheckpointError."""
        return cls(cls.settings.load(folder), switches)

    @property
    def limits(self) -> Limits:
        """The bounds that hold where a task sets none."""
        own = Limits(self.config.min_pixels, self.config.max_pixels, FPS, MAX_FRAMES)
        return media_limits(self.switches, Limits(), own)

    def frames(self, total: int, video_fps: float, task: Limits = Limits()) -> list[int]:
        """Indices of the frames that are shown of a video of ``total`` frames. Raises DataError."""
        limits = media_limits(self.switches, task, Limits(fps=FPS))
        return sample_frames(
            total, video_fps, limits.fps or FPS, limits.max_frames, type(self).whole
        )

    def size(self, media: Media) -> tuple[int, int]:
        """(width, height) in pixels at which the model sees an image or video."""
        _, height, width = media.grid
        return width * self.patch, height * self.patch

    def normalise(self, patches: Tensor) -> Tensor:
        """What the model reads [patches, 1176] (float32) of 8-bit patches."""
        return normalised(patches, self.lookup)

    def image(self, image: Image.Image, task: Limits = Limits()) -> tuple[Tensor, Grid]:
        """Patches [h * w, 1176] (float32) and grid (1, h, w) of one image, within the bounds of a
        task. Raises DataError.
        """
        patches, media = self.image_patches(image, task)
        return self.normalise(patches), media.grid

    def image_patches(self, image: Image.Image, task: Limits = Limits()) -> tuple[Tensor, Media]:
        """Patches [h * w, 3, 1, 196] (uint8) of one image, not yet normalised, and its media."""
        rgb = image.convert("RGB")
        height, width = target_size(
            rgb.height,
            rgb.width,
            self.switches,
            task,
            Limits(self.config.min_pixels, self.config.max_pixels),
            self.factor,
        )
        resized = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC))
        patches, grid = cut(
            torch.from_numpy(resized.copy()).permute(2, 0, 1)[None], False, self.patch
        )
        return patches, Media(grid)

    def video(self, frames: Frames, task: Limits = Limits()) -> tuple[Tensor, Grid]:
        """Patches [t * h * w, 1176] and grid (t, h, w) of sampled frames; an odd last frame is
        repeated. Raises DataError.
        """
        resized = np.stack([self.resize_frame(f, len(frames), task) for f in frames])
        patches, media = self.video_patches(resized)
        return self.normalise(patches), media.grid

    def resize_frame(self, frame: Frames, total: int, task: Limits = Limits()) -> Frames:
        """One frame [height, width, 3] of ``total`` that are shown, at the size at which the model
        sees it: a long clip is resized while it is decoded. Raises DataError.
        """
        height, width = frame.shape[:2]
        share = Limits(*frame_pixels(total, self.video_tokens, self.factor))
        most = share.max_pixels if self.capped else None
        size = target_size(height, width, self.switches, task, share, self.factor, most)
        if frame.shape[:2] == size:
            return frame
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()  # [1, 3, height, width]
        wide = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        return wide.clamp_(0, 255).round_().to(torch.uint8)[0].permute(1, 2, 0).numpy()

    def video_patches(
        self, frames: Frames, sampling: Sampling | None = None
    ) -> tuple[Tensor, Media]:
        """Patches [t * h * w, 3, 2, 196] (uint8) of frames that ``resize_frame`` gave and that were
        chosen by ``sampling``, not yet normalised, and their media; under the switch
        ``tube=per_frame`` [..., 3, 1, 196].
        """
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # [frames, 3, height, width]
        pair = self.switches.tube != "per_frame"
        depth = FRAME_FACTOR if pair else 1
        if len(clip) % depth:
            clip = torch.cat((clip, clip[-1:]))
        patches, grid = cut(clip, pair, self.patch)
        if sampling is None:
            return patches, Media(grid, is_video=True)
        return patches, Media(grid, True, depth / sampling.rate, sampling.times(depth))


def cut(pixels: Tensor, pair: bool = True, patch: int = PATCH) -> tuple[Tensor, Grid]:
    """8-bit patches [t * h * w, 3, 2, 14 * 14] and grid of uint8 frames [2 * t, 3, height, width],
    sides multiples of two patches.

    Without ``pair`` frames are [t, 3, height, width], and so are the patches [..., 3, 1, 14 * 14]:
    each frame is to be shown twice.
    """
    frames, channels, height, width = pixels.shape
    depth = FRAME_FACTOR if pair else 1
    t, h, w = frames // depth, height // patch, width // patch
    # A side is cut into merge blocks, each of 2 patches, each of 14 (or ``patch``) pixels:
    #       0     1       2         3         4         5         6            7         8
    #       time  frame   channel   row block row       y         column block column    x
    axes = (t, depth, channels, h // MERGE, MERGE, patch, w // MERGE, MERGE, patch)
    # Patches run over time, then merge blocks, then the 2x2 of a block, so that the merger joins
    # neighbours in memory; features of a patch run over channel, frame, y, x.
    patches = pixels.reshape(axes).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(t * h * w, channels, depth, patch**2), (t, h, w)


def normalised(patches: Tensor, lookup: Tensor) -> Tensor:
    """What the model reads [patches, 1176], features ordered (channel, frame, y, x), of 8-bit
    patches [patches, 3, 1 or 2, 196]; one frame is shown twice. ``lookup`` [channels, 256] holds
    the value for each of a channel's 256.
    """
    table = lookup.to(patches.device)
    firsts = torch.arange(len(table), dtype=torch.int32, device=patches.device) * table.shape[1]
    places = patches.int().add_(firsts[:, None, None])  # of each value in the table as one list
    values = table.flatten().index_select(0, places.flatten()).view(patches.shape)
    return values.expand(-1, -1, FRAME_FACTOR, -1).flatten(1)
