"""``evalkit study``: a study of the lab, from nothing to its page."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from evalkit.cli.options import name_or_path, output_option, talk_options, whole
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.lab.finetune import Checkpoint


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "study",
        help="train small models alike but for one choice, test the study's hypotheses; "
        "repeat to resume",
    )
    parser.add_argument(
        "study",
        type=name_or_path,
        help="the name of a shipped study (positions, schemes, frames, ...), or a YAML file",
    )
    output_option(parser, "results/lab")
    parser.add_argument(
        "--workers",
        type=whole,
        metavar="N",
        help="models that train at once, a thread each (one for each core)",
    )
    parser.add_argument(
        "--start",
        metavar="CHECKPOINT",
        help="fine-tune this checkpoint with each arm's switches, its vision tower frozen, instead "
        "of training small models: a shipped name, a folder or a hub id",
    )
    parser.add_argument("--device", help="where a checkpoint is trained (cpu, or cuda if there is)")
    parser.add_argument("--dry-run", action="store_true", help="say how many runs are to go")
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from evalkit.lab import page
    from evalkit.lab.schedule import OWN, Trainer, missing, results, run_missing
    from evalkit.lab.study import find_study, load_study

    trainer: Trainer
    study = load_study(find_study(str(args.study)))
    folder, command, trainer = args.output / study.name, f"evalkit study {args.study}", OWN
    if args.device and not args.start:
        raise UsageError("--device: only with --start; small models are trained on the CPU")
    if args.start:
        trainer = checkpoint(args.start, args.device)
        trainer.check([run for _, run in study.runs()])
        folder = args.output / f"{study.name}-from-{trainer.folder.name}"
        command += f" --start {args.start}"
    total, to_go = len(list(study.runs())), len(missing(study, folder, trainer))
    if args.dry_run:
        print(f"{study.name}: {len(study.arms())} arms, {total} runs, {to_go} to go; {folder}")
        return 0
    if to_go == total:
        page.state_hypotheses(study, folder)
    workers = args.workers or (1 if args.start else os.cpu_count() or 1)
    with tqdm(total=total, initial=total - to_go, desc=study.name, unit="run") as bar:
        for done in run_missing(study, folder, workers, trainer):
            bar.set_postfix_str(f"{done.arm.name}, seed {done.run.seed}", refresh=False)
            bar.update()
    runs = results(study, folder, trainer)
    stale = to_go or not page.is_current(study, folder)
    if stale:
        page.write(study, runs, folder, command, args.start or "")
    print(page.summary(study, runs))
    print(f"{'written' if stale else 'nothing to do'}: {folder / page.PAGE}")
    return 0


def checkpoint(name: str, device: str | None) -> Checkpoint:
    """The checkpoint of that name. Raises UsageError, and CheckpointError for a damaged one."""
    from evalkit.lab.finetune import Checkpoint
    from evalkit.models.device import checked_device
    from evalkit.nano import checkpoint_folder

    return Checkpoint(checkpoint_folder(name), checked_device(device))
