"""Studies of the lab in stacks on one GPU: runs, seconds, and what each took.

    python benchmarks/lab_gpu.py OUT [STUDY ...] [--device cuda] [--seconds 240] [--workers 14]

Studies in order of value; what has ended when the time is up is kept, and a study that fails is
left out. OUT gets ``lab.tar.gz`` with
a folder a study (``runs.jsonl``, from which ``evalkit study NAME --device cuda`` writes the page
without training anything) and ``lab.txt``, what was printed. Needs neither pandas nor matplotlib.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from evalkit.lab.schedule import missing, results, run_stacked
from evalkit.lab.stacked import InStacks, name_of, stackable
from evalkit.lab.study import Study, find_study, load_study

STUDIES = (
    "positions sizes schemes frames stages needle relations lookup aspect events fading reading "
    "controls resolution contested"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("studies", nargs="*", default=STUDIES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    args = parser.parse_args()
    began = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    def end() -> None:
        """Packs what there is; the operating system ends whatever still trains."""
        (args.out / "lab.txt").write_text("\n".join([*said, ""]), encoding="utf-8")
        with tarfile.open(args.out / "lab.tar.gz", "w:gz") as tar:
            tar.add(folder, "lab")
        os._exit(0)

    def watch() -> None:
        time.sleep(args.seconds)
        say(f"time is up: {args.seconds:g} s")
        end()

    threading.Thread(target=watch, daemon=True).start()
    say(f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {name_of(args.device)}")
    studies = [load_study(find_study(name)) for name in args.studies]
    places = [(study, folder / study.name) for study in studies]
    trainer, ended = InStacks(args.device), set()
    while places:
        try:
            for study, _ in run_stacked(places, args.workers, trainer):
                folder_of = folder / study.name
                if study.name not in ended and not missing(study, folder_of, trainer):
                    ended.add(study.name)
                    each = sum(f.result.seconds for f in results(study, folder_of, trainer))
                    say(
                        f"{study.name}: {len(list(study.runs()))} runs at "
                        f"{time.perf_counter() - began:.0f} s, {each:.1f} s of them its own"
                    )
            break
        except Exception:
            say(traceback.format_exc())
            places = without_failed(places, trainer)
    end()


def without_failed(
    places: Sequence[tuple[Study, Path]], trainer: InStacks
) -> list[tuple[Study, Path]]:
    """The studies but for the first that lacks runs of stacks."""
    for i, (study, folder) in enumerate(places):
        if any(stackable(run) for _, run in missing(study, folder, trainer)):
            return [*places[:i], *places[i + 1 :]]
    return []


if __name__ == "__main__":
    main()
