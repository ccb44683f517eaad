"""Rotary positions: where every token stands, and the angles that follow (paper section 2.1, figure
3).

The decoder's positions have three components, time, height and width. Text advances all three
together, so for pure text this is ordinary RoPE; an image spreads its tokens over height and width
at one time; a video adds one time step per pair of frames. What follows starts at the largest
component so far plus one. Position ids and other schemes than the released one are in
``positions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.errors import DataError

Grid = tuple[int, int, int]
"""(t, h, w) of one image or video, in patches: h and w before merging, t in pairs of frames."""


@dataclass(frozen=True)
class Run:
    """A stretch of a sequence: ``length`` text tokens, or the tokens of one image or video with
    this merged ``grid``.
    """

    length: int
    grid: Grid | None = None


def runs(
    input_ids: Sequence[int],
    image_token: int,
    video_token: int,
    images: Sequence[Grid],
    videos: Sequence[Grid],
    merge: int = 2,
) -> list[Run]:
    """Splits one sequence into text and visual runs. Grids are consumed in order; raises DataError
    if they do not fit the ids.
    """
    waiting = {image_token: list(images), video_token: list(videos)}
    out: list[Run] = []
    i = text = 0
    while i < len(input_ids):
        token = input_ids[i]
        if token not in waiting:
            text += 1
            i += 1
            continue
        if text:
            out.append(Run(text))
            text = 0
        if not waiting[token]:
            raise DataError("more image or video placeholders in the prompt than grids")
        t, h, w = waiting[token].pop(0)
        grid = (t, h // merge, w // merge)
        n = grid[0] * grid[1] * grid[2]
        if any(x != token for x in input_ids[i : i + n]) or i + n > len(input_ids):
            raise DataError(
                f"a visual grid of {t}x{h}x{w} patches needs {n} placeholder tokens in a "
                "row; the prompt has fewer"
            )
        out.append(Run(n, grid))
        i += n
    if text:
        out.append(Run(text))
    if waiting[image_token] or waiting[video_token]:
        raise DataError("more image or video grids than placeholders in the prompt")
    return out


def angles(
    positions: Tensor, head_dim: int, theta: float, component: Tensor
) -> tuple[Tensor, Tensor]:
    """cos and sin [..., head_dim] in fp32 for positions [components, ...].

    Frequency j (of head_dim / 2) is theta^(-2j / head_dim) and turns with position component
    ``component[j]``. The second half repeats the first, for the rotate-half layout.
    """
    inverse = 1.0 / theta ** (
        torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    )
    turn = positions.float().movedim(0, -1)[..., component.to(positions.device)] * inverse
    turn = torch.cat((turn, turn), dim=-1)
    return turn.cos(), turn.sin()


def vision_angles(
    grids: Sequence[Grid],
    head_dim: int,
    theta: float,
    merge: int,
    device: torch.device | str = "cpu",
    position: str | None = "rope2d",
    time: bool = False,
) -> tuple[Tensor, Tensor]:
    """cos and sin [patches, head_dim] in fp32 of the vision tower's positions, rows in merge-block
    order.

    ``rope2d``: half of the frequencies turn with the patch's row, half with its column (paper 2.1).
    ``rope1d``: all of head_dim / 2 frequencies turn with the patch's index in raster order.
    ``none``: nothing turns. ``time`` adds the number of the frame pair to every position, so that
    it matters between frame pairs only.
    """
    parts = head_dim // 4 if position == "rope2d" else head_dim // 2
    inverse = 1.0 / theta ** (torch.arange(0, 2 * parts, 2, dtype=torch.float32) / (2 * parts))
    rows = []
    for t, h, w in grids:
        y = torch.arange(h).view(h // merge, 1, merge, 1).expand(-1, w // merge, -1, merge)
        x = torch.arange(w).view(1, w // merge, 1, merge).expand(h // merge, -1, merge, -1)
        axes = {"rope2d": (y, x), "rope1d": (y * w + x,), "none": (torch.zeros_like(y),)}[
            position or "rope2d"
        ]
        where = torch.stack(axes, dim=-1).reshape(-1, len(axes)).repeat(t, 1)
        rows.append(where + torch.arange(t).repeat_interleave(h * w)[:, None] if time else where)
    turn = (torch.cat(rows).to(device).float()[:, :, None] * inverse.to(device)).flatten(1)
    turn = torch.cat((turn, turn), dim=-1)
    return turn.cos(), turn.sin()


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
