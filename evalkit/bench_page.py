"""What ``evalkit bench`` prints of a measurement (``evalkit.bench``), as markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from evalkit.bench import COMPILED, FIRST, OURS, Load, Measured, measure
from evalkit.engine.products import chosen


def bench(
    name: str,
    load_: Load,
    dtype: str,
    device: str,
    rounds: int,
    sizes: Sequence[int],
    compiled: bool = False,
    schemes: Sequence[str] = (),
) -> str:
    """``measure`` as a page of markdown."""
    m = measure(name, load_, dtype, device, rounds, sizes, compiled, schemes)
    new = sum(p.max_new_tokens for p in m.prompts)
    attention = m.work.vision_attention + m.work.prefill_attention
    page = [
        f"# {Path(name).name}, {dtype}, load {load_.name}: {len(m.prompts)} questions, "
        f"{m.visual_tokens:,} visual tokens, {new:,} new tokens",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {_chip(m, device)}, torch {torch.__version__}, "
        f"transformers {version('transformers')}; median of {rounds} rounds in turn.",
        "",
        f"{m.work.linear / 1e12:.2f} TFLOP in linear layers with every image and shared prefix "
        f"once ({m.unshared.linear / 1e12:.2f} without",
        f"sharing), {attention / 1e12:.2f} in attention before decoding; a large product reaches "
        f"{m.rate / 1e9:,.0f} GFLOP/s, a copy",
        f"{m.copied / 1e9:.1f} GB/s: roofline {m.floor().seconds:.3g} s.",
        "",
        *_sides(m, new),
    ]
    for side in (OURS, COMPILED):
        if side in m.times:
            page += ["", *_stages(m, side)]
    if m.compiling:
        page.append(f"Compiling took {m.compiling:.0f} s of the first run.")
    page += [
        "",
        f"Peak memory before a peer ran: {m.peak / 2**20:,.0f} MiB "
        f"{'on the device' if device != 'cpu' else 'resident'}.",
    ]
    return "\n".join([*page, ""])


def _chip(m: Measured, device: str) -> str:
    """What was measured on, and on a CPU how evalkit used it."""
    if device != "cpu":
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    if cores := m.engines[OURS].cores:
        chip += f" (evalkit: engines side by side {cores.engines}, threads of each {cores.threads})"
    for way, serves in chosen().items() if device == "cpu" else ():
        chip += f"; {way}: {'yes' if serves else 'no'}"
    return chip


def _sides(m: Measured, new: int) -> list[str]:
    """A table with a row a side; ``new`` tokens are generated in all."""
    prompts, tokens_in = m.prompts, sum(len(p.ids) for p in m.prompts)
    lines = [
        "| | seconds | items/s | visual tokens/s | tokens in/s | tokens out/s | fraction of "
        "roofline | answers as evalkit's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in m.times:
        if side == FIRST:
            continue
        t = m.seconds(side)
        same = sum(m.answers[side][p.id] == m.answers[OURS][p.id] for p in prompts)
        lines.append(
            f"| {side} | {t:.2f} | {len(prompts) / t:.1f} | {m.visual_tokens / t:,.0f} | "
            f"{tokens_in / t:,.0f} | {new / t:,.0f} | {m.floor(side).seconds / t:.0%} | "
            f"{same} of {len(prompts)} |"
        )
    if FIRST in m.times:
        one, every = m.seconds(FIRST), m.seconds(OURS)
        further = (every - one) / (len(prompts) - len(m.firsts)) / (one / len(m.firsts))
        lines += [
            "",
            f"The first question of every page alone takes {one:.2f} s: a further question "
            f"of a page costs {further:.0%} of the first.",
        ]
    return lines


def _stages(m: Measured, side: str) -> list[str]:
    s, least = m.engines[side].stats, m.floor(side)
    steps = max(s.decode_steps, 1)
    rest = s.prefill_seconds - s.vision_seconds
    lines = [
        f"| stage of {side} | seconds | fraction of roofline | |",
        "|---|---|---|---|",
        f"| vision | {s.vision_seconds:.2f} | {_share(least.vision, s.vision_seconds)} | "
        f"{s.visuals} images, {s.visuals_reused} reused |",
        f"| rest of prefill | {rest:.2f} | {_share(least.prefill, rest)} | {s.tokens_in:,} tokens "
        f"in {s.packs} packs, {s.tokens_reused:,} more saved by shared prefixes |",
        f"| decode | {s.decode_seconds:.2f} | {_share(least.decode, s.decode_seconds)} | "
        f"{s.decode_steps} steps of {s.rows_decoded / steps:.1f} rows, "
        f"{1e3 * s.decode_seconds / steps:.1f} ms each; at the roofline "
        f"{1e3 * least.decode / steps:.1f} ms |",
        "",
    ]
    if k := m.kernels.get(side):
        linear, attention = m.work.linear, m.work.vision_attention + m.work.prefill_attention
        lines += [
            f"Profiled once: the GPU was busy for {k.busy:.0%} of {k.wall:.2f} s; products "
            f"{k.products:.2f} s ({linear / max(k.products, 1e-9) / 1e12:.0f} TFLOP/s), attention "
            f"{k.attention:.2f} s ({attention / max(k.attention, 1e-9) / 1e12:.0f} TFLOP/s, "
            f"decoding's aside), copies {k.copies:.2f} s, the rest {k.other:.2f} s.",
            "",
        ]
    return lines


def _share(least: float, seconds: float) -> str:
    return f"{least / seconds:.0%}" if seconds else ""
