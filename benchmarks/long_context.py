"""One clip of 16,384 visual tokens beside 64 short questions: peak memory and seconds.

    python benchmarks/long_context.py [--steps 64] [--questions 64] [--cache-tokens N]

The embedded model on the CPU, random pixels and words, answers of 16 tokens. Each of three loads
runs in a process of its own: the clip alone, the short questions alone, both, the clip in the
middle. Memory is the process's peak beyond the loaded model and the waiting pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime

SIDE = 32  # patches: 16 x 16 visual tokens a step


def one(load: str, steps: int, questions: int) -> None:
    """Runs one load and prints its peak in MiB, seconds, and a digest of the answers."""
    import numpy as np
    import torch

    from evalkit.engine import Engine, Prompt, Visual
    from evalkit.engine.interface import Media
    from evalkit.models.registry import family_of
    from evalkit.nano import shipped

    torch.set_num_threads(2)
    folder = shipped()["nano"]
    family = family_of(folder)
    model = family.load(folder)
    processor = family.Processor.load(folder, model.switches)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2 * steps, SIDE * 14, SIDE * 14, 3), dtype=np.uint8)
    patches, media = processor.video_patches(frames, None)
    clip = Visual(patches, Media(media.grid, True), "clip", processor.normalise)
    head = family.bench.placeholders(model.config, clip.media)
    words = [tuple(map(int, rng.integers(0, 250, 60))) for _ in range(questions)]
    short = [Prompt(str(i), w, max_new_tokens=16) for i, w in enumerate(words)]
    long = Prompt("clip", (*head, 7, 8, 9), (clip,), 16, prefix=len(head))
    middle = questions // 2
    prompts = {"clip": [long], "short": short, "both": [*short[:middle], long, *short[middle:]]}
    del frames
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    answers = sorted(
        (o.id, o.ids, o.error) for o in Engine(model, frozenset()).generate(prompts[load])
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{peak / 1024:.0f} {seconds:.1f} {hashlib.sha256(repr(answers).encode()).hexdigest()[:8]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=64, help="of the clip, 256 tokens each (64)")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--load", choices=("clip", "short", "both"), help="in this process")
    args = parser.parse_args()
    if args.load:
        one(args.load, args.steps, args.questions)
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, 2 threads\n")
    print("| load | peak beyond model and pixels, MiB | seconds | answers |\n|---|---|---|---|")
    for load in ("clip", "short", "both"):
        sizes = ["--steps", str(args.steps), "--questions", str(args.questions), "--load", load]
        out = subprocess.run([sys.executable, __file__, *sizes], text=True, capture_output=True)
        if out.returncode:
            sys.exit(out.stderr)
        print(f"| {load} | {' | '.join(out.stdout.split())} |")


if __name__ == "__main__":
    main()
