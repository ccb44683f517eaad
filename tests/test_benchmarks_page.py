"""docs/benchmarks.md says of every task what the code knows of it.

``python -m tests.test_benchmarks_page`` writes the generated part of the page anew.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.sources import Hub, Joined
from evalkit.task import Metric, Task, registered, task_class

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tasks: generated -->\n", "<!-- end of tasks -->\n"


def renewed(text: str) -> str:
    """The page with what lies between the two marks as the code has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{overview()}\n{sections()}{END}{after}"


def overview() -> str:
    lines = ["| task | questions | headline | protocols |", "|---|---|---|---|"]
    for name in sorted(registered()):
        task = task_class(name)
        protocols = dict.fromkeys(p for s in task.subsets.values() for p in s.all_protocols)
        metric = task.metrics[0]
        lines.append(
            f"| [`{name}`](#{anchor(name)}) | {task.description} | `{metric.name}` | "
            f"{', '.join(protocols)} |"
        )
    return "\n".join(lines) + "\n"


def sections() -> str:
    """One for each module of tasks, in the words of its docstring."""
    modules: dict[Any, list[type[Task]]] = {}
    for name in sorted(registered()):
        cls = task_class(name)
        modules.setdefault(inspect.getmodule(cls), []).append(cls)
    return "\n".join("\n".join(section(module, classes)) for module, classes in modules.items())


def section(module: Any, classes: list[type[Task]]) -> Iterator[str]:
    title, _, body = (module.__doc__ or "").strip().partition("\n\n")
    names = ", ".join(f"`{cls.name}`" for cls in classes)
    yield f'<a id="{anchor(classes[0].name)}"></a>'
    for cls in classes[1:]:
        yield f'<a id="{anchor(cls.name)}"></a>'
    paragraphs = "\n\n".join(map(flowing, (title, *body.split("\n\n"))))
    yield f"\n## {names}\n\n{paragraphs}\n"
    yield "| subset | rows | data | columns read | metrics |"
    yield "|---|---|---|---|---|"
    for cls in classes:
        for subset in cls.subsets:
            yield subset_line(cls(subset))
    yield ""


def flowing(paragraph: str) -> str:
    """A paragraph in lines of the page's width; a table of a docstring as it is."""
    if paragraph.lstrip().startswith("==="):
        return f"```text\n{paragraph.strip()}\n```"
    return textwrap.fill(
        " ".join(paragraph.split()), 150, break_long_words=False, break_on_hyphens=False
    )


def subset_line(task: Task) -> str:
    source: Any = task.source
    place = getattr(source, "place", "in the package")
    if isinstance(source, Joined):
        place = f"`{source.first.repository}`, {', '.join(source.parts)}, {source.first.split}"
        if len(source.parts) > 1:
            place = f"`{source.first.repository}`, {len(source.parts)} tables, {source.first.split}"
        source = source.first
    elif isinstance(source, Hub):
        parts = [f"`{source.repository}`", source.config, source.split]
        place = ", ".join(filter(None, parts))
    size = f"{task.subset.size:,}" if task.subset.size else ""
    metrics = (
        ", ".join(map(metric_words, task.metrics)) if not task.subset.hidden else "on a server"
    )
    columns = ", ".join(getattr(source, "columns", ()))
    return f"| `{task.full_name}` | {size} | {place} | {columns} | {metrics} |"


def metric_words(metric: Metric) -> str:
    return f"`{metric.name}`" + (f" (mean over {metric.group})" if metric.group else "")


def anchor(name: str) -> str:
    return "task-" + re.sub(r"\W", "-", name)


@pytest.mark.slow
def test_the_page_says_what_the_code_does() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert renewed(text) == text, "write it anew: python -m tests.test_benchmarks_page"


def test_what_is_hidden_has_a_file_for_its_server() -> None:
    for name in registered():
        for subset, one in task_class(name).subsets.items():
            if one.hidden:
                assert task_class(name).submission is not Task.submission, f"{name}:{subset}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
