"""The documents are true: every fenced command and every code block in them runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, Block, blocks, commands, run

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MOST_NOT_RUN = 15
"""Blocks that only parse, in all documents together: what needs the hub, a GPU, a browser."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all documents run, one after another: what one has evaluated, the next reuses."""
    folder = tmp_path_factory.mktemp("documents")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def run_all(chosen: list[Block], document: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in chosen:
        try:
            run(block, names)
        except Exception as e:
            place = f"{document.relative_to(ROOT)}, line {block.line}"
            raise AssertionError(f"{place}: {type(e).__name__}: {e}\n{block.text}") from e


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_block_of_a_document_runs(
    document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run_all([b for b in blocks(document) if b.mark != "slow"], document)


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if any(b.mark == "slow" for b in blocks(d))],
    ids=lambda d: str(d.relative_to(ROOT)),
)
def test_every_block_of_a_document_runs_with_the_slow_ones(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own: `evalkit show nano` is of the one cell that the page made."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    run_all(blocks(document), document)


def test_few_blocks_are_not_run() -> None:
    assert sum(b.mark == "no-run" for d in DOCUMENTS for b in blocks(d)) <= MOST_NOT_RUN


def test_every_link_to_a_file_leads_somewhere() -> None:
    for document in [*DOCUMENTS, *(ROOT / "results").rglob("*.md"), ROOT / "benchmarks/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("#"):
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_the_scores_in_readme_are_those_of_the_shipped_leaderboard() -> None:
    leaderboard = (ROOT / "results" / "nano" / "leaderboard.md").read_text(encoding="utf-8")
    measured = {
        (task, value, interval, n)
        for task, value, interval, n in re.findall(
            r"^\| (\S+) \| nano \|.*? float32 \|.*?\| (\S+) \| (\[.*?\]) \| (\d+) \|",
            leaderboard,
            re.MULTILINE,
        )
    }
    readme = re.findall(
        r"^\| `(\S+:mini)` \|.*?\| (\S+) \| (\[.*?\]) \| (\d+) \|",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(readme) == 4 and set(readme) <= measured


def test_the_controls_in_readme_are_those_of_the_shipped_leaderboard() -> None:
    leaderboard = (ROOT / "results" / "nano" / "leaderboard.md").read_text(encoding="utf-8")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for control in ("blind", "text-only"):
        scores = []
        for task in ("docvqa", "refcoco", "video_qa", "multilingual_ocr"):
            row = rf"^\| {task}:mini \| nano \|.*? float32 control={control} \|.*?\| ([\d.]+) \|"
            scores += re.findall(row, leaderboard, re.MULTILINE)
        assert len(scores) == 4
        assert f"{', '.join(scores)} (`--control {control}`" in readme


def test_a_block_that_fails_names_its_document_and_line(tmp_path: Path) -> None:
    text = "Text.\n\n```python\nanswer = 1\n```\n\n```python\nassert answer == 2\n```\n"
    (tmp_path / "wrong.md").write_text(text)
    with pytest.raises(AssertionError, match="line 7"):
        run_all(blocks(tmp_path / "wrong.md"), ROOT / "wrong.md")


def test_commands_are_parted_and_comments_left_out() -> None:
    text = (
        "evalkit run --tasks a  # the first\nevalkit tasks; evalkit ask x.png 'a; b' && make test\n"
    )
    assert list(commands(text)) == [
        ["evalkit", "run", "--tasks", "a"],
        ["evalkit", "tasks"],
        ["evalkit", "ask", "x.png", "a; b"],
        ["make", "test"],
    ]
