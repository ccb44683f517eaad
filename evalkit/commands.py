"""What each verb of the command line does, in the order of its help. Heavy imports wait inside the
verb that needs them.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, UsageError
from evalkit.models.qwen2_vl.switches import Ablation

SWITCHES = tuple(f.name for f in fields(Ablation))


def run(args: argparse.Namespace) -> int:
    from evalkit.cell import Cell, Selection
    from evalkit.runner import Outcome, run_cell
    from evalkit.task import load_task

    if not 0 <= args.fail_on_error <= 1:
        raise UsageError(f"--fail-on-error {args.fail_on_error}: expected a share between 0 and 1")
    specs = [t.strip() for t in args.tasks.split(",") if t.strip()]
    chosen = [load_task(t) for t in specs]
    if not chosen:
        raise UsageError("--tasks names no task")
    data = _data(args.data, [f"{t.name}:{t.subset}" for t in chosen])
    selection = _selection(args, Selection)
    adapter = _adapter(args)
    cells = [
        Cell.make(t, adapter, args.model, args.output, data.get(f"{t.name}:{t.subset}"))
        for t in chosen
    ]
    if args.dry_run:
        return _dry_run(cells)
    if selection.partial:
        print(
            "evalkit: a part of the samples was selected: use the scores to try things out, "
            "never quote them",
            file=sys.stderr,
        )
    outcomes: list[Outcome] = []
    for cell in cells:
        try:
            outcome = run_cell(
                cell, selection, say=lambda text: print(f"evalkit: {text}", file=sys.stderr)
            )
        except UsageError:
            raise
        except EvalkitError as e:
            print(f"evalkit: error: {cell.name}: {e}", file=sys.stderr)
            continue
        outcomes.append(outcome)
        if outcome.stopped:
            print(f"evalkit: error: {cell.name} stopped: {outcome.stopped}", file=sys.stderr)
    return _report(args, outcomes, failed=len(outcomes) < len(cells))


def _report(args: argparse.Namespace, outcomes: Sequence[Any], failed: bool) -> int:
    from evalkit.provenance import command
    from evalkit.results import interval_text, write_leaderboard

    rows = []
    for o in outcomes:
        part = "" if o.results["complete"] and not o.results["selection"] else " (partial)"
        counts = str(o.results["errors"]), str(o.results["unparsed"])
        for m in o.results["metrics"]:
            ci = interval_text(m["ci_low"], m["ci_high"])
            rows.append(
                (o.cell.name, m["metric"], f"{m['value']:.1f}", ci, f"{m['n']}{part}", *counts)
            )
        if not o.results["metrics"]:
            rows.append((o.cell.name, "no score", "–", "–", f"{o.results['n']}{part}", *counts))
    print(_aligned(("task", "metric", "value", "95 % interval", "n", "errors", "unparsed"), rows))
    for o in outcomes:
        r = o.results
        how = (
            "reused, nothing to do"
            if not o.made and not o.stopped
            else f"{o.made} new, {o.reused} reused, {r['seconds']:.1f} s"
        )
        print(f"{o.cell.name}: {how}; {o.cell.folder}")
        failed |= bool(o.stopped) or not r["n"] or r["errors"] > args.fail_on_error * r["n_total"]
        if r["errors"]:
            _show_errors(o.cell.folder, r["errors"])
        if r["inference_probe"]:
            print(
                f"{o.cell.name}: inference probe, {r['switches']}: the weights were not "
                "trained this way"
            )
    if any(":mini" in o.cell.name for o in outcomes):
        print("mini scores are evalkit's own data: never set them beside official ones")
    try:
        print("leaderboard: {}, {}".format(*write_leaderboard(args.output)))
    except EvalkitError as e:
        print(f"evalkit: the leaderboard was not written: {e}", file=sys.stderr)
    if failed:
        print(
            f"evalkit: not everything was scored; repeat to try the rest again:\n  {command()}",
            file=sys.stderr,
        )
    return int(failed)


def _show_errors(folder: Path, count: int) -> None:
    from evalkit.journal import read

    reasons = [
        r for r in read(folder / "journal.jsonl").records.values() if r.get("error") is not None
    ]
    print(f"  {count} without a score:", file=sys.stderr)
    for r in reasons[:5]:
        print(f"    {r['id']}: {r['error']}", file=sys.stderr)
    if len(reasons) > 5:
        print(f"    ... all in {folder / 'journal.jsonl'}", file=sys.stderr)


def _dry_run(cells: Sequence[Any]) -> int:
    from evalkit.journal import read

    for cell in cells:
        done = len(read(cell.folder / "journal.jsonl").scored)
        print(f"{cell.name}: {done} samples journaled; {cell.folder}")
    return 0


def ask(args: argparse.Namespace) -> int:
    from evalkit.types import Image, Message, Request, Text, Video

    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {args.max_new_tokens}: expected a number above 0")
    if not args.media.is_file():
        raise UsageError(f"{args.media}: no such file")
    kind = (
        Video
        if args.media.suffix.lower() in (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
        else Image
    )
    if args.save and kind is Video:
        raise UsageError("--save draws into an image; this is a video")
    message = Message("user", (kind(args.media), Text(args.question)))
    adapter = _adapter(args)
    answer = next(iter(adapter.generate([Request("ask", (message,), args.max_new_tokens)])))
    if answer.error is not None:
        raise EvalkitError(answer.error)
    print(answer.text)
    if args.save:
        _draw(args.media, answer.text, answer.box_space, args.save)
    return 0


def _draw(media: Path, text: str, space: Any, save: Path) -> None:
    from PIL import ImageDraw

    from evalkit.media import decode_image
    from evalkit.metrics.boxes import parse_box
    from evalkit.types import Image

    picture = decode_image(Image(media)).convert("RGB")
    box = parse_box(text, space, picture.width, picture.height) if space else None
    if box is None:
        raise EvalkitError("the answer holds no box to draw")
    ImageDraw.Draw(picture).rectangle(
        tuple(box), outline=(230, 30, 30), width=max(2, picture.width // 200)
    )
    picture.save(save)
    print(f"box drawn into {save}")


def leaderboard(args: argparse.Namespace) -> int:
    from evalkit.results import interval_text, some_cells, write_leaderboard

    some_cells(args.output)
    if args.by:
        from evalkit.breakdown import load_breakdown

        rows = [
            (
                r["task"],
                r["model"],
                r["settings"],
                r["metric"],
                r[args.by],
                f"{r['value']:.1f}",
                interval_text(r["ci_low"], r["ci_high"]),
                str(r["n"]),
            )
            for r in load_breakdown(args.output, args.by).to_dict("records")
        ]
        print(
            _aligned(
                ("task", "model", "settings", "metric", args.by, "value", "95 % interval", "n"),
                rows,
            )
        )
        return 0
    if args.paper:
        from evalkit.paper import write_paper_table

        csv, markdown = write_paper_table(args.output)
    else:
        csv, markdown = write_leaderboard(args.output)
    print(markdown.read_text(encoding="utf-8"))
    print(f"written: {csv}, {markdown}")
    return 0


def compare(args: argparse.Namespace) -> int:
    from evalkit.results import compare_cells, find_cells, interval_text

    rows = compare_cells(find_cells(args.a, args.output), find_cells(args.b, args.output))
    shown = []
    for r in rows:
        p, adjusted = ("–" if v is None else f"{v:.4f}" for v in (r["p_value"], r["p_holm"]))
        ci = interval_text(r["ci_low"], r["ci_high"])
        shown.append(
            (
                r["task"],
                r["metric"],
                f"{r['a']:.1f}",
                f"{r['b']:.1f}",
                f"{r['difference']:+.1f}",
                ci,
                p,
                adjusted,
                str(r["n"]),
            )
        )
    print(
        _aligned(
            ("task", "metric", "a", "b", "a - b", "95 % interval", "p", "p (Holm)", "n"), shown
        )
    )
    print("paired on common samples, resampled over clusters; p by sign flips of clusters")
    return 0


def sweep(args: argparse.Namespace) -> int:
    from evalkit.sweep import find_sweep, load_sweep, outlook, plan, run_sweep

    config = load_sweep(find_sweep(args.sweep), args.model)
    planned = plan(config, args.output)
    if args.dry_run:
        print(
            _aligned(
                ("task", "settings", "journaled", "seconds to go"),
                outlook(config, planned, args.output),
            )
        )
        return 0
    failed = run_sweep(config, planned, say=lambda text: print(f"evalkit: {text}", file=sys.stderr))
    from evalkit.sweep_tables import table, words, write

    frame = table(config, planned)
    folder = write(config, frame, planned, args.output)
    print("\n".join(words(frame)))
    from evalkit.report import write_report

    page = args.output / "report.html"
    for fault in write_report(args.output, page):
        print(f"evalkit: {fault}", file=sys.stderr)
    print(f"written: {folder}, {page}")
    for fault in failed:
        print(f"evalkit: error: {fault}", file=sys.stderr)
    return 1 if failed else 0


def report(args: argparse.Namespace) -> int:
    from evalkit.report import write_report
    from evalkit.results import some_cells

    file = args.save or args.output / "report.html"
    data = _data(args.data, list(dict.fromkeys(c.task for c in some_cells(args.output))))
    for fault in write_report(args.output, file, args.media, data):
        print(f"evalkit: {fault}", file=sys.stderr)
    print(f"written: {file}")
    return 0


def rescore(args: argparse.Namespace) -> int:
    from evalkit.results import find_cells, some_cells, write_leaderboard
    from evalkit.results import rescore as rescore_cell

    cells = (
        [c for name in args.cells for c in find_cells(name, args.output)]
        if args.cells
        else some_cells(args.output)
    )
    for cell in cells:
        new, changed = rescore_cell(cell)
        print(f"{cell.task}: {changed} scores changed; {new.folder}")
    write_leaderboard(args.output)
    return 0


def tasks(args: argparse.Namespace) -> int:
    from evalkit.task import registered, task_class

    rows = []
    for name in sorted(registered()):
        cls = task_class(name)
        rows.append((name, ", ".join(cls.subsets), cls.metrics[0].name, cls.description))
    print(_aligned(("task", "subsets", "headline", ""), rows))
    return 0


def models(args: argparse.Namespace) -> int:
    from evalkit.adapter import registered
    from evalkit.nano import shipped

    for name, folder in shipped().items():
        print(f"{name:<14} shipped, {folder}")
    for name, where in sorted(registered().items()):
        print(f"{name:<14} adapter, {where}")
    print(
        "any folder or hub id of a Qwen2-VL checkpoint: --model; other image-text-to-text "
        "models: --adapter transformers"
    )
    return 0


def bench(args: argparse.Namespace) -> int:
    import torch

    from evalkit.bench import Load
    from evalkit.bench import bench as measure
    from evalkit.models.qwen2_vl.checkpoint import checked_device
    from evalkit.nano import shipped

    sizes = (
        []
        if args.peer == "none"
        else [int(n) for n in args.peer.split(",") if n.strip().isdigit() and int(n) > 0]
    )
    if not sizes and args.peer != "none":
        raise UsageError(f"--peer {args.peer!r}: expected batch sizes such as 1,8,16, or none")
    if min(args.items, args.rounds, args.threads) < 1:
        raise UsageError("--items, --rounds and --threads must be above 0")
    torch.set_num_threads(args.threads)
    device = checked_device(args.device)
    if args.save and not args.save.absolute().parent.is_dir():
        raise UsageError(f"--save {args.save}: no such folder")
    name = str(shipped().get(args.model, args.model))
    page = measure(name, Load(args.load, args.items), args.dtype, device, args.rounds, sizes)
    print(page)
    if args.save:
        args.save.write_text(page, encoding="utf-8")
    return 0


def train(args: argparse.Namespace) -> int:
    import torch

    from evalkit.models.qwen2_vl.checkpoint import resolve
    from evalkit.nano import shipped
    from evalkit.nano.recipe import find_recipe, load_recipe
    from evalkit.nano.train import train as train_recipe

    torch.set_num_threads(args.threads)
    start = (shipped().get(args.start) or resolve(args.start)) if args.start else None
    print(
        train_recipe(load_recipe(find_recipe(args.recipe)), args.out, start, workers=args.workers)
    )
    return 0


def twins(args: argparse.Namespace) -> int:
    import torch

    from evalkit.nano.twins import find_twins, load_twins, run_twins

    torch.set_num_threads(args.threads)
    config = load_twins(find_twins(args.twins))
    run_twins(config, args.out)
    print((args.out / config.name / "README.md").read_text(encoding="utf-8").split("```yaml")[0])
    return 0


def _adapter(args: argparse.Namespace) -> Any:
    from evalkit.adapter import adapter_class

    given = [p for p in args.model_args.split(",") if p.strip()]
    given += args.switch
    given += [f"{n}={v}" for n in SWITCHES if (v := getattr(args, f"switch_{n}")) is not None]
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{text!r}: expected name=value")
        if name.strip() in arguments:
            raise UsageError(f"{name.strip()} is given twice")
        arguments[name.strip()] = convert(value.strip())
    for name in ("batch_size", "batch_tokens", "device", "dtype"):
        if getattr(args, name) is not None:
            arguments[name] = getattr(args, name)
    cls = adapter_class(args.adapter)
    try:
        inspect.signature(cls).bind(args.model, **arguments)
    except TypeError as e:
        raise UsageError(f"adapter {args.adapter!r}: {e}") from e
    return cls(args.model, **arguments)


def convert(text: str) -> Any:
    """``4`` -> 4, ``0.5`` -> 0.5, ``true`` -> True, ``none`` -> None, anything else stays text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _data(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    out = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in names:
            raise UsageError(
                f"--data {text}: expected TASK:SUBSET=PATH with one of {', '.join(names)}"
            )
        if not Path(path).exists():
            raise UsageError(f"--data {text}: {path} does not exist")
        out[name] = Path(path)
    return out


def _selection(args: argparse.Namespace, make: Any) -> Any:
    if args.sample_id:
        return make(ids=tuple(args.sample_id))
    if args.limit is None:
        if args.seed is not None:
            raise UsageError("--seed draws a random selection and needs --limit N")
        return make()
    start, dash, stop = args.limit.partition("-")
    try:
        first = (int(start), int(stop)) if dash else (0, int(start))
    except ValueError:
        first = (0, 0)
    if not 0 <= first[0] < first[1]:
        raise UsageError(f"--limit {args.limit}: expected N or A-B with A below B")
    if args.seed is not None:
        return make(drawn=first[1] - first[0], seed=args.seed)
    return make(first=first)


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(r[i]) for r in (columns, *rows)) for i in range(len(columns))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in (columns, *rows)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
