"""Which scale the harness's own scores have. Shown are per cent of the highest value that a metric
can have; where that is not known, values in their own unit.

It is what the user says, else what the harness says, else what the values of all files together
look like: one file may have nothing above 1 because its model got nothing right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from evalkit.errors import UsageError
from evalkit.imports.answers import Answers


def with_scales(files: Sequence[Answers], given: Mapping[str, float] = {}) -> list[Answers]:
    """The same answers, each with the ``highest`` of all its metrics: one for all files of a
    harness and a data set. ``given``: by metric, as the user says it. What is no more than a guess
    is among the remarks. Raises UsageError for a metric that no file has, or a value above its
    highest.
    """
    names = {name for answers in files for name in answers.metrics}
    if strange := sorted(given.keys() - names):
        raise UsageError(
            f"highest {strange[0]}: no file has this metric; there are "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    alike: dict[tuple[str, str], list[Answers]] = {}
    for answers in files:
        alike.setdefault((answers.tool, answers.task), []).append(answers)
    found = {
        (*key, name): _highest(name, group, given)
        for key, group in alike.items()
        for name in dict.fromkeys(n for answers in group for n in answers.metrics)
    }
    out = []
    for answers in files:
        mine = {name: found[answers.tool, answers.task, name] for name in answers.metrics}
        others = {
            name: {
                f"{task}: {_words(top)}" for (_, task, n), (top, _) in found.items() if n == name
            }
            for name in mine
        }
        remarks = [remark for _, remark in mine.values() if remark]
        remarks += [
            f"{name} is not of one scale in these files ({'; '.join(sorted(said))})"
            for name, said in others.items()
            if len({text.rpartition(": ")[2] for text in said}) > 1
        ]
        highest = {name: top for name, (top, _) in mine.items()}
        out.append(replace(answers, highest=highest, remarks=(*answers.remarks, *remarks)))
    return out


def _highest(
    name: str, files: Iterable[Answers], given: Mapping[str, float]
) -> tuple[float | None, str]:
    """The highest value of a metric, and what is to be said of it."""
    files = list(files)
    values = [row.theirs[name] for answers in files for row in answers.rows if name in row.theirs]
    low, high = min(values), max(values)
    if name in given:
        if not 0 <= low <= high <= given[name]:
            raise UsageError(
                f"highest {name}={given[name]:g}: {files[0].task} has values from {low:g} to "
                f"{high:g}"
            )
        return given[name], ""
    told = {answers.highest[name] for answers in files if name in answers.highest}
    if len(told) == 1:
        (top,) = told
        if top is None or 0 <= low <= high <= top:
            return top, ""
        return None, f"{name} should end at {top:g} and goes from {low:g} to {high:g}: as it is"
    if not 0 <= low <= high <= 1:
        return None, ""
    return 1.0, (
        f"{name} has no value above 1, so 1 is taken for the highest that it can have; if that is "
        f"another: --highest {name}=100"
    )


def _words(top: float | None) -> str:
    return "in its own unit" if top is None else f"per cent of {top:g}"
