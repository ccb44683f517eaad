"""``evalkit data``: where the tasks' data come from and how to get them; ``evalkit data check``:
what is wrong with a copy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import name_or_path, talk_options, whole
from evalkit.cli.output import print_json
from evalkit.errors import UsageError
from evalkit.results.tables import aligned
from evalkit.safe_text import printable

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.task import Task


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "data", help="where the tasks' data come from, how to get them, and what is wrong with them"
    )
    parser.add_argument(
        "words",
        nargs="*",
        type=name_or_path,
        metavar="[check] NAME[:SUBSET]",
        help="show how to get a task's data; or check them",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="the local copy to check")
    parser.add_argument(
        "--decode", type=whole, metavar="N", help="decode only so many pictures and clips"
    )
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    from evalkit.plan import tasks_of
    from evalkit.task import registered, task_class

    if args.words[:1] == ["check"]:
        return _check(args)
    if args.data or args.decode:
        raise UsageError("--data and --decode belong to: evalkit data check NAME:SUBSET")
    if args.words:
        tasks = tasks_of(args.words)
    else:
        tasks = [task_class(n)(s) for n in sorted(registered()) for s in task_class(n).subsets]
    rows = [_row(task) for task in tasks]
    if args.json:
        print_json(rows)
    elif args.words:
        print("\n\n".join(_how(row) for row in rows))
    else:
        columns = ("task", "data", "rows")
        print(aligned(columns, [(r["task"], r["data"], str(r["rows"] or "")) for r in rows]))
        print("\nevalkit data NAME:SUBSET shows how to get them")
    return 0


def _row(task: Task) -> dict[str, Any]:
    from evalkit.sources import Hub, Joined

    source: Any = task.source
    table = source.first if isinstance(source, Joined) else source
    where = getattr(source, "place", "in the package")
    if isinstance(table, Hub):
        config = "" if isinstance(source, Joined) or not table.config else f" {table.config}"
        where = f"{table.repository}{config} {table.split}"
    folder = task.full_name.replace(":", "-").replace("+", "_plus")
    return {
        "task": task.full_name,
        "data": where,
        "rows": task.subset.size,
        "commands": _commands(task, folder),
    }


def _commands(task: Task, folder: str) -> list[str]:
    """How to get a subset's data by hand, check them, and run on them; empty where they ship with
    evalkit.
    """
    from evalkit.sources import Hub, Joined

    source: Any = task.source
    table = source.first if isinstance(source, Joined) else source
    if not isinstance(table, Hub):
        return []
    files = table.files or f"*{table.split}-*"
    patterns = " ".join(f"--include '{p}'" for p in (files, *table.archives))
    name = task.full_name
    return [
        f"hf download {table.repositories[-1]} --repo-type dataset {patterns} --local-dir {folder}",
        f"evalkit data check {name} --data {folder}",
        f"evalkit run --tasks {name} --data {name}={folder}",
    ]


def _how(row: dict[str, Any]) -> str:
    lines = [f"{row['task']}: {row['data']}" + (f", {row['rows']:,} rows" if row["rows"] else "")]
    return "\n".join(lines + [f"  {command}" for command in row["commands"]])


def _check(args: argparse.Namespace) -> int:
    from evalkit.data_check import check, text
    from evalkit.plan import tasks_of
    from evalkit.progress import Progress

    tasks = tasks_of(args.words[1:]) if args.words[1:] else []
    if not tasks or (args.data and len(tasks) > 1):
        raise UsageError(
            "expected: evalkit data check NAME:SUBSET --data PATH, one subset for one copy"
        )
    if args.data:
        args.data = args.data.expanduser()
        if not args.data.exists():
            raise UsageError(f"--data {args.data}: no such file or folder")
    found = []
    for task in tasks:
        with Progress(task.full_name, not args.json and args.verbosity >= 0) as bar:

            def show(number: int, bar: Progress = bar) -> None:
                bar.update(number, 0, None, "")

            found.append(check(task, args.data, args.decode, show))
    if args.json:
        print_json([f.json() for f in found])
    else:
        print("\n".join(printable(line) for f in found for line in text(f)))
    return 0 if all(f.ok for f in found) else 1
