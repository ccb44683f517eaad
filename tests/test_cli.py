"""The command line as users meet it: exit codes, speed of the light verbs, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli import main
from tests.tiny import write_tiny

PLUGINS = Path(__file__).parent / "plugins"
SUMS, ADDER = str(PLUGINS / "sums.py"), str(PLUGINS / "adder.py")


def evalkit(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-m", "evalkit", *args]
    return subprocess.run(
        code, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def test_exit_code_0_when_all_is_scored_and_a_repeat_reuses(tmp_path: Path) -> None:
    first = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "sums:all" in first.stdout and "77.5" in first.stdout and "[" in first.stdout
    assert (tmp_path / "results" / "leaderboard.md").is_file()
    again = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, cwd=tmp_path)
    assert again.returncode == 0
    assert "reused, nothing to do" in again.stdout


def test_exit_code_1_when_a_sample_failed_and_the_reason_is_shown(tmp_path: Path) -> None:
    failed = evalkit(
        "run", "--tasks", SUMS, "--adapter", ADDER, cwd=tmp_path, EVALKIT_TEST_BROKEN="1"
    )
    assert failed.returncode == 1
    assert "row 13: IndexError" in failed.stderr
    assert "evalkit run --tasks" in failed.stderr
    tolerant = evalkit(
        "run",
        "--tasks",
        SUMS,
        "--adapter",
        ADDER,
        "--fail-on-error",
        "0.1",
        cwd=tmp_path,
        EVALKIT_TEST_BROKEN="1",
    )
    assert tolerant.returncode == 0


def test_exit_code_1_when_the_adapter_breaks(tmp_path: Path) -> None:
    broken = evalkit(
        "run", "--tasks", SUMS, "--adapter", ADDER, "--model-args", "crash_at=9", cwd=tmp_path
    )
    assert broken.returncode == 1
    assert "out of memory" in broken.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "--tasks", "docvq"), "did you mean docvqa?"),
        (("run", "--tasks", "docvqa:val2"), "has no subset 'val2'"),
        (("run", "--tasks", "docvqa", "--modle", "x"), "did you mean --model?"),
        (("run", "--tasks", "docvqa", "--limit", "x"), "expected N, A-B"),
        (("run", "--tasks", "docvqa", "--adapter", "nope"), "unknown adapter 'nope'"),
        (("run", "--tasks", "docvqa", "--switch", "position=3d"), "expected one of mrope"),
        (("run", "--tasks", "docvqa", "--switch", "position"), "expected name=value"),
        (("run", "--tasks", "docvqa", "--data", "docvqa=x"), "expected TASK:SUBSET=PATH"),
        (("run", "--tasks", "./none.py"), "no such file"),
        (("run", "--tasks", SUMS, "--adapter", ADDER, "--model-args", "speed=3"), "speed"),
        (("ask", "none.png", "What?"), "no such file"),
        (("compare", "a", "b"), "no such cell or model"),
        (("rescore",), "no results"),
        (("leaderboard", "--paper"), "no results"),
        (("frobnicate",), "invalid choice"),
    ],
)
def test_exit_code_2_for_a_wrong_command_with_what_is_right(
    args: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(args)
    except SystemExit as e:
        code = int(e.code or 0)
    out = capsys.readouterr()
    assert code == 2
    assert message in out.err + out.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("list",), "did you mean tasks?"),
        (("run", "--tasks", "docvqa", "--num_fewshot", "5"), "prompts are zero-shot"),
        (("run", "--tasks", "docvqa", "--log_samples"), "always journaled"),
        (("run", "--tasks", "docvqa", "--position", "rope1d"), "--switch position=VALUE"),
        (("run", "--tasks", "docvqa", "--model-args", "pretrained=x"), "write --model x"),
        (("run", "--tasks", "docvqa", "--model", "nano", "--model", "x"), "given twice"),
        (("run", "--tasks", "docvqa", "--batch-size", "many"), "expected a whole number"),
        (("bench", "--items", "0"), "expected a whole number above 0"),
        (("train", "smoke"), "--output FOLDER is required"),
    ],
)
def test_habits_of_other_tools_are_answered_with_what_to_write_here(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(args)
    except SystemExit as e:
        code = int(e.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_no_suggestion_for_an_option_that_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--model"])
    assert "did you mean" not in capsys.readouterr().err


def test_evalkit_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: evalkit" in capsys.readouterr().out


@pytest.mark.parametrize("args", [("--help",), ("tasks",), ("run", "--help"), ("models",)])
def test_light_verbs_import_nothing_heavy(args: tuple[str, ...], tmp_path: Path) -> None:
    heavy = "{'torch', 'pandas', 'datasets', 'transformers', 'pyarrow', 'scipy', 'numpy', 'PIL'}"
    code = (
        f"import sys\nfrom evalkit.cli import main\ntry: main({list(args)!r})\nexcept "
        "SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout


def test_a_limited_run_warns_that_it_must_not_be_quoted(tmp_path: Path) -> None:
    done = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, "--limit", "5", cwd=tmp_path)
    assert "never quote" in done.stderr
    assert "5 (partial)" in done.stdout


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    done = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "sums:all: 0 of 40; 40 to go" in done.stdout
    assert not (tmp_path / "results").exists()


def test_compare_and_leaderboard_read_what_runs_left(tmp_path: Path) -> None:
    for wrong in ("5", "3"):
        evalkit(
            "run",
            "--tasks",
            SUMS,
            "--adapter",
            ADDER,
            "--model",
            f"m{wrong}",
            "--model-args",
            f"wrong={wrong}",
            cwd=tmp_path,
        )
    done = evalkit("compare", "m5", "m3", cwd=tmp_path)
    assert done.returncode == 0
    assert "a - b" in done.stdout and "sums:all" in done.stdout
    board = evalkit("leaderboard", cwd=tmp_path)
    assert board.stdout.count("sums:all") == 2


def test_ask_answers_one_question_about_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    folder = write_tiny(tmp_path / "tiny")
    picture = tmp_path / "p.png"
    Image.new("RGB", (80, 60), "red").save(picture)
    assert (
        main(["ask", str(picture), "What colour?", "--model", str(folder), "--max-new-tokens", "4"])
        == 0
    )
    assert capsys.readouterr().out.strip() != ""
    assert (
        main(
            [
                "ask",
                str(picture),
                "Where?",
                "--model",
                str(folder),
                "--max-new-tokens",
                "4",
                "--save",
                str(tmp_path / "o.png"),
            ]
        )
        == 1
    )
    assert "no box" in capsys.readouterr().err
    (tmp_path / "bad.png").write_bytes(b"rubbish")
    assert main(["ask", str(tmp_path / "bad.png"), "What?", "--model", str(folder)]) == 1
    assert "unreadable image" in capsys.readouterr().err


def test_a_custom_task_on_real_files_runs_through_the_reference_model(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (90, 60), "blue").save(tmp_path / "blue.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "blue.png").read_bytes()[:60])
    (tmp_path / "colours.py").write_text(
        "from pathlib import Path\n"
        "from evalkit.task import Metric, Subset, Task\n"
        "from evalkit.types import Image, Message, Sample, Score, Text\n"
        "class Folder:\n"
        "    def rows(self, override=None):\n"
        "        yield from ({'path': p} for p in sorted(Path('.').glob('*.png')))\n"
        "    def describe(self, override=None):\n"
        "        return {'kind': 'folder'}\n"
        "class Colours(Task):\n"
        "    name = 'colours'\n"
        "    metrics = (Metric('exact'),)\n"
        "    subsets = {'all': Subset(Folder(), max_new_tokens=4)}\n"
        "    def samples(self, row):\n"
        "        yield Sample(row['path'].stem, (Message('user', (Image(row['path']), "
        "Text('Colour?'))),), row['path'].stem)\n"
        "    def score(self, sample, completion):\n"
        "        return Score({'exact': float(completion.text == sample.target)})\n"
    )
    model = str(write_tiny(tmp_path / "tiny"))
    done = evalkit("run", "--tasks", "./colours.py", "--model", model, cwd=tmp_path)
    assert done.returncode == 1
    assert "torn: unreadable image" in done.stderr
    cell = next((tmp_path / "results" / "runs" / "tiny").iterdir())
    results = json.loads((cell / "results.json").read_text())
    assert (results["n"], results["errors"]) == (1, 1)


def test_a_task_that_cant_run_does_not_stop_the_others(tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        Path(SUMS)
        .read_text()
        .replace('name = "sums"', 'name = "other"')
        .replace('f"sum/{n}"', '"same"')
    )
    done = evalkit("run", "--tasks", f"{other},{SUMS}", "--adapter", ADDER, cwd=tmp_path)
    assert done.returncode == 1
    assert "the id 'same' is that of a sample of row 0" in done.stderr
    assert "77.5" in done.stdout


def test_a_damaged_cell_elsewhere_does_not_spoil_a_run(tmp_path: Path) -> None:
    broken = tmp_path / "results" / "runs" / "x" / "y"
    broken.mkdir(parents=True)
    (broken / "results.json").write_text("{")
    done = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, cwd=tmp_path)
    assert done.returncode == 0
    assert "the leaderboard was not written" in done.stderr and "run.json" in done.stderr


def test_an_output_folder_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = evalkit("run", "--tasks", SUMS, "--adapter", ADDER, "--output", "file", cwd=tmp_path)
    assert done.returncode == 1
    assert "choose another folder with --output" in done.stderr and "Traceback" not in done.stderr
