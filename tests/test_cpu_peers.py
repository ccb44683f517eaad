"""benchmarks/cpu_peers, without the rivals."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "cpu_peers"


@pytest.fixture
def loads() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    import loads

    yield loads
    sys.path.remove(str(FOLDER))
    del sys.modules["loads"]


def test_rows_of_a_picture_go_to_one_process_and_processes_get_even_shares(loads: Any) -> None:
    rows = [
        {"id": f"{page}-{n}", "image": f"{page}.png", "ids": [0] * length}
        for page, length in enumerate((100, 60, 50))
        for n in range(3)
    ]
    first, second = loads.parts(rows, 2)
    assert {r["image"] for r in first} == {"0.png"}
    assert {r["image"] for r in second} == {"1.png", "2.png"}
    assert len(first) + len(second) == len(rows)


def test_further_questions_of_a_page_cost_less_than_the_first() -> None:
    flop = runpy.run_path(str(FOLDER / "__main__.py"), run_name="cpu_peers")["flop"]
    row = {"ids": [1, *[871] * 4, 2, 3], "grid": (1, 4, 4), "new": 4, "natural": False}
    rows = [{**row, "id": str(n), "image": "page.png"} for n in range(2)]
    one, two = flop("nano", rows[:1], FOLDER), flop("nano", rows, FOLDER)
    assert one < two < 2 * one


def test_rows_that_a_rival_reads_as_other_tokens_are_refused() -> None:
    same_tokens = runpy.run_path(str(FOLDER / "arm.py"))["same_tokens"]
    row = {"id": "a", "prompt": "<|image_pad|>no", "grid": (1, 4, 2), "ids": [9, 9, 1]}
    read = {"<|image_pad|>": 9, "no": 1, "n": 2, "o": 3}

    def encode(text: str, pattern: str) -> list[int]:
        return [read[word] for word in re.findall(pattern, text)]

    same_tokens([row], lambda text: encode(text, r"<\|image_pad\|>|no"))
    with pytest.raises(SystemExit, match="a: other token ids from 2 on"):
        same_tokens([row], lambda text: encode(text, r"<\|image_pad\|>|n|o"))


def test_eight_bit_rows_are_those_of_rivals_that_have_such_weights() -> None:
    arms = runpy.run_path(str(FOLDER / "__main__.py"), run_name="cpu_peers")["arms"]
    assert {name.split(",")[0] for name in arms(1, "int8")} == {
        "evalkit",
        "openvino-genai",
        "llama.cpp",
    }
    assert "evalkit" in arms(1, "bfloat16")


def without_a_compiler(work: Path) -> None:
    """The rivals' environment with a cmake that finds no compiler, and sources to build."""
    cmake = work / "environment" / "bin" / "cmake"
    cmake.parent.mkdir(parents=True)
    packages = runpy.run_path(str(FOLDER / "environment.py"))["PACKAGES"]
    (work / "environment" / "made").write_text(" ".join(packages), "ascii")
    cmake.write_text("#!/bin/sh\necho No C compiler could be found. >&2\nexit 1\n", "ascii")
    cmake.chmod(0o755)
    (work / "llama.cpp" / "binding" / "vendor" / "llama.cpp").mkdir(parents=True)
    with tarfile.open(work / "llama.cpp" / "binding.tar.gz", "w:gz"):
        pass


@pytest.mark.slow
def test_the_small_mode_prints_a_row_for_every_arm_with_equal_answers(tmp_path: Path) -> None:
    without_a_compiler(tmp_path)
    page = tmp_path / "page.md"
    options = "--loads pages,small --limit 2 --threads 1 --dtypes float32 --arms evalkit,transf,lla"
    command = [sys.executable, FOLDER, *options.split(), "--work", tmp_path, "--save", page]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    rows = [x.split(" | ") for x in page.read_text(encoding="utf-8").splitlines() if "| float" in x]
    unbuilt = [r for r in rows if r[1].startswith("llama.cpp")]
    assert len(unbuilt) == 6  # three settings, for each of two loads
    assert {r[2] for r in unbuilt} == {"not built: cmake: No C compiler could be found."}
    built = [r for r in rows if r not in unbuilt]
    both = ["evalkit", "transformers, batch 1", "transformers, batch 8"]
    assert [r[1] for r in built] == 2 * both
    assert {r[-1] for r in built} == {"2 of 2 |"}
    assert json.loads((tmp_path / "loads" / "pages" / "load.json").read_text())[0]["natural"]
