"""Position schemes of the decoder: the released one, and those that its successors published.

A scheme is two functions. ``place`` gives the tokens their ids: [components, tokens], whole or
fractional, from the spans of a sequence. ``angles`` says which frequency rotates with which
component. A generated token stands where one more text token would. Under every scheme text alone
is ordinary RoPE, except under ``hope``, ``none``, ``combine=no_time`` and ``combine=kron``. Where a
paper and its authors' code differ, the code was taken.
"""

from __future__ import annotations

import math
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


def _grid(span: Span, times: Tensor | None = None) -> Tensor:
    """Time, row and column [3, tokens] of each token of a visual span, from zero; ``times`` [T] of
    its temporal steps, one apart where they are not given.
    """
    assert span.grid is not None
    axes = [torch.arange(n) for n in span.grid]
    if times is not None:
        axes[0] = times
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((t, h.to(t.dtype), w.to(t.dtype))).flatten(1)


def _text(span: Span, start: float, components: int = 3) -> Tensor:
    return (torch.arange(span.length) + start).expand(components, -1)


def _joined(out: Sequence[Tensor], components: int = 3) -> Tensor:
    return torch.cat(list(out), dim=1) if out else torch.zeros(components, 0, dtype=torch.long)


def steps(span: Span, switches: Switches) -> Tensor:
    """Where the temporal steps of a visual span stand on the time axis [T], from zero.

    ``time=index``: one apart (Qwen2-VL). ``absolute``: floor(k * seconds * tokens_per_second), a
    step at its second (Qwen2.5-VL, arXiv 2502.13923, section 2.1.2), the product in fp32 as in the
    authors' code; ``time_rounding=before`` cuts the seconds of a step first, as transformers 4.50
    to 5.2 did. ``constant``: all at one time. All are multiplied by ``Switches.spacing``.
    """
    assert span.grid is not None
    k = torch.arange(span.grid[0])
    if switches.time == "constant":
        k = torch.zeros_like(k)
    elif switches.time == "absolute":
        before = switches.time_rounding == "before"
        seconds = math.floor(span.seconds) if before else span.seconds
        k = (k.float() * seconds * switches.rate).long()
    spacing = float(switches.spacing or 1)
    return k * (int(spacing) if spacing.is_integer() else spacing)


def mrope_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """M-RoPE (arXiv 2409.12191, section 2.1) [3, tokens]: what follows a span starts at its largest
    component plus one. ``steps`` says where frames stand in time.

    ``next_position=max_hw`` starts the text after a video beyond the larger side of its grid, as
    transformers 5.23 does. ``layout`` puts another layout in place of this one.
    """
    if switches.layout != "3d":
        return LAYOUTS[switches.layout](parts, switches)
    out: list[Tensor] = []
    start: float = 0
    for part in parts:
        if part.grid is None:
            out.append(_text(part, start))
            start += part.length
            continue
        grid = _grid(part, steps(part, switches))
        out.append(grid + start)
        sides = grid[1:] if switches.next_position == "max_hw" else grid
        start += sides.max().item() + 1
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
    out: list[Tensor] = []
    start: float = 0
    for part in parts:
        if part.grid is None:
            out.append(_text(part, start))
            start += part.length
            continue
        grid = _grid(part, steps(part, switches))
        out.append(grid + torch.tensor([[start], [0], [0]]))
        start += grid.max().item() + 1
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


def v2pe_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """V2PE (arXiv 2412.09616) [3, tokens], float: one running index in which the tokens of a frame
    share ``Switches.spacing`` positions, whatever their number.

    Text goes on at the next whole position, as in the authors' code (``rope_pos_id_stride`` over
    the tokens of an image).
    """
    assert switches.spacing is not None
    out, start = [], 0
    for part in parts:
        if part.grid is None:
            out.append(_text(part, start).float())
            start += part.length
            continue
        step = switches.spacing / (part.grid[1] * part.grid[2])
        at = start - 1 + step * (torch.arange(part.length, dtype=torch.float32) + 1)
        out.append(at.expand(3, -1))
        start = math.ceil(round(start - 1 + step * part.length, 6)) + 1
    return _joined(out).float()


RADIUS = 10.0
"""Of the rings of ``circle_ids``, as its authors set it."""


def circle_ids(parts: Sequence[Span], switches: Switches) -> Tensor:
    """Circle-RoPE (arXiv 2505.16416) [3, tokens], float: each frame lies on a ring around the line
    on which text lies, so that every token of it is equally far from any token of text.

    The angle on the ring is half the token's index in the frame and half its direction from the
    frame's middle. Rings of a clip follow ``Switches.spacing`` apart along the line of text, as in
    Multimodal-RoPEs. The authors' alternation of layers (AGE) is not here.
    """
    assert switches.spacing is not None
    out: list[Tensor] = []
    start = 0.0
    for part in parts:
        if part.grid is None:
            at = _text(part, start).float()
        else:
            ring = _ring(part.grid[1], part.grid[2]).repeat(1, part.grid[0])
            at = ring + _grid(part)[0].float() * switches.spacing + start
        out.append(at)
        start = float(at.max()) + 1 if part.length else start
    return _joined(out).float()


def _ring(h: int, w: int) -> Tensor:
    """Time, row and column [3, h * w] of one frame's tokens on the plane across (1, 1, 1)."""
    y, x = torch.meshgrid(
        torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij"
    )
    seen = torch.atan2(y, x).flatten()
    span = seen.max() - seen.min()
    seen = (seen - seen.min()) / span * 2 * math.pi if span > 0 else seen
    counted = torch.arange(h * w) / (h * w) * 2 * math.pi
    angle = (seen + counted) / 2
    across = torch.tensor([-1.0, 1.0, 0.0]) / math.sqrt(2)
    along = torch.tensor([-1.0, -1.0, 2.0]) / math.sqrt(6)
    column_row_time = RADIUS * (angle.cos() * across[:, None] + angle.sin() * along[:, None])
    return column_row_time.flip(0)


LAYOUTS: Mapping[str, Ids] = {"reset": spatial_reset_ids, "diagonal": diagonal_ids}
"""What ``layout`` puts in place of M-RoPE's own."""


def sections(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """The released allocation: the first ``mrope_section[0]`` frequencies rotate with time, the
    next with rows, the last with columns. ``ratio`` sets other sections, ``combine`` another
    allocation.
    """
    if switches.combine != "sections":
        return COMBINED[switches.combine](positions, config, switches)
    shares = _shares(switches, config.head_dim // 2, config.mrope_section)
    return _angles(positions, config, switches, torch.tensor(_dealt(shares, turns=False)))


def interleaved(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """MRoPE-Interleave (arXiv 2510.23095): time, row, column in turn, so that each has high and low
    frequencies.

    Rows and columns take 20 of 64 frequencies each, as published, 5 of 16 in other head sizes, or
    what the sections of an interleaved checkpoint (Qwen3-VL) give them; time takes the rest, the
    lowest included.
    """
    n = config.head_dim // 2
    k = n * 5 // 16
    if config.mrope_interleaved and not switches.ratio.parts:
        component = torch.tensor(_strided(config.mrope_section, n))
    else:
        component = torch.tensor(_dealt(_shares(switches, n, (n - 2 * k, k, k))))
    return _angles(positions, config, switches, component)


def _shares(switches: Switches, n: int, own: Sequence[int]) -> Sequence[int]:
    """How many of ``n`` frequencies (or heads) time, row and column have."""
    return switches.ratio.shares(n) if switches.ratio.parts else own


def _dealt(shares: Sequence[int], turns: bool = True) -> list[int]:
    """Which component each frequency rotates with: dealt in turn until each has its share, or
    one share after the other.
    """
    left, out = list(shares), []
    while sum(left):
        for component, n in enumerate(left):
            taken = min(n, 1) if turns else n
            out += [component] * taken
            left[component] -= taken
    return out


def _strided(section: Sequence[int], n: int) -> list[int]:
    """Which component each of ``n`` frequencies of an interleaved checkpoint rotates with: every
    third one with rows, and with columns, as often as its section says.
    """
    return [j % 3 if j < 3 * section[j % 3] else 0 for j in range(n)]


def kron(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """R_t (x) R_h (x) R_w on blocks of 8 features, written in the basis in which it is four plane
    rotations.

    Their phases are t + h + w, t + h - w, t - h + w and t - h - w, all times the block's frequency
    theta^(-8b / head_dim). For text that is 3p, p, p, -p: not ordinary RoPE. Raises UsageError
    under YaRN.
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
    shares = _shares(switches, n, (n - 2 * each, each, each))
    if any(part and not share for part, share in zip(switches.ratio.parts or (1, 1, 1), shares)):
        raise UsageError(
            f"{switches.position_says} gives each component key-value heads of its own; this "
            f"checkpoint has {n}, 3 are needed"
        )
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(shares))
    zeros = torch.zeros(config.head_dim // 2, dtype=torch.long)
    each_head = positions[owner.to(positions.device)].movedim(0, -1)
    return _angles(each_head[None], config, switches, zeros)


def low_time(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """VideoRoPE's allocation (arXiv 2502.05173): time has the lowest frequencies, rows and columns
    the others alternately.
    """
    n = config.head_dim // 2
    of_space = sum(config.mrope_section[1:])
    own = (n - of_space, (of_space + 1) // 2, of_space // 2)
    time, rows, columns = _shares(switches, n, own)
    component = torch.tensor([*_dealt((0, rows, columns)), *[0] * time])
    return _angles(positions, config, switches, component)


def no_time(positions: Tensor, config: TextConfig, switches: Switches) -> tuple[Tensor, Tensor]:
    """HoPE's allocation (arXiv 2505.20444): VideoRoPE's with the frequencies of time at zero, for
    text as well.
    """
    still = torch.cat((torch.zeros_like(positions[:1]), positions[1:]))
    return low_time(still, config, switches)


COMBINED: Mapping[str, Angles] = {
    "interleaved": interleaved,
    "low_time": low_time,
    "no_time": no_time,
    "heads": per_head,
    "kron": kron,
}
"""What ``combine`` puts in place of M-RoPE's sections."""


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


def moved_text(ids: Tensor, parts: Sequence[Span], switches: Switches) -> Tensor:
    """Position ids with the text after each image and video where ``text_offset`` wants it; all
    that follows moves along.

    Ids are [components, tokens]. The distance is counted from where the image or video starts, that
    is from where text would stand in its place.
    """
    offset = switches.text_offset
    if offset.form == "released":
        return ids
    resets = switches.position in ("mrope_i", "mhrope") or switches.layout == "reset"
    out, at = [], 0
    shift: float = 0
    here: float = 0  # where text would go on, before any shift
    begun: float | None = None  # where the visual before this text starts
    for part in parts:
        own = ids[:, at : at + part.length]
        at += part.length
        if part.grid is not None:
            begun = here if begun is None else begun
            moves = torch.tensor([[1], [0], [0]]) if resets else 1
            out.append(own + shift * moves)
            continue
        if part.length:
            start = own[0, 0].item()
            if begun is not None:
                beyond = max(0, start - begun - offset.steps)
                shift += offset.steps if offset.form == "add" else -beyond
                begun = None
            here = start + part.length
        out.append(own + shift)
    return _joined(out, len(ids))


@dataclass(frozen=True)
class Scheme:
    """A position scheme.

    place: position ids [components, tokens] of a sequence, from its spans.
    angles: RoPE's cos and sin for such ids, [..., head_dim] or, where heads differ,
        [..., kv_heads, head_dim].
    components: the first size of the ids.
    """

    place: Ids
    angles: Angles
    components: int = 3

    def ids(self, parts: Sequence[Span], switches: Switches) -> Tensor:
        """Position ids [components, tokens], text moved as ``text_offset`` says."""
        return moved_text(self.place(parts, switches), parts, switches)


POSITIONS: Mapping[str, Scheme] = {
    "mrope": Scheme(mrope_ids, sections),
    "rope1d": Scheme(rope1d_ids, sections),
    "mrope_i": Scheme(spatial_reset_ids, interleaved),
    "mhrope": Scheme(spatial_reset_ids, per_head),
    "videorope": Scheme(diagonal_ids, low_time),
    "hope": Scheme(diagonal_ids, no_time),
    "vrope": Scheme(vrope_ids, four_in_turn, components=4),
    "v2pe": Scheme(v2pe_ids, sections),
    "circle": Scheme(circle_ids, sections),
    "none": Scheme(rope1d_ids, no_rotation),
}
"""Position schemes by the name of their switch value."""
