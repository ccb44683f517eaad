"""What came out of a sweep: differences to the baseline on common samples, corrected for their
number, in sentences, tables and pictures.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace as with_changes
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cell_results import CellResults
from evalkit.columns import Columns
from evalkit.errors import DataError, UsageError
from evalkit.files import remove_parts, replace
from evalkit.results import plots
from evalkit.results.interactions import Interaction, Quartet, interaction
from evalkit.results.pairs import PairedScores, Verdict, mde_of
from evalkit.results.repeats import repeated
from evalkit.results.sweep_values import (
    SCHEMA_VERSION,
    Arm,
    Drawn,
    Finding,
    Findings,
    Kind,
)
from evalkit.results.tables import (
    NONE,
    bold,
    interval_text,
    latex_table,
    markdown_table,
    p_text,
    value_text,
    write_csv,
)
from evalkit.stats import LEVEL, excludes_0, holm
from evalkit.store import CellFolder

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "task settings kind against metric value ci_low ci_high baseline difference difference_low "
    "difference_high p_value p_holm mde n clusters visual_tokens seconds cell schema_version"
).split()
MDE_NOTE = (
    "MDE, the minimum detectable effect: a true difference of this size would be significant, at "
    f"{LEVEL} corrected for all tests of the sweep, in four of five repetitions with as many "
    "samples."
)
INTERACTIONS = (
    "Of two settings that were also run together the last sentences say whether they add up: (both "
    "- one) - (the other - neither), in points. "
)
FINDINGS = "findings.json"


def compare_arms(
    name: str,
    question: str,
    command: str,
    arms: Sequence[Arm],
    limit: int | None = None,
    quartets: Sequence[Quartet] = (),
) -> Findings:
    """Each arm's headline score, paired with its baseline's on the samples that both scored. An arm
    that was not run is left out.

    Holm's correction is over all differences of the sweep that could have been other than nothing:
    an arm with the same score on every sample has nothing to test. ``quartets``: cells of two
    settings and of both together, for the interactions; their tests are among those corrected for.
    """
    known: dict[Path, Columns] = {}

    def columns(cell: CellFolder) -> Columns:
        if cell.path not in known:
            known[cell.path] = cell.columns()
        return known[cell.path]

    rows = [
        _finding(arm, results, columns(arm.cell), columns(arm.baseline))
        for arm in arms
        if (results := _results(arm.cell)) and results.metrics
    ]
    tasks = list(dict.fromkeys(r.task for r in rows))
    rows.sort(key=lambda r: tasks.index(r.task))
    both = [found for q in quartets if (found := interaction(q))]
    tested = [
        i
        for i, r in enumerate(rows)
        if r.scores and r.scores.p_value is not None and not r.scores.same
    ]
    contrasts = [i for i, c in enumerate(both) if c.p_value is not None]
    values = [r.scores.p_value or 0.0 for i in tested if (r := rows[i]).scores]
    adjusted = holm([*values, *(both[i].p_value or 0.0 for i in contrasts)])
    for i, p in zip(tested, adjusted):
        scores = rows[i].scores
        assert scores is not None
        rows[i] = with_changes(rows[i], p_holm=p, mde=mde_of(scores, len(adjusted)))
    for i, p in zip(contrasts, adjusted[len(tested) :]):
        both[i] = with_changes(both[i], p_holm=p)
    drawn = [
        Drawn(arm.cell.task, arm.settings, m.metric, m.value, m.ci_low, m.ci_high, m.n)
        for arm in arms
        if _results(arm.cell)
        for m in repeated(arm.cell)
    ]
    return Findings(name, question, command, limit, tuple(rows), tuple(both), tuple(drawn))


def _results(cell: CellFolder) -> CellResults | None:
    """None for a cell that was not run, or is damaged."""
    try:
        return cell.results if cell.exists else None
    except DataError:
        return None


def _finding(arm: Arm, results: CellResults, samples: Columns, base: Columns) -> Finding:
    metric = results.metrics[0]
    if arm.settings == arm.against:
        kind = Kind.BASELINE
    elif results.inference_probe:
        kind = Kind.PROBE
    elif _weights(arm.baseline) == _weights(arm.cell):
        kind = Kind.SAME
    else:
        kind = Kind.TRAINED
    tokens = [t for t, e in zip(samples["tokens_vision_in"], samples["error"]) if e is None]
    return Finding(
        task=arm.cell.task,
        settings=arm.settings,
        kind=kind,
        against=arm.against,
        metric=metric.metric,
        value=metric.value,
        ci_low=metric.ci_low,
        ci_high=metric.ci_high,
        n=metric.n,
        scores=None if kind is Kind.BASELINE else PairedScores.of(samples, base, metric),
        p_holm=None,
        mde=None,
        visual_tokens=sum(tokens) / len(tokens) if tokens else None,
        seconds=results.seconds,
        cell=arm.cell.name,
    )


def _weights(cell: CellFolder) -> object:
    """What identifies the weights; the model's name where the adapter can't see them."""
    try:
        return cell.run.identity.fingerprint.get("weights", cell.run.model)
    except DataError:
        return None


def table(findings: Findings) -> pd.DataFrame:
    """One row per task and cell, columns COLUMNS. ``value`` with ``ci_low`` and ``ci_high`` is the
    cell's score, ``difference`` with ``difference_low`` and ``difference_high`` the one to the
    baseline on common samples (``n``, ``clusters``).
    """
    import pandas as pd

    rows = []
    for f in findings.rows:
        s = f.scores
        rows.append(
            {
                "task": f.task,
                "settings": f.settings,
                "kind": f.kind.value,
                "against": f.against,
                "metric": f.metric,
                "value": f.value,
                "ci_low": f.ci_low,
                "ci_high": f.ci_high,
                "baseline": s.b if s else None,
                "difference": s.difference if s else None,
                "difference_low": s.ci_low if s else None,
                "difference_high": s.ci_high if s else None,
                "p_value": s.p_value if s else None,
                "p_holm": f.p_holm,
                "mde": f.mde,
                "n": s.n if s else f.n,
                "clusters": s.clusters if s else None,
                "visual_tokens": f.visual_tokens,
                "seconds": f.seconds,
                "cell": f.cell,
                "schema_version": SCHEMA_VERSION,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(findings: Findings) -> list[str]:
    """For each setting: on which tasks a difference was found, and where none is significant."""
    groups: dict[tuple[str, Kind, str], dict[Verdict, list[str]]] = {}
    for f in findings.compared:
        verdicts = groups.setdefault((f.settings, f.kind, f.against), {})
        verdicts.setdefault(f.verdict, []).append(f"{f.task}{_figures(f)}")
    out = []
    for (settings, kind, against), verdicts in groups.items():
        parts = [f"{v.value} {', '.join(verdicts[v])}" for v in Verdict if v in verdicts]
        out.append(f"{settings} ({kind}, against {against}): {'; '.join(parts)}.")
    return [*out, *map(interaction_sentence, findings.interactions)]


def interaction_sentence(i: Interaction) -> str:
    """What two settings together do beside what each does alone."""
    together = f"{i.first} with {i.second} (against {i.against}), {i.task}"
    if i.difference == 0 and i.p_value is None:
        return f"{together}: the two add up on every sample (n = {i.n})."
    interval = interval_text(i.ci_low, i.ci_high)
    size = f"{value_text(i.difference, signed=True)} {interval} (n = {i.n}, p = {p_text(i.p_holm)})"
    if i.p_holm is not None and i.p_holm < LEVEL and excludes_0(i.ci_low, i.ci_high):
        side = "more" if i.difference > 0 else "less"
        return f"{together}: {side} than the sum of each alone, {size}."
    return f"{together}: no interaction found, {size}."


def _figures(f: Finding) -> str:
    """The numbers behind a verdict."""
    if f.scores is None:
        return ""
    if f.verdict is Verdict.SAME:
        return f" (n = {f.scores.n})"
    size = value_text(f.scores.difference, signed=True)
    interval = interval_text(f.scores.ci_low, f.scores.ci_high)
    about = [f"n = {f.scores.n}"]
    if f.verdict not in (Verdict.OPEN, Verdict.UNTESTED):
        about.append(f"p = {p_text(f.p_holm)}")
    if f.verdict in (Verdict.OPEN, Verdict.ALONE) and f.mde is not None:
        about.append(f"MDE {f.mde:.1f}")
    return f" {size} {interval} ({', '.join(about)})"


def at_a_glance(findings: Findings) -> str:
    """A markdown table of the differences, settings down and tasks across; bold where they are
    significant.
    """
    tasks = list(dict.fromkeys(f.task for f in findings.compared))
    rows: dict[tuple[str, Kind, str], dict[str, str]] = {}
    for f in findings.compared:
        line = rows.setdefault((f.settings, f.kind, f.against), dict.fromkeys(tasks, ""))
        line[f.task] = difference_text(f)
        if f.significant:
            line[f.task] = bold(line[f.task])
    return markdown_table(
        ("settings", "", *tasks), [(s, kind, *v.values()) for (s, kind, _), v in rows.items()]
    )


def difference_text(f: Finding) -> str:
    """``-10.0 [-15.0, -5.0]``, ``same``, or a dash."""
    if f.scores is None:
        return NONE
    if f.verdict is Verdict.SAME:
        return "same"
    size = value_text(f.scores.difference, signed=True)
    return f"{size} {interval_text(f.scores.ci_low, f.scores.ci_high)}"


def write(findings: Findings, arms: Sequence[Arm], output: Path) -> Path:
    """Writes long and wide CSV, markdown, LaTeX, pictures and the findings as JSON into
    ``output/<name>``; returns that folder. Where matplotlib is missing, the page says so.
    """
    folder = output / findings.name
    remove_parts(folder)
    try:
        drawn = pictures(findings, arms, folder)
        missing = ""
    except UsageError as e:
        drawn, missing = [], f"\n\nNo pictures: {e}."
    return write_page(findings, [p.name for p in drawn], folder, missing)


def write_page(findings: Findings, drawn: Sequence[str], folder: Path, missing: str = "") -> Path:
    """``write`` but for the pictures, whose file names are given."""
    frame = table(findings)
    wide = frame.pivot(index="settings", columns="task", values="value").loc[
        list(dict.fromkeys(frame.settings))
    ]
    write_csv(folder / "table.csv", frame)
    write_csv(folder / "wide.csv", wide.reset_index())
    part = "*" if findings.limit else ""
    body = [
        [str(name), *(value_text(v) + part * (v == v) for v in row)]
        for name, row in wide.iterrows()
    ]
    replace(
        folder / "table.tex",
        f"% made by: {findings.command}\n"
        + (f"% * {_part(findings)}\n" if part else "")
        + latex_table(["", *wide.columns], body),
    )
    findings.save(folder / FINDINGS)
    replace(folder / "README.md", page(findings, drawn) + missing)
    return folder


def _part(findings: Findings) -> str:
    return f"At most {findings.limit} samples of each task, drawn at random: never quote them."


def page(findings: Findings, drawn: Sequence[str]) -> str:
    """The sweep's README: the question, differences at a glance, sentences, pictures, and all
    numbers.
    """
    cells = max(Counter(f.task for f in findings.rows).values(), default=0)
    first_cells = ""
    if cells > plots.MOST:
        first_cells = f" By group, overlap and length: the first {plots.MOST} of {cells} cells."
    part = f"{_part(findings)}\n\n" if findings.limit else ""
    found = "\n".join(f"- {html.escape(s, quote=False)}" for s in sentences(findings))
    both = INTERACTIONS if findings.interactions else ""
    first, *others = [f"\n![{Path(name).stem}]({name})\n" for name in drawn] or [""]
    return (
        f"<!-- made by: {findings.command} -->\n# {findings.name}\n\n"
        f"{html.escape(findings.question, quote=False)}\n\n{part}{at_a_glance(findings)}\n\n"
        f"{found}\n\n"
        "Differences are in points, paired with those of `against` on common samples; in brackets "
        "their 95 % intervals (each on its own, not corrected), which resample images and videos. "
        f"Bold: p below {LEVEL}, by sign flips of images and videos, corrected over the "
        f"{findings.tests} tests of the sweep (Holm); where every score is the same there is "
        f"nothing to test. {both}{MDE_NOTE}{first_cells}\n{first}\n"
        f"{markdown_table(PAGE_COLUMNS, list(map(page_row, findings.rows)))}\n"
        f"{_drawn_table(findings.drawn)}{''.join(others)}"
    )


def _drawn_table(drawn: Sequence[Drawn]) -> str:
    """What several answers of each sample come to; nothing where there is one."""
    if not drawn:
        return ""
    rows = [
        (d.task, d.settings, d.metric, value_text(d.value), interval_text(d.ci_low, d.ci_high), d.n)
        for d in drawn
    ]
    columns = ("task", "settings", "several answers of a sample", "value", "95 % interval", "n")
    return f"\n{markdown_table(columns, rows)}\n"


PAGE_COLUMNS = (
    "task",
    "settings",
    "",
    "against",
    "metric",
    "value",
    "difference",
    "95 % interval",
    "p (Holm)",
    "MDE",
    "n",
    "visual tokens a sample",
)


def page_row(f: Finding) -> tuple[str, ...]:
    """A row of the table of all numbers, columns PAGE_COLUMNS."""
    s = f.scores
    tokens = NONE if f.visual_tokens is None else f"{f.visual_tokens:.0f}"
    if f.kind is Kind.BASELINE or s is None:
        compared = ("", "", "", "", "")
    else:
        compared = (
            value_text(s.difference, signed=True),
            interval_text(s.ci_low, s.ci_high),
            p_text(f.p_holm),
            value_text(f.mde),
            str(s.n),
        )
    against = "" if f.kind is Kind.BASELINE else f.against
    difference, interval, p, mde, n = compared
    return (
        f.task,
        f.settings,
        f.kind,
        against,
        f.metric,
        value_text(f.value),
        difference,
        interval,
        p,
        mde,
        n or str(f.n),
        tokens,
    )


def pictures(findings: Findings, arms: Sequence[Arm], folder: Path) -> list[Path]:
    """Writes the pictures of a sweep as PNG files: differences, score against visual tokens, and
    for each task by group, IoU, length, each with all cells. Raises UsageError without matplotlib.
    """
    out = []
    for name, figure in (
        ("differences", plots.differences(findings.rows)),
        ("tokens", plots.score_by_tokens(findings.rows)),
    ):
        if figure:
            out.append(plots.save(figure, folder / f"{name}.png"))
    run = [(arm, results) for arm in arms if (results := _results(arm.cell)) and results.metrics]
    for task in dict.fromkeys(arm.cell.task for arm, _ in run):
        mine = [(arm, results) for arm, results in run if arm.cell.task == task]
        cells = {arm.settings: list(arm.cell.scored().values()) for arm, _ in mine}
        stem = task.replace(":", "-").replace("/", "-")
        for name, figure in plots.of_task(cells, mine[0][1].metrics[0].definition):
            out.append(plots.save(figure, folder / f"{stem}-{name}.png"))
    return out


def load_findings(output: Path) -> tuple[list[Findings], list[str]]:
    """The sweeps whose tables lie under an output folder, and why others can't be read."""
    found, faults = [], []
    for path in sorted(output.glob(f"*/{FINDINGS}")):
        try:
            found.append(Findings.load(path))
        except DataError as e:
            faults.append(str(e))
    return found, faults
