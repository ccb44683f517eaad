"""Position schemes of the decoder: the released one, and those that its successors published.

A scheme is two functions. ``ids`` places the tokens: [components, tokens], whole or fractional,
from the spans of a sequence. ``angles`` says which frequency rotates with which component. A
generated token stands where one more text token would. Under every scheme text alone is ordinary
RoPE, except under ``combine=kron``. Where a paper and its authors' code differ, the code was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.config import TextConfig
from evalkit.models.qwen2_vl.rope import Span, angles, frequencies
from evalkit.models.qwen2_vl.switches import Switches

Ids = Callable[[Sequence[Span], Switches], Tensor]
Angles = Callable[[Tensor, TextConfig, Switches], tuple[Tensor, Tensor]]


def _grid(span: Span) -> Tensor:
    """Time, row and column [3, tokens] of each token of a visual span, from zero."""
    assert span.grid is not None
    return torch.stack(
        torch.meshgrid(*(torch.arange(n) for n in span.grid), indexing="ij")
    ).flatten(1)


def _text(span: Span, start: float, components: int = 3) -> Tensor:
    return (torch.arange(span.length) + start).expand(components, -1)


def _joined(out: Sequence[Tensor], components: int = 3) -> Tensor:
    return torch.cat(list(out), dim=1) if out else torch.zeros(components, 0, dtype=torch.long)


def mrope_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """M-RoPE (arXiv 2409.12191, section 2.1) [3, tokens]: what follows a span starts at its largest
    component plus one.

    ``next_position=max_hw`` starts the text after a video beyond the larger side of its grid, as
    transformers 5.23 does.
    """
    out, start = [], 0
    for part in parts:
        out.append(_text(part, start) if part.grid is None else _grid(part) + start)
        extent = (
            max(part.grid[1:] if switches.next_position == "max_hw" else part.grid)
            if part.grid
            else part.length
        )
        start += extent
    return _joined(out)


def rope1d_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """Every token at its index in all three components [3, tokens]: the 1D-RoPE arm of the paper's
    table 8.
    """
    return torch.arange(sum(p.length for p in parts)).expand(3, -1)


def spatial_reset_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """M-RoPE whose rows and columns count from zero in every image (arXiv 2510.23095) [3, tokens].

    Time goes on from the text before. What follows starts as under M-RoPE, as in the authors' code,
    so that it lies beyond the image.
    """
    out, start = [], 0
    for part in parts:
        out.append(
            _text(part, start)
            if part.grid is None
            else _grid(part) + torch.tensor([[start], [0], [0]])
        )
        start += max(part.grid) if part.grid else part.length
    return _joined(out)


def diagonal_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """The layout of VideoRoPE (arXiv 2502.05173) and HoPE (arXiv 2505.20444) [3, tokens], float:
    frames ``Switches.spacing`` apart on the diagonal on which text lies.

    Rows and columns count from the frame's middle, (n - 1) // 2, and are added to its time. What
    follows starts one after the last frame's time, as in VideoRoPE's code; rows and columns of the
    last frames may lie beyond it. HoPE's authors draw the spacing from 0.5, 0.75, 1, 1.25, 1.5 for
    each video in training and leave it to the user in inference; here it is fixed, so that an
    answer does not depend on chance.
    """
    assert switches.spacing is not None
    out, start = [], 0.0
    for part in parts:
        if part.grid is None:
            out.append(_text(part, start).float())
        else:
            t, y, x = _grid(part).float()
            _, h, w = part.grid
            time = t * switches.spacing + start
            out.append(torch.stack((time, time + y - (h - 1) // 2, time + x - (w - 1) // 2)))
        start = float(out[-1][0].max()) + 1
    return _joined(out).float()


def vrope_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """VRoPE (arXiv 2502.11664) [4, tokens]: each token by its four rotated coordinates y + x and
    their mirror images.

    A frame of h x w tokens takes h + w - 1 steps, frame follows frame and text follows frame
    without a gap, and the four components of a token average to its frame's middle, so no corner is
    nearer to the text than another.
    """
    out, start = [], 0
    for part in parts:
        if part.grid is None:
            out.append(_text(part, start, 4))
            start += part.length
            continue
        frames, h, w = part.grid
        t, y, x = _grid(part)
        up, left = h - 1 - y, w - 1 - x
        out.append(torch.stack((y + x, y + left, up + x, up + left)) + t * (h + w - 1) + start)
        start += frames * (h + w - 1)
    return _joined(out, 4)


def sections(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """The released allocation: the first ``mrope_section[0]`` frequencies rotate with time, the
    next with rows, the last with columns.

    ``combine`` replaces it: ``interleaved`` deals the components out in turn; ``kron`` is the
    tensor product of the three rotations.
    """
    if switches.combine == "interleaved":
        return interleaved(positions, config, switches)
    if switches.combine == "kron":
        return kron(positions, config, switches)
    component = torch.repeat_interleave(torch.arange(3), torch.tensor(config.mrope_section))
    return _angles(positions, config, switches, component)


def interleaved(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """MRoPE-Interleave (arXiv 2510.23095): time, row, column in turn, so that each has high and low
    frequencies.

    Rows and columns take 20 of 64 frequencies each, as published, 5 of 16 in other head sizes; time
    takes the rest, the lowest included.
    """
    j = torch.arange(config.head_dim // 2)
    component = torch.where(j < 3 * (len(j) * 5 // 16), j % 3, 0)
    return _angles(positions, config, switches, component)


def kron(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """R_t (x) R_h (x) R_w on blocks of 8 features, written in the basis in which it is four plane
    rotations.

    Their phases are t + h + w, t + h - w, t - h + w and t - h - w, all times the block's frequency
    theta^(-8b / head_dim). For text that is 3p, p, p, -p: not ordinary RoPE.
    """
    # A product of plane rotations on 8 = 2 x 2 x 2 features has the eigenvalues
    # exp(i (+-t +- h +- w)): four conjugate pairs, so four plane rotations in their own basis. The
    # change of basis, which trained projections absorb, is left out.
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]], device=positions.device)
    phases = torch.einsum("sc,c...->...s", signs.float(), positions.float())
    block = (
        torch.arange(0, config.head_dim, 8, dtype=torch.float32, device=positions.device)
        / config.head_dim
    )
    if config.yarn:
        raise UsageError("combine=kron has no meaning for a checkpoint with rope_scaling yarn")
    # [..., 1, 4] / [head_dim / 8, 1] -> [..., head_dim / 2]
    phase = (phases[..., None, :] / _theta(config, switches) ** block[:, None]).flatten(-2)
    phase = torch.cat((phase, phase), dim=-1)
    return phase.cos(), phase.sin()


def per_head(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """Multi-Head RoPE (arXiv 2510.23095) [..., kv_heads, head_dim]: a key-value head and its
    queries rotate with one component only.

    Of 8 key-value heads 2 have time, 3 rows, 3 columns, as published. Of n, rows and columns have
    3n // 8 each. Raises UsageError below 3 key-value heads, where a component would have none.
    """
    n = config.num_key_value_heads
    each = 3 * n // 8
    if not each:
        raise UsageError(
            "position=mhrope gives each component key-value heads of its own; this "
            f"checkpoint has {n}, 3 are needed"
        )
    owner = torch.tensor([0] * (n - 2 * each) + [1] * each + [2] * each)
    zeros = torch.zeros(config.head_dim // 2, dtype=torch.long)
    each_head = positions[owner.to(positions.device)].movedim(0, -1)
    return _angles(each_head[None], config, switches, zeros)


def low_time(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """VideoRoPE's allocation (arXiv 2502.05173): time has the lowest frequencies, rows and columns
    the others alternately.
    """
    j = torch.arange(config.head_dim // 2)
    component = torch.where(j < sum(config.mrope_section[1:]), 1 + j % 2, 0)
    return _angles(positions, config, switches, component)


def no_time(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """HoPE's allocation (arXiv 2505.20444): VideoRoPE's with the frequencies of time at zero, for
    text as well.
    """
    still = torch.cat((torch.zeros_like(positions[:1]), positions[1:]))
    return low_time(still, config, switches)


def four_in_turn(
    positions: Tensor, config: TextConfig, switches: Switches
) -> tuple[Tensor, Tensor]:
    """VRoPE's allocation (arXiv 2502.11664): frequency j rotates with component j mod 4."""
    return _angles(positions, config, switches, torch.arange(config.head_dim // 2) % 4)


def _angles(
    positions: Tensor, config: TextConfig, switches: Switches, component: Tensor
) -> tuple[Tensor, Tensor]:
    """``rope.angles`` with the frequencies of this model, under YaRN where its config asks for
    it.
    """
    yarn = config.yarn
    inverse = frequencies(config.head_dim, _theta(config, switches), yarn, positions.device)
    cos, sin = angles(positions, inverse, component)
    return (cos * yarn.attention_factor, sin * yarn.attention_factor) if yarn else (cos, sin)


def no_rotation(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """No rotation at all (NoPE, arXiv 2305.19466), the baseline of all schemes: causal attention
    alone tells what order there is.
    """
    return sections(torch.zeros_like(positions), config, switches)


def _theta(config: TextConfig, switches: Switches) -> float:
    return switches.theta or config.rope_theta


@dataclass(frozen=True)
class Scheme:
    """A position scheme.

    ids: position ids [components, tokens] of a sequence, from its spans.
    angles: RoPE's cos and sin for such ids.
    components: the first size of the ids.
    """

    ids: Ids
    angles: Angles
    components: int = 3


POSITIONS: Mapping[str, Scheme] = {
    "mrope": Scheme(mrope_ids, sections),
    "rope1d": Scheme(rope1d_ids, sections),
    "mrope_i": Scheme(spatial_reset_ids, interleaved),
    "mhrope": Scheme(spatial_reset_ids, per_head),
    "videorope": Scheme(diagonal_ids, low_time),
    "hope": Scheme(diagonal_ids, no_time),
    "vrope": Scheme(vrope_ids, four_in_turn, components=4),
    "none": Scheme(rope1d_ids, no_rotation),
}
"""Position schemes by the name of their switch value."""
