"""Reads the fenced blocks of a Markdown file, and runs them as a reader would, one after another.

``sh``: each command is run, ``evalkit`` and Python files in this process; of ``make`` and ``pip``
the targets and extras are checked. ``python``: run; all blocks of a document share their names. A
block with a ``title="FILE"`` is written to that file. Other languages are for the eye only.

A comment above a block marks it: ``<!-- slow -->`` is run by ``make test-all`` only;
``<!-- no-run -->`` needs the hub, a GPU or a browser, and must parse, no more.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.cli.main import build_parser, main

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>slow|no-run) -->\n+)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``file``: the name it is written to, if it is a file's content."""

    line: int
    language: str
    text: str
    file: str | None = None
    mark: str | None = None

    @classmethod
    def of(cls, match: re.Match[str]) -> Block:
        line = match.string.count("\n", 0, match.start("language")) + 1
        return cls(line, match["language"], match["text"], match["file"], match["mark"])


def blocks(document: Path) -> list[Block]:
    """The blocks of a document that say their language, in order."""
    return [Block.of(m) for m in FENCE.finditer(document.read_text(encoding="utf-8"))]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments; ``;`` and ``&&`` part them."""
    for line in text.replace("\\\n", " ").splitlines():
        command: list[str] = []
        for word in shlex.split(line, comments=True):
            end = word in ("&&", ";") or word.endswith(";")
            command += [word.rstrip(";")] if word.strip(";&") else []
            if end and command:
                yield command
                command = []
        if command:
            yield command


def run(block: Block, names: dict[str, Any]) -> None:
    """Runs a block in the working directory. ``names``: the global names of the document."""
    if block.file:
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python" and block.mark == "no-run":
        compile(block.text, f"line {block.line}", "exec")
    elif block.language == "python":
        exec(compile(block.text, f"line {block.line}", "exec"), names)
    elif block.language == "sh":
        for command in commands(block.text):
            run_command(command, only_parse=block.mark == "no-run")


def run_command(command: list[str], only_parse: bool = False) -> None:
    """Runs one command; ``AssertionError`` if it fails or names what there is not."""
    program, *words = command
    if program == "python" and words[:1] == ["-m"]:
        program, *words = words[1:]
    if program == "evalkit" and only_parse:
        build_parser().parse_args(words)
    elif program == "evalkit":
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 0, f"{shlex.join(command)} ended with exit code {code}"
    elif program == "python":
        exec(
            compile(Path(words[0]).read_text(encoding="utf-8"), words[0], "exec"),
            {"__name__": "__main__"},
        )
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets), f"no such target: {words}"
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in ",".join(extras).split(",") if extras else []:
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"no such extra: {extra}"
    else:
        harmless = program in ("cp", "mkdir", "cd", ".", "git", "lmms-eval") or only_parse
        assert harmless, f"{program}: mark the block no-run, or teach tests/documents.py to run it"
        if program in ("mkdir", "cp"):
            subprocess.run(command, check=True, stdout=sys.stderr)
