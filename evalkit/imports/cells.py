"""Imported answers become a cell: matched with a task's questions where one is named, scored, and
written as a run would write it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evalkit.cell_results import CellResults, Ending
from evalkit.code import code_of
from evalkit.errors import DataError, ScoringError, UsageError
from evalkit.imports.answers import Answer, Answers
from evalkit.imports.scales import with_scales
from evalkit.metrics.choice import LETTERS
from evalkit.names import model_name
from evalkit.own import OwnData, Reading, check_metric, fitting_metric, own_task
from evalkit.protocols import last_answer
from evalkit.provenance import git_state, now, versions
from evalkit.records import Record
from evalkit.run_info import Identity, RunInfo, Selection
from evalkit.safe_text import without_keys
from evalkit.stats import Comparison, compare
from evalkit.store import CellFolder
from evalkit.task import Metric, Task, checked_score, read_samples
from evalkit.types import BoxSpace, Completion, MediaBudget, Sample

Whose = Literal["both", "ours", "theirs"]
AGREEING = 0.9
"""The share of targets that must be equal where questions are matched by their rows' numbers."""


@dataclass(frozen=True)
class Imported:
    """A cell of imported answers."""

    cell: CellFolder
    records: tuple[Record, ...]
    ours: tuple[Metric, ...]
    theirs: tuple[Metric, ...]
    remarks: tuple[str, ...]
    read: Mapping[str, str]
    """What the harness read from answers, by id, where its file says it."""

    def pairs(self) -> list[tuple[str, str]]:
        """Our metric beside theirs: those of one name, else the two headlines."""
        if not self.ours or not self.theirs:
            return []
        shares = [m for m in self.theirs if m.scale == self.ours[0].scale]
        plain = {m.name.partition(" (")[0]: m.name for m in shares}
        same = [(m.name, plain[m.name]) for m in self.ours if m.name in plain]
        return same or [(self.ours[0].name, m.name) for m in shares[:1]]

    def agreement(self, ours: str, theirs: str) -> Comparison | None:
        """Ours - theirs, paired on the answers that both scored; None where there are none."""
        both = [r for r in self.records if ours in r.scores and theirs in r.scores]
        if not both:
            return None
        x, y = ([r.scores[name] for r in both] for name in (ours, theirs))
        return compare(x, y, [r.cluster for r in both])

    def differences(self) -> list[dict[str, Any]]:
        """The answers that our metric and theirs score differently, a row each."""
        return [
            {
                "id": r.id,
                "question": r.question,
                "target": json.dumps(r.target, ensure_ascii=False),
                "answer": r.text,
                "read as": r.parsed,
                **({"read there as": self.read.get(r.id)} if self.read else {}),
                ours: r.scores[ours],
                theirs: r.scores[theirs],
            }
            for ours, theirs in self.pairs()
            for r in self.records
            if ours in r.scores
            and theirs in r.scores
            and abs(r.scores[ours] - r.scores[theirs]) > 1e-9
        ]


def import_answers(
    answers: Answers,
    output: Path,
    *,
    task: Task | None = None,
    data: Path | None = None,
    whose: Whose = "both",
    metric: str = "",
    model: str = "",
    box_space: BoxSpace | None = None,
    command: str = "",
) -> Imported:
    """Writes a cell, and nothing where it is there already. ``task`` names whose questions these
    are, and whose metric is ours; without one our metric is chosen by what answers are compared
    with, or named by ``metric``. Raises UsageError where questions can't be matched, or there is
    nothing to score by.
    """
    name = model or answers.model
    if not name:
        raise UsageError("no file or folder says which model this was: name it with --model")
    if not answers.rows:
        raise DataError(f"{answers.task}: no answers ({'; '.join(answers.remarks) or 'empty'})")
    if not answers.highest.keys() >= {*answers.metrics}:
        (answers,) = with_scales([answers])
    remarks = list(answers.remarks)
    if task and metric:
        raise UsageError(f"metric {metric}: {task.full_name} has its own")
    if task:
        pairs, said = _matched(answers, task, data)
        remarks += said
        scorer: Task = task
    else:
        pairs = [(answer, _sample(answer)) for answer in answers.rows]
        scorer = _scorer(answers, metric)
    if whose == "theirs" and not answers.metrics:
        raise UsageError(f"{answers.tool}'s file has no scores of single answers; take ours")
    if repeated := len(pairs) - len({s.id for _, s in pairs}):
        remarks.append(f"{repeated} rows repeat an id: the first of each counts")
        pairs = list({s.id: (a, s) for a, s in reversed(pairs)}.values())[::-1]
    if whose != "ours" and (silent := sum(a.text is None and bool(a.theirs) for a, _ in pairs)):
        rows = "1 row" if silent == 1 else f"{silent} rows"
        remarks.append(f"{rows} without an answer: only the file's own score counts")
    records = tuple(
        _record(a, s, scorer if whose != "theirs" else None, answers, whose, box_space)
        for a, s in pairs
    )
    scored = {name for r in records for name in r.scores}
    if not scored:
        to_do = "" if task else ": name its --task, whose questions say what is right"
        remarks.append(f"none of {len(records)} answers has a score{to_do}")
    ours = tuple(m for m in scorer.metrics if m.name in scored) if whose != "theirs" else ()
    theirs = tuple(_their_metric(m, answers) for m in answers.metrics if whose != "ours")
    identity = Identity(
        task=task.name if task else answers.task,
        subset=task.subset_name if task else "imported",
        task_version=scorer.version,
        data={"kind": "imported", "from": answers.tool, "sha256": _digest(records, "target")},
        budget=MediaBudget(),
        max_new_tokens=0,
        rank=False,
        fingerprint={
            "adapter": f"imported from {answers.tool}",
            "model": name,
            "answers": _digest(records, "text"),
            "scores": _digest(records, "scores"),
            "metrics": {m.name: m.scale for m in (*ours, *theirs)},
        },
        code={"task": code} if (code := code_of(scorer)) else {},
    )
    # the first one is the headline, which should tell of every row that counts
    whole = ours and all(ours[0].name in r.scores for r in records if r.error is None)
    metrics = (*ours, *theirs) if whole else (*theirs, *ours)
    cell = _written(identity, name, output, records, metrics, command)
    read = {s.id: a.read for a, s in pairs if a.read is not None}
    return Imported(cell, records, ours, theirs, tuple(remarks), read)


def _written(
    identity: Identity,
    model: str,
    output: Path,
    records: Sequence[Record],
    metrics: tuple[Metric, ...],
    command: str,
) -> CellFolder:
    title = without_keys(model_name(model))
    cell = CellFolder.of(output.absolute(), title, identity)
    run = RunInfo(
        model=title,
        identity=identity,
        metrics=metrics,
        created=now(),
        versions=versions(),
        git=git_state(),
        command=command,
    )
    with cell.open_journal(f"{identity.task}:{identity.subset}") as journal:
        if journal.contents.ending and journal.contents.records.keys() == {r.id for r in records}:
            cell.mend(journal)
            return cell
        journal.begin(run)
        cell.write_run(run)
        for record in records:
            journal.append(record)
        journal.flush()
        results = CellResults.of(
            records, metrics, created=now(), selection=Selection(), complete=True
        )
        journal.end(Ending.of(results, [r.id for r in records]))
        cell.write_results(results)
    return cell


def _matched(
    answers: Answers, task: Task, data: Path | None
) -> tuple[list[tuple[Answer, Sample]], list[str]]:
    """Each answer with its question of the task, by id; by the row's number where the file has no
    ids and targets agree.
    """
    samples = [s for s in read_samples(task, data) if isinstance(s, Sample)]
    by_id = {s.id: s for s in samples}
    numbered = [a for a in answers.rows if a.id.isdecimal() and int(a.id) < len(samples)]
    ways = {
        "by id": [(a, by_id[a.id]) for a in answers.rows if a.id in by_id],
        "by the number of its row": [(a, samples[int(a.id)]) for a in numbered],
    }
    order = sorted(ways, reverse=answers.by_number)
    how = next((way for way in order if _agreeing(ways[way]) >= AGREEING), "by id")
    known = ways[how]
    if not known or (answers.by_number and _agreeing(known) < AGREEING):
        there, here = ", ".join([*by_id][:3]), ", ".join(a.id for a in answers.rows[:3])
        raise UsageError(
            f"the {len(answers.rows)} questions are not those of {task.full_name}: there ids are "
            f"like {there}, in the file like {here}; and by the number of the row "
            f"{1 - _agreeing(ways['by the number of its row']):.0%} of the targets differ. Another "
            "split, or another order?"
        )
    remarks = [f"{len(known)} of {len(answers.rows)} answers matched {how} with {task.full_name}"]
    if (same := _agreeing(known)) < 1:
        remarks.append(f"{1 - same:.1%} of the file's targets are not the task's")
    if missing := len(samples) - len({s.id for _, s in known}):
        remarks.append(f"{missing} questions of {task.full_name} have no answer in the file")
    return [(replace(a, id=s.id), s) for a, s in known], remarks


def _agreeing(pairs: Sequence[tuple[Answer, Sample]]) -> float:
    """The share of pairs whose targets are the same, of those whose file says one."""

    def plain(value: Any) -> set[str]:
        items = value if isinstance(value, list | tuple) else [value]
        return {" ".join(str(v).lower().split()) for v in items}

    def right(sample: Sample) -> set[str]:
        if sample.choices and isinstance(sample.target, int):
            return plain([LETTERS[sample.target], sample.choices[sample.target]])
        return plain(sample.target) if isinstance(sample.target, list | str) else set()

    told = [(plain(a.target), r) for a, s in pairs if a.target is not None and (r := right(s))]
    if not told:
        return 1.0 if pairs else 0.0
    return sum(a == r or bool(a & r and len(a) == 1) for a, r in told) / len(told)


def _sample(answer: Answer) -> Sample:
    """The question as the file alone says it."""
    return Sample(
        id=answer.id,
        target=answer.target,
        choices=answer.choices,
        cluster=answer.cluster,
        metadata=answer.metadata,
    )


def _scorer(answers: Answers, metric: str) -> Task:
    """What scores answers by the file's own targets."""
    kinds = {"options" if a.choices else "texts" for a in answers.rows if a.target is not None} or {
        "nothing"
    }
    if len(kinds) > 1:
        raise UsageError("some questions have options and others none: name their --task")
    kind = kinds.pop()
    texts = [a.target for a in answers.rows if isinstance(a.target, list)]
    chosen = metric or fitting_metric(kind, texts)
    check_metric(chosen, kind)
    reading = Reading({}, chosen, "{question}", kind)
    return own_task(Path(answers.task), reading)()


def _record(
    answer: Answer,
    sample: Sample,
    scorer: Task | None,
    answers: Answers,
    whose: Whose,
    box_space: BoxSpace | None,
) -> Record:
    completion = Completion(answer.id, answer.text or "", box_space=box_space)
    if answer.text is None:
        completion = replace(completion, finish_reason="error", error="the file has no answer")
    score, why = None, "no score in the file"
    if scorer and answer.text is not None and (sample.target is not None):
        try:
            score = checked_score(scorer, sample, replace(completion, text=_final(answer, scorer)))
        except ScoringError as e:
            why = str(e)
    theirs = {} if whose == "ours" else answer.theirs
    record = Record.of(sample, "", completion, score or why)
    record = replace(record, question=answer.question, metadata=dict(sample.metadata))
    if theirs:
        named = {
            _their_name(k, answers.tool): v / (answers.highest[k] or 1) for k, v in theirs.items()
        }
        record = replace(record, scores={**record.scores, **named}, error=None, failed_in=None)
    return record


def _final(answer: Answer, scorer: Task) -> str:
    """What is scored: where the file's own question asks for a last line ``ANSWER: ...``, what
    stands there. A task that is named reads answers by its protocol.
    """
    text = answer.text or ""
    is_asked = isinstance(scorer, OwnData) and "ANSWER:" in answer.question
    return (is_asked and last_answer(text)) or text


def _their_metric(name: str, answers: Answers) -> Metric:
    """In per cent of its highest value, where that is known; scores are shares of it."""
    return Metric(
        _their_name(name, answers.tool),
        scale=100.0 if answers.highest[name] else 1.0,
        higher_is_better=name not in answers.lower_is_better,
    )


def _their_name(metric: str, tool: str) -> str:
    return f"{metric} ({tool})"


def _digest(records: Sequence[Record], field: str) -> str:
    lines = sorted(json.dumps([r.id, getattr(r, field)], default=str) for r in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
