"""Rotary positions: where every token stands, and the angles that follow (paper section 2.1, figure
3).

The decoder's positions have three components, time, height and width. Text advances all three
together, so for pure text this is ordinary RoPE; an image spreads its tokens over height and width
at one time; a video adds one time step per pair of frames. What follows starts at the largest
component so far plus one. Position ids and other schemes than the released one are in
``positions``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.errors import DataError
from evalkit.models.config_json import Yarn
from evalkit.models.qwen2_vl.config import Tower

Grid = tuple[int, int, int]
"""(t, h, w) of one image or video, in patches: h and w before merging, t in pairs of frames."""
MERGE = Tower.spatial_merge_size


def merged(grid: Grid) -> Grid:
    """``grid`` in visual tokens: each stands for 2x2 patches."""
    t, h, w = grid
    return t, h // MERGE, w // MERGE


def grid_tokens(grid: Grid) -> int:
    """Visual tokens of an image or video."""
    return math.prod(merged(grid))


@dataclass(frozen=True)
class Span:
    """A part of a sequence: ``length`` text tokens, or the tokens of one image or video with this
    ``grid``, counted in tokens (``merged``), whose temporal steps are ``seconds`` apart.
    """

    length: int
    grid: Grid | None = None
    seconds: float = 1.0


def spans(
    input_ids: Sequence[int],
    image_token: int,
    video_token: int,
    images: Sequence[Grid],
    videos: Sequence[Grid],
    seconds: Sequence[float | None] = (),
) -> list[Span]:
    """Splits one sequence into text and visual spans. Grids, in patches, are consumed in order;
    ``seconds`` are those between the steps of each video, 1 where they are not known. Raises
    DataError if grids do not fit the ids.
    """
    waiting = {image_token: list(images), video_token: list(videos)}
    steps = iter(seconds)
    out: list[Span] = []
    i = text = 0
    while i < len(input_ids):
        token = input_ids[i]
        if token not in waiting:
            text += 1
            i += 1
            continue
        if text:
            out.append(Span(text))
            text = 0
        if not waiting[token]:
            raise DataError("more image or video placeholders in the prompt than grids")
        t, h, w = waiting[token].pop(0)
        grid = merged((t, h, w))
        n = math.prod(grid)
        if any(x != token for x in input_ids[i : i + n]) or i + n > len(input_ids):
            raise DataError(
                f"a visual grid of {t}x{h}x{w} patches needs {n} placeholder tokens in a "
                "row; the prompt has fewer"
            )
        step = next(steps, None) if token == video_token else None
        out.append(Span(n, grid, step or 1.0))
        i += n
    if text:
        out.append(Span(text))
    if waiting[image_token] or waiting[video_token]:
        raise DataError("more image or video grids than placeholders in the prompt")
    return out


def frequencies(
    head_dim: int, theta: float, yarn: Yarn | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Radians by which each of head_dim / 2 frequencies rotates per position [head_dim / 2], fp32.

    Frequency j is theta^(-2j / head_dim). YaRN (arXiv 2309.00071, section 3.2) leaves those of
    many rotations within the original context as they are, divides those of hardly one by its
    factor, and interpolates linearly between the two.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    inverse = 1.0 / theta**exponents
    if yarn is None:
        return inverse

    def dimension(rotations: float) -> float:
        """The (fractional) j whose frequency makes so many rotations in the original context."""
        wavelength = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    j = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
    slowed = ((j - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    return inverse / yarn.factor * slowed + inverse * (1 - slowed)


def angles(positions: Tensor, inverse: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [..., head_dim] in fp32 for positions [components, ...].

    Frequency j of ``inverse`` [head_dim / 2] rotates with position component ``component[j]``. The
    second half repeats the first, for the rotate-half layout.
    """
    # [components, ...] -> [..., components] -> [..., head_dim / 2]
    phase = positions.float().movedim(0, -1)[..., component.to(positions.device)] * inverse
    phase = torch.cat((phase, phase), dim=-1)  # [..., head_dim]
    return phase.cos(), phase.sin()


def vision_angles(
    grids: Sequence[Grid],
    head_dim: int,
    theta: float,
    merge: int,
    device: torch.device | str = "cpu",
    position: str = "rope2d",
    time: bool = False,
) -> tuple[Tensor, Tensor]:
    """cos and sin [patches, head_dim] in fp32 of the vision tower's positions, rows in merge-block
    order.

    ``rope2d``: half of the frequencies rotate with the patch's row, half with its column (section
    2.1).
    ``rope1d``: all of head_dim / 2 frequencies rotate with the patch's index in raster order.
    ``none``: nothing rotates. ``time`` adds the number of the frame pair to every position, so that
    it matters between frame pairs only.
    """
    axis_dim = head_dim // 2 if position == "rope2d" else head_dim  # features of an axis
    inverse = 1.0 / theta ** (torch.arange(0, axis_dim, 2, dtype=torch.float32) / axis_dim)
    rows = []
    for t, h, w in grids:
        y, x = in_blocks(h, w, merge)
        axes = {"rope2d": (y, x), "rope1d": (y * w + x,), "none": (torch.zeros_like(y),)}[position]
        place = torch.stack(axes, dim=-1).reshape(-1, len(axes)).repeat(t, 1)  # [t * h * w, axes]
        rows.append(place + torch.arange(t).repeat_interleave(h * w)[:, None] if time else place)
    # [patches, axes, 1] * [axis_dim / 2] -> [patches, head_dim / 2]
    phase = (torch.cat(rows).to(device).float()[:, :, None] * inverse.to(device)).flatten(1)
    phase = torch.cat((phase, phase), dim=-1)
    return phase.cos(), phase.sin()


def in_blocks(h: int, w: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch [h * w] of a frame, in the order in which patches come: by merge
    blocks.
    """
    # [block row, block column, row in block, column in block]
    y = torch.arange(h).view(h // merge, 1, merge, 1).expand(-1, w // merge, -1, merge)
    x = torch.arange(w).view(1, w // merge, 1, merge).expand(h // merge, -1, merge, -1)
    return y.flatten(), x.flatten()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [..., heads, head_dim], pairing feature j with j + head_dim / 2.

    cos and sin are [..., head_dim], the same for all heads, or [..., kv_heads, head_dim], each for
    its group of heads.
    """
    if cos.ndim == x.ndim:
        cos, sin = (y.repeat_interleave(x.shape[-2] // y.shape[-2], dim=-2) for y in (cos, sin))
    else:
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half] -= x[..., half:] * sin[..., :half]
    out[..., half:] += x[..., :half] * sin[..., half:]
    return out
