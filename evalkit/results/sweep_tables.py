"""What a sweep found: differences to the baseline on common samples, corrected for their number, in
words, tables and pictures.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import journal
from evalkit.results import plots
from evalkit.results.tables import interval_text, markdown_table
from evalkit.stats import compare, detectable, holm, mean
from evalkit.sweeps import Planned, Sweep, describe, stored

if TYPE_CHECKING:
    import pandas as pd

Scored = Mapping[str, journal.Record]
LEVEL = 0.05
VERDICTS = HIGHER, LOWER, SAME, UNTOLD, NONE = (
    "higher on",
    "lower on",
    "every score the same on",
    "can't be told on",
    "no sample in common on",
)
COLUMNS = (
    "task settings kind against metric value baseline "
    "difference ci_low ci_high p_value p_holm detectable n clusters visual_tokens seconds cell"
).split()


def table(sweep: Sweep, planned: Sequence[Planned]) -> pd.DataFrame:
    """One row per task and cell, for the headline metric, paired with its baseline's on the samples
    that both scored.

    ``kind``: baseline, trained arm (other weights, run as they were trained), inference probe
    (weights run as they were not trained) or same weights (run as they were trained). ``p_holm`` is
    corrected over the whole sweep; ``detectable`` is the difference that this many clusters would
    show four times in five. ``visual_tokens`` is the mean a sample. Columns: COLUMNS.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    names = list(dict.fromkeys(p.cell.name for p in planned))
    for p in sorted(planned, key=lambda p: names.index(p.cell.name)):
        cell = stored(p)
        if cell is None or not cell.results["metrics"]:
            continue
        base = next(b for b in planned if b.settings == p.baseline and b.cell.name == p.cell.name)
        if p.settings == p.baseline:
            kind = "baseline"
        elif cell.results["inference_probe"]:
            kind = "inference probe"
        else:
            kind = "same weights" if _weights(p) == _weights(base) else "trained arm"
        scored, records = (journal.read(x.cell.folder / "journal.jsonl").scored for x in (p, base))
        rows.append(_row(p, kind, cell.results, scored, records))
    tested = [r for r in rows if r["p_value"] is not None]
    for r, adjusted in zip(tested, holm([r["p_value"] for r in tested])):
        r["p_holm"] = adjusted
    return pd.DataFrame(rows, columns=COLUMNS)


def _weights(p: Planned) -> Any:
    return p.cell.identity["fingerprint"].get("weights")


def _row(p: Planned, kind: str, results: Mapping[str, Any], a: Scored, b: Scored) -> dict[str, Any]:
    metric = results["metrics"][0]
    name, scale, group = metric["metric"], metric["scale"], metric["group"]
    common = [id for id in a if id in b and name in a[id]["scores"] and name in b[id]["scores"]]
    x, y = ([side[id]["scores"][name] for id in common] for side in (a, b))
    clusters = [a[id]["cluster"] for id in common]
    groups = [str(a[id]["metadata"].get(group)) for id in common] if group else None
    tokens = [r["tokens"]["vision_in"] for r in a.values()]
    row: dict[str, Any] = {
        "task": p.cell.name,
        "settings": describe(p.settings),
        "kind": kind,
        "against": describe(p.baseline),
        "metric": name,
        "value": scale * mean(x, groups) if x else None,
        "baseline": scale * mean(y, groups) if y else None,
        "n": len(common),
        "clusters": len(set(clusters)),
        "visual_tokens": sum(tokens) / len(tokens) if tokens else None,
        "seconds": results["seconds"],
        "cell": p.cell.folder.name,
        **dict.fromkeys(("difference", "ci_low", "ci_high", "p_value", "p_holm", "detectable")),
    }
    if kind != "baseline" and common:
        found = compare(x, y, clusters, groups)
        low, high = (
            None if v is None else scale * v for v in (found.difference.low, found.difference.high)
        )
        smallest = detectable([i - j for i, j in zip(x, y)], clusters)
        row |= {
            "difference": scale * found.difference.value,
            "ci_low": low,
            "ci_high": high,
            "p_value": found.p_value,
        }
        row["detectable"] = None if smallest is None else scale * smallest
    return row


def words(frame: pd.DataFrame) -> list[str]:
    """A sentence for each setting: on which tasks something was found, and where nothing could be
    told at this n.
    """
    out = []
    for (settings, kind, against), rows in frame[frame.kind != "baseline"].groupby(
        ["settings", "kind", "against"], sort=False
    ):
        said: dict[str, list[str]] = {}
        for r in rows.to_dict("records"):
            verdict, figures = _verdict(r)
            said.setdefault(verdict, []).append(f"{r['task']}{figures}")
        found = "; ".join(
            f"{verdict} {', '.join(said[verdict])}" for verdict in VERDICTS if verdict in said
        )
        out.append(f"{settings} ({kind}, against {against}): {found}.")
    return out


def _verdict(r: Mapping[str, Any]) -> tuple[str, str]:
    """What is said of one comparison, and its figures."""
    if r["difference"] is None or r["difference"] != r["difference"]:
        return NONE, ""
    if r["difference"] == 0 and not r["detectable"]:
        return SAME, f" (n = {r['n']})"
    size = f" {r['difference']:+.1f} {interval_text(r['ci_low'], r['ci_high'])} (n = {r['n']}, "
    if r["p_holm"] is not None and r["p_holm"] < LEVEL:
        return LOWER if r["difference"] < 0 else HIGHER, f"{size}p = {r['p_holm']:.4f})"
    return UNTOLD, f"{size}{r['detectable']:.1f} would show)" if r[
        "detectable"
    ] else f"{size[:-2]})"


def at_a_glance(frame: pd.DataFrame) -> str:
    """A markdown table of the differences, settings down and tasks across; bold where Holm's p is
    below 0.05.
    """
    compared = frame[frame.kind != "baseline"]
    tasks = list(dict.fromkeys(compared.task))
    rows = []
    for (settings, kind, _), found in compared.groupby(["settings", "kind", "against"], sort=False):
        brief = dict.fromkeys(tasks, "")
        for r in found.to_dict("records"):
            verdict, _ = _verdict(r)
            size = f"{r['difference']:+.1f} {interval_text(r['ci_low'], r['ci_high'])}"
            brief[r["task"]] = {SAME: "same", UNTOLD: size, NONE: "–"}.get(verdict, f"**{size}**")
        rows.append((settings, kind, *brief.values()))
    return markdown_table(("settings", "", *tasks), rows)


def write(sweep: Sweep, frame: pd.DataFrame, planned: Sequence[Planned], output: Path) -> Path:
    """Writes long and wide CSV, markdown, LaTeX and pictures into ``output/<name>``; returns that
    folder.
    """
    folder = output / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    command = f"evalkit sweep {sweep.name} --model {sweep.model}"
    note = f"# schema_version: 1; made by: {command}\n"
    wide = frame.pivot(index="settings", columns="task", values="value").loc[
        list(dict.fromkeys(frame.settings))
    ]
    (folder / "table.csv").write_text(note + frame.to_csv(index=False), encoding="utf-8")
    (folder / "wide.csv").write_text(note + wide.to_csv(), encoding="utf-8")
    (folder / "table.tex").write_text(
        f"% schema_version: 1; made by: {command}\n" + latex(wide), encoding="utf-8"
    )
    shown = []
    for r in frame.to_dict("records"):
        diff = "" if r["kind"] == "baseline" else f"{r['difference']:+.1f}"
        p = "" if r["p_holm"] is None or r["p_holm"] != r["p_holm"] else f"{r['p_holm']:.4f}"
        tokens = f"{r['visual_tokens']:.0f}"
        ci = "" if r["kind"] == "baseline" else interval_text(r["ci_low"], r["ci_high"])
        against = "" if r["kind"] == "baseline" else r["against"]
        shown.append(
            (
                r["task"],
                r["settings"],
                r["kind"],
                against,
                r["metric"],
                f"{r['value']:.1f}",
                diff,
                ci,
                p,
                r["n"],
                tokens,
            )
        )
    columns = (
        "task",
        "settings",
        "",
        "against",
        "metric",
        "value",
        "difference",
        "95 % interval",
        "p (Holm)",
        "n",
        "visual tokens a sample",
    )
    part = (
        f"Only {sweep.limit} samples of each task, drawn at random: never quote these scores.\n\n"
        if sweep.limit
        else ""
    )
    findings = "\n".join(f"- {html.escape(w, quote=False)}" for w in words(frame))
    first, *others = [f"\n![{p.stem}]({p.name})\n" for p in pictures(frame, planned, folder)] or [
        ""
    ]
    text = (
        f"<!-- schema_version: 1; made by: {command} -->\n# "
        f"{sweep.name}\n\n{html.escape(sweep.question, quote=False)}\n\n"
        f"{part}{at_a_glance(frame)}\n\n{findings}\n\n"
        "Differences are in points (bold: p below 0.05), paired with those of `against` on "
        "common samples; in brackets their 95 % "
        'intervals, which resample images and videos; p by sign flips of these, corrected over the sweep (Holm). "Would show": the '
        "difference that this n finds four times in "
        f"five.\n{first}\n{markdown_table(columns, shown)}\n{''.join(others)}"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def pictures(frame: pd.DataFrame, planned: Sequence[Planned], folder: Path) -> list[Path]:
    """Writes the pictures of a sweep as PNG files: differences, score against visual tokens, and
    for each task by group, IoU, length.
    """
    out = []
    for name, figure in (
        ("differences", plots.differences(frame)),
        ("tokens", plots.score_by_tokens(frame)),
    ):
        if figure:
            out.append(plots.save(figure, folder / f"{name}.png"))
    for task in dict.fromkeys(p.cell.name for p in planned):
        mine = [(p, stored(p)) for p in planned if p.cell.name == task]
        metric = next(
            (c.results["metrics"][0] for _, c in mine if c and c.results["metrics"]), None
        )
        if metric:
            cells = {
                describe(p.settings): list(
                    journal.read(p.cell.folder / "journal.jsonl").scored.values()
                )
                for p, _ in mine
            }
            for name, figure in plots.of_task(cells, metric["metric"], metric["scale"]):
                out.append(
                    plots.save(
                        figure, folder / f"{task.replace(':', '-').replace('/', '-')}-{name}.png"
                    )
                )
    return out


def latex(wide: pd.DataFrame) -> str:
    """A booktabs table; what users named is escaped."""
    special = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }

    def safe(value: object) -> str:
        return "".join(special.get(c, c) for c in str(value))

    lines = [r"\begin{tabular}{l" + "r" * len(wide.columns) + "}", r"\toprule"]
    lines += [" & ".join(["", *map(safe, wide.columns)]) + r" \\", r"\midrule"]
    for name, row in wide.iterrows():
        lines.append(
            " & ".join([safe(name), *("--" if v != v else f"{v:.1f}" for v in row)]) + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
