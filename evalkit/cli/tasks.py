"""``evalkit tasks``: the installed tasks and their subsets, or one task in detail."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import name_or_path, reading_of, reading_options, talk_options
from evalkit.cli.output import print_error, print_json
from evalkit.errors import EvalkitError, UsageError
from evalkit.results.tables import aligned

if TYPE_CHECKING:
    from evalkit.cli.parser import Verbs
    from evalkit.task import Task


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser("tasks", help="list tasks and their subsets, or show one in detail")
    parser.add_argument(
        "task", nargs="*", type=name_or_path, metavar="NAME[:SUBSET]", help="show this task"
    )
    reading_options(parser)
    talk_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if args.task:
        from evalkit.plan import tasks_of

        reading = {k: v for k, v in reading_of(args).items() if v}
        details = [_details(task) for task in tasks_of(args.task, reading=reading)]
        if args.json:
            print_json(details)
        else:
            print("\n\n".join(_text(d) for d in details))
        return 0
    from evalkit.task import registered, task_class

    rows, faults = [], []
    for name in sorted(registered()):
        try:
            cls = task_class(name)
        except UsageError as e:  # another package's: it costs the others nothing
            faults.append(e)
            continue
        rows.append((name, list(cls.subsets), cls.metrics[0].name, cls.description))
    if args.json:
        print_json(
            {"task": n, "subsets": s, "headline": m, "description": d} for n, s, m, d in rows
        )
    else:
        shown = [(n, _few(s), m, d) for n, s, m, d in rows]
        print(aligned(("task", "subsets", "headline", ""), shown))
        print("evalkit tasks NAME: all subsets of one, its prompt, columns and settings")
    for fault in faults:
        print_error(str(fault))
    return int(bool(faults))


def _few(names: list[str]) -> str:
    """As many as leave the table readable on a terminal, and how many there are."""
    kept = names
    while len(", ".join(kept)) > 45:
        kept = kept[:-1]
    return ", ".join(kept if kept == names else [*kept, f"... ({len(names)})"])


def _details(task: Task) -> dict[str, Any]:
    from dataclasses import asdict, fields, is_dataclass

    from evalkit.sources import Joined

    source: Any = task.source
    tables = list(source.parts) if isinstance(source, Joined) else []
    source = source.first if tables else source
    data = {f.name: getattr(source, f.name) for f in fields(source)} if is_dataclass(source) else {}
    columns = data.pop("columns", ())
    if tables:  # each has a configuration, and a place for its clips, of its own
        data |= {"config": ",".join(tables), "clip_folder": ""}
    return {
        "task": task.full_name,
        "description": task.description,
        "version": task.version,
        "subsets": list(task.subsets),
        "data": type(source).__name__ + "".join(f" {k}={v}" for k, v in data.items() if v),
        "columns": list(columns),
        "metrics": [m.name + (f" (mean over {m.group})" if m.group else "") for m in task.metrics],
        "max_new_tokens": task.max_new_tokens,
        "answers": "ranked" if task.rank else "generated",
        **{k: v for k, v in asdict(task.budget).items() if v is not None},
        "prompt": _prompt(task),
        "protocols": [_protocol(task, name) for name in task.subset.all_protocols],
    }


def _protocol(task: Task, name: str) -> dict[str, Any]:
    """A protocol's settings, and the published scores that it can be set beside."""
    from dataclasses import asdict

    from evalkit.results.published import comparable

    one = type(task)(task.subset_name, name)
    p = one.protocol
    return {
        "name": f"{name} {one.prompt_digest}".strip(),
        "origin": p.origin,
        **(p.settings() if one.prompt_digest else {}),
        "max_new_tokens": one.max_new_tokens,
        **{k: v for k, v in asdict(one.budget).items() if v is not None},
        "headline": one.metrics[0].name,
        "note": p.note,
        "comparable": [f"{s.model} {s.value} ({s.source})" for s in comparable(one)],
    }


def _prompt(task: Task) -> str:
    """The first prompt of the subset where its data are at hand, else of the default subset."""
    from evalkit.sources import Hub, Joined
    from evalkit.task import read_samples
    from evalkit.types import Sample

    here = type(task)()
    for one in (task, here):
        if isinstance(one.source, Hub | Joined):
            continue
        try:
            sample = next(s for s in read_samples(one) if isinstance(s, Sample))
        except (EvalkitError, StopIteration, OSError):
            continue
        return "\n".join(_parts(sample))
    return ""


def shown_samples(task: Task, data: Path | None = None, most: int = 3) -> Iterator[str]:
    """The first samples of a task as a person checks them: what is asked, what counts as right, or
    why a row can't be used.
    """
    from evalkit.task import RowError, read_samples

    for sample in islice(read_samples(task, data), most):
        if isinstance(sample, RowError):
            yield f"{sample.id}: can't be used: {sample.reason}"
            continue
        right = "nothing to compare with" if sample.target is None else f"target: {sample.target!r}"
        yield "\n".join([f"{sample.id}:", *_parts(sample), right])


def _parts(sample: Any) -> Iterator[str]:
    from evalkit.types import Text

    for message in sample.messages:
        for part in message.content:
            yield part.text if isinstance(part, Text) else _medium(part)
    if sample.choices:
        yield f"(choices: {', '.join(sample.choices)})"


def _medium(part: Any) -> str:
    """``<image photo.png>``, its file's name where it has one."""
    kind, source = type(part).__name__.lower(), part.source
    return f"<{kind} {source.name}>" if isinstance(source, Path) else f"<{kind}>"


def _text(details: dict[str, Any]) -> str:
    lines = []
    for key, value in details.items():
        if key == "protocols":
            lines += [f"\nprotocol\n{_indented(_text(p))}" for p in value]
            continue
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if text:
            lines.append(f"{key.replace('_', ' '):<15} " + text.replace("\n", "\n" + " " * 16))
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
