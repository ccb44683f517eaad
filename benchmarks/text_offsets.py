"""Why the M-RoPE twin fails on clips longer than it was trained on: the text's positions, not time.

Takes the two shipped twins (seed 0) and the same clips, and changes nothing but position ids:

- `released`: as the scheme has them.
- `text clamped`: the text after a clip starts no further away than behind the longest trained clip.
- `text +N`: the text after a trained clip starts N seconds' worth of positions further away.

All five options of a question are scored behind the shared prompt, so that an answer is told apart
as the right option, another option, or none of them (the greedy answer leaves the options' trie).

    python benchmarks/text_offsets.py --scenes 32 --save benchmarks/results/text-offsets.md
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import Span
from evalkit.nano import clips, shipped
from evalkit.nano.batches import HEAD, TURN, encode, pixels, prompt
from evalkit.nano.scene import Scene, stream
from evalkit.nano.train import MaskedProduct

TRAINED = 8
"""Seconds of the longest clip in training: its text starts 8 steps (M-RoPE) behind its start."""
KINDS = ("direction", "count", "order", "vanish")
Ids = Callable[[Sequence[Span]], Tensor]


def mrope(clamped: tuple[bool, bool] = (False, False), add: int = 0) -> Ids:
    """M-RoPE ids [3, tokens] whose text start is clamped in time, or in rows and columns, to what
    training had; ``add`` moves it further away.
    """

    def ids(parts: Sequence[Span]) -> Tensor:
        out, start = [], torch.zeros(3, 1)
        for part in parts:
            if part.grid is None:
                out.append(torch.arange(part.length) + start)
                start = start + part.length
                continue
            axes = (torch.arange(n) for n in part.grid)
            out.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + start)
            far = float(max(part.grid))
            near = float(max(min(part.grid[0], TRAINED), *part.grid[1:]))
            time, space = (near if c else far for c in clamped)
            start = start + torch.tensor([[time], [space], [space]]) + add
        return torch.cat(out, dim=1)

    return ids


def rope1d(clamped: bool = False, add: int = 0) -> Ids:
    """1D ids [3, tokens], likewise; ``add`` counts in seconds' worth of tokens."""

    def ids(parts: Sequence[Span]) -> Tensor:
        out, start = [], 0
        for part in parts:
            out.append(torch.arange(part.length) + start)
            start += part.length
            if part.grid is not None:
                t, h, w = part.grid
                start += add * h * w - (max(t - TRAINED, 0) * h * w if clamped else 0)
        return torch.cat(out).expand(3, -1)

    return ids


def variants(model: str, seconds: int) -> dict[str, Ids]:
    scheme: Callable[..., Ids] = mrope if model == "twin-mrope" else rope1d
    out = {"released": scheme()}
    if seconds > TRAINED:
        out["text clamped"] = mrope((True, True)) if scheme is mrope else rope1d(True)
        if scheme is mrope:
            out["only rows and columns of the text clamped"] = mrope((False, True))
            out["only time of the text clamped"] = mrope((True, False))
    if seconds == TRAINED:
        out |= {f"text +{n}": scheme(add=n) for n in (4, 8, 24)}
    return out


def draw(kind: str, seconds: float, n: int) -> list[Scene]:
    """n clips of one kind at difficulty 0.25, from a stream that neither training nor tests use."""
    rng, out = stream("dev", 7, KINDS.index(kind), int(seconds)), []
    while len(out) < n:
        scene = clips.draw(0.25, rng, seconds)
        if scene.questions[0].kind == kind:
            out.append(scene)
    return out


@dataclass(frozen=True)
class Scored:
    """Per clip: the right option, another one, or none was written; the right one was likeliest;
    its negative log-likelihood a token in nats.
    """

    right: bool
    other: bool
    choice: bool
    nll: float


@torch.no_grad()
def score(
    model: Qwen2VL, scenes: Sequence[Scene], features: Sequence[Tensor], ids: Ids
) -> list[Scored]:
    head, pad, end = encode(HEAD), encode("<|video_pad|>"), encode("<|im_end|>")
    vision_end = encode("<|vision_end|>")
    out = []
    for scene, (feature, grid) in zip(scenes, features):
        asked = scene.questions[0]
        ask = encode(prompt("clips", asked) + TURN)
        options = [encode(o) + end for o in asked.options]
        shared = [*head, *pad * len(feature), *vision_end, *ask]
        parts = [Span(len(head)), Span(len(feature), grid), Span(99)]
        whole = ids(parts).float()
        # the options lie one behind the other; each sees the prompt and itself, and stands where it
        # would alone
        tokens, owner, places, at = list(shared), [-1] * len(shared), [whole[:, : len(shared)]], []
        for j, option in enumerate(options):
            at.append([len(shared) - 1, *range(len(tokens), len(tokens) + len(option) - 1)])
            tokens += option[:-1]
            owner += [j] * (len(option) - 1)
            places.append(whole[:, len(shared) : len(shared) + len(option) - 1])
        own = torch.tensor(owner)
        mask = ((own[None, :] == -1) | (own[:, None] == own)) & torch.ones(
            len(own), len(own)
        ).tril().bool()
        x = model.embed(torch.tensor([tokens]), feature)
        cos_sin = model.rotary(torch.cat(places, dim=1)[:, None])
        hidden = model.model(x, *cos_sin, MaskedProduct(mask[None, None]))[0]
        logits = [model.lm_head(hidden[a]).float().log_softmax(-1) for a in at]
        totals = np.array([-float(p[range(len(o)), o].sum()) for p, o in zip(logits, options)])
        gold = asked.options.index(asked.answer)
        written = greedy([p.argmax(-1).tolist() for p in logits], options)
        out.append(
            Scored(
                written == gold,
                written is not None and written != gold,
                int(totals.argmin()) == gold,
                totals[gold] / len(options[gold]),
            )
        )
    return out


def greedy(best: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> int | None:
    """The option that greedy decoding writes, followed along the options' trie; None if it leaves
    the trie. ``best[j][k]``: the argmax token after k tokens of option j.
    """
    alive, k = list(range(len(options))), 0
    while alive:
        token = best[alive[0]][k]
        alive = [j for j in alive if len(options[j]) > k and options[j][k] == token]
        k += 1
        if alive and len(options[alive[0]]) == k:
            return alive[0]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenes", type=int, default=32, help="clips of each of the four kinds (32)"
    )
    parser.add_argument("--seconds", default="3,8,12,16,32")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Text positions behind long clips: the shipped twins, position ids changed, nothing else",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, fp32; {4 * args.scenes} clips a "
        f"length, {args.scenes} of each kind, seed 0 of the twins; trained on clips of 2 to "
        f"{TRAINED} s. `right`: the greedy answer is the right option; `other`: another option; "
        "`none`: no option at all; `choice`: the right option has the highest likelihood (chance "
        "20 %); NLL in nats an answer token.",
        "",
        "| model | clip | positions | right | other | none | choice | NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("twin-mrope", "twin-rope1d"):
        model = load(shipped()[name], "float32", "cpu")
        processor = Processor(switches=model.switches)
        for seconds in map(int, args.seconds.split(",")):
            scenes = [s for kind in KINDS for s in draw(kind, seconds, args.scenes)]
            features = []
            for scene in scenes:
                patches, (t, h, w) = pixels(scene, processor)
                with torch.no_grad():
                    features.append((model.visual(patches, [(t, h, w)]), (t, h // 2, w // 2)))
            for variant, ids in variants(name, seconds).items():
                found = score(model, scenes, features, ids)
                right, other, choice = (
                    np.mean([getattr(f, k) for f in found]) for k in ("right", "other", "choice")
                )
                lines.append(
                    f"| {name} | {seconds} s | {variant} | {right:.2f} | {other:.2f} | "
                    f"{1 - right - other:.2f} | {choice:.2f} | "
                    f"{np.mean([f.nll for f in found]):.2f} |"
                )
                print(lines[-1], flush=True)
    page = "\n".join([*lines, ""])
    print(page)
    if args.save:
        args.save.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
