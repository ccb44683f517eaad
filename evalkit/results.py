"""Results as tables: every cell under an output folder as pandas frames, a leaderboard,
comparisons, and scores computed anew.

Journals are the record; everything here is derived from them and from the small JSON files beside
them, and can be made again.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import journal
from evalkit.adapter import digest
from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.journal import SCHEMA_VERSION, Journal, write_json
from evalkit.plugin import code_of
from evalkit.stats import compare, holm, mean

if TYPE_CHECKING:
    import pandas as pd

MINI_NOTE = (
    "`mini` subsets are small sets drawn by evalkit; their scores are not comparable "
    "with those of the official subsets."
)


@dataclass(frozen=True)
class StoredCell:
    """A cell on disk: its folder, run.json and results.json."""

    folder: Path
    run: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def task(self) -> str:
        return f"{self.run['identity']['task']}:{self.run['identity']['subset']}"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.run["identity"]["fingerprint"]
        return found

    @property
    def settings(self) -> str:
        """What was set away from the defaults, and what bounds the pixels, in one line."""
        parts = [f"{k}={v}" for k, v in self.results["switches"].items()]
        budget = {
            k: v
            for k, v in self.run["identity"]["budget"].items()
            if v is not None and k not in self.results["switches"]
        }
        parts += [f"{k}={v}" for k, v in budget.items()]
        if self.fingerprint.get("dtype"):
            parts.append(str(self.fingerprint["dtype"]))
        return " ".join(parts)


def stored_cells(output: Path = Path("results")) -> list[StoredCell]:
    """All cells with results under ``output/runs``, in the order of their folders. Damaged ones
    raise DataError naming the file.
    """
    return [_stored(path.parent) for path in sorted((output / "runs").glob("*/*/results.json"))]


def some_cells(output: Path) -> list[StoredCell]:
    """``stored_cells``, of which there must be one. Raises UsageError."""
    if not (cells := stored_cells(output)):
        raise UsageError(f"no results under {output / 'runs'}: run something first")
    return cells


def load_results(output: str | Path = "results") -> pd.DataFrame:
    """One row per cell and metric.

    Columns: model, adapter, task (``name:subset``), metric, value, ci_low, ci_high (95 %, over
    clusters; empty when it can't be told), n (scored), n_total, errors, unparsed, clusters,
    complete, selection (empty: everything), inference_probe, switches, settings, task_version,
    data, weights, fingerprint, tokens_text_in, tokens_vision_in, tokens_out, seconds, created,
    evalkit_version, git_commit, git_dirty, command, cell (the folder), headline (True for the
    task's first metric), higher_is_better, schema_version.
    """
    import pandas as pd

    rows = [row for cell in stored_cells(Path(output)) for row in _result_rows(cell)]
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


def load_samples(output: str | Path = "results", errors: bool = True) -> pd.DataFrame:
    """One row per sample of every cell.

    Columns: cell, model, task, id, cluster, target, text (the answer), parsed, unparsed, error,
    finish_reason, prompt, seconds, tokens_text_in, tokens_vision_in, tokens_out, then
    ``metadata_*`` and ``score_*`` as the tasks name them. ``errors=False`` leaves out samples
    without a score.
    """
    import pandas as pd

    rows = []
    for cell in stored_cells(Path(output)):
        for r in journal.read(cell.folder / "journal.jsonl").records.values():
            if errors or r.get("error") is None:
                plain = {k: r.get(k) for k in SAMPLE_COLUMNS if k not in ("cell", "model", "task")}
                tokens = {f"tokens_{k}": v for k, v in r.get("tokens", {}).items()}
                named = {f"metadata_{k}": v for k, v in r.get("metadata", {}).items()}
                scores = {f"score_{k}": v for k, v in r.get("scores", {}).items()}
                where = {"cell": str(cell.folder), "model": cell.run["model"], "task": cell.task}
                rows.append({**where, **plain, **tokens, **named, **scores})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=SAMPLE_COLUMNS)


SAMPLE_COLUMNS = "cell model task id cluster target text parsed unparsed error finish_reason prompt seconds".split()
RESULT_COLUMNS = (
    "model adapter task metric value ci_low ci_high n n_total errors unparsed clusters "
    "complete selection inference_probe switches "
    "settings task_version data weights fingerprint tokens_text_in tokens_vision_in "
    "tokens_out seconds created evalkit_version "
    "git_commit git_dirty command cell headline higher_is_better schema_version"
).split()


def write_leaderboard(output: Path = Path("results")) -> tuple[Path, Path]:
    """Writes ``leaderboard.csv`` (every metric) and ``leaderboard.md`` (headline metrics) into
    ``output``; returns both paths.

    In the second, every model that has switches gets a row for its no-vision baseline,
    ``vision_gate=0``, run or not.
    """
    frame = load_results(output)
    csv, markdown = output / "leaderboard.csv", output / "leaderboard.md"
    replace_text(
        csv,
        frame.drop(columns=["cell"])
        .assign(cell=[Path(c).name for c in frame["cell"]])
        .to_csv(index=False),
    )
    heads = frame[frame["headline"].astype(bool)]
    best_first = heads["value"].where(heads["higher_is_better"].astype(bool), -heads["value"])
    heads = heads.assign(best=best_first).sort_values(
        ["task", "best"], ascending=[True, False], kind="stable"
    )
    columns = (
        "task",
        "model",
        "adapter",
        "metric",
        "value",
        "95 % interval",
        "n",
        "errors",
        "unparsed",
        "settings",
        "version",
        "",
    )
    body = [
        (
            row["task"],
            row["model"],
            row["adapter"],
            row["metric"],
            f"{row['value']:.1f}",
            interval_text(row["ci_low"], row["ci_high"]),
            f"{row['n']}"
            if row["complete"] and not row["selection"]
            else f"{row['n']} (partial: do not quote)",
            row["errors"],
            row["unparsed"],
            row["settings"],
            f"{row['task_version']}",
            "inference probe" if row["inference_probe"] else "",
        )
        for row in heads.to_dict("records")
    ]
    body = sorted([*body, *_no_vision(heads)], key=lambda r: r[0])
    text = f"<!-- schema_version: {SCHEMA_VERSION}; made by `evalkit leaderboard` -->\n\n{markdown_table(columns, body)}\n\n{MINI_NOTE}\n"
    replace_text(markdown, text)
    return csv, markdown


def _no_vision(heads: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Rows that stand for the no-vision baselines that were not run."""
    reference = heads[heads["adapter"] == "reference"]
    for (task, model), rows in reference.groupby(["task", "model"], sort=False):
        gates = [json.loads(s).get("vision_gate") if s else None for s in rows["switches"]]
        if 0 not in gates:
            metric = rows["metric"].iloc[0]
            yield (
                task,
                model,
                "reference",
                metric,
                "–",
                "–",
                "–",
                "–",
                "–",
                "vision_gate=0",
                "–",
                "no vision: run with --switch vision_gate=0",
            )


def compare_cells(a: Sequence[StoredCell], b: Sequence[StoredCell]) -> list[dict[str, Any]]:
    """One row per task and metric that both sides have: values on the common samples, the paired
    difference a - b, its 95 % interval, the p-value of a sign-flip test over clusters, and Holm's
    adjustment over all rows. Raises UsageError when nothing is in common."""
    rows: list[dict[str, Any]] = []
    for mine in a:
        for theirs in b:
            if mine.task == theirs.task and mine.folder != theirs.folder:
                rows += _paired_rows(mine, theirs)
    if not rows:
        raise UsageError("the two have no scored samples of one task in common")
    told = [r for r in rows if r["p_value"] is not None]
    for row, adjusted in zip(told, holm([r["p_value"] for r in told])):
        row["p_holm"] = adjusted
    return rows


def find_cells(name: str, output: Path = Path("results")) -> list[StoredCell]:
    """The cells that a word on the command line means: a cell folder, or all cells of a model.
    Raises UsageError with what there is.
    """
    from evalkit.cell import model_name

    if (Path(name) / "results.json").is_file():
        return [_stored(Path(name))]
    every = stored_cells(output)
    found = [
        c
        for c in every
        if model_name(name) == c.run["model"] or name in (c.folder.parent.name, c.folder.name)
    ]
    if not found:
        known = sorted({c.folder.parent.name for c in every} | {c.folder.name for c in every})
        raise UsageError(
            f"{name}: no such cell or model under {output / 'runs'}; there are: "
            f"{', '.join(known) or 'none'}"
        )
    return found


def rescore(cell: StoredCell) -> tuple[StoredCell, int]:
    """Scores a journal's answers with the task as it is now: no model, no media. Returns the cell
    and how many scores changed.

    New scores are appended to the journal, where the last record of a sample counts and the old
    ones stay readable. A task of another version (a task file with other contents) has another
    cell, where a run of it will look: the scores go there, and the old cell stays. What that cell
    already has is kept. A part of the samples stays one: all that its journal holds is counted.
    """
    from evalkit.summary import summarise
    from evalkit.task import load_task, metrics_of, scored
    from evalkit.types import Completion, Sample

    identity = dict(cell.run["identity"])
    task = load_task(f"{cell.run.get('task_file') or identity['task']}:{identity['subset']}")
    identity |= {"task_version": task.version}
    if "code" in identity:
        identity["code"] = {**identity["code"], **code_of(task=task)}
    folder = cell.folder.with_name(f"{cell.folder.name.rsplit('-', 1)[0]}-{digest(identity)[:8]}")
    same, changed = folder == cell.folder, 0
    with Journal(folder / "journal.jsonl", {"cell": cell.task, "folder": folder.name}) as target:
        for id, record in journal.read(cell.folder / "journal.jsonl").records.items():
            if not same and id in target.contents.records:
                continue
            new = dict(record)
            if "text" in record and (
                record.get("error") is None or str(record["error"]).startswith("scoring failed")
            ):
                sample = Sample(
                    id,
                    (),
                    record["target"],
                    tuple(record["choices"]),
                    record["cluster"],
                    record["metadata"],
                )
                answer = Completion(
                    id,
                    record["text"],
                    record["finish_reason"],
                    logprobs=tuple(record["logprobs"]),
                    box_space=record["box_space"],
                )
                new.pop("error", None)
                new |= scored(task, sample, answer)
            changed += new.get("scores") != record.get("scores") or new.get("error") != record.get(
                "error"
            )
            if new != record or not same:
                target.append(new)
        target.flush()
        records = list(target.contents.records.values())
        if not same:
            write_json(folder / "run.json", {**cell.run, "identity": identity})
        write_json(
            folder / "results.json",
            {**cell.results, **summarise(records, metrics_of(task)), "rescored": True},
        )
    return _stored(folder), changed


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; what models and users wrote is escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(
        lines + ["| " + " | ".join(_escaped(str(v)) for v in row) + " |" for row in rows]
    )


def interval_text(low: float | None, high: float | None) -> str:
    """``[41.2, 55.0]``, or a dash when there is none."""
    return "–" if low is None or high is None or low != low else f"[{low:.1f}, {high:.1f}]"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _stored(folder: Path) -> StoredCell:
    parts = []
    for name in ("run.json", "results.json"):
        path = folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(
                f"{path}: can't be read ({e}); repeat the run's command to make it again, or "
                f"remove {folder}"
            ) from e
        if value.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema {value.get('schema_version')!r}, this evalkit reads "
                f"{SCHEMA_VERSION}"
            )
        parts.append(value)
    return StoredCell(folder, parts[0], parts[1])


def _result_rows(cell: StoredCell) -> Iterator[dict[str, Any]]:
    run, results = cell.run, cell.results
    git = run.get("git") or {}
    for i, metric in enumerate(results["metrics"]):
        yield {
            "model": run["model"],
            "adapter": cell.fingerprint.get("adapter"),
            "task": cell.task,
            **{k: metric[k] for k in ("metric", "value", "ci_low", "ci_high", "n", "clusters")},
            **{
                k: results[k]
                for k in (
                    "n_total",
                    "errors",
                    "unparsed",
                    "complete",
                    "inference_probe",
                    "seconds",
                    "created",
                )
            },
            "selection": json.dumps(results["selection"]) if results["selection"] else "",
            "switches": json.dumps(results["switches"]) if results["switches"] else "",
            "settings": cell.settings,
            "task_version": run["identity"]["task_version"],
            "data": digest(run["identity"]["data"]),
            "weights": str(cell.fingerprint.get("weights", ""))[:12],
            "fingerprint": digest(cell.fingerprint),
            **{f"tokens_{k}": v for k, v in results["tokens"].items()},
            "evalkit_version": run["versions"].get("evalkit"),
            "git_commit": git.get("commit"),
            "git_dirty": git.get("dirty"),
            "command": run["command"],
            "cell": str(cell.folder),
            "headline": i == 0,
            "higher_is_better": metric["higher_is_better"],
            "schema_version": SCHEMA_VERSION,
        }


def _paired_rows(a: StoredCell, b: StoredCell) -> Iterator[dict[str, Any]]:
    left, right = (journal.read(c.folder / "journal.jsonl").scored for c in (a, b))
    for metric in a.results["metrics"]:
        name = metric["metric"]
        group = metric.get("group")
        common = [
            id
            for id in left
            if id in right and name in left[id]["scores"] and name in right[id]["scores"]
        ]
        if not common:
            continue
        x, y = ([side[id]["scores"][name] for id in common] for side in (left, right))
        groups = [str(left[id]["metadata"].get(group)) for id in common] if group else None
        clusters = [left[id]["cluster"] for id in common]
        found = compare(x, y, clusters, groups)
        scale = metric["scale"]
        yield {
            "task": a.task,
            "metric": name,
            "a": scale * mean(x, groups),
            "b": scale * mean(y, groups),
            "difference": found.difference.value * scale,
            "ci_low": None if found.difference.low is None else found.difference.low * scale,
            "ci_high": None if found.difference.high is None else found.difference.high * scale,
            "p_value": found.p_value,
            "p_holm": None,
            "n": found.n,
            "cell_a": a.folder.name,
            "cell_b": b.folder.name,
        }


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the new one. Raises EvalkitError when it can't be
    written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
