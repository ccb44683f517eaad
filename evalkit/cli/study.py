"""``evalkit study``: a study of the lab, from nothing to its page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import name_or_path, output_option, spread_options, talk_options, whole
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.lab.finetune import Checkpoint
    from evalkit.lab.study import Study


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "study",
        help="train small models alike but for one choice, test the study's hypotheses; "
        "repeat to resume",
    )
    parser.add_argument(
        "study",
        nargs="+",
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
        "--seeds",
        type=whole,
        metavar="N",
        help="so many seeds instead of the study's: the more, the smaller an effect shows",
    )
    parser.add_argument(
        "--start",
        metavar="CHECKPOINT",
        help="fine-tune this checkpoint with each arm's switches, its vision tower frozen, instead "
        "of training small models: a shipped name, a folder or a hub id",
    )
    parser.add_argument(
        "--device",
        help="cpu or cuda: where a checkpoint is trained (cuda if there is); without --start, "
        "where small models of one shape are trained as one stack",
    )
    spread_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="say how many runs are to go")
    talk_options(parser, table=False)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.lab import page
    from evalkit.lab.schedule import missing, others
    from evalkit.lab.study import find_study, load_study

    trainer = trainer_of(args)
    studies = [seeded(load_study(find_study(str(name))), args.seeds) for name in args.study]
    from_ = start = ""
    if args.start:
        trainer.check([run for study in studies for _, run in study.runs()])
        from_, start = f"-from-{trainer.folder.name}", f" --start {quote(args.start)}"
    on = " --device cuda" if args.device and args.device != "cpu" and not args.start else ""
    seeds = f" --seeds {args.seeds}" if args.seeds else ""
    commands = [f"evalkit study {quote(str(Path(name)))}{seeds}{start}{on}" for name in args.study]
    folders = [args.output / f"{study.name}{from_}" for study in studies]
    for study, folder, command in zip(studies, folders, commands):
        if folders.count(folder) > 1:
            raise UsageError(
                f"{study.name}: two of these studies have this name; give each its own"
            )
        page.check_own(study, folder, command)
        if args.dry_run:
            total, to_go = len(list(study.runs())), len(missing(study, folder, trainer))
            other = others(study, folder, trainer)
            kept = f" ({other} that lie there are of other code or settings)" if other else ""
            print(
                f"{study.name}: {len(study.arms())} arms, {total} runs, {to_go} to go{kept}; "
                f"{folder}"
            )
    if not args.dry_run:
        new = train(list(zip(studies, folders)), trainer, args)
        for study, folder, command in zip(studies, folders, commands):
            write(study, folder, trainer, command, folder in new, args.start or "")
    return 0


def seeded(study: Study, seeds: int | None) -> Study:
    """The study with so many seeds, where a number is given. Raises UsageError for less than 2,
    which no interval comes from, and more than 64.
    """
    if seeds is None:
        return study
    if not 2 <= seeds <= 64:
        raise UsageError(f"--seeds {seeds}: expected 2 to 64; intervals are over seeds")
    return study.model_copy(update={"seeds": seeds})


def trainer_of(args: argparse.Namespace) -> Any:
    """What trains the runs: small models side by side or in stacks, or a checkpoint. Raises
    UsageError.
    """
    from evalkit.lab.schedule import OWN
    from evalkit.lab.stacked import InStacks

    if args.start:
        return checkpoint(args.start, args.device)
    return InStacks(args.device) if args.device else OWN


def train(studies: list[tuple[Study, Path]], trainer: Any, args: argparse.Namespace) -> set[Path]:
    """Trains what is missing; returns the folders in which something was. Raises UsageError where
    something is and the device is not here: pages of what was trained elsewhere need none.
    """
    from tqdm import tqdm

    from evalkit.lab import page
    from evalkit.lab.schedule import adopt, missing, run_missing, run_stacked
    from evalkit.models.device import checked_device

    to_go = {folder: len(missing(study, folder, trainer)) for study, folder in studies}
    if any(to_go.values()):
        checked_device(args.device)
    for study, folder in studies:
        adopt(study, folder, trainer)
        if to_go[folder] == len(list(study.runs())):
            page.state_hypotheses(study, folder)
    workers = args.workers or (1 if args.start else os.cpu_count() or 1)
    if args.device and not args.start:
        done = run_stacked(studies, workers, trainer)
    else:
        done = (
            (s, f)
            for s, to in studies
            for f in run_missing(s, to, workers, trainer, args.devices, args.executor)
        )
    quiet = args.verbosity < 0 or not any(to_go.values())
    with tqdm(total=sum(to_go.values()), unit="run", disable=quiet) as bar:
        for study, finished in done:
            bar.set_description(study.name, refresh=False)
            bar.set_postfix_str(f"{finished.arm.name}, seed {finished.run.seed}", refresh=False)
            bar.update()
    return {folder for folder, n in to_go.items() if n}


def write(study: Study, folder: Path, trainer: Any, command: str, new: bool, start: str) -> None:
    """Writes the study's page where it isn't current, and prints what held."""
    from evalkit.lab import page
    from evalkit.lab.schedule import results
    from evalkit.lab.stored import PAGE

    runs = results(study, folder, trainer)
    stale = new or not page.is_current(study, folder, command)
    if stale:
        page.write(study, runs, folder, command, start)
    print(page.summary(study, runs))
    print(f"{'written' if stale else 'nothing to do'}: {folder / PAGE}")


def checkpoint(name: str, device: str | None) -> Checkpoint:
    """The checkpoint of that name. Raises UsageError, and CheckpointError for a damaged one."""
    from evalkit.lab.finetune import Checkpoint
    from evalkit.models.device import checked_device
    from evalkit.nano import checkpoint_folder

    return Checkpoint(checkpoint_folder(name), checked_device(device))
